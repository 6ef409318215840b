"""A queue of work for a device: what is put in is done in order, while the caller goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from agp_edge.cuda.base import Resource
from agp_edge.cuda.device import Device
from agp_edge.cuda.memory import DeviceMemory, PinnedMemory
from agp_edge.errors import DeviceLostError


class Stream(Resource):
    """A stream of a device.

    Buffers of a copy must stay as they are until the work is done: queue it in `with stream.awaited()`.

    Args:
        device: whose; it must outlive this.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._handle = device.ask(device.driver.create_stream)

    @property
    def handle(self) -> int:
        """What libraries take as a stream."""
        self._check_open()
        return self._handle

    def copy_in(self, source: PinnedMemory, target: DeviceMemory) -> None:
        """Queue a copy of all of `source` to the device.

        Raises:
            ValueError: they are not of the same size.
            DeviceLostError: the device is lost, now or by what was queued before.
        """
        self.prepare_copy_in(source, target)()

    def copy_out(self, source: DeviceMemory, target: PinnedMemory) -> None:
        """Queue a copy of all of `source` to the host.

        Raises:
            ValueError: they are not of the same size.
            DeviceLostError: the device is lost, now or by what was queued before.
        """
        self.prepare_copy_out(source, target)()

    def synchronize(self) -> None:
        """Wait until everything that was queued is done.

        Raises:
            DeviceLostError: something of it failed, and the device is lost.
        """
        self._device.ask(self._device.driver.synchronize, self.handle)

    def prepare_copy_in(self, source: PinnedMemory, target: DeviceMemory) -> Callable[[], None]:
        """`copy_in` for over and over, while all three are open."""
        _check_sizes(source, target)
        return self._device.prepare("copy_in", target.address, source.address, source.size, self.handle)

    def prepare_copy_out(self, source: DeviceMemory, target: PinnedMemory) -> Callable[[], None]:
        """`copy_out` for over and over, while all three are open."""
        _check_sizes(source, target)
        return self._device.prepare("copy_out", target.address, source.address, source.size, self.handle)

    def settle(self) -> None:
        """Wait as `synchronize`, on the way out: of a device that is known to be lost nothing is said again."""
        self._device.release(self._device.driver.synchronize, self.handle)

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Wait at the end for what is queued in the block, and also where the block raises: nobody is at its buffers then.

        Raises:
            DeviceLostError: something of it failed, and the device is lost.
        """
        try:
            yield
        except DeviceLostError:
            raise  # Nothing runs on it any more.
        except BaseException:
            self.synchronize()
            raise
        self.synchronize()

    def _free(self) -> None:
        self._device.release(self._device.driver.destroy_stream, self._handle)


def _check_sizes(source: DeviceMemory | PinnedMemory, target: DeviceMemory | PinnedMemory) -> None:
    if source.size != target.size:
        raise ValueError(f"a copy of {source.size} bytes into {target.size}")
