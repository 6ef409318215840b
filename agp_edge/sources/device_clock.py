"""A camera's own clock against ours: when a frame was taken, though it arrived late and the two clocks drift."""

from __future__ import annotations

WINDOW_NS = 5_000_000_000
"""Clocks of cameras drift by up to 100 parts in a million: within two windows by a millisecond."""

STEP_NS = 1_000_000_000
"""No frame is this late: then the camera's clock was set."""


class DeviceClock:
    """Maps a camera's time stamps to the monotonic clock.

    A frame arrives some time after its stamp, never before. So the difference of both clocks is at most the smallest
    difference of arrival and stamp: that of the one or two windows before, so that drift is followed. What every frame
    takes at least, from its stamp to the first packet (exposure and read-out where the camera stamps the start of the
    exposure), is in that difference and cannot be told from it.
    """

    def __init__(self) -> None:
        self._older: int | None = None
        self._newer: int | None = None
        self._began = 0
        self._last_device = 0

    def to_monotonic_ns(self, device_ns: int, arrived_ns: int) -> int:
        """When a frame was taken.

        Args:
            device_ns: the camera's stamp.
            arrived_ns: when its first packet came (`time.monotonic_ns`).

        Returns:
            On the monotonic clock, never behind `arrived_ns`.
        """
        delay = arrived_ns - device_ns
        smallest = self._smallest()
        if smallest is not None and (device_ns < self._last_device or delay - smallest > STEP_NS):
            self._older = self._newer = None
        self._last_device = device_ns
        if self._newer is None:
            self._newer, self._began = delay, arrived_ns
        elif arrived_ns - self._began >= WINDOW_NS:
            is_next = arrived_ns - self._began < 2 * WINDOW_NS
            self._older, self._newer = (self._newer if is_next else None), delay
            self._began = arrived_ns
        else:
            self._newer = min(self._newer, delay)
        smallest = self._smallest()
        assert smallest is not None
        return device_ns + smallest

    def _smallest(self) -> int | None:
        return min((d for d in (self._older, self._newer) if d is not None), default=None)
