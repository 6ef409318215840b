"""A sink that is slow, blocks or fails, and what of that reaches the stream: nothing."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from agp_edge.errors import DiskFullError
from agp_edge.events import Event
from agp_edge.sinks import Judgement, Sink, runner
from agp_edge.sinks.base import Wants
from agp_edge.sinks.runner import SinkRunner
from agp_edge.verdict import Region
from tests import waiting

wait_until = partial(waiting.wait_until, timeout_s=30)


class Gate(Sink):
    """Writes while it is open, and remembers."""

    def __init__(self, wants: Wants = "verdicts") -> None:
        self.wants = wants
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.failure: BaseException | None = None
        self.all: list[Judgement] = []
        self.events: list[Event] = []
        self.closed = 0

    def write(self, judgement: Judgement) -> None:
        self.entered.set()
        self.open.wait()
        if self.failure is not None:
            raise self.failure
        self.all.append(judgement)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


def judgement(number: int, verdict: Any = "OK") -> Judgement:
    pixels = np.full((48, 64, 3), number % 256, np.uint8)
    cells = np.zeros((6, 8), np.float32)
    return Judgement(
        pixels, cells, 0.0, "arrival", "camera", number, verdict, 0.1, 0.4, 0.5, [Region(0, 0, 8, 8, 0.1)], {}, "e"
    )  # fmt: skip


def test_a_sink_gets_what_it_wants_in_order() -> None:
    wants: list[Wants] = ["verdicts", "rejects", "pictures"]
    for want in wants:
        sink = Gate(want)
        running = SinkRunner(sink, live=True)
        running.start()
        for n in range(20):
            running.offer(judgement(n, "NG" if n % 4 == 0 else "OK"))
        running.close()
        numbers = [j.frame for j in sink.all]
        assert numbers == (list(range(0, 20, 4)) if want == "rejects" else list(range(20)))
        assert all((j.pixels is None) == (want == "verdicts") for j in sink.all)
        assert running.status() == {
            "sink": "sink",
            "written": len(numbers),
            "lost": 0,
            "waiting": 0,
            "error": None,
        }
        assert sink.closed == 1


def test_a_blocked_sink_loses_its_oldest_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_ENTRIES", 10)
    events: list[Event] = []
    sink = Gate()
    running = SinkRunner(sink, live=True, on_event=events.append)
    running.start()
    sink.open.clear()
    running.offer(judgement(0))
    sink.entered.wait(10)  # That one is in its hands.
    begin = time.monotonic()
    for n in range(1, 101):
        running.offer(judgement(n))
    assert time.monotonic() - begin < 5, "nobody waited for it"
    assert running.status()["lost"] == 90
    assert [e.kind for e in events] == ["sink-behind"], "told once"
    sink.open.set()
    wait_until(lambda: not running.status()["waiting"])
    running.close()
    assert [j.frame for j in sink.all] == [0, *range(91, 101)]
    assert [e.kind for e in events] == ["sink-behind", "sink-back"]
    assert events[-1].data == {"lost": 90}


def test_pictures_are_bounded_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_BYTES", 100_000)
    sink = Gate("pictures")
    running = SinkRunner(sink, live=True)
    running.start()
    sink.open.clear()
    running.offer(judgement(0))
    sink.entered.wait(10)
    for n in range(1, 50):
        running.offer(judgement(n))
    # 48 * 64 * 3 bytes, a map and the verdict: ten of them are 100 kB.
    assert 8 <= running.status()["waiting"] <= 10
    sink.open.set()
    running.close()
    assert sink.all[-1].frame == 49


def test_a_frame_larger_than_all_that_may_wait_still_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_BYTES", 10)
    sink = Gate("pictures")
    running = SinkRunner(sink, live=False)
    running.start()
    for n in range(5):
        running.offer(judgement(n))
    running.close()
    assert [j.frame for j in sink.all] == list(range(5))


def test_a_sink_of_files_holds_the_stream_up_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_ENTRIES", 3)
    sink = Gate()
    sink.open.clear()
    running = SinkRunner(sink, live=False)
    running.start()
    threading.Timer(0.2, sink.open.set).start()
    for n in range(50):
        running.offer(judgement(n))
    running.close()
    assert [j.frame for j in sink.all] == list(range(50))
    assert running.status()["lost"] == 0


def test_a_sink_of_files_that_fails_ends_the_stream() -> None:
    sink = Gate()
    sink.failure = DiskFullError("no space left", "free some")
    running = SinkRunner(sink, live=False)
    running.start()
    running.offer(judgement(0))
    wait_until(lambda: running.status()["error"])
    with pytest.raises(DiskFullError):
        running.offer(judgement(1))
    with pytest.raises(DiskFullError):
        running.close()
    assert sink.closed == 1


def test_a_folder_that_is_watched_waits_for_its_sinks_and_outlives_their_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "MOST_ENTRIES", 3)
    events: list[Event] = []
    sink = Gate()
    sink.failure = DiskFullError("no space left", "free some")
    running = SinkRunner(sink, live=False, endless=True, on_event=events.append)
    running.start()
    running.offer(judgement(0))
    wait_until(lambda: running.status()["error"])
    sink.failure = None
    for n in range(1, 30):
        running.offer(judgement(n))
    running.close()
    assert [j.frame for j in sink.all] == list(range(1, 30)), "none but the one that failed is lost"
    assert [e.kind for e in events] == ["sink-failed", "sink-back"]


def test_a_failing_sink_of_a_camera_is_tried_with_each_entry() -> None:
    events: list[Event] = []
    sink = Gate()
    sink.failure = DiskFullError("no space left", "free some")
    running = SinkRunner(sink, live=True, on_event=events.append)
    running.start()
    for n in range(10):
        running.offer(judgement(n))
    wait_until(lambda: running.status()["lost"] == 10)
    assert running.status()["error"] == "no space left"
    sink.failure = None
    running.offer(judgement(10))
    running.close()
    assert [j.frame for j in sink.all] == [10]
    assert [e.kind for e in events] == ["sink-failed", "sink-back"]
    assert running.status()["error"] is None


def test_a_sink_that_fails_by_turns_is_not_told_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a failure that lasts kept silent, because another was told a moment ago."""
    events: list[Event] = []
    sink = Gate()
    running = SinkRunner(sink, live=True, on_event=events.append)
    running.start()

    def give(number: int, failure: BaseException | None) -> None:
        sink.failure = failure
        running.offer(judgement(number))
        wait_until(lambda: running.written + running.lost == number + 1)

    for n in range(40):
        give(n, OSError("busy") if n % 2 else None)
    give(40, None)
    assert [e.kind for e in events] == ["sink-failed", "sink-back"]
    monkeypatch.setattr(runner, "TOLD_S", 0.0)
    give(41, OSError("for good"))
    running.close()
    assert [e.kind for e in events] == ["sink-failed", "sink-back", "sink-failed"]


def test_whoever_read_along_and_went_away_ends_a_camera_s_stream_too() -> None:
    sink = Gate()
    sink.is_filter = True
    sink.failure = BrokenPipeError()
    running = SinkRunner(sink, live=True)
    running.start()
    running.offer(judgement(0))
    wait_until(lambda: running.status()["lost"])
    with pytest.raises(BrokenPipeError):
        running.offer(judgement(1))
    with pytest.raises(BrokenPipeError):
        running.close()


class Panic(BaseException):
    """As a library in Rust raises, through PyO3: no `Exception`."""


@pytest.mark.parametrize(
    "failure", [BrokenPipeError("the broker closed it"), Panic("index out of bounds"), SystemExit(1)]
)
def test_nothing_else_that_a_sink_raises_ends_a_camera_s_stream(failure: BaseException) -> None:
    sink = Gate()
    sink.failure = failure
    running = SinkRunner(sink, live=True)
    running.start()
    running.offer(judgement(0))
    wait_until(lambda: running.status()["lost"] == 1)
    sink.failure = None
    running.offer(judgement(1))
    running.close()
    assert [j.frame for j in sink.all] == [1]


def test_whatever_a_sink_of_files_raises_ends_the_stream() -> None:
    sink = Gate()
    sink.failure = Panic("index out of bounds")
    running = SinkRunner(sink, live=False)
    running.start()
    running.offer(judgement(0))
    with pytest.raises(Panic):
        running.close()
    assert running.status()["lost"] == 1


def test_a_sink_of_files_that_hangs_does_not_keep_a_stream_that_was_told_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "MOST_ENTRIES", 3)
    monkeypatch.setattr(runner, "HUNG_S", 0.5)
    stop = threading.Event()
    sink = Gate()
    sink.open.clear()
    running = SinkRunner(sink, live=False, stopping=stop.is_set)
    running.start()
    running.offer(judgement(0))
    sink.entered.wait(10)
    for n in range(1, 4):
        running.offer(judgement(n))
    threading.Timer(0.3, stop.set).start()
    running.offer(judgement(4))
    assert stop.is_set(), "until then it was waited for"
    running.close()
    assert running.status()["lost"] == 4
    sink.open.set()
    running._thread.join(10)


def test_a_sink_that_hangs_is_left_behind() -> None:
    events: list[Event] = []
    sink = Gate()
    sink.open.clear()
    running = SinkRunner(sink, live=True, on_event=events.append)
    running.start()
    for n in range(5):
        running.offer(judgement(n))
    sink.entered.wait(10)
    begin = time.monotonic()
    running.close(begin + 0.3)
    assert time.monotonic() - begin < 5
    assert running.status()["lost"] == 4, "the one in its hands may yet be written"
    assert [e.kind for e in events] == ["sink-failed"]
    sink.open.set()
    running._thread.join(10)
    assert sink.closed == 1


def test_events_come_in_order_with_verdicts_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_EVENTS", 5)
    monkeypatch.setattr(runner, "MOST_ENTRIES", 3)
    sink = Gate()
    running = SinkRunner(sink, live=True)
    running.start()
    sink.open.clear()
    running.offer(judgement(0))
    sink.entered.wait(10)
    for n in range(20):
        running.event(Event("frozen", f"{n}"))
        running.offer(judgement(n + 1))
    sink.open.set()
    running.close()
    assert [e.text for e in sink.events] == ["0", "1", "2", "3", "4"], "verdicts give way, events do not"
    assert [j.frame for j in sink.all] == [0, 18, 19, 20]


def test_a_sink_that_was_never_started_is_closed_all_the_same() -> None:
    sink = Gate()
    SinkRunner(sink, live=True).close()
    assert sink.closed == 1


def test_a_verdict_alone_is_small() -> None:
    one = replace(judgement(0), part="P")
    assert one.without_pixels().pixels is None
    assert one.without_pixels().part == "P"
