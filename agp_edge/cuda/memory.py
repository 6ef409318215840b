"""Memory on a device, and the host's page-locked memory that it is copied from and to."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from agp_edge.cuda.base import Resource
from agp_edge.cuda.device import Device


class DeviceMemory(Resource):
    """Bytes on a device.

    Args:
        device: where; it must outlive this.
        size: in bytes, at least 1.

    Attributes:
        size: in bytes.

    Raises:
        ArtefactError: the device has not so much left.
    """

    def __init__(self, device: Device, size: int) -> None:
        self.size = size
        self._device = device
        self._address = device.ask(device.driver.allocate, size)

    @property
    def address(self) -> int:
        """Where it begins, in the device's addresses."""
        self._check_open()
        return self._address

    def _free(self) -> None:
        self._device.release(self._device.driver.free, self._address)


class PinnedMemory(Resource):
    """Page-locked bytes of the host: the device copies from and to them by itself, or uses them where they lie.

    Args:
        device: that copies; it must outlive this.
        size: in bytes, at least 1.

    Attributes:
        size: in bytes.

    Raises:
        ArtefactError: the system locks no more memory.
    """

    def __init__(self, device: Device, size: int) -> None:
        self.size = size
        self._device = device
        self._address = device.ask(device.driver.allocate_host, size)

    @property
    def address(self) -> int:
        """Where it begins, in the host's addresses."""
        self._check_open()
        return self._address

    @property
    def mapped_address(self) -> int:
        """Where the device finds them without a copy; only of a device that `maps_host_memory`."""
        return self._device.ask(self._device.driver.mapped_address, self.address)

    @property
    def array(self) -> NDArray[np.uint8]:
        """The bytes themselves, [size] uint8: a view, which must not be used after `close()`."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.address))

    def _free(self) -> None:
        self._device.release(self._device.driver.free_host, self._address)
