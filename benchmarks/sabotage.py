"""Does the gate bite? Spoil a bundle's graphs in the ways that exports and quantisers get them wrong, and judge each.

    python -m benchmarks.sabotage brick.bundle --json sabotage.json

Every sabotage changes one thing in a copy of the graph that the bundle holds; the gate then compares the copy with the
bundle's FP32 graph on the bundle's own frames, as `compare` and `build-engine` do. INT8's scales are spoilt one after the
other, since a single one may matter little.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from agp_edge.bundle import Bundle
from agp_edge.cli.console import run_command, table, write_json_result
from agp_edge.engines.measure import HeldOut, frames_of_bundle, judge, measure
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import InputError
from agp_edge.frame import FrameSpec, Precision
from agp_edge.gate import GateReport, Scores

Spoil = Callable[[onnx.ModelProto], None]


@dataclass(frozen=True)
class Sabotage:
    """One thing that is wrong.

    Attributes:
        name: what it is, in words.
        precision: whose graph it spoils.
        spoil: changes a graph in place.
    """

    name: str
    precision: Precision
    spoil: Spoil


def sabotages(fp32: onnx.ModelProto, int8: onnx.ModelProto | None = None) -> Iterator[Sabotage]:
    """What can be spoilt in these graphs; a graph without a resize in its front has none to spoil.

    First nothing at all: a gate that refuses everything proves as little as one that refuses nothing.

    Args:
        fp32: as `export` writes it.
        int8: as `calibrate` writes it.
    """
    yield Sabotage("nothing", "fp32", lambda model: None)
    if int8 is not None:
        yield Sabotage("nothing", "int8", lambda model: None)
    yield Sabotage("front: divides by 256, not 255", "fp32", partial(set_divisor, value=256.0))
    yield Sabotage("front: divides by 1, not 255", "fp32", partial(set_divisor, value=1.0))
    if find(fp32, "network.channel_mean"):
        yield Sabotage(
            "channel_mean: one channel by a tenth of its spread",
            "fp32",
            partial(move_channel_mean, channel=0),
        )
    yield Sabotage("channels: RGB for BGR", "fp32", swap_channels)
    if front_resize(fp32) is not None:
        yield Sabotage("front's resize: nearest for linear", "fp32", set_nearest)
        yield Sabotage(
            "front's resize: corners for centres", "fp32", partial(set_coordinates, mode="asymmetric")
        )
        yield Sabotage(
            "front's resize: aligned corners", "fp32", partial(set_coordinates, mode="align_corners")
        )
    if blurs(fp32):
        yield Sabotage("blur: dropped", "fp32", drop_blur)
        yield Sabotage("blur: dropped for the score alone", "fp32", drop_blur_of_score)
    if int8 is not None:
        weights = weight_scales(int8)
        for name in scales(int8):
            kind = "weight scale" if name in weights else "activation scale"
            yield Sabotage(f"{kind} x4: {name}", "int8", partial(scale_by, name=name, factor=4.0))
            yield Sabotage(f"{kind} /1000: {name}", "int8", partial(scale_by, name=name, factor=1e-3))
            if name not in weights:
                yield Sabotage(
                    f"activation scale x4, dequantised: {name}",
                    "int8",
                    partial(dequantise_by, name=name, factor=4.0),
                )


def find(model: onnx.ModelProto, name: str) -> onnx.TensorProto | None:
    """A constant of a graph."""
    return next((tensor for tensor in model.graph.initializer if tensor.name == name), None)


def change(model: onnx.ModelProto, name: str, to: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Replace a constant by what `to` makes of it, its type kept.

    Raises:
        InputError: the graph has no such constant.
    """
    tensor = find(model, name)
    if tensor is None:
        raise InputError(f"the graph has no constant {name!r}", "give a bundle that `agp-edge export` wrote")
    values = onnx.numpy_helper.to_array(tensor)
    changed = np.asarray(to(values.copy()), values.dtype)
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed, name))


def front(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes from the frame to its division by 255."""
    nodes = list(model.graph.node)
    end = next(i for i, node in enumerate(nodes) if node.op_type == "Div")
    return nodes[: end + 1]


def set_divisor(model: onnx.ModelProto, value: float) -> None:
    """Let the front divide by another number."""
    change(model, front(model)[-1].input[1], lambda values: np.full_like(values, value))


def move_channel_mean(model: onnx.ModelProto, channel: int) -> None:
    """Move the mean of one of the target's channels by a tenth of that channel's spread over good images."""
    scale = find(model, "network.channel_scale")
    assert scale is not None
    spread = 1 / onnx.numpy_helper.to_array(scale)[channel]

    def moved(values: NDArray[Any]) -> NDArray[Any]:
        values[channel] += 0.1 * spread
        return values

    change(model, "network.channel_mean", moved)


def swap_channels(model: onnx.ModelProto) -> None:
    """Take the frame's channels in their own order: red for blue."""
    concat = next(node for node in front(model) if node.op_type == "Concat")
    order = list(concat.input)
    del concat.input[:]
    concat.input.extend(reversed(order))


def front_resize(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The resize of the frame; None where its pooling alone gives the network's size."""
    return next((node for node in front(model) if node.op_type == "Resize"), None)


def _set_attribute(node: onnx.NodeProto, name: str, value: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def set_nearest(model: onnx.ModelProto) -> None:
    """Resize the frame by nearest neighbours."""
    resize = front_resize(model)
    assert resize is not None
    _set_attribute(resize, "mode", "nearest")


def set_coordinates(model: onnx.ModelProto, mode: str) -> None:
    """Resize the frame by another rule of where pixels are."""
    resize = front_resize(model)
    assert resize is not None
    _set_attribute(resize, "coordinate_transformation_mode", mode)


def blurs(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The two convolutions that blur the map, and what divides by the weight inside; none where blur is off."""
    nodes = list(model.graph.node)
    divide = next((i for i, node in enumerate(nodes) if "network.blur_weight" in node.input), None)
    return nodes[divide - 2 : divide + 1] if divide is not None else []


def drop_blur(model: onnx.ModelProto) -> None:
    """Leave the map as it is before its blur."""
    first, _, last = blurs(model)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == last.output[0]:
                node.input[i] = first.input[0]


def drop_blur_of_score(model: onnx.ModelProto) -> None:
    """Take the score from the map before its blur, and leave the map as it is."""
    first, _, _ = blurs(model)
    (score,) = (node for node in model.graph.node if "score" in node.output)
    axes = onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes_of_score")
    model.graph.initializer.append(axes)
    del score.input[:]
    score.input.extend([first.input[0], axes.name])


def scales(model: onnx.ModelProto) -> list[str]:
    """Names of the scales of a Q/DQ graph, in the order of its nodes."""
    kinds = ("QuantizeLinear", "DequantizeLinear")
    return list(dict.fromkeys(node.input[1] for node in model.graph.node if node.op_type in kinds))


def weight_scales(model: onnx.ModelProto) -> set[str]:
    """Those of constants: they are dequantised alone."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        node.input[1]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }


def scale_by(model: onnx.ModelProto, name: str, factor: float) -> None:
    """Multiply a scale wherever it stands: a weight is multiplied by it, an activation loses resolution or range."""
    change(model, name, lambda values: values * factor)


def dequantise_by(model: onnx.ModelProto, name: str, factor: float) -> None:
    """Multiply a scale where it is dequantised, not where it is quantised: what follows sees other numbers."""
    scale = find(model, name)
    assert scale is not None
    values = onnx.numpy_helper.to_array(scale)
    other = onnx.numpy_helper.from_array(np.asarray(values * factor, values.dtype), f"{name}_other")
    model.graph.initializer.append(other)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[1] == name:
            node.input[1] = other.name


@dataclass(frozen=True)
class Judged:
    """A sabotage, and what the gate said of it."""

    sabotage: Sabotage
    report: GateReport

    def row(self) -> tuple[str, ...]:
        """As the table has it."""
        report = self.report
        ranks = "-" if report.rank_correlation is None else f"{report.rank_correlation:.3f}"
        return (
            self.sabotage.precision,
            self.sabotage.name,
            report.outcome,
            str(len(report.flips)),
            f"{report.drift_max:.3g}",
            f"{report.map_correlation:.4f}",
            ranks,
        )


HEAD = ("graph", "sabotage", "gate", "flips", "drift", "maps", "ranks")


class Saboteur:
    """Spoils graphs and lets the gate judge them.

    Args:
        graphs: precision -> its graph.
        frame: the frames that they take.
        frames: to judge on.
        reference: what is true; by default what the FP32 graph measures.
    """

    def __init__(
        self,
        graphs: Mapping[Precision, onnx.ModelProto],
        frame: FrameSpec,
        frames: HeldOut,
        reference: Scores | None = None,
    ) -> None:
        self._graphs, self._frame, self._frames = graphs, frame, frames
        self._reference = reference or self._measure(graphs["fp32"], "fp32")

    @classmethod
    def of_bundle(cls, bundle: Bundle, reference: Scores | None = None) -> Saboteur:
        """For the FP32 and INT8 graphs of a calibrated bundle."""
        precisions: tuple[Precision, ...] = ("fp32", "int8")
        graphs = {p: onnx.load(bundle.model_path(p)) for p in precisions if p in bundle.manifest.precisions}
        return cls(graphs, bundle.manifest.frame, frames_of_bundle(bundle), reference)

    def sabotages(self) -> list[Sabotage]:
        """What can be spoilt in these graphs."""
        return list(sabotages(self._graphs["fp32"], self._graphs.get("int8")))

    def judge(self, sabotage: Sabotage) -> GateReport:
        """The gate's report on a spoilt copy of a graph."""
        model = onnx.ModelProto()
        model.CopyFrom(self._graphs[sabotage.precision])
        sabotage.spoil(model)
        return judge(self._reference, self._measure(model, sabotage.precision), self._frames)

    def _measure(self, model: onnx.ModelProto, precision: Precision) -> Scores:
        with tempfile.TemporaryDirectory(prefix="agp-edge-sabotage-") as scratch:
            path = Path(scratch) / "model.onnx"
            onnx.save(model, path)
            with OnnxRuntimeSession(path, self._frame, precision) as session:
                return measure(session, self._frames)


def main(arguments: Sequence[str] | None = None) -> None:
    """Spoil a bundle, print a table, and write it."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sabotage", description=__doc__.splitlines()[0]
    )
    parser.add_argument("bundle", type=Path, help="calibrated")
    parser.add_argument("--json", metavar="FILE", help="write the result to FILE, - for stdout")
    given = parser.parse_args(arguments)
    saboteur = Saboteur.of_bundle(Bundle(given.bundle))
    judged = [Judged(sabotage, saboteur.judge(sabotage)) for sabotage in saboteur.sabotages()]
    print(table([item.row() for item in judged], HEAD), file=sys.stderr if given.json == "-" else sys.stdout)
    passed = [item.sabotage.name for item in judged if item.report.outcome == "passed"]
    print(f"{len(judged) - len(passed)} of {len(judged)} refused", file=sys.stderr)
    value = [
        {"sabotage": j.sabotage.name, "precision": j.sabotage.precision, **j.report.to_dict()} for j in judged
    ]
    write_json_result(given.json, {"bundle": str(given.bundle), "sabotages": value})


if __name__ == "__main__":
    sys.exit(run_command(lambda standalone_mode: main()))
