"""What a page, a broker or a signal may ask of a running stream: the one way in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypedDict


class SourceStatus(TypedDict):
    """One source, or one region of interest of it, as it is now.

    `frame_age_ms` is how old the frame of the newest verdict was when that was given; `last` is that verdict as in
    JSON lines, None before the first.
    """

    source: str
    roi: str | None
    connected: bool
    captured: int
    judged: int
    dropped: int
    failed: int
    reconnects: int
    ok: int
    ng: int
    frame_age_ms: float | None
    latency_ms: dict[str, dict[str, Any]]
    last: dict[str, Any] | None


class SinkStatus(TypedDict):
    """One sink as it is now: `written` entries, `lost` ones, those that are `waiting`, and the last `error`."""

    sink: str
    written: int
    lost: int
    waiting: int
    error: str | None


class StreamStatus(TypedDict):
    """A whole stream as it is now; every value may be shown to whoever asks.

    `healthy` is false when no verdict was given for too long, and `reason` says why. `rates` are the false-reject
    rates that the engine's normal scores can promise, smallest and largest; None where the threshold cannot be set by a rate.
    `waits_for_trigger` where a frame is judged only when a trigger came.
    """

    healthy: bool
    reason: str
    uptime_s: float
    since_verdict_s: float | None
    engine: str
    threshold: float
    false_reject_rate: float | None
    rates: tuple[float, float] | None
    provisional: bool
    sources: list[SourceStatus]
    sinks: list[SinkStatus]
    waits_for_trigger: bool
    triggers: int
    triggers_missed: int


class Control(Protocol):
    """A running stream, as those see it that may change it. Every call is safe from any thread and returns at once."""

    def status(self) -> StreamStatus:
        """Counts and latencies up to now."""

    def set_false_reject_rate(self, rate: float) -> float:
        """Take the threshold that promises this rate, from the next verdict on; the threshold.

        Raises:
            InputError: a rate that the engine's normal scores cannot promise, or there are none.
        """

    def set_threshold(self, threshold: float) -> None:
        """Take a threshold by hand, from the next verdict on.

        Raises:
            InputError: it is no number.
        """

    def trigger(self, part: str | None = None, source: str | None = None, *, at_ns: int | None = None) -> int:
        """Have the first frame judged that was captured after it, of one source or of all; how many sources will.

        Args:
            part: the part's id, for the verdict.
            source: a source's name; None for all.
            at_ns: when it was triggered, on the monotonic clock (`time.monotonic_ns`). None is now.

        Raises:
            InputError: the stream waits for no trigger, there is no such source, or the id is too long.
        """

    def change_engine(self, path: Path | None = None) -> None:
        """Have another engine take over once it is open, verified and has passed its self-test; an event tells the end.

        Args:
            path: None opens again what the stream was started with, which may be a link to something else by now.
        """
