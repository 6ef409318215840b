"""The floor: an engine in a bare loop, as the documentation of its library would write it, over calls of the driver.

    copy the frames into page-locked memory; queue their copy to the device, the run, the copy of the scores back; wait

Nothing here is of our sessions: no checks, no slots, one stream, everything allocated beforehand, and with a CUDA graph the
whole of it is one call. What a session takes longer is what it costs.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agp_edge.cuda import Device, Driver, Resource, Stream
from agp_edge.engines import Sidecar
from agp_edge.engines.onnxruntime import CUDA, CUDA_SETTINGS, import_onnxruntime
from agp_edge.engines.tensorrt_callbacks import ErrorLog
from agp_edge.engines.tensorrt_capabilities import VARIANTS
from agp_edge.errors import AgpEdgeError

SCORE, MAP = "score", "anomaly_map"
WARM_UP_RUNS = 5

Shapes = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Tensor -> type and shape; the frames' first."""


class FloorError(AgpEdgeError):
    """A bare loop cannot be made of an engine."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "see whether the engine runs: agp-edge verify ENGINE")


@dataclass(frozen=True)
class How:
    """How a bare loop goes.

    Attributes:
        graph: the whole of it is one CUDA graph, or where the library makes its own, the run is.
        anomaly_map: the map is copied back, too.
        mapped: the device uses the host's memory, and there are no copies.
        spins: who waits does not sleep.
    """

    graph: bool = True
    anomaly_map: bool = False
    mapped: bool = False
    spins: bool = False


class Run(Protocol):
    """A library's run over memory that it is told of."""

    captures_itself: bool
    """It makes its own CUDA graph."""

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Say where the tensors lie on the device."""

    def queue(self) -> None:
        """Queue a run in the stream."""


class Library(Protocol):
    """An engine as its library has loaded it, in one stream."""

    shapes: Shapes

    def new_run(self, *, graph: bool) -> Run:
        """A run that nobody else uses."""

    def close(self) -> None:
        """Let go of it; what `new_run` gave is gone by then."""


class _TensorRTRun:
    captures_itself = False

    def __init__(self, context: Any, stream: int) -> None:
        self._context, self._stream = context, stream

    def bind(self, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)

    def queue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise FloorError("execute_async_v3 said no")


class BareTensorRT:
    """A plan of TensorRT or TensorRT-RTX.

    Args:
        module: `tensorrt` or `tensorrt_rtx`; a device is current.
        plan: its bytes.
        stream: to queue in.
    """

    def __init__(self, module: Any, plan: bytes, stream: int) -> None:
        trt = module
        self._stream = stream
        self._log = ErrorLog(module)
        self._runtime = trt.Runtime(self._log.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise FloorError(f"deserialize_cuda_engine: {self._log.first('no reason given')}")
        types: dict[Any, np.dtype[Any]] = {
            trt.DataType.UINT8: np.dtype(np.uint8),
            trt.DataType.FLOAT: np.dtype(np.float32),
        }
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        names.sort(key=lambda name: self._engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
        self.shapes: Shapes = {
            name: (types[self._engine.get_tensor_dtype(name)], tuple(self._engine.get_tensor_shape(name)[:]))
            for name in names
        }

    def new_run(self, *, graph: bool) -> Run:
        """See `Library.new_run`: a context with memory of its own."""
        context = self._engine.create_execution_context()
        if context is None:
            raise FloorError(f"create_execution_context: {self._log.first('no reason given')}")
        return _TensorRTRun(context, self._stream)

    def close(self) -> None:
        """See `Library.close`."""
        self._engine = self._runtime = None


class _OnnxRuntimeRun:
    captures_itself = True

    def __init__(self, session: Any, options: Any, place: str, shapes: Shapes) -> None:
        self._session, self._options, self._place, self._shapes = session, options, place, shapes
        self._binding = session.io_binding()

    def bind(self, addresses: Mapping[str, int]) -> None:
        for name, (kind, shape) in self._shapes.items():
            bind = self._binding.bind_output if name in (SCORE, MAP) else self._binding.bind_input
            bind(name, self._place, 0, kind, list(shape), addresses[name])

    def queue(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)


class BareOnnxRuntime:
    """A graph in ONNX Runtime, with IO binding over our memory, in our stream.

    Args:
        graph: the bytes of an ONNX file.
        stream: to queue in.
        provider, place: ONNX Runtime's names of what runs it, and of where its tensors are.
    """

    def __init__(self, graph: bytes, stream: int, provider: str = CUDA, place: str = "cuda") -> None:
        self._graph, self._stream, self._provider, self._place = graph, stream, provider, place
        self._sessions: dict[bool, Any] = {}
        self._graphs = 0
        session = self._session(graph=False)
        (entry,) = session.get_inputs()
        outputs = {value.name: tuple(value.shape) for value in session.get_outputs()}
        self.shapes: Shapes = {
            entry.name: (np.dtype(np.uint8), tuple(entry.shape)),
            SCORE: (np.dtype(np.float32), outputs[SCORE]),
            MAP: (np.dtype(np.float32), outputs[MAP]),
        }

    def _session(self, *, graph: bool) -> Any:
        if graph not in self._sessions:
            ort = import_onnxruntime()
            options = ort.SessionOptions()
            options.log_severity_level = 4
            settings = {**CUDA_SETTINGS, "user_compute_stream": str(self._stream)}
            if graph:
                settings["enable_cuda_graph"] = "1"
            chosen: Any = (CUDA, settings) if self._provider == CUDA else self._provider
            made = ort.InferenceSession(self._graph, options, providers=[chosen], enable_fallback=False)
            if self._provider not in made.get_providers():
                raise FloorError(f"ONNX Runtime does not start its {self._provider} here")
            self._sessions[graph] = made
        return self._sessions[graph]

    def new_run(self, *, graph: bool) -> Run:
        """See `Library.new_run`."""
        session, options = self._session(graph=graph), import_onnxruntime().RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if graph:
            self._graphs += 1
            options.add_run_config_entry("gpu_graph_id", str(self._graphs))
        return _OnnxRuntimeRun(session, options, self._place, self.shapes)

    def close(self) -> None:
        """See `Library.close`."""
        self._sessions.clear()


def _load(sidecar: Sidecar, plan: bytes, stream: int) -> Library:
    if sidecar.backend in VARIANTS:
        return BareTensorRT(importlib.import_module(VARIANTS[sidecar.backend].module), plan, stream)
    return BareOnnxRuntime(plan, stream)


class Buffers:
    """Memory for a run's tensors, over the driver alone.

    Args:
        driver: its context is current.
        shapes: of the tensors.
        stream: of the copies.
        held: what frees it.
        mapped: see `How`.

    Attributes:
        entry: [N, H, W, C] uint8 that the host writes to.
        score, anomaly_map: that the host reads.
        addresses: of the tensors on the device.
    """

    def __init__(
        self, driver: Driver, shapes: Shapes, stream: int, held: ExitStack, *, mapped: bool = False
    ) -> None:
        self.addresses: dict[str, int] = {}
        self._copies: dict[str, Callable[[], None]] = {}
        arrays: dict[str, NDArray[Any]] = {}
        for name, (kind, shape) in shapes.items():
            size = math.prod(shape) * kind.itemsize
            host = driver.allocate_host(size)
            held.callback(driver.free_host, host)
            raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
            arrays[name] = raw.view(kind).reshape(shape)
            if mapped:
                self.addresses[name] = driver.mapped_address(host)
                continue
            there = self.addresses[name] = driver.allocate(size)
            held.callback(driver.free, there)
            if name in (SCORE, MAP):
                self._copies[name] = driver.prepare("copy_out", host, there, size, stream)
            else:
                self._copies[name] = driver.prepare("copy_in", there, host, size, stream)
        self._entry_name = next(iter(shapes))
        self.entry: NDArray[np.uint8] = arrays[self._entry_name]
        self.score: NDArray[np.float32] = arrays[SCORE]
        self.anomaly_map: NDArray[np.float32] = arrays[MAP]

    @property
    def copy_in(self) -> list[Callable[[], None]]:
        """Queues the copy of the frames; nothing where they are used where they lie."""
        return self._of(self._entry_name)

    def copies_out(self, *, anomaly_map: bool) -> list[Callable[[], None]]:
        """Queue the copies of scores and maps."""
        return self._of(SCORE) + (self._of(MAP) if anomaly_map else [])

    def _of(self, name: str) -> list[Callable[[], None]]:
        return [self._copies[name]] if name in self._copies else []


class BareLoop(Resource):
    """A bare loop over an engine: called with a batch of frames it gives the scores, [N] float32, a view.

    Args:
        device: whose context is current.
        stream: one for everything.
        library: the engine.
        how: what it does for a batch.
    """

    def __init__(self, device: Device, stream: int, library: Library, how: How) -> None:
        device.use()
        driver = device.driver
        with ExitStack() as held:
            buffers = Buffers(driver, library.shapes, stream, held, mapped=how.mapped)
            # After the run is let go, before its memory is.
            held.callback(driver.synchronize, stream)
            run = library.new_run(graph=how.graph)
            run.bind(buffers.addresses)
            queue = [*buffers.copy_in, run.queue, *buffers.copies_out(anomaly_map=how.anomaly_map)]
            for _ in range(WARM_UP_RUNS):
                _call_all(queue)
            driver.synchronize(stream)
            if how.graph and not run.captures_itself:
                queue = [_capture(driver, stream, queue, held)]
            if how.spins:
                event = driver.create_event(timing=False, sleeps=False)
                held.callback(driver.destroy_event, event)
                queue.append(driver.prepare("record_event", event, stream))
                wait = driver.prepare("synchronize_event", event)
            else:
                wait = driver.prepare("synchronize", stream)
            self._held = held.pop_all()
        self._device = device
        self._run: Run | None = run
        self._calls: tuple[Callable[[], None], ...] = (*queue, wait)
        self._entry, self._score = buffers.entry, buffers.score

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Judge a batch."""
        np.copyto(self._entry, frames)
        for call in self._calls:
            call()
        return self._score

    def _free(self) -> None:
        self._device.use()
        self._run, self._calls = None, ()
        self._held.close()


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _capture(
    driver: Driver, stream: int, queue: list[Callable[[], None]], held: ExitStack
) -> Callable[[], None]:
    """What launches all of that as one CUDA graph."""
    if not driver.captures_graphs:
        raise FloorError("this binding of CUDA has no graphs")
    driver.begin_capture(stream)
    try:
        _call_all(queue)
    except BaseException:
        # The stream must take work again; what is told is what went wrong first.
        with contextlib.suppress(AgpEdgeError):
            driver.destroy_capture(driver.end_capture(stream))
        raise
    capture = driver.end_capture(stream)
    try:
        graph = driver.instantiate_graph(capture)
    finally:
        driver.destroy_capture(capture)
    held.callback(driver.destroy_graph, graph)
    return driver.prepare("launch_graph", graph, stream)


class Floor(Resource):
    """An engine in its library, for bare loops.

    Args:
        device: must outlive this.
        sidecar: of the engine.
        plan: its bytes, verified.
        load: what loads it; by default its backend's library.
    """

    def __init__(
        self,
        device: Device,
        sidecar: Sidecar,
        plan: bytes,
        load: Callable[[Sidecar, bytes, int], Library] = _load,
    ) -> None:
        self.device = device
        with ExitStack() as held:
            self.stream = held.enter_context(Stream(device)).handle
            self.library = load(sidecar, plan, self.stream)
            held.callback(self.library.close)
            self._held = held.pop_all()

    def loop(self, how: How) -> BareLoop:
        """A bare loop; close it before this.

        Raises:
            FloorError: the library, or the binding of CUDA, does not do that.
        """
        return BareLoop(self.device, self.stream, self.library, how)

    def _free(self) -> None:
        self._held.close()
