"""One GPU: what it is, and the context that everything on it lives in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from agp_edge.cuda.base import Driver, Resource
from agp_edge.errors import ArtefactError, DeviceLostError

P = ParamSpec("P")
T = TypeVar("T")

# CUdevice_attribute of cuda.h
_INTEGRATED = 18
_CAN_MAP_HOST_MEMORY = 19
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76


class _Here(threading.local):
    """What the calling thread has: the device that was used last, for which its context is current."""

    device: Device | None = None


_here = _Here()

_kept: set[int] = set()
"""Devices, as the driver has them, whose context stays until the process ends."""


class Device(Resource):
    """A GPU whose primary context is held, and current in each thread that uses it.

    Args:
        driver: how it is called.
        ordinal: CUDA's number of it, after `CUDA_VISIBLE_DEVICES`.

    Attributes:
        driver: how it is called.
        name: as the driver says it.
        compute_capability: as in `8.7`.
        integrated: whether it shares its memory with the CPU, as in a Jetson.
        maps_host_memory: whether it reads the host's page-locked memory where that lies.
        sleeps: whether a thread that waits for it sleeps; if not, the driver may have it spin.

    Raises:
        ArtefactError: there is no driver, or no such GPU.
    """

    def __init__(self, driver: Driver, ordinal: int = 0) -> None:
        self.driver = driver
        self._lost = False
        count = driver.count_devices()
        if not 0 <= ordinal < count:
            raise ArtefactError(
                f"there is no GPU {ordinal}: the driver offers {count}",
                "see which GPUs there are: agp-edge doctor; CUDA_VISIBLE_DEVICES hides some",
            )
        self._device = driver.device(ordinal)
        self.name = driver.device_name(self._device)
        major, minor, integrated, maps = (
            driver.device_attribute(self._device, attribute)
            for attribute in (
                _COMPUTE_CAPABILITY_MAJOR,
                _COMPUTE_CAPABILITY_MINOR,
                _INTEGRATED,
                _CAN_MAP_HOST_MEMORY,
            )
        )
        self.compute_capability = f"{major}.{minor}"
        self.integrated = bool(integrated)
        self.maps_host_memory = bool(maps)
        # A thread that spins while it waits takes the core that decodes the next frame.
        self.sleeps = driver.set_blocking(self._device)
        self._context = driver.retain_context(self._device)
        try:
            self.use()
        except BaseException:
            self.close()
            raise

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes of its memory now, as (free, total)."""
        return self.ask(self.driver.memory_info)

    def keep(self) -> None:
        """Have the context stay until the process ends, for libraries that use it by themselves.

        With the last that holds it a driver takes it down, and what CUDA's runtime inside a library has loaded there goes with it,
        which the library does not hear of: its next engine would be told CUDA_ERROR_CONTEXT_IS_DESTROYED.
        """
        if self._device not in _kept:
            self.ask(self.driver.retain_context, self._device)
            _kept.add(self._device)

    def use(self) -> None:
        """Make its context the calling thread's, as libraries expect it that are called without one."""
        self._check_open()
        if _here.device is not self:
            self._call(self.driver.set_context, self._context)
            _here.device = self

    def ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the driver in this device's context, which is then the calling thread's."""
        self.use()
        return self._call(call, *args, **kwargs)

    def prepare(self, call: str, *arguments: int) -> Callable[[], None]:
        """A call of the driver for over and over, in this device's context; see `Driver.prepare`."""
        ask, here = self.driver.prepare(call, *arguments), _here

        def run() -> None:
            if here.device is not self:
                self.use()
            try:
                ask()
            except DeviceLostError:
                self._lost = True
                raise

        return run

    def release(self, call: Callable[[int], None], handle: int) -> None:
        """Free something on this device.

        A lost device answers every free with the error that was told already, and what was on it is gone.
        """
        self._quietly(self.ask, call, handle)

    def _free(self) -> None:
        try:
            # A context that may end below is nobody's any more.
            if _here.device is self:
                _here.device = None
                self._quietly(self.driver.set_context, 0)
        finally:
            self._quietly(self.driver.release_context, self._device)

    def _call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except DeviceLostError:
            self._lost = True
            raise

    def _quietly(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        lost = self._lost
        try:
            self._call(call, *args, **kwargs)
        except DeviceLostError:
            if not lost:
                raise
