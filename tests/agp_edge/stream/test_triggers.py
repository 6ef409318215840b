"""Frames on triggers: each trigger its frame and its part's id, and none that is not told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.errors import InputError, SourceLostError
from agp_edge.events import Event
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.sources import Frame, open_source
from agp_edge.sources.reader import MOST_PARTS
from agp_edge.sources.triggering import MOST_PENDING, Pending, TriggerQueue
from agp_edge.stream import Stream
from tests import waiting
from tests.agp_edge.stream.rig import Camera, Collect, counts_of, with_slots

wait_until = partial(waiting.wait_until, timeout_s=30)

Part = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def engine(tiny_engine: Path) -> Iterator[JudgingEngine]:
    with open_judging_engine(tiny_engine) as opened:
        yield opened


@contextmanager
def running(stream: Stream) -> Iterator[None]:
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        yield
    finally:
        stream.stop()
        thread.join(20)
        assert not thread.is_alive()


def test_a_trigger_takes_the_first_frame_after_it(engine: JudgingEngine, part: Part) -> None:
    sink = Collect()
    stream = Stream([Camera(part, name="a"), Camera(part, name="b")], engine, [sink], trigger_wait_s=5)
    with running(stream):
        time.sleep(0.2)
        assert stream.judged == 0, "without a trigger nothing is judged"
        before = {reader.source.name: time.monotonic_ns() for reader in stream._readers}
        assert stream.control.trigger("P-1") == 2
        assert stream.control.trigger("P-2", "b") == 1
        wait_until(lambda: stream.judged == 3)
    assert sorted((j.source, j.part) for j in sink.all) == [("a", "P-1"), ("b", "P-1"), ("b", "P-2")]
    of_b = [j for j in sink.all if j.source == "b"]
    assert [j.part for j in of_b] == ["P-1", "P-2"]
    assert of_b[0].frame < of_b[1].frame, "each trigger has a frame of its own"
    for line in counts_of(stream):
        assert line["captured"] == line["judged"] == line["triggers"]
        assert line["missed"] == 0
    assert before


def test_a_time_in_the_past_takes_no_frame_from_before_it(engine: JudgingEngine, part: Part) -> None:
    sink = Collect()
    stream = Stream([Camera(part)], engine, [sink], trigger_wait_s=5)
    with running(stream):
        at_ns = time.monotonic_ns() + 200_000_000
        stream.control.trigger("later", at_ns=at_ns)
        wait_until(lambda: stream.judged == 1)
        assert time.monotonic_ns() >= at_ns


def test_a_trigger_without_a_frame_is_missed_and_told(engine: JudgingEngine, part: Part) -> None:
    class Off(Camera):
        def open(self) -> None:
            raise SourceLostError(f"{self.name} does not answer", "see that it is on")

    events: list[Event] = []
    stream = Stream([Off(part)], engine, [], trigger_wait_s=0.3, on_event=events.append)
    with running(stream):
        stream.control.trigger("P-9")
        wait_until(lambda: any(e.kind == "trigger-missed" for e in events))
    (missed,) = (e for e in events if e.kind == "trigger-missed")
    assert missed.data == {"part": "P-9"}
    assert "part P-9 has no verdict" in missed.text
    status = stream.control.status()
    assert (status["triggers"], status["triggers_missed"]) == (1, 1)


def test_a_burst_of_triggers_waits_and_what_is_too_much_is_told(tiny_engine: Path, part: Part) -> None:
    events: list[Event] = []
    sink = Collect()
    with open_judging_engine(tiny_engine) as one:
        slow = with_slots(one, 1, pause_s=0.2)
        stream = Stream([Camera(part)], slow, [sink], trigger_wait_s=5, on_event=events.append)
        with running(stream):
            for number in range(MOST_PARTS + 8):
                stream.control.trigger(f"P-{number}")
            wait_until(lambda: stream.judged + stream.control.status()["triggers_missed"] == MOST_PARTS + 8)
    missed = [e.data["part"] for e in events if e.kind == "trigger-missed"]
    judged = [j.part for j in sink.all]
    assert len(judged) >= MOST_PARTS
    assert missed, "16 parts within a moment are more than may wait"
    assert sorted([*judged, *missed]) == sorted(f"P-{n}" for n in range(MOST_PARTS + 8))
    (line,) = counts_of(stream)
    assert (line["dropped"], line["missed"]) == (len(missed), len(missed))


def test_a_part_whose_frame_cannot_be_judged_is_told(engine: JudgingEngine, part: Part) -> None:
    """The camera was restarted at another resolution: each part of it is missed, and each is told."""

    class Changes(Camera):
        def read(self) -> Frame | None:
            frame = super().read()
            wrong = frame is not None and stream.judged > 0
            return replace(frame, pixels=np.zeros((40, 80, 3), np.uint8)) if frame and wrong else frame

    events: list[Event] = []
    stream = Stream([Changes(part)], engine, trigger_wait_s=5, on_event=events.append)
    with running(stream):
        stream.control.trigger("good")
        wait_until(lambda: stream.judged == 1)
        time.sleep(0.05)  # A frame of before may be on its way.
        for number in range(3):
            stream.control.trigger(f"P-{number}")
        wait_until(lambda: stream.control.status()["triggers_missed"] == 3)
    missed = [e for e in events if e.kind == "trigger-missed"]
    assert [e.data["part"] for e in missed] == ["P-0", "P-1", "P-2"]
    assert "cannot be judged" in missed[0].text


def test_parts_that_wait_when_the_stream_ends_are_told(tiny_engine: Path, part: Part) -> None:
    events: list[Event] = []
    sink = Collect()
    with open_judging_engine(tiny_engine) as one:
        slow = with_slots(one, 1, pause_s=0.2)
        stream = Stream([Camera(part)], slow, [sink], trigger_wait_s=5, on_event=events.append)
        with running(stream):
            for number in range(5):
                stream.control.trigger(f"P-{number}")
            stream.control.trigger("far off", at_ns=time.monotonic_ns() + 3_600_000_000_000)
            wait_until(lambda: stream.judged == 1)
        stream.control.trigger("too late")
    judged = [j.part for j in sink.all]
    missed = [e.data["part"] for e in events if e.kind == "trigger-missed"]
    assert sorted([*judged, *missed]) == sorted([*(f"P-{n}" for n in range(5)), "far off", "too late"])
    (line,) = counts_of(stream)
    assert line["triggers"] == line["judged"] + line["missed"] == 7


def test_parts_in_an_engine_that_fails_are_told(tiny_engine: Path, part: Part) -> None:
    events: list[Event] = []
    with open_judging_engine(tiny_engine) as one:
        engine = with_slots(one, 1)
        engine.session.slots[0].wait = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        stream = Stream([Camera(part)], engine, trigger_wait_s=5, on_event=events.append)
        stream.control.trigger("P-1")
        with pytest.raises(ZeroDivisionError):
            stream.run()
    assert [e.data["part"] for e in events if e.kind == "trigger-missed"] == ["P-1"]


def test_files_wait_for_triggers_too(tmp_path: Path, engine: JudgingEngine, part: Part) -> None:
    for i in range(3):
        write_png(tmp_path / f"{i}.png", part(i))
    sink = Collect()
    stream = Stream([open_source(str(tmp_path / "?.png"))], engine, [sink], trigger_wait_s=5)
    thread = threading.Thread(target=stream.run)
    thread.start()
    for number in range(3):
        stream.control.trigger(f"P-{number}")
        wait_until(lambda: stream.judged == len(sink.all) == number + 1)  # noqa: B023 - it is called at once
    stream.control.trigger("one too many")
    thread.join(20)
    assert not thread.is_alive(), "it ends with the last file"
    assert [(j.frame, j.part) for j in sink.all] == [(0, "P-0"), (1, "P-1"), (2, "P-2")]


@pytest.mark.parametrize(
    ("part_id", "source"), [("", None), ("x" * 201, None), ("a\nb", None), ("P", "absent")]
)
def test_what_is_no_trigger(engine: JudgingEngine, part: Part, part_id: str, source: str | None) -> None:
    stream = Stream([Camera(part)], engine, trigger_wait_s=5)
    with pytest.raises(InputError):
        stream.control.trigger(part_id, source)


def test_a_stream_that_waits_for_none(engine: JudgingEngine, part: Part) -> None:
    with pytest.raises(InputError, match="--trigger"):
        Stream([Camera(part)], engine).control.trigger()


def test_the_queue_is_bounded() -> None:
    waiting = TriggerQueue(1000)
    gone = [waiting.add(Pending(str(n), n)) for n in range(MOST_PENDING + 2)]
    assert [g.part for g in gone if g is not None] == ["0", "1"]
    assert len(waiting) == MOST_PENDING
