"""What quantising a layer does to scores and maps: one layer at a time, on frames that no gate will use.

The frames take turns: the scores of every other one give the thresholds, and the rest are judged, then the other way
round. So the figures are those of a gate, without its frames.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge import gate
from agp_edge.cli.console import table
from agp_edge.engines.base import Inference
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import InputError
from agp_edge.frame import FrameSpec
from agp_edge.gate import ALLOWANCES
from agp_edge.progress import Progress, silent
from calib.layers import Layer
from calib.quantise import Quantiser

FRAMES = 16
"""Enough to tell layers apart; each of them is a graph of its own, and takes all of these frames."""
MIN_FRAMES = 4
NAME_WIDTH = 35


@dataclass(frozen=True)
class Effect:
    """What a graph does to the verdicts of another.

    Attributes:
        flips: frames whose verdict changed, each graph at its own threshold.
        drift_max, drift_mean: score differences in gaps between the reference's threshold and median.
        map_correlation: mean over frames.
    """

    flips: int
    drift_max: float
    drift_mean: float
    map_correlation: float

    @property
    def spent(self) -> float:
        """The share of the gate's allowance for INT8 that it uses up: of drift or of maps, whichever is more."""
        allowed = ALLOWANCES["int8"]
        return max(self.drift_max / allowed.drift, (1 - self.map_correlation) / (1 - allowed.map_correlation))

    def to_dict(self) -> dict[str, Any]:
        """As `--json` gives it."""
        return asdict(self)

    def describe(self) -> str:
        """Its figures in a few words."""
        return f"{self.flips} flips, drift {self.drift_max:.2g}, maps {self.map_correlation:.4f}"


def compare(reference: Inference, candidate: Inference) -> Effect:
    """What a candidate does to a reference's verdicts on the same frames.

    Args:
        reference, candidate: of the same frames, at least two.
    """

    def scores(of: Inference, normal: NDArray[np.intp], judged: NDArray[np.intp]) -> gate.Scores:
        return gate.Scores(
            of.score[normal].tolist(), of.score[judged].tolist(), of.anomaly_map[judged], "int8"
        )

    every = np.arange(len(reference.score))
    turns = ((every[0::2], every[1::2]), (every[1::2], every[0::2]))
    reports = [
        gate.compare(scores(reference, *turn), scores(candidate, *turn), [str(i) for i in turn[1]], {})
        for turn in turns
    ]
    counts = [report.n for report in reports]
    return Effect(
        flips=sum(len(report.flips) for report in reports),
        drift_max=max(report.drift_max for report in reports),
        drift_mean=float(np.average([report.drift_mean for report in reports], weights=counts)),
        map_correlation=float(np.average([report.map_correlation for report in reports], weights=counts)),
    )


class Trial:
    """Frames, and the INT8 graphs that are tried on them.

    Args:
        quantiser: writes them.
        frame: what the graphs take.
        frames: [N, H, W, C] uint8 good frames that neither gate nor threshold uses.
        scratch: a folder for the graphs.

    Raises:
        InputError: too few frames.
    """

    def __init__(
        self, quantiser: Quantiser, frame: FrameSpec, frames: NDArray[np.uint8], scratch: Path
    ) -> None:
        if len(frames) < MIN_FRAMES:
            raise InputError(
                f"{len(frames)} frames are too few to tell what quantising a layer does, at least {MIN_FRAMES} are needed",
                "give more good frames that the network was trained on, or take --quantise all",
            )
        self.quantiser = quantiser
        self._frame = frame
        self._frames = frames
        self._graph = scratch / "trial.onnx"

    def infer(self, model: Path, progress: Progress = silent) -> Inference:
        """What a graph says of the frames."""
        parts = []
        size = self._frame.batch
        with OnnxRuntimeSession(model, self._frame, "int8") as session:
            for start in range(0, len(self._frames), size):
                parts.append(session.infer(self._frames[start : start + size]))
                progress(min(start + size, len(self._frames)), len(self._frames), "search frames")
        return Inference(
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.anomaly_map for part in parts]),
        )

    def effect(self, reference: Inference, keep: Collection[str], progress: Progress = silent) -> Effect:
        """What quantising all layers but those of `keep` does; with all of them, the graph as it was is tried."""
        model = self.quantiser.model
        if set(keep) < set(self.quantiser.nodes):
            model = self._graph
            self.quantiser.write(model, keep)
        return compare(reference, self.infer(model, progress))


@contextmanager
def open_trial(quantiser: Quantiser, frame: FrameSpec, frames: NDArray[np.uint8]) -> Iterator[Trial]:
    """A `Trial` with a scratch folder that goes when it is done."""
    with tempfile.TemporaryDirectory(prefix="agp-edge-int8-") as scratch:
        yield Trial(quantiser, frame, frames, Path(scratch))


def measure_sensitivity(
    quantiser: Quantiser,
    frame: FrameSpec,
    frames: NDArray[np.uint8],
    *,
    layers: Sequence[Layer] | None = None,
    progress: Progress = silent,
) -> dict[str, Effect]:
    """What each layer does when it alone is quantised, against the graph in which none is.

    Args:
        quantiser: with the ranges.
        frame: what the graph takes.
        frames: [N, H, W, C] uint8 search frames; `FRAMES` of them are taken, spread over all.
        layers: those to measure; all by default.
        progress: told of layers.

    Returns:
        Node -> effect.

    Raises:
        InputError: too few frames.
    """
    chosen = quantiser.layers if layers is None else layers
    spread = np.unique(np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int))
    effects = {}
    with open_trial(quantiser, frame, frames[spread]) as trial:
        before = trial.infer(quantiser.model)
        for i, layer in enumerate(chosen):
            effects[layer.node] = trial.effect(before, [n for n in quantiser.nodes if n != layer.node])
            progress(i + 1, len(chosen), f"sensitivity of {layer.name}")
    return effects


def describe_layers(
    layers: Sequence[Layer],
    quantised: Collection[str],
    effects: Mapping[str, Effect] | None = None,
    *,
    rest: str = "fp16",
) -> str:
    """The layers as a table of at most 80 columns.

    Args:
        layers: in the order of the rows.
        quantised: the nodes that are in INT8.
        effects: node -> what quantising it alone does; without it, these columns are left out.
        rest: the precision of the others.
    """
    total = sum(layer.macs for layer in layers)
    rows = []
    for layer in layers:
        row = [
            shorten(layer.name),
            "int8" if layer.node in quantised else rest,
            f"{layer.macs / total:.1%}",
            f"{layer.saved_bytes / 1024:,.0f}",
        ]
        if effects is not None:
            effect = effects.get(layer.node)
            row += (
                ["-", "-"]
                if effect is None
                else [f"{effect.drift_max:.5f}", f"{1 - effect.map_correlation:.6f}"]
            )
        rows.append(tuple(row))
    header = ("layer", "in", "MACs", "saves KiB")
    return table(rows, (*header, "drift", "maps lose") if effects is not None else header)


def shorten(name: str) -> str:
    """A name in `NAME_WIDTH` letters; the end, which tells layers apart, stays."""
    return name if len(name) <= NAME_WIDTH else f"…{name[1 - NAME_WIDTH :]}"
