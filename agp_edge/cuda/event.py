"""A mark in a stream: another stream waits for it, or a thread of the host does."""

from __future__ import annotations

from collections.abc import Callable

from agp_edge.cuda.base import Resource
from agp_edge.cuda.device import Device
from agp_edge.cuda.stream import Stream


class Event(Resource):
    """An event of a device.

    Args:
        device: whose; it must outlive this.
        timing: whether it keeps the time, which costs a little.
        sleeps: whether a thread that waits for it sleeps; else it spins.
    """

    def __init__(self, device: Device, *, timing: bool = False, sleeps: bool = True) -> None:
        self._device = device
        self._handle = device.ask(device.driver.create_event, timing=timing, sleeps=sleeps)

    def record(self, stream: Stream) -> None:
        """Queue the mark in a stream; one that was queued before is forgotten.

        Raises:
            DeviceLostError: the device is lost, now or by what was queued before.
        """
        self.prepare_record(stream)()

    def hold(self, stream: Stream) -> None:
        """Have what is queued in `stream` from now on wait for the mark.

        Raises:
            DeviceLostError: the device is lost, now or by what was queued before.
        """
        self.prepare_hold(stream)()

    def synchronize(self) -> None:
        """Wait until the mark is reached; one that was never queued is.

        Raises:
            DeviceLostError: what was queued before it failed, and the device is lost.
        """
        self.prepare_synchronize()()

    def prepare_record(self, stream: Stream) -> Callable[[], None]:
        """`record` for over and over, while both are open."""
        self._check_open()
        return self._device.prepare("record_event", self._handle, stream.handle)

    def prepare_hold(self, stream: Stream) -> Callable[[], None]:
        """`hold` for over and over, while both are open."""
        self._check_open()
        return self._device.prepare("wait_event", stream.handle, self._handle)

    def prepare_synchronize(self) -> Callable[[], None]:
        """`synchronize` for over and over, while it is open."""
        self._check_open()
        return self._device.prepare("synchronize_event", self._handle)

    def elapsed_ms(self, begin: Event) -> float:
        """Milliseconds from `begin` to this; both keep the time and are reached."""
        self._check_open()
        begin._check_open()
        return self._device.ask(self._device.driver.elapsed_ms, begin._handle, self._handle)

    def _free(self) -> None:
        self._device.release(self._device.driver.destroy_event, self._handle)
