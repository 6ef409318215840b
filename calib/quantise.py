"""INT8 as Q/DQ: the form that TensorRT takes and ONNX Runtime runs, one graph for both.

Symmetric int8 (zero point 0), per-channel weights, no quantised bias. Only operators with trained weights are
quantised: the decoder's, and a pretrained backbone's. Fixed filters, the front and the distance, with the spread of
what is rebuilt amiss, stay as they are.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from agp_edge.errors import ArtefactError, InputError
from agp_edge.progress import Progress, silent

Method = Literal["max", "entropy", "percentile"]
METHODS: dict[Method, str] = {"max": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
"""Our name -> that of onnxruntime.quantization."""


OPERATORS = ("Conv", "Gemm", "MatMul")
OF_THE_DISTANCE = "residual_weight"
"""In the name of the weights that foretell a channel's spread: what follows is an exponential, which forgives nothing."""
HISTOGRAM_BINS: dict[Method, int] = {"entropy": 512, "percentile": 2048}
"""Entropy takes time with the square of the bins, and needs several times the 128 of the quantised range."""

BATCHES_AT_A_TIME = 8


class _Reader:
    """Gives frames to the calibrator, a batch at a time and so many batches before it has to digest them."""

    def __init__(self, frames: NDArray[np.uint8], batch: int, progress: Progress) -> None:
        self._batches = frames[: len(frames) // batch * batch].reshape(-1, batch, *frames.shape[1:])
        self._progress = progress
        self._next = self._pause = 0

    def more(self) -> bool:
        """Whether there are frames left; lets the next few go."""
        self._pause = self._next + BATCHES_AT_A_TIME
        return self._next < len(self._batches)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        if self._next >= min(len(self._batches), self._pause):
            return None
        self._next += 1
        self._progress(self._next, len(self._batches), "ranges")
        return {"frames": self._batches[self._next - 1]}


def quantisable(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes with trained weights: MatMul and Gemm with a constant, Conv of a pretrained backbone."""
    weights = {tensor.name for tensor in model.graph.initializer}
    chosen = []
    for node in model.graph.node:
        constant = [name for name in node.input[:2] if name in weights]
        trained_conv = node.op_type == "Conv" and any(".model." in name for name in constant)
        if any(OF_THE_DISTANCE in name for name in constant):
            continue
        if constant and (node.op_type in ("MatMul", "Gemm") or trained_conv):
            chosen.append(node.name)
    return chosen


def quantise(
    model: Path,
    out: Path,
    frames: NDArray[np.uint8],
    *,
    batch: int,
    method: Method = "max",
    progress: Progress = silent,
) -> int:
    """Write the INT8 graph of an FP32 graph.

    Args:
        model: the FP32 graph.
        out: the file to write.
        frames: [N, H, W, C] uint8 good frames for the ranges.
        batch: the graph's batch.
        method: how ranges are taken from activations.
        progress: told of batches.

    Returns:
        How many operators were quantised.

    Raises:
        InputError: an unknown method, or fewer frames than one batch.
        ArtefactError: a scale is no finite number, or there is nothing to quantise.
    """
    if method not in METHODS:
        raise InputError(f"there is no calibration method {method!r}", f"take one of: {', '.join(METHODS)}")
    if len(frames) < batch:
        raise InputError(f"{len(frames)} frames are fewer than one batch of {batch}", "give more good frames")
    with tempfile.TemporaryDirectory(prefix="agp-edge-int8-") as scratch, _quiet():
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared)
        nodes = quantisable(graph)
        if not nodes:
            raise ArtefactError(
                f"{model} has no operator with trained weights to quantise", "export the run again"
            )
        quantiser = QDQQuantizer(
            graph,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=_measure_ranges(prepared, frames, batch, method, progress),
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=list(OPERATORS),
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        quantiser.quantize_model()
        quantiser.model.save_model_to_file(str(out))
    check_scales(out)
    return len(nodes)


def _measure_ranges(
    prepared: Path, frames: NDArray[np.uint8], batch: int, method: Method, progress: Progress
) -> Any:
    """The range of every activation, as onnxruntime.quantization keeps them.

    Driven here rather than by `quantize_static`, which gives the entropy method as many bins in the histogram as in the
    quantised range, so that it can only answer what `max` answers; and which holds the activations of all frames at once.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    extra: dict[str, Any] = {"symmetric": True}
    if method in HISTOGRAM_BINS:
        extra["num_bins"] = HISTOGRAM_BINS[method]
    calibrator = create_calibrator(
        str(prepared),
        list(OPERATORS),
        augmented_model_path=str(prepared.with_name("augmented.onnx")),
        calibrate_method=getattr(CalibrationMethod, METHODS[method]),
        extra_options=extra,
    )
    reader = _Reader(frames, batch, progress)
    while reader.more():
        calibrator.collect_data(reader)
    return calibrator.compute_data()


def check_scales(path: Path) -> None:
    """Every scale is a finite number above 0, and every zero point is 0.

    Raises:
        ArtefactError: otherwise, naming the tensor.
    """
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for name, is_scale in ((node.input[1], True), (node.input[2] if len(node.input) > 2 else "", False)):
            if name not in constants:
                continue
            values = onnx.numpy_helper.to_array(constants[name]).astype(np.float64)
            good = np.isfinite(values).all() and (values > 0).all() if is_scale else (values == 0).all()
            if not good:
                raise ArtefactError(
                    f"{path.name}: {name} is no {'scale' if is_scale else 'zero point of symmetric int8'}",
                    "calibrate again with other frames, or --method max",
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime.quantization logs advice, warns of its own helpers, and prints to stdout, which belongs to results."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
