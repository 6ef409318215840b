"""What is looked after beside the frames: the wall clock, and whether verdicts still come."""

from __future__ import annotations

import time

from agp_edge.events import Event, OnEvent

CLOCK_STEP_S = 1.0
"""A wall clock that moves this far against the monotonic one was set; what NTP slews is far less between two looks."""


class ClockWatch:
    """Tells when the wall clock is set: times in verdicts jump then, and nothing else does.

    Every duration, order and latency of a stream is of the monotonic clock.

    Args:
        on_event: told.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._offset_s = time.time() - time.monotonic()

    def look(self) -> None:
        """Compare the clocks."""
        offset_s = time.time() - time.monotonic()
        step_s = offset_s - self._offset_s
        self._offset_s = offset_s
        if abs(step_s) >= CLOCK_STEP_S:
            way = "forward" if step_s > 0 else "back"
            text = f"the clock was set {way} by {abs(step_s):.1f} s: times of verdicts jump, their order and latencies do not"
            self._on_event(Event("clock-set", text, data={"step_s": round(step_s, 3)}))


class Health:
    """Whether verdicts come.

    Args:
        within_s: without a verdict for longer a stream is not healthy.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._started = time.monotonic()
        self._verdict_at: float | None = None

    def verdict(self) -> None:
        """A verdict was given."""
        self._verdict_at = time.monotonic()

    @property
    def uptime_s(self) -> float:
        """Since when it runs."""
        return time.monotonic() - self._started

    @property
    def since_verdict_s(self) -> float | None:
        """How long ago the last verdict was; None before the first."""
        return None if self._verdict_at is None else time.monotonic() - self._verdict_at

    def state(self, idle: bool, lost: list[str]) -> tuple[bool, str]:
        """Whether it is healthy, and why in a few words.

        Args:
            idle: nobody asked for a verdict, as where triggers are waited for.
            lost: names of the sources that give no frames.
        """
        since = self.since_verdict_s
        waited_s = self.uptime_s if since is None else since
        away = f": {', '.join(lost)} gives no frames" if lost else ""
        if waited_s <= self._within_s:
            # The line goes on without a camera of several; that it does is told all the same.
            return True, ("verdicts come" if since is not None else "starting") + away
        if idle and not lost:
            return True, "no trigger came"
        return False, f"no verdict for {waited_s:.0f} s" + away
