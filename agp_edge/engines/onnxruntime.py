"""ONNX Runtime: the backend that runs everywhere, on the CPU, or on a GPU where its CUDA provider is.

Its engine is the graph after ONNX Runtime's own, hardware-independent optimisation, saved as plain ONNX. The sidecar says for
which provider: an engine for CUDA is refused where CUDA is not, and never run on the CPU instead.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import platform
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
    infer_in,
    refuse_precision,
)
from agp_edge.engines.gpu import probe_gpus
from agp_edge.engines.onnxruntime_slots import CpuSlot
from agp_edge.engines.run_options import RUN_AS_USUAL, RunOptions
from agp_edge.engines.sidecar import Layers, Sidecar
from agp_edge.engines.slots import Slot
from agp_edge.errors import AgpEdgeError, ArtefactError, InputError, is_no_memory, no_memory, quote
from agp_edge.extras import import_extra
from agp_edge.frame import GRAPHS, FrameSpec, Precision
from agp_edge.progress import Progress, silent

OUTPUTS = ["score", "anomaly_map"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA_SETTINGS = {"use_tf32": "0"}
"""By default it rounds the factors of FP32 products to ten bits, which is no FP32."""
NO_SETTINGS: Mapping[str, str] = {}
REBUILD = "build the engine again on this machine: agp-edge build-engine BUNDLE"
FATAL = 4


def import_onnxruntime() -> Any:
    """The package.

    Raises:
        MissingExtraError: it is not installed.
    """
    return import_extra("onnxruntime", "onnxruntime", "running ONNX graphs")


def _options(threads: int | None = None) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    # What is an error it raises as well, and that is told in a line of ours. Its allocator logs beside the session.
    options.log_severity_level = FATAL
    ort.set_default_logger_severity(FATAL)
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    # A stream waits for frames most of the time: threads that spin meanwhile only take the decoder's core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _make_session(
    model: str | bytes, options: Any, provider: str = CPU, settings: Mapping[str, str] = NO_SETTINGS
) -> Any:
    """A session on a provider and no other.

    Raises:
        ArtefactError: ONNX Runtime leaves the provider out, as where CUDA's libraries do not load.
    """
    chosen: Any = (CUDA, {**CUDA_SETTINGS, **settings}) if provider == CUDA else provider
    if provider == CUDA and hasattr(import_onnxruntime(), "preload_dlls"):
        # CUDA's libraries from pip are found by nobody else; of those that it does not find it prints.
        with contextlib.redirect_stdout(io.StringIO()):
            import_onnxruntime().preload_dlls()
    # Its fall-back tries the same provider once more, or the CPU instead, and prints about that on stdout.
    session = import_onnxruntime().InferenceSession(model, options, providers=[chosen], enable_fallback=False)
    if provider not in session.get_providers():
        raise ArtefactError(
            f"ONNX Runtime does not start its {provider} here",
            "see what is missing: agp-edge doctor; on the CPU: CUDA_VISIBLE_DEVICES= agp-edge build-engine BUNDLE",
        )
    return session


def choose_provider() -> str:
    """Where engines that are built here are to run: on the GPU if ONNX Runtime can use one and the driver offers one."""
    return CUDA if CUDA in import_onnxruntime().get_available_providers() and probe_gpus()[0] else CPU


@contextlib.contextmanager
def _translated(what: str, hint: str) -> Iterator[None]:
    """The one seam where an error of ONNX Runtime's, which share no public base class, becomes one of ours.

    Raises:
        ArtefactError: whatever it raised, too little memory among it.
    """
    try:
        yield
    except AgpEdgeError:
        raise
    except Exception as error:
        title = f"ONNX Runtime {import_onnxruntime().__version__} {what}"
        if is_no_memory(error):
            lack = no_memory("do it")
            raise ArtefactError(f"{title}: {lack.what}", lack.hint) from error
        raise ArtefactError(f"{title}: {_reason(error)}", hint) from error


def _reason(error: Exception) -> str:
    """What ONNX Runtime says, without its code, the file that it was given, and the place in its own source."""
    text = str(error)
    for prefix in (
        r"\[ONNXRuntimeError\] : \d+ : \w+ : ",
        r"Load model from .*? failed: ?",
        r"\S+\.(cc|h):\d+ \S.*?\) ",
    ):
        text = re.sub(f"^{prefix}", "", text)
    return quote(text) or type(error).__name__


def _describe(value: Any) -> tuple[str, str, list[Any]]:
    """(name, type, shape) of an input or output."""
    return value.name, value.type, value.shape


@dataclass(frozen=True)
class Loaded:
    """A graph that ONNX Runtime has loaded, held against our interface.

    Attributes:
        session: ONNX Runtime's.
        entry: name of its input.
        shapes: of its tensors.
        where: the file, for errors.
    """

    session: Any
    entry: str
    shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
    where: str

    @property
    def translated(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """Goes around a run: an error of ONNX Runtime's becomes one of ours. It does not keep the session."""
        return functools.partial(_translated, f"fails in {self.where}", REBUILD)


def load_graph(
    model: Path,
    data: bytes | None,
    frame: FrameSpec,
    threads: int | None = None,
    provider: str = CPU,
    settings: Mapping[str, str] = NO_SETTINGS,
) -> Loaded:
    """Load a graph.

    Args:
        model: the file.
        data: its bytes, where they were read and verified: then it is not read again.
        frame: what it must take.
        threads: inside an operator; all of this process's cores by default.
        provider: `CPU` or `CUDA`.
        settings: of the provider.

    Raises:
        ArtefactError: ONNX Runtime does not load it, or its inputs and outputs are not ours.
    """
    import_onnxruntime()
    # ONNX Runtime opens whatever file a graph names for its weights.
    if data is None:
        check_onnx(model)
    else:
        check_onnx_bytes(data, str(model))
    with _translated(f"does not load {model}", REBUILD):
        session = _make_session(str(model) if data is None else data, _options(threads), provider, settings)
        inputs = [_describe(value) for value in session.get_inputs()]
        outputs = {value.name: _describe(value) for value in session.get_outputs()}
    batch, *size = frame.batch, *frame.shape
    score, cells = (outputs.get(name, ("", "", [])) for name in OUTPUTS)
    fits = (
        [value[1:] for value in inputs] == [("tensor(uint8)", [batch, *size])]
        and score[1:] == ("tensor(float)", [batch])
        and cells[1] == "tensor(float)"
        and len(cells[2]) == 3
        and cells[2][0] == batch
    )
    if not fits:
        raise ArtefactError(
            f"{model} is no graph of ours: it takes {quote(inputs)} and gives {quote(list(outputs.values()))}",
            f"expected uint8 {[batch, *size]} in, float32 score [N] and anomaly_map [N, h, w] out: export the run again",
        )
    entry = inputs[0][0]
    shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        entry: (np.dtype(np.uint8), (batch, *size)),
        **{name: (np.dtype(np.float32), tuple(outputs[name][2])) for name in OUTPUTS},
    }
    return Loaded(session, entry, shapes, str(model))


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
        self.frame = frame
        self.precision = precision
        self._loaded: Loaded | None = load_graph(model, data, frame, threads)

    @functools.cached_property
    def slots(self) -> tuple[Slot, ...]:
        """See `Session.slots`: one, since the CPU that brings the frames is the one that computes."""
        outputs = self._first_outputs()
        return (CpuSlot(self.frame, self._open.session, self._open.entry, outputs, self._open.translated),)

    def _first_outputs(self) -> dict[str, NDArray[np.float32]]:
        """What a first run gives: what a graph declares is a claim, what it gives is looked at."""
        loaded = self._open
        black = np.zeros((self.frame.batch, *self.frame.shape), np.uint8)
        with loaded.translated():
            score, anomaly_map = loaded.session.run(OUTPUTS, {loaded.entry: black})
        if score.shape != (self.frame.batch,) or anomaly_map.ndim != 3 or not anomaly_map.size:
            raise ArtefactError(
                f"{loaded.where} gives a score of {list(score.shape)} and a map of {list(anomaly_map.shape)} "
                f"for {self.frame.batch} frames",
                REBUILD,
            )
        return {"score": score, "anomaly_map": anomaly_map}

    @property
    def _open(self) -> Loaded:
        if self._loaded is None:
            raise ValueError("this session is closed")
        return self._loaded

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        return infer_in(self.slots[0], frames)

    @property
    def runtime(self) -> dict[str, Any]:
        """See `Session.runtime`: frames stay in the memory that they were given in."""
        return {
            "library": f"onnxruntime {import_onnxruntime().__version__}",
            "device": "cpu",
            "threads": self._open.session.get_session_options().intra_op_num_threads,
            "transfers": False,
            "cuda_graphs": False,
            "spin_wait": False,
        }

    def close(self) -> None:
        """Let go of the session."""
        self._loaded = None
        self.__dict__.pop("slots", None)


def open_graph(bundle: Bundle, precision: Precision = "fp32") -> OnnxRuntimeSession:
    """A session over a bundle's own graph: the file is read once, and what was hashed is what ONNX Runtime gets.

    Raises:
        InputError: the bundle has no graph of this precision.
        ArtefactError: it was changed since the bundle was read, or ONNX Runtime does not load it.
    """
    model = bundle.model_path(precision)
    return OnnxRuntimeSession(model, bundle.manifest.frame, precision, data=bundle.model_bytes(precision))


def executed_layers(model: Path, provider: str = CPU) -> Layers | None:
    """What ONNX Runtime executes of a graph, by its own profile of one run on black frames.

    The file of an engine does not tell: when it is loaded, nodes are still fused and laid out for this very CPU. A node
    counts by its operator and by the type of what goes into it first: a product of `uint8` is an integer product.

    Returns:
        None where the profile cannot be written or read.
    """
    with tempfile.TemporaryDirectory(prefix="agp-edge-profile-") as folder:
        options = _options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = _make_session(str(model), options, provider)
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
            import_onnxruntime()
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
        ort = import_onnxruntime()
        refuse_precision(self, options.precision)
        options.refuse("ONNX Runtime", NOT_FOR_A_CPU)
        provider = choose_provider()
        session_options = _options()
        # Not "all": that level lays the graph out for this very CPU, and the file would fail on another.
        session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        session_options.optimized_model_filepath = str(plan)
        with _translated(f"does not take {model}", "export the run again with this version of agp-edge"):
            _make_session(str(model), session_options, provider)
            layers = executed_layers(plan, provider)
        progress(1, 1)
        device = {"machine": platform.machine(), "provider": provider}
        return BuildResult(ort.__version__, device, True, layers)

    def open(
        self, plan: Path, sidecar: Sidecar, data: bytes | None = None, options: RunOptions = RUN_AS_USUAL
    ) -> Session:
        machine = sidecar.device.get("machine")
        if machine != platform.machine():
            raise ArtefactError(
                f"engine {plan} was built for {quote(machine)}, this machine is {platform.machine()}",
                "build it here: agp-edge build-engine BUNDLE",
            )
        provider = sidecar.device.get("provider", CPU)
        if provider not in (CPU, CUDA):
            raise ArtefactError(
                f"engine {plan} was built for provider {quote(provider)}, which this agp-edge does not know",
                REBUILD,
            )
        if provider == CUDA and choose_provider() != CUDA:
            lack = probe_gpus()[1] or "this ONNX Runtime has no CUDA provider"
            raise ArtefactError(f"engine {plan} was built for CUDA: {lack}", REBUILD)
        if provider == CUDA:
            from agp_edge.engines.onnxruntime_gpu import OnnxRuntimeGpuSession

            return OnnxRuntimeGpuSession(plan, sidecar.frame, sidecar.precision, data=data, options=options)
        options.refuse("the CPU")
        return OnnxRuntimeSession(plan, sidecar.frame, sidecar.precision, data=data)


def get_backend(name: str) -> Backend:
    """The backend `onnxruntime`."""
    return _OnnxRuntime()
