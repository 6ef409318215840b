"""What may be asked of a running stream, and what it says of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.control import Control
from agp_edge.errors import InputError, SourceLostError
from agp_edge.events import Event
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.stream import Stream
from agp_edge.stream.watching import ClockWatch, Health
from tests import waiting
from tests.agp_edge.stream.rig import Camera, Collect, Scripted, counts_of

wait_until = partial(waiting.wait_until, timeout_s=30)

Part = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def engine(tiny_engine: Path) -> Iterator[JudgingEngine]:
    with open_judging_engine(tiny_engine) as opened:
        yield opened


def test_a_sink_is_handed_the_control_before_the_first_verdict(engine: JudgingEngine, part: Part) -> None:
    class Curious(Collect):
        control: Control | None = None

        def attach(self, control: Control) -> None:
            assert not self.all
            self.control = control

    sink = Curious()
    Stream([Camera(part, total=5)], engine, [sink]).run()
    assert sink.control is not None
    status = sink.control.status()
    assert status["sources"][0]["captured"] == 5
    assert status["sinks"][0]["written"] == len(sink.all)


def test_status_adds_up_while_it_runs(engine: JudgingEngine, part: Part) -> None:
    """A frame that is under way is neither judged nor failed."""
    stream = Stream([Camera(part)], engine, [Collect()])
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        wait_until(lambda: stream.judged > 20)
        for _ in range(200):
            (line,) = stream.control.status()["sources"]
            assert line["failed"] == 0
            assert line["captured"] - line["judged"] - line["dropped"] in (-1, 0, 1, 2)
    finally:
        stream.stop()
        thread.join(20)
    last = line["last"]
    assert last is not None
    assert last["verdict"] in ("OK", "NG")
    assert line["connected"]


def test_the_threshold_follows_a_rate_and_verdicts_follow_the_threshold(
    engine: JudgingEngine, part: Part
) -> None:
    """The part's score is 0.298; the normal scores lie evenly between 0.2 and 0.4."""
    events: list[Event] = []
    camera, sink = Scripted(part, "camera"), Collect()
    stream = Stream([camera], engine, [sink], on_event=events.append)
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        changes: list[Callable[[], object]] = [
            lambda: None,
            lambda: stream.control.set_false_reject_rate(0.9),
            lambda: stream.control.set_false_reject_rate(0.01),
            lambda: stream.control.set_threshold(0.1),
        ]
        for number, change in enumerate(changes):
            change()
            camera.give(number)
            wait_until(lambda: len(sink.all) == number + 1)  # noqa: B023 - it is called at once
        with pytest.raises(InputError, match="cannot promise"):
            stream.control.set_false_reject_rate(0.001)
        with pytest.raises(InputError):
            stream.control.set_threshold(float("nan"))
    finally:
        stream.stop()
        camera.give(None)
        thread.join(20)
    assert [j.verdict for j in sink.all] == ["OK", "NG", "OK", "NG"]
    assert [round(j.threshold, 3) for j in sink.all] == [0.4, 0.218, 0.4, 0.1]
    assert [e.data["now"] for e in events if e.kind == "threshold-set"] == [j.threshold for j in sink.all[1:]]
    status = stream.control.status()
    assert status["rates"] == (0.01, 0.5)
    assert status["false_reject_rate"] is None, "set by hand"


def test_no_verdict_for_too_long_is_not_healthy(engine: JudgingEngine, part: Part) -> None:
    camera = Scripted(part, "camera")
    stream = Stream([camera], engine, healthy_within_s=0.3)
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        camera.give(0)
        wait_until(lambda: stream.judged == 1)
        assert stream.control.status()["healthy"]
        wait_until(lambda: not stream.control.status()["healthy"])
        assert stream.control.status()["reason"].startswith("no verdict for ")
        camera.give(1)
        wait_until(lambda: stream.control.status()["healthy"])
    finally:
        stream.stop()
        camera.give(None)
        thread.join(20)


def test_a_lost_camera_is_named_as_the_reason(engine: JudgingEngine, part: Part) -> None:
    class Off(Camera):
        def open(self) -> None:
            raise SourceLostError(f"{self.name} does not answer", "see that it is on")

    stream = Stream([Off(part, name="cam-7")], engine, healthy_within_s=0.1)
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        wait_until(lambda: not stream.control.status()["healthy"])
        assert "cam-7 gives no frames" in stream.control.status()["reason"]
    finally:
        stream.stop()
        thread.join(20)


def test_a_lost_camera_of_several_is_named_though_the_line_goes_on(engine: JudgingEngine, part: Part) -> None:
    class Off(Camera):
        def open(self) -> None:
            raise SourceLostError(f"{self.name} does not answer", "see that it is on")

    stream = Stream([Camera(part, name="cam-6"), Off(part, name="cam-7")], engine)
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        wait_until(lambda: stream.judged > 0)
        status = stream.control.status()
        assert status["healthy"]
        assert status["reason"] == "verdicts come: cam-7 gives no frames"
    finally:
        stream.stop()
        thread.join(20)


def test_triggers_that_get_no_frame_are_not_healthy(engine: JudgingEngine, part: Part) -> None:
    """Its camera is connected and gives nothing: parts pass by, and nobody may call that idle."""
    camera = Scripted(part, "camera")
    stream = Stream([camera], engine, trigger_wait_s=0.05, healthy_within_s=0.2)
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        wait_until(lambda: stream.control.status()["uptime_s"] > 0.3)
        assert stream.control.status()["reason"] == "no trigger came"
        stream.control.trigger("P-1")
        wait_until(lambda: stream.control.status()["triggers_missed"] == 1)
        assert not stream.control.status()["healthy"]
    finally:
        stream.stop()
        camera.give(None)
        thread.join(20)


def test_a_stream_that_waits_for_triggers_is_healthy_without_verdicts() -> None:
    health = Health(0.0)
    assert health.state(True, []) == (True, "no trigger came")
    assert not health.state(False, [])[0]
    assert not health.state(True, ["camera"])[0]


@pytest.mark.parametrize(("step", "way"), [(-3600.0, "back"), (7200.0, "forward")])
def test_a_clock_that_is_set_is_told_and_nothing_else_happens(
    engine: JudgingEngine, part: Part, monkeypatch: pytest.MonkeyPatch, step: float, way: str
) -> None:
    """`time.time` is what a set clock changes; everything that waits or measures goes by the monotonic one."""
    events: list[Event] = []
    sink = Collect()
    real = time.time
    stream = Stream([Camera(part)], engine, [sink], on_event=events.append)
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        wait_until(lambda: stream.judged > 5)
        monkeypatch.setattr(time, "time", lambda: real() + step)
        wait_until(lambda: any(e.kind == "clock-set" for e in events))
        judged = stream.judged
        wait_until(lambda: stream.judged > judged + 5)
    finally:
        stream.stop()
        thread.join(20)
    (told,) = (e for e in events if e.kind == "clock-set")
    assert way in told.text
    assert told.data["step_s"] == pytest.approx(step, abs=1)
    assert [j.frame for j in sink.all] == sorted(j.frame for j in sink.all)
    assert max(j.latency_ms["total"] for j in sink.all) < 60_000
    walls = [j.wall_s for j in sink.all]
    assert walls[-1] - walls[0] == pytest.approx(step, abs=60), "verdicts have the clock's time"
    assert counts_of(stream)[0]["failed"] == 0


def test_a_clock_that_only_runs_is_not_told() -> None:
    events: list[Event] = []
    watch = ClockWatch(events.append)
    for _ in range(5):
        watch.look()
    assert not events


def test_a_camera_that_is_given_up(engine: JudgingEngine, part: Part) -> None:
    camera = Camera(part, losses=[5] * 10**6, name="cam-7")
    stream = Stream([camera], engine, give_up_s=0.2)
    with pytest.raises(SourceLostError, match="cam-7 gave no frame for"):
        stream.run()
    counts_of(stream)


def test_a_camera_whose_library_blocks_does_not_hold_up_the_end(engine: JudgingEngine, part: Part) -> None:
    hanging = threading.Event()

    class Hangs(Camera):
        def read(self) -> None:
            hanging.set()
            threading.Event().wait(20)

    stream = Stream([Hangs(part)], engine)
    thread = threading.Thread(target=stream.run)
    thread.start()
    assert hanging.wait(10)
    begin = time.monotonic()
    stream.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - begin < 5
