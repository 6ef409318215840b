"""ONNX Runtime on the CPU: the backend that runs everywhere.

Its engine is the graph after ONNX Runtime's own, hardware-independent optimisation, saved as plain ONNX.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.bundle import Bundle, check_onnx, check_onnx_bytes
from agp_edge.engines.base import (
    NOT_FOR_A_CPU,
    Backend,
    BuildOptions,
    BuildResult,
    Inference,
    Session,
    refuse_precision,
)
from agp_edge.engines.sidecar import Layers, Sidecar
from agp_edge.errors import ArtefactError, InputError
from agp_edge.extras import import_extra
from agp_edge.frame import GRAPHS, FrameSpec, Precision
from agp_edge.progress import Progress, silent

OUTPUTS = ["score", "anomaly_map"]


def _import() -> Any:
    return import_extra("onnxruntime", "onnxruntime", "running ONNX graphs")


def _options(threads: int | None = None) -> Any:
    ort = _import()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    # A stream waits for frames most of the time: threads that spin meanwhile only take the decoder's core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxRuntimeSession(Session):
    """A graph in ONNX Runtime on the CPU.

    Args:
        model: an ONNX file, already verified.
        frame: the frame it takes.
        precision: what its graph is, for reports.
        threads: threads inside an operator; all of this process's cores by default.
        data: the bytes that were verified: then the file is not read again.

    Raises:
        ArtefactError: ONNX Runtime does not load it, or its inputs and outputs are not ours.
    """

    def __init__(
        self,
        model: Path,
        frame: FrameSpec,
        precision: Precision = "fp32",
        threads: int | None = None,
        *,
        data: bytes | None = None,
    ) -> None:
        ort = _import()
        self.frame = frame
        self.precision = precision
        # ONNX Runtime opens whatever file a graph names for its weights.
        if data is None:
            check_onnx(model)
        else:
            check_onnx_bytes(data, str(model))
        try:
            self._session = ort.InferenceSession(
                str(model) if data is None else data, _options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own errors share no public base class.
            raise ArtefactError(
                f"ONNX Runtime {ort.__version__} does not load {model}: {str(error).splitlines()[0]}",
                "build the engine again on this machine: agp-edge build-engine BUNDLE",
            ) from error
        inputs = self._session.get_inputs()
        outputs = {output.name for output in self._session.get_outputs()}
        expected = [frame.batch, *frame.shape]
        if (
            len(inputs) != 1
            or inputs[0].type != "tensor(uint8)"
            or inputs[0].shape != expected
            or not set(OUTPUTS) <= outputs
        ):
            raise ArtefactError(
                f"{model} is no graph of ours: it takes {[(i.name, i.type, i.shape) for i in inputs]} and gives {sorted(outputs)}",
                f"expected uint8 {expected} in, score and anomaly_map out: export the run again",
            )
        self._input = inputs[0].name

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        score, anomaly_map = self._session.run(OUTPUTS, {self._input: frames})
        return Inference(score, anomaly_map)

    @property
    def runtime(self) -> dict[str, Any]:
        """See `Session.runtime`: frames stay in the memory that they were given in."""
        return {
            "library": f"onnxruntime {_import().__version__}",
            "device": "cpu",
            "threads": self._session.get_session_options().intra_op_num_threads,
            "transfers": False,
            "cuda_graphs": False,
            "spin_wait": False,
        }

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


def open_graph(bundle: Bundle, precision: Precision = "fp32") -> OnnxRuntimeSession:
    """A session over a bundle's own graph: the file is read once, and what was hashed is what ONNX Runtime gets.

    Raises:
        InputError: the bundle has no graph of this precision.
        ArtefactError: it was changed since the bundle was read, or ONNX Runtime does not load it.
    """
    model = bundle.model_path(precision)
    return OnnxRuntimeSession(model, bundle.manifest.frame, precision, data=bundle.model_bytes(precision))


def executed_layers(model: Path) -> Layers | None:
    """What ONNX Runtime executes of a graph, by its own profile of one run on black frames.

    The file of an engine does not tell: when it is loaded, nodes are still fused and laid out for this very CPU. A node
    counts by its operator and by the type of what goes into it first: a product of `uint8` is an integer product.

    Returns:
        None where the profile cannot be written or read.
    """
    ort = _import()
    with tempfile.TemporaryDirectory(prefix="agp-edge-profile-") as folder:
        options = _options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        frames = {item.name: np.zeros(item.shape, np.uint8) for item in session.get_inputs()}
        session.run(OUTPUTS, frames)
        try:
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            nodes = [
                event["args"]
                for event in events
                if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
            ]
            counts = Counter((n["op_name"], next(iter(n["input_type_shape"][0]), "?")) for n in nodes)
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None
    return Layers("the runtime", counts) if counts else None


class _OnnxRuntime:
    name = "onnxruntime"

    def unavailable(self) -> str | None:
        try:
            _import()
        except InputError as error:
            return error.what
        return None

    def cannot_run(self) -> str | None:
        return self.unavailable()

    def refuses(self, precision: Precision) -> str | None:
        return None if precision in GRAPHS else f"ONNX Runtime does not build {precision}"

    def build(
        self, model: Path, plan: Path, options: BuildOptions, progress: Progress = silent
    ) -> BuildResult:
        ort = _import()
        refuse_precision(self, options.precision)
        options.refuse("ONNX Runtime", NOT_FOR_A_CPU)
        session_options = _options()
        # Not "all": that level lays the graph out for this very CPU, and the file would fail on another.
        session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        session_options.optimized_model_filepath = str(plan)
        try:
            ort.InferenceSession(str(model), session_options, providers=["CPUExecutionProvider"])
            layers = executed_layers(plan)
        except Exception as error:
            raise ArtefactError(
                f"ONNX Runtime {ort.__version__} does not take {model}: {str(error).splitlines()[0]}",
                "export the run again with this version of agp-edge",
            ) from error
        progress(1, 1)
        return BuildResult(
            ort.__version__, {"machine": platform.machine(), "provider": "CPUExecutionProvider"}, True, layers
        )

    def open(self, plan: Path, sidecar: Sidecar, data: bytes | None = None) -> Session:
        machine = sidecar.device.get("machine")
        if machine != platform.machine():
            raise ArtefactError(
                f"engine {plan} was built for {machine}, this machine is {platform.machine()}",
                "build it here: agp-edge build-engine BUNDLE",
            )
        return OnnxRuntimeSession(plan, sidecar.frame, sidecar.precision, data=data)


def get_backend(name: str) -> Backend:
    """The backend `onnxruntime`."""
    return _OnnxRuntime()
