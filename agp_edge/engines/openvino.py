"""OpenVINO on the CPU: the same graphs, compiled when they are loaded.

Its engine is the bundle's graph itself, a plain ONNX file; the sidecar says what precision it is compiled for. That is
always said, and asked again of what was compiled: by default OpenVINO counts FP32 graphs in bfloat16 wherever the CPU
has it, and a precision that the CPU lacks it replaces by another without a word.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.bundle import check_onnx_bytes
from agp_edge.engines.base import (
    NOT_FOR_A_CPU,
    Backend,
    BuildOptions,
    BuildResult,
    Inference,
    Session,
    refuse_precision,
)
from agp_edge.engines.run_options import RUN_AS_USUAL, RunOptions
from agp_edge.engines.sidecar import Layers, Sidecar
from agp_edge.errors import AgpEdgeError, ArtefactError, quote
from agp_edge.extras import import_extra
from agp_edge.frame import FrameSpec, Precision
from agp_edge.progress import Progress, silent

DEVICE = "CPU"
OUTPUTS = ("score", "anomaly_map")

HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""Precision -> OpenVINO's name of what its layers count in, but for those that Q/DQ makes integer."""

CAPABILITIES: dict[Precision, str] = {"fp16": "FP16", "bf16": "BF16"}
"""Precision -> what the CPU must have for it, as OpenVINO's OPTIMIZATION_CAPABILITIES calls it."""

KEEPING_NUMBERS: dict[str, Any] = {
    # No smaller floating-point type than the hint says.
    "EXECUTION_MODE_HINT": "ACCURACY",
    # Else products of 8-bit weights also quantise, group by group, what no calibration has seen.
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",  # As text: OpenVINO 2024.6 takes no Python integer here.
    # Else the smallest numbers are flushed to zero.
    "CPU_DENORMALS_OPTIMIZATION": False,
}
"""Settings that keep numbers as the graph has them, said although most are the default: a default may change."""

NOT_EXECUTED = frozenset({"Const", "Input", "Output"})
"""Layers of a compiled model that count nothing."""

LONGEST_REASON = 240


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep OpenVINO's package from reporting its own import over the network, and from writing an identity into the home.

    It does so unless the user opted out. It goes without where the package for it is absent: so it is, for this import.
    """
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # The import system's own sign of a package that is not to be found.
    try:
        yield
    finally:
        del sys.modules[name]


def _import() -> Any:
    purpose = "running engines of OpenVINO"
    with _without_telemetry():
        try:
            return import_extra("openvino", "openvino", purpose)
        except ImportError as error:
            raise ArtefactError(
                f"OpenVINO is installed but does not load: {_reason(error)}",
                "install it again for this Python: pip install --force-reinstall openvino",
            ) from error


def _reason(error: Exception) -> str:
    """What an error of OpenVINO says, in one line: without the places in its source, which come first, and without its ends."""
    lines = [line.strip() for line in str(error).splitlines()]
    places = ("Exception from", "Check '")
    said = " ".join(line for line in lines if line and not line.startswith(places))
    return (said if len(said) <= LONGEST_REASON else said[:LONGEST_REASON] + "…") or type(error).__name__


def compile_graph(
    data: bytes, where: str, frame: FrameSpec | None, precision: Precision, threads: int | None = None
) -> Any:
    """Compile a graph for this CPU, in a precision and no other.

    Args:
        data: an ONNX file, already verified.
        where: the file, for errors.
        frame: the frame that it must take; None takes what it says.
        precision: what it is to count in.
        threads: threads inside a layer; all of this process's cores by default.

    Returns:
        An `openvino.CompiledModel`.

    Raises:
        ArtefactError: OpenVINO does not take it, it is no graph of ours, or what came out counts in another precision.
    """
    ov = _import()
    # The ONNX reader opens whatever file a graph names for its weights.
    check_onnx_bytes(data, where)
    settings = {
        **KEEPING_NUMBERS,
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or len(os.sched_getaffinity(0)),
        "CACHE_DIR": "",  # Nothing that was compiled is kept on disk, where nobody would verify it.
    }
    try:
        core = ov.Core()
        model = core.read_model(io.BytesIO(data))
        compiled = core.compile_model(model, DEVICE, settings)
    except Exception as error:  # OpenVINO raises what C++ gave it: RuntimeError and others.
        raise ArtefactError(
            f"OpenVINO {_version(ov)} does not take {where}: {_reason(error)}",
            "build the engine again on this machine: agp-edge build-engine BUNDLE; or take --backend onnxruntime",
        ) from error
    _check_interface(compiled, where, frame)
    _check_precision(compiled, where, precision)
    return compiled


def _check_interface(compiled: Any, where: str, frame: FrameSpec | None) -> None:
    """Hold a compiled model against our interface.

    Raises:
        ArtefactError: it is not uint8 [N, H, W, C] in, float32 `score` and `anomaly_map` out.
    """
    inputs = [(p.any_name, p.element_type.get_type_name(), _shape(p)) for p in compiled.inputs]
    outputs = {n: (p.element_type.get_type_name(), _shape(p)) for p in compiled.outputs for n in p.names}
    score, cells = (outputs.get(name, ("", [])) for name in OUTPUTS)
    good = (
        len(inputs) == 1
        and inputs[0][1] == "u8"
        and len(inputs[0][2]) == 4
        and (frame is None or inputs[0][2] == [frame.batch, *frame.shape])
        and score == ("f32", inputs[0][2][:1])
        and cells[0] == "f32"
        and len(cells[1]) == 3
        and cells[1][0] == inputs[0][2][0]
        and min(cells[1]) > 0
    )
    if not good:
        wanted = [frame.batch, *frame.shape] if frame is not None else "[N, H, W, C]"
        raise ArtefactError(
            f"{where} is no graph of ours: it takes {quote(inputs)} and gives {quote(sorted(outputs.items()))}",
            f"expected uint8 {wanted} in, float32 score [N] and anomaly_map [N, h, w] out: export the run again",
        )


def _shape(port: Any) -> list[int]:
    """The static shape of an input; empty for one that is not."""
    return list(port.shape) if port.partial_shape.is_static else []


def _check_precision(compiled: Any, where: str, precision: Precision) -> None:
    """Ask a compiled model what it counts in.

    Raises:
        ArtefactError: something else than was asked for.
    """
    hint = HINTS[precision]
    got = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    smaller = {"bf16", "f16"} - {hint}
    strangers = sorted({p for _, p in layers_of(compiled).counts} & smaller) if got == hint else [got]
    if strangers:
        raise ArtefactError(
            f"{where} was to be {precision}, and OpenVINO compiled it to count in {', '.join(strangers)}",
            "build it for this machine: agp-edge build-engine BUNDLE --precision fp32, or take --backend onnxruntime",
        )


def layers_of(compiled: Any) -> Layers:
    """What a compiled model executes, as OpenVINO says: type of layer and `runtimePrecision`."""
    counts: Counter[tuple[str, str]] = Counter()
    for layer in compiled.get_runtime_model().get_ops():
        told = layer.get_rt_info()
        kind, precision = (told[key].astype(str) for key in ("layerType", "runtimePrecision"))
        if kind not in NOT_EXECUTED:
            counts[kind, precision] += 1
    return Layers("the runtime", counts)


def _version(ov: Any) -> str:
    """As in `2026.4.1`; the build's number and branch, which follow it, are left out."""
    return str(ov.__version__).split("-", 1)[0]


class OpenVinoSession(Session):
    """A graph in OpenVINO on the CPU.

    Args:
        data: an ONNX file, already verified.
        where: the file, for errors.
        frame: the frame it takes.
        precision: what it counts in.
        threads: as `compile_graph`.

    Raises:
        ArtefactError: as `compile_graph`.
    """

    def __init__(
        self,
        data: bytes,
        where: str,
        frame: FrameSpec,
        precision: Precision = "fp32",
        threads: int | None = None,
    ) -> None:
        self.frame = frame
        self.precision = precision
        self._compiled = compile_graph(data, where, frame, precision, threads)
        self._request = self._compiled.create_infer_request()
        self._where = where

    @property
    def layers(self) -> Layers:
        """What it executes."""
        return layers_of(self._compiled)

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        try:
            results = self._request.infer(
                {0: frames}, share_inputs=frames.flags.writeable, share_outputs=True
            )
        except RuntimeError as error:
            raise ArtefactError(
                f"OpenVINO does not run {self._where}: {_reason(error)}",
                "build it again on this machine: agp-edge build-engine BUNDLE",
            ) from error
        # Copied: the request writes its next answer into the same memory.
        score, anomaly_map = (np.array(results[name]) for name in OUTPUTS)
        return Inference(score, anomaly_map)

    @property
    def runtime(self) -> dict[str, Any]:
        """See `Session.runtime`: frames stay in the memory that they were given in."""
        return {
            "library": f"openvino {_version(_import())}",
            "device": "cpu",
            "threads": self._compiled.get_property("INFERENCE_NUM_THREADS"),
            "transfers": False,
            "cuda_graphs": False,
        }

    def close(self) -> None:
        """Let go of the compiled model."""
        self._request = self._compiled = None


class _OpenVino:
    name = "openvino"

    def unavailable(self) -> str | None:
        try:
            devices = _import().Core().available_devices
        except AgpEdgeError as error:
            return error.what
        return None if DEVICE in devices else "OpenVINO finds no CPU that it knows"

    def cannot_run(self) -> str | None:
        return self.unavailable()

    def refuses(self, precision: Precision) -> str | None:
        needed = CAPABILITIES.get(precision)
        if needed is None:
            return None
        has = _import().Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        if needed in has:
            return None
        return f"OpenVINO does not build {precision} here: this CPU has no native {needed}"

    def build(
        self, model: Path, plan: Path, options: BuildOptions, progress: Progress = silent
    ) -> BuildResult:
        ov = _import()
        refuse_precision(self, options.precision)
        options.refuse("OpenVINO", NOT_FOR_A_CPU)
        data = model.read_bytes()
        compiled = compile_graph(data, str(model), options.frame, options.precision)
        plan.write_bytes(data)
        progress(1, 1)
        return BuildResult(
            _version(ov), {"machine": platform.machine(), "device": DEVICE}, True, layers_of(compiled)
        )

    def open(
        self, plan: Path, sidecar: Sidecar, data: bytes | None = None, options: RunOptions = RUN_AS_USUAL
    ) -> Session:
        options.refuse("the CPU")
        machine = sidecar.device.get("machine")
        if machine != platform.machine():
            raise ArtefactError(
                f"engine {plan} was built for {quote(machine)}, this machine is {platform.machine()}",
                "build it here: agp-edge build-engine BUNDLE",
            )
        verified = plan.read_bytes() if data is None else data
        return OpenVinoSession(verified, str(plan), sidecar.frame, sidecar.precision)


def get_backend(name: str) -> Backend:
    """The backend `openvino`."""
    return _OpenVino()
