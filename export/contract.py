"""What every exported graph is held against before it goes into a bundle: its form, and that it says what torch says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from agp_edge.bundle import check_onnx
from agp_edge.engines.base import Inference
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import ArtefactError
from agp_edge.frame import FrameSpec, Precision
from export.operators import MAX_OPSET, MIN_OPSET, SUPPORTED
from export.reference import ReferenceFrames

MAX_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 1e-2}
"""How far a graph may be from torch on the reference frames, relative, see `measure_difference`: beyond, the export is
refused. Graphs of all kinds of backbone were within 2e-5 in FP32 and 2e-3 in FP16. What half precision does to verdicts
is not for this check to say: the gate judges it."""

REPORT = "report this with the versions that `agp-edge doctor` prints"


def check_graph(path: Path, frame: FrameSpec) -> None:
    """Hold a graph against the contract.

    Valid ONNX in one file, uint8 frames of one size in, the Cast first, two outputs; only operators that TensorRT takes, no
    control flow, every shape static, every weight finite.

    Raises:
        ArtefactError: it breaks the contract; a node that does is named.
    """
    check_onnx(path)
    model = onnx.load(path)
    _check_operators(path, model)
    try:
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtefactError(f"{path} is no valid ONNX: {error}", REPORT) from error
    _check_ends(path, model, frame)
    _check_shapes(path, model)


def _check_ends(path: Path, model: onnx.ModelProto, frame: FrameSpec) -> None:
    inputs = [
        (i.type.tensor_type.elem_type, [d.dim_value for d in i.type.tensor_type.shape.dim])
        for i in model.graph.input
    ]
    expected = [(onnx.TensorProto.UINT8, [frame.batch, *frame.shape])]
    first = [
        n.op_type for n in model.graph.node if model.graph.input and model.graph.input[0].name in n.input
    ]
    outputs = [o.name for o in model.graph.output]
    if inputs != expected or first != ["Cast"] or outputs != ["score", "anomaly_map"]:
        raise ArtefactError(
            f"{path}: takes {inputs} by {first} and gives {outputs}",
            f"expected {expected} by one Cast, and score and anomaly_map",
        )


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if not MIN_OPSET <= versions.get("", 0) <= MAX_OPSET:
        raise ArtefactError(
            f"{path} has opset {versions.get('')}, TensorRT 10.3 with INT8 reads {MIN_OPSET} to {MAX_OPSET}",
            REPORT,
        )
    if model.functions:
        raise ArtefactError(f"{path} has a function of its own: {model.functions[0].name}", REPORT)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in SUPPORTED:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise ArtefactError(
                f"{path}: node {node.name!r} is a {name}, which no graph of ours may have on TensorRT",
                "take another backbone, and report this one",
            )


def _check_shapes(path: Path, model: onnx.ModelProto) -> None:
    graph = model.graph
    shapes = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    for node in graph.node:
        for name in filter(None, node.output):
            known = name in shapes and shapes[name].HasField("shape")
            dims = shapes[name].shape.dim if known else ()
            if not known or not all(d.WhichOneof("value") == "dim_value" and d.dim_value > 0 for d in dims):
                raise ArtefactError(
                    f"{path}: output {name!r} of node {node.name!r} ({node.op_type}) has no fixed shape",
                    "take another backbone, and report this one",
                )


def check_parity(model: Path, precision: Precision, frame: FrameSpec, reference: ReferenceFrames) -> float:
    """How far a graph is from torch on the reference frames, see `measure_difference`.

    Args:
        model: the ONNX file.
        precision: of its core.
        frame: the frames it takes.
        reference: frames, and what torch says of them.

    Raises:
        ArtefactError: it is above `MAX_DIFFERENCE` of its precision.
    """
    with OnnxRuntimeSession(model, frame, precision) as session:
        difference = measure_difference(session.infer(reference.pixels), reference.said)
    limit = MAX_DIFFERENCE[precision]
    # Written so that a NaN is refused, too.
    if not difference < limit:
        raise ArtefactError(
            f"the exported {precision} graph scores differently from torch: {difference:.2e} relative, "
            f"at most {limit:.0e} allowed",
            REPORT,
        )
    return difference


def measure_difference(got: Inference, expected: Inference) -> float:
    """The largest difference of a score or of a pixel of a map, in units of that frame's score."""
    scale = np.maximum(np.abs(expected.score), 1e-12)
    scores = np.abs(got.score - expected.score) / scale
    maps = np.abs(got.anomaly_map - expected.anomaly_map).max(axis=(1, 2)) / scale
    return float(max(scores.max(), maps.max()))
