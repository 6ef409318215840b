"""What sinks are given by a stream: verdicts, events, and a control object whose status a test sets."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agp_edge.control import SourceStatus, StreamStatus
from agp_edge.latency import percentiles_ms
from agp_edge.sinks import Judgement
from agp_edge.verdict import Region, VerdictName

STAGES = ("capture", "queue", "transfer", "compute", "post", "total")
WALL_S = 1_769_999_999.123
SOURCE = "rtsp://admin:***@10.0.0.5/live"


def make_judgement(
    frame: int,
    verdict: VerdictName = "OK",
    *,
    source: str = SOURCE,
    roi: str | None = None,
    score: float = 0.25,
    part: str | None = None,
) -> Judgement:
    """A verdict without pixels, as sinks get it that want none."""
    return Judgement(
        pixels=None,
        anomaly_map=None,
        wall_s=WALL_S + frame,
        clock="arrival",
        source=source,
        frame=frame,
        verdict=verdict,
        score=score,
        threshold=0.5,
        p_value=0.01,
        regions=[Region(24, 16, 16, 16, 0.98)] if verdict == "NG" else [],
        latency_ms=dict.fromkeys(STAGES, 1.5),
        engine="0123456789ab",
        part=part,
        roi=None if roi is None else (roi, (0, 0, 8, 8)),
    )


def make_source(source: str = SOURCE, roi: str | None = None, **figures: Any) -> SourceStatus:
    """A source's status: 10 frames captured, 8 judged of which 2 are NG, 1 dropped, 1 failed; `figures` change that."""
    latency = {stage: dict(percentiles_ms([1.0, 2.0, 3.0, 4.0])) for stage in STAGES}
    status: dict[str, Any] = {
        "source": source, "roi": roi, "connected": True, "captured": 10, "judged": 8, "dropped": 1, "failed": 1,
        "reconnects": 3, "ok": 6, "ng": 2, "frame_age_ms": 12.5, "latency_ms": latency, "last": None, **figures,
    }  # fmt: skip
    return status  # type: ignore[return-value]


class PlainControl:
    """A control object that says what it was told to say, and counts how often it is asked.

    Attributes:
        now: the status.
        asked: how often it was.
    """

    def __init__(self, *sources: SourceStatus) -> None:
        self.asked = 0
        self.now: StreamStatus = {
            "healthy": True,
            "reason": "",
            "uptime_s": 12.0,
            "since_verdict_s": 0.1,
            "engine": "0123456789ab",
            "threshold": 0.5,
            "false_reject_rate": 0.01,
            "rates": (0.01, 0.2),
            "provisional": False,
            "sources": list(sources) or [make_source()],
            "sinks": [{"sink": "--jsonl", "written": 8, "lost": 2, "waiting": 0, "error": None}],
            "waits_for_trigger": False,
            "triggers": 0,
            "triggers_missed": 0,
        }

    def status(self) -> StreamStatus:
        self.asked += 1
        return self.now

    def set_false_reject_rate(self, rate: float) -> float:
        raise AssertionError("no sink of a plant may change the threshold")

    def set_threshold(self, threshold: float) -> None:
        raise AssertionError("no sink of a plant may change the threshold")

    def trigger(self, part: str | None = None, source: str | None = None, *, at_ns: int | None = None) -> int:
        raise AssertionError("no sink triggers")

    def change_engine(self, path: Path | None = None) -> None:
        raise AssertionError("no sink changes the engine")


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Poll until `condition()` is true."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.01)
