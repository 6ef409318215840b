"""What the driver is to the code above it: a few calls in terms of ints, errors of our tree, and who frees what.

Addresses and handles are ints, sizes are bytes. Every call raises what `cuda_error` makes of the driver's answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TypeVar

from agp_edge.errors import AgpEdgeError, ArtefactError, DeviceLostError

Self = TypeVar("Self", bound="Resource")


class Driver(Protocol):
    """The driver's calls that are needed here."""

    def count_devices(self) -> int:
        """How many GPUs this process may use; starts the driver.

        Raises:
            ArtefactError: there is no driver.
        """

    def device(self, ordinal: int) -> int:
        """The handle of a GPU by its number."""

    def device_name(self, device: int) -> str:
        """As the driver says it."""

    def device_attribute(self, device: int, attribute: int) -> int:
        """A `CUdevice_attribute` of cuda.h, by its number."""

    def set_blocking(self, device: int) -> bool:
        """Have a thread that waits for this GPU sleep, and not spin, unless another of this process uses it already.

        Returns:
            False where that is not to be had: the other chose otherwise, or the binding cannot say it.
        """

    def retain_context(self, device: int) -> int:
        """The primary context of a GPU, the one that TensorRT and torch use too; made if nobody holds it."""

    def release_context(self, device: int) -> None:
        """Let go of the primary context; it ends with the last that holds it."""

    def set_context(self, context: int) -> None:
        """Make a context the calling thread's; 0 is none."""

    def memory_info(self) -> tuple[int, int]:
        """Memory of the current device as (free, total)."""

    def allocate(self, size: int) -> int:
        """Memory on the current device."""

    def free(self, address: int) -> None:
        """Free what `allocate` gave."""

    def allocate_host(self, size: int) -> int:
        """Page-locked memory of the host, mapped into the device's addresses where the device can do that."""

    def mapped_address(self, address: int) -> int:
        """Where the device finds what `allocate_host` gave."""

    def free_host(self, address: int) -> None:
        """Free what `allocate_host` gave."""

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream, nor that for it."""

    def destroy_stream(self, stream: int) -> None:
        """Free what `create_stream` gave."""

    def copy_in(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy from page-locked memory to the device."""

    def copy_out(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy from the device to page-locked memory."""

    def synchronize(self, stream: int) -> None:
        """Wait until everything that was queued is done."""

    def create_event(self, *, timing: bool, sleeps: bool) -> int:
        """A mark for streams.

        Args:
            timing: it keeps the time.
            sleeps: a thread that waits for it sleeps, and does not spin.
        """

    def destroy_event(self, event: int) -> None:
        """Free what `create_event` gave."""

    def record_event(self, event: int, stream: int) -> None:
        """Queue the mark: it is reached when what was queued before is done."""

    def wait_event(self, stream: int, event: int) -> None:
        """Queue a wait: what is queued later begins when the mark is reached."""

    def synchronize_event(self, event: int) -> None:
        """Wait until the mark is reached; one that was never queued is."""

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Milliseconds between two marks that keep the time and are reached."""

    def prepare(self, call: str, *arguments: int) -> Callable[[], None]:
        """A call for over and over: what can be done beforehand is, so that each leaves as little behind as it can.

        Args:
            call: the name of a method of this that gives nothing, as in `record_event`.
            arguments: of it.
        """

    captures_graphs: bool
    """Whether the calls below are there; where not, they are not called."""

    def begin_capture(self, stream: int) -> None:
        """From now on what this thread queues in the stream is written down and not done."""

    def end_capture(self, stream: int) -> int:
        """What was written down.

        Raises:
            CaptureError: something of it cannot be written down.
        """

    def destroy_capture(self, capture: int) -> None:
        """Free what `end_capture` gave."""

    def instantiate_graph(self, capture: int) -> int:
        """What was written down made ready to be launched; the capture itself is no longer needed."""

    def launch_graph(self, graph: int, stream: int) -> None:
        """Queue all of it."""

    def destroy_graph(self, graph: int) -> None:
        """Free what `instantiate_graph` gave."""


class CaptureError(AgpEdgeError):
    """Work that a CUDA graph cannot hold; queued call by call it can still be done."""


class Resource(ABC):
    """Something that has one owner and is freed once, by `close()` or the end of a `with`."""

    _closed = False

    def close(self) -> None:
        """Free it; safe to call twice."""
        if not self._closed:
            # First: what could not be freed is not freed a second time.
            self._closed = True
            self._free()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{type(self).__name__} is closed")

    @abstractmethod
    def _free(self) -> None:
        """Give it back to the driver; called once."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


NOT_HERE = {
    "CUDA_ERROR_OUT_OF_MEMORY": "free memory on the GPU: end what else runs on it, or export for a smaller frame",
    "CUDA_ERROR_NO_DEVICE": "see what the machine offers: agp-edge doctor",
    "CUDA_ERROR_INVALID_DEVICE": "see which GPUs there are: agp-edge doctor; CUDA_VISIBLE_DEVICES hides some",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "end what else uses the GPU: it may be set to serve one process alone",
    "CUDA_ERROR_STUB_LIBRARY": "have the real libcuda.so.1 found before the stub of the CUDA toolkit",
    "CUDA_ERROR_INSUFFICIENT_DRIVER": "bring the NVIDIA driver up to date",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "start the machine anew: driver and kernel module are of two versions",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "bring the NVIDIA driver up to date",
    "CUDA_ERROR_SYSTEM_NOT_READY": "see that the NVIDIA services of this machine run",
    "CUDA_ERROR_OPERATING_SYSTEM": "see that this process may open /dev/nvidia*: agp-edge doctor",
}
"""Errors that say that the machine does not have what is needed -> what to do."""

LOST = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        "DEINITIALIZED", "ECC_UNCORRECTABLE", "NVLINK_UNCORRECTABLE", "CONTEXT_IS_DESTROYED", "ILLEGAL_ADDRESS",
        "LAUNCH_TIMEOUT", "ASSERT", "HARDWARE_STACK_ERROR", "ILLEGAL_INSTRUCTION",
        "MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC", "LAUNCH_FAILED", "TENSOR_MEMORY_LEAK",
        "EXTERNAL_DEVICE", "CONTAINED", "MPS_CLIENT_TERMINATED", "MPS_RPC_FAILURE", "UNKNOWN",
    )
)  # fmt: skip
"""Errors after which the process gets no more work done on the device: every later call gives them again."""


def cuda_error(call: str, name: str, meaning: str) -> AgpEdgeError:
    """An error of the driver as one of ours.

    Args:
        call: the driver's function, as in `cuMemAlloc`.
        name: as in `CUDA_ERROR_OUT_OF_MEMORY`.
        meaning: in the driver's words.

    Returns:
        An `ArtefactError` where the machine does not have what is needed, a `DeviceLostError` where the device is lost, a
        `CaptureError` for what a CUDA graph cannot hold; else the call was wrong, and it is an unexpected fault.
    """
    what = f"{call}: {name} ({meaning})"
    if name in NOT_HERE:
        return ArtefactError(what, NOT_HERE[name])
    if name.startswith("CUDA_ERROR_STREAM_CAPTURE_"):
        return CaptureError(what, "run without CUDA graphs: --no-cuda-graphs")
    if name in LOST:
        return DeviceLostError(
            what, "start the command again; if it comes back, the kernel's log says more: dmesg | grep -i nv"
        )
    return AgpEdgeError(what, "this is a fault of agp-edge: report it with the output of agp-edge doctor")
