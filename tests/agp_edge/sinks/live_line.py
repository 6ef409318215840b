"""A stream as a line has it, for tests of what looks at one: a camera that a test can change, a real engine, a control object."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.control import SourceStatus, StreamStatus
from agp_edge.errors import InputError, SourceLostError
from agp_edge.events import Event
from agp_edge.judging import open_judging_engine
from agp_edge.sinks import Sink
from agp_edge.sources import Frame, Source
from agp_edge.stream import Stream
from agp_edge.verdict import Judge

FPS = 30.0


class LiveCamera(Source):
    """A camera of 30 frames a second.

    Args:
        name: the source's.
        draw: gives its frames by their number.

    Attributes:
        draw: may be exchanged at any time.
        lost: while it is true, there is no frame.
    """

    def __init__(self, name: str, draw: Callable[[int], NDArray[np.uint8]], fps: float = FPS) -> None:
        self.name, self.live, self.fps = name, True, fps
        self.draw = draw
        self.lost = False
        self._number = -1
        self._next = 0.0

    def open(self) -> None:
        if self.lost:
            raise SourceLostError(f"{self.name} does not answer", "see that it is on")
        self._next = time.monotonic()

    def read(self) -> Frame | None:
        assert self.fps is not None
        self._next = max(self._next + 1 / self.fps, time.monotonic())
        time.sleep(max(0.0, self._next - time.monotonic()))
        if self.lost:
            raise SourceLostError(f"{self.name} gives no more frames", "see that it is on")
        self._number += 1
        pixels = self.draw(self._number)
        return Frame(pixels, self._number, time.monotonic_ns(), time.time(), "arrival", self.name)

    def close(self) -> None:
        pass


class LineControl:
    """What a page may ask of a stream, over the real one.

    Attributes:
        triggered: parts that a trigger named, where the stream waits for triggers.
    """

    def __init__(self, stream: Stream, normal_scores: Sequence[float], tell: Callable[[Event], None]) -> None:
        self._stream, self._scores, self._tell = stream, list(normal_scores), tell
        self._rate: float | None = 0.01
        self._began = time.monotonic()
        self.waits_for_trigger = False
        self.triggered: list[str | None] = []
        self.healthy = True

    def status(self) -> StreamStatus:
        summary = self._stream.summary()
        sources: list[SourceStatus] = [
            {
                "source": of["source"],
                "roi": None,
                "connected": True,
                **{
                    name: of[name]
                    for name in ("captured", "judged", "dropped", "failed", "reconnects", "ok", "ng")
                },  # type: ignore[typeddict-item]
                "frame_age_ms": 12.0,
                "latency_ms": of["latency_ms"],
                "last": None,
            }
            for of in summary["sources"]
        ]
        return {
            "healthy": self.healthy,
            "reason": "" if self.healthy else "no verdict for 60 s",
            "uptime_s": time.monotonic() - self._began,
            "since_verdict_s": 0.03,
            "engine": summary["engine"],
            "threshold": summary["threshold"],
            "false_reject_rate": self._rate,
            "rates": (1 / (len(self._scores) + 1), 0.5),
            "provisional": summary["provisional"],
            "sources": sources,
            "sinks": [
                {"sink": "--web", "written": self._stream.judged, "lost": 0, "waiting": 0, "error": None}
            ],
            "waits_for_trigger": self.waits_for_trigger,
            "triggers": len(self.triggered),
            "triggers_missed": 0,
        }

    def set_false_reject_rate(self, rate: float) -> float:
        before = self._stream.summary()["threshold"]
        judge = Judge(self._scores, rate)
        self._stream._engine = dataclasses.replace(self._stream._engine, judge=judge)
        self._rate = rate
        data = {"before": before, "now": judge.threshold}
        self._tell(
            Event(
                "threshold-set",
                f"the threshold is {judge.threshold:g}, was {before:g}",
                data=data,
                level="info",
            )
        )
        return judge.threshold

    def set_threshold(self, threshold: float) -> None:
        raise AssertionError("the page sets rates")

    def trigger(self, part: str | None = None, source: str | None = None, *, at_ns: int | None = None) -> int:
        if not self.waits_for_trigger:
            raise InputError("the stream waits for no trigger", "start it with --trigger")
        self.triggered.append(part)
        return 1

    def change_engine(self, path: Path | None = None) -> None:
        raise AssertionError("the page changes no engine")


class Line:
    """A running stream; ends with the `with`.

    Args:
        engine: judges.
        cameras: its sources.
        sink: gets verdicts and events.
    """

    def __init__(self, engine: Path, cameras: Sequence[LiveCamera], sink: Sink) -> None:
        self._engine = open_judging_engine(engine)
        self._sink = sink
        self.cameras = list(cameras)
        self.stream = Stream(cameras, self._engine, [sink])
        self.control = LineControl(self.stream, self._engine.judge._ordered, sink.event)
        sink.attach(self.control)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="line")

    def _run(self) -> None:
        try:
            self.stream.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Line:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.stop()
        self._thread.join()
        self._engine.close()
        if self.error is not None and value is None:
            raise self.error

    def summary(self) -> dict[str, Any]:
        return self.stream.summary()
