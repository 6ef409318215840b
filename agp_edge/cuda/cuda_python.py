"""The driver through `cuda.bindings.driver`, NVIDIA's own package `cuda-bindings`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agp_edge.cuda.base import Driver, cuda_error
from agp_edge.errors import AgpEdgeError, ArtefactError
from agp_edge.extras import import_extra

REPEATED: dict[str, tuple[str, tuple[str | None, ...]]] = {
    "copy_in": ("cuMemcpyHtoDAsync", ("CUdeviceptr", None, None, "CUstream")),
    "copy_out": ("cuMemcpyDtoHAsync", (None, "CUdeviceptr", None, "CUstream")),
    "synchronize": ("cuStreamSynchronize", ("CUstream",)),
    "record_event": ("cuEventRecord", ("CUevent", "CUstream")),
    "wait_event": ("cuStreamWaitEvent", ("CUstream", "CUevent", None)),
    "synchronize_event": ("cuEventSynchronize", ("CUevent",)),
    "launch_graph": ("cuGraphLaunch", ("CUgraphExec", "CUstream")),
}
"""Method that may be called for every frame -> the driver's function, and what each argument is, None for a number.
The number that nobody gives is 0: flags."""

_DEVICE_MAP = 2
"""CU_MEMHOSTALLOC_DEVICEMAP of cuda.h."""


class _CudaPython:
    """A `Driver`, which says what each call does.

    Args:
        driver: the module `cuda.bindings.driver`.
    """

    captures_graphs = True

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def count_devices(self) -> int:
        self._call("cuInit", 0)
        return int(self._call("cuDeviceGetCount"))

    def device(self, ordinal: int) -> int:
        return int(self._call("cuDeviceGet", ordinal))

    def device_name(self, device: int) -> str:
        name: bytes = self._call("cuDeviceGetName", 256, device)
        return name.split(b"\0")[0].decode(errors="replace")

    def device_attribute(self, device: int, attribute: int) -> int:
        return int(self._call("cuDeviceGetAttribute", self._driver.CUdevice_attribute(attribute), device))

    def set_blocking(self, device: int) -> bool:
        flag = int(self._driver.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC)
        flags, active = self._call("cuDevicePrimaryCtxGetState", device)
        if active:
            # A driver would change under another's feet how its threads wait.
            return bool(flags & flag)
        self._call("cuDevicePrimaryCtxSetFlags", device, flag)
        return True

    def retain_context(self, device: int) -> int:
        return int(self._call("cuDevicePrimaryCtxRetain", device))

    def release_context(self, device: int) -> None:
        self._call("cuDevicePrimaryCtxRelease", device)

    def set_context(self, context: int) -> None:
        self._call("cuCtxSetCurrent", context)

    def memory_info(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def allocate_host(self, size: int) -> int:
        return int(self._call("cuMemHostAlloc", size, _DEVICE_MAP))

    def mapped_address(self, address: int) -> int:
        return int(self._call("cuMemHostGetDevicePointer", address, 0))

    def free_host(self, address: int) -> None:
        self._call("cuMemFreeHost", address)

    def create_stream(self) -> int:
        flag = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        return int(self._call("cuStreamCreate", int(flag)))

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def copy_in(self, target: int, source: int, size: int, stream: int) -> None:
        self.prepare("copy_in", target, source, size, stream)()

    def copy_out(self, target: int, source: int, size: int, stream: int) -> None:
        self.prepare("copy_out", target, source, size, stream)()

    def synchronize(self, stream: int) -> None:
        self.prepare("synchronize", stream)()

    def create_event(self, *, timing: bool, sleeps: bool) -> int:
        flags = self._driver.CUevent_flags
        wanted = flags.CU_EVENT_BLOCKING_SYNC if sleeps else flags.CU_EVENT_DEFAULT
        if not timing:
            wanted |= flags.CU_EVENT_DISABLE_TIMING
        return int(self._call("cuEventCreate", int(wanted)))

    def destroy_event(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def record_event(self, event: int, stream: int) -> None:
        self.prepare("record_event", event, stream)()

    def wait_event(self, stream: int, event: int) -> None:
        self.prepare("wait_event", stream, event)()

    def synchronize_event(self, event: int) -> None:
        self.prepare("synchronize_event", event)()

    def elapsed_ms(self, begin: int, end: int) -> float:
        return float(self._call("cuEventElapsedTime", begin, end))

    def begin_capture(self, stream: int) -> None:
        # Of this thread alone: another one may allocate meanwhile.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        return int(self._call("cuStreamEndCapture", stream))

    def destroy_capture(self, capture: int) -> None:
        self._call("cuGraphDestroy", capture)

    def instantiate_graph(self, capture: int) -> int:
        return int(self._call("cuGraphInstantiate", capture, 0))

    def launch_graph(self, graph: int, stream: int) -> None:
        self.prepare("launch_graph", graph, stream)()

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)

    def prepare(self, call: str, *arguments: int) -> Callable[[], None]:
        name, kinds = REPEATED[call]
        # A number would be made a handle again at each call.
        handles = tuple(
            getattr(self._driver, kind)(value) if isinstance(kind, str) else value
            for kind, value in zip(kinds, (*arguments, 0), strict=False)
        )
        function, success = getattr(self._driver, name), self._driver.CUresult.CUDA_SUCCESS

        def ask() -> None:
            try:
                (code,) = function(*handles)
            except (RuntimeError, ValueError, KeyError) as error:
                raise _translate(name, error) from error
            if code is not success:
                self._check(name, code)

        return ask

    def _call(self, function: str, *arguments: Any) -> Any:
        """What a function of the driver gives beside its code: nothing, one value, or several."""
        try:
            code, *values = getattr(self._driver, function)(*arguments)
        except (RuntimeError, ValueError, KeyError) as error:
            raise _translate(function, error) from error
        self._check(function, code)
        return values[0] if len(values) == 1 else values

    def _check(self, function: str, code: Any) -> None:
        if int(code):
            raise cuda_error(function, code.name, self._meaning(code))

    def _meaning(self, code: Any) -> str:
        text: bytes | None = self._driver.cuGetErrorString(code)[1]
        return text.decode(errors="replace") if text else "the driver does not say what that means"


def _translate(function: str, error: Exception) -> AgpEdgeError:
    """What these bindings raise, instead of giving a code, as one of our errors."""
    if isinstance(error, RuntimeError):
        # There is no libcuda.so.1, or one without this function.
        return ArtefactError(
            f"{function}: there is no NVIDIA driver that can be used ({str(error).splitlines()[0]})",
            "see what the machine offers: agp-edge doctor",
        )
    # A code that only newer bindings have a name for.
    return cuda_error(function, "an error without a name", str(error))


def load_driver(extra: str) -> Driver:
    """The driver through cuda-python.

    Raises:
        MissingExtraError: it is not installed.
    """
    return _CudaPython(import_extra("cuda.bindings.driver", extra, "running engines on a GPU"))
