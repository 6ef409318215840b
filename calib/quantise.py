"""INT8 as Q/DQ: the form that TensorRT takes and ONNX Runtime runs, one graph for both.

    x ── Cast ── QuantizeLinear ── DequantizeLinear ──┐
                      int8 weights ── DequantizeLinear ── MatMul ── Cast ── …

Symmetric int8 (zero point 0) with a scale for each output channel of the weights and one for the activation that goes in.
What comes out is not quantised, and no bias is. Only operators with trained weights are quantised: the decoder's, and a
pretrained backbone's. Fixed filters, the front and the distance, with the spread of what is rebuilt amiss, stay as they
are. The casts are there where the graph is FP16: docs/decisions/0010-int8-rest.md says why.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import write_bytes
from agp_edge.frame import Precision
from agp_edge.progress import Progress, silent
from calib.layers import channel_axis, find_layers
from calib.layers import quantisable as quantisable
from calib.ranges import METHODS as METHODS
from calib.ranges import Method as Method
from calib.ranges import activation_ranges, check_request

MAGNITUDE = 127
"""Of the largest step: -128 stays unused, so that the range is as wide on either side."""


class Quantiser:
    """A graph and the ranges of its activations: measured once, written in INT8 as often as wanted.

    Args:
        model: the FP16 or FP32 graph; what is not quantised stays as it is there.
        frames: [N, H, W, C] uint8 good frames for the ranges.
        batch: the graph's batch.
        method: how ranges are taken from activations.
        progress: told of batches.

    Attributes:
        model: the file of the graph.
        layers: what can be quantised, in the order of the graph.
        rest: the precision of the graph, in which layers are left that are not quantised.

    Raises:
        InputError: an unknown method, or fewer frames than one batch.
        ArtefactError: there is nothing to quantise, or an activation is no finite number.
    """

    def __init__(
        self,
        model: Path,
        frames: NDArray[np.uint8],
        *,
        batch: int,
        method: Method = "max",
        progress: Progress = silent,
    ) -> None:
        self.model = model
        self._model = onnx.shape_inference.infer_shapes(onnx.load(model), data_prop=True)
        self._weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._quantised: dict[str, tuple[NDArray[np.int8], NDArray[np.float32]]] = {}
        chosen = [node for node in self._model.graph.node if node.name in set(quantisable(self._model))]
        check_request(method, len(frames), batch)
        nothing = ArtefactError(
            f"{model} has no operator with trained weights to quantise", "export the run again"
        )
        if not chosen:
            raise nothing
        self._ranges = activation_ranges(
            self._model,
            list(dict.fromkeys(node.input[0] for node in chosen)),
            frames,
            batch=batch,
            method=method,
            progress=progress,
        )
        # What is 0 on every good frame has no range to lay steps over: such a layer is left alone.
        silent_nodes = {node.name for node in chosen if self._ranges[node.input[0]] == 0}
        self.layers = [layer for layer in find_layers(self._model) if layer.node not in silent_nodes]
        if not self.layers:
            raise nothing
        types = {self._weights[node.input[1]].data_type for node in chosen}
        self.rest: Precision = "fp16" if TensorProto.FLOAT16 in types else "fp32"

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes of `layers`."""
        return [layer.node for layer in self.layers]

    def check_keep(self, keep: Collection[str]) -> list[str]:
        """The nodes to keep, in the order of the graph.

        Raises:
            InputError: one of them could not be quantised anyway.
        """
        unknown = sorted(set(keep) - set(self.nodes))
        if unknown:
            raise InputError(f"there is no node {unknown[0]!r} to keep", f"as in {self.nodes[0]!r}")
        return [node for node in self.nodes if node in set(keep)]

    def write(self, out: Path, keep: Collection[str] = ()) -> list[str]:
        """Write the graph in INT8.

        Args:
            out: the file to write.
            keep: names of nodes to leave as they are.

        Returns:
            Names of the nodes in INT8, in the order of the graph.

        Raises:
            InputError: `keep` names a node that could not be quantised anyway.
            ArtefactError: a weight or a scale is no finite number, or all nodes are kept.
        """
        kept = set(self.check_keep(keep))
        chosen = [node for node in self.nodes if node not in kept]
        if not chosen:
            raise ArtefactError(
                f"{self.model.name}: all {len(kept)} layers are kept, and none is left to quantise",
                "keep fewer",
            )
        model = self._build(set(chosen))
        check_scales(model, out.name)
        write_bytes(out, model.SerializeToString())
        return chosen

    def _build(self, chosen: set[str]) -> onnx.ModelProto:
        """The graph with these nodes in INT8."""
        nodes: list[onnx.NodeProto] = []
        constants: dict[str, onnx.TensorProto] = {}
        ready: dict[str, str] = {}
        for node in self._model.graph.node:
            if node.name in chosen:
                nodes += self._quantise(node, constants, ready)
            else:
                nodes.append(node)
        used = {name for node in nodes for name in node.input}
        source = self._model.graph
        graph = helper.make_graph(
            nodes,
            source.name,
            source.input,
            source.output,
            [t for t in source.initializer if t.name in used] + list(constants.values()),
        )
        model = helper.make_model(graph, opset_imports=self._model.opset_import)
        model.ir_version = self._model.ir_version
        model.producer_name, model.producer_version = self._model.producer_name, self._model.producer_version
        return model

    def _quantise(
        self, node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], ready: dict[str, str]
    ) -> list[onnx.NodeProto]:
        """A node in INT8 with what goes before and after it.

        Args:
            node: of the graph; it stays as it is.
            constants: the new ones, by name; added to.
            ready: activation -> its dequantised twin, which nodes share; added to.
        """

        def constant(name: str, value: NDArray[np.int8] | NDArray[np.float32]) -> str:
            constants[name] = numpy_helper.from_array(value, name)
            return name

        x, weight = node.input[0], node.input[1]
        half = self._weights[weight].data_type == TensorProto.FLOAT16
        nodes = []
        if x not in ready:
            scale = constant(f"{x}_scale", np.array(self._ranges[x] / MAGNITUDE, np.float32))
            zero = constant(f"{x}_zero", np.array(0, np.int8))
            single = f"{x}_fp32" if half else x
            if half:
                nodes.append(helper.make_node("Cast", [x], [single], f"{x}/Cast", to=TensorProto.FLOAT))
            nodes += [
                helper.make_node("QuantizeLinear", [single, scale, zero], [f"{x}_int8"], f"{x}/Quantize"),
                helper.make_node(
                    "DequantizeLinear", [f"{x}_int8", scale, zero], [f"{x}_dequantised"], f"{x}/Dequantize"
                ),
            ]
            ready[x] = f"{x}_dequantised"
        steps, scales = self._quantise_weights(node)
        axis = channel_axis(node, steps.ndim)
        parts = [
            constant(f"{weight}_int8", steps),
            constant(f"{weight}_scale", scales),
            constant(f"{weight}_zero", np.zeros(scales.shape, np.int8)),
        ]
        restored = f"{node.name}_weight"
        nodes.append(
            helper.make_node("DequantizeLinear", parts, [restored], f"{node.name}/Dequantize", axis=axis)
        )
        quantised = onnx.NodeProto()
        quantised.CopyFrom(node)
        quantised.input[0], quantised.input[1] = ready[x], restored
        nodes.append(quantised)
        if half:
            for i, bias in enumerate(node.input[2:], start=2):
                value = numpy_helper.to_array(self._weights[bias]).astype(np.float32)
                quantised.input[i] = constant(f"{bias}_fp32", value)
            y = node.output[0]
            quantised.output[0] = f"{y}_fp32"
            nodes.append(
                helper.make_node("Cast", [f"{y}_fp32"], [y], f"{node.name}/Cast", to=TensorProto.FLOAT16)
            )
        return nodes

    def _quantise_weights(self, node: onnx.NodeProto) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """A node's weights in int8, and the scale of each output channel."""
        name = node.input[1]
        if name not in self._quantised:
            weights = numpy_helper.to_array(self._weights[name]).astype(np.float32)
            axis = channel_axis(node, weights.ndim)
            others = tuple(i for i in range(weights.ndim) if i != axis)
            largest = np.abs(weights).max(axis=others, keepdims=True)
            if not np.isfinite(largest).all():
                raise ArtefactError(
                    f"{self.model.name}: weights {name} are no finite numbers", "train and export it again"
                )
            # A channel of zeros is 0 with any scale.
            scales = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(MAGNITUDE)
            steps = np.clip(np.rint(weights / scales), -MAGNITUDE, MAGNITUDE).astype(np.int8)
            self._quantised[name] = steps, scales.reshape(-1)
        return self._quantised[name]


def quantise(
    model: Path,
    out: Path,
    frames: NDArray[np.uint8],
    *,
    batch: int,
    method: Method = "max",
    keep: Collection[str] = (),
    progress: Progress = silent,
) -> int:
    """Write the INT8 graph of a graph.

    Args:
        model: the FP16 or FP32 graph.
        out: the file to write.
        frames: [N, H, W, C] uint8 good frames for the ranges.
        batch: the graph's batch.
        method: how ranges are taken from activations.
        keep: names of nodes to leave as they are.
        progress: told of batches.

    Returns:
        How many operators were quantised.

    Raises:
        InputError: an unknown method, fewer frames than one batch, or a node to keep that is none.
        ArtefactError: a scale is no finite number, or there is nothing to quantise.
    """
    return len(Quantiser(model, frames, batch=batch, method=method, progress=progress).write(out, keep))


def check_scales(model: onnx.ModelProto | Path, name: str = "") -> None:
    """Every scale is a finite number above 0, and every zero point is 0.

    Args:
        model: a graph, or the file of one.
        name: of the graph, for the message; that of the file by default.

    Raises:
        ArtefactError: otherwise, naming the tensor.
    """
    if isinstance(model, Path):
        model, name = onnx.load(model), name or model.name
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for tensor, is_scale in (
            (node.input[1], True),
            (node.input[2] if len(node.input) > 2 else "", False),
        ):
            if tensor not in constants:
                continue
            values = numpy_helper.to_array(constants[tensor]).astype(np.float64)
            good = np.isfinite(values).all() and (values > 0).all() if is_scale else (values == 0).all()
            if not good:
                raise ArtefactError(
                    f"{name}: {tensor} is no {'scale' if is_scale else 'zero point of symmetric int8'}",
                    "calibrate again with other frames, or --method max",
                )
