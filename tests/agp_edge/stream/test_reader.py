"""A camera that is lost and comes back: delays, what is told, what is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import SourceLostError
from agp_edge.events import Event
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.sources import reader as reading
from agp_edge.sources.base import Frame
from agp_edge.stream import Stream
from tests.agp_edge.stream.rig import Camera, Collect, counts_of

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


def test_a_lost_camera_comes_back_and_is_counted(engine: JudgingEngine, part: Part) -> None:
    events: list[str] = []
    sink = Collect()
    stream = Stream(
        [Camera(part, total=30, losses=(10, 10, 20))],
        engine,
        [sink],
        on_event=lambda event: events.append(event.text),
    )
    stream.run()
    (counts,) = counts_of(stream)
    # Lost twice at frame 10 without a frame between: that is one return.
    assert counts["reconnects"] == 2
    assert counts["captured"] == 30
    assert sum("is back" in event for event in events) == 2


def test_delays_between_tries_grow_up_to_a_cap(monkeypatch: pytest.MonkeyPatch, part: Part) -> None:
    waited: list[float] = []
    monkeypatch.setattr(reading, "FIRST_DELAY_S", 0.5)
    reader = reading.Reader(Camera(part, total=1, losses=[0] * 12), threading.Condition())

    def wait(timeout: float | None = None) -> bool:
        waited.append(timeout or 0)
        return False

    monkeypatch.setattr(reader._stop, "wait", wait)
    reader.start()
    reader.close()
    assert len(waited) == 12
    for i, delay in enumerate(waited):
        full = min(0.5 * 2**i, reading.LONGEST_DELAY_S)
        assert full / 2 <= delay <= full


def test_the_same_trouble_is_told_once(monkeypatch: pytest.MonkeyPatch, part: Part) -> None:
    events: list[str] = []
    now = [1000.0]
    monkeypatch.setattr("agp_edge.sources.reader.time.monotonic", lambda: now[0])
    camera = Camera(part, total=2, losses=[0, 1])
    failures = [f"{what} does not answer" for what in ("it", "it", "it", "another", "it", "it", "it")]

    def connect() -> None:
        now[0] += 20
        if failures:
            raise SourceLostError(failures.pop(0), "check address, user and password")

    monkeypatch.setattr(camera, "open", connect)
    reader = reading.Reader(camera, threading.Condition(), on_event=lambda event: events.append(event.text))
    monkeypatch.setattr(reader._stop, "wait", lambda timeout=None: False)
    reader.start()
    reader._thread.join(10)
    assert reader.ended
    first, another, reminder, lost, lost_again = (e for e in events if " after " not in e)
    assert first.startswith("it does not answer: check address, user and password; ")
    assert "Ctrl-C" in first
    assert another.startswith("another does not answer: ")
    assert reminder == "it does not answer: still trying, 7 tries"
    assert lost.startswith("camera gives no more frames")
    assert lost_again == lost, "after a frame it is news again"


@pytest.mark.parametrize(
    ("every", "captured", "dropped"), [(1, 12, 8), (2, 6, 4), (3, 4, 2), (7, 2, 1), (100, 1, 0)]
)
def test_frames_that_a_source_lost_are_captured_and_dropped(
    part: Part, every: int, captured: int, dropped: int
) -> None:
    """Numbers 0, 1, 2-5 lost, 6, 7-10 lost, 11: of every so many as if they had been dropped here."""

    script = [(0, 0), (1, 0), (6, 4), (11, 4)]

    class Hasty(Camera):
        def read(self) -> Frame | None:
            with changed:
                changed.wait_for(lambda: not reader.waiting)
            if not script:
                return None
            number, lost = script.pop(0)
            return Frame(part(number), number, time.monotonic_ns(), time.time(), "arrival", self.name, lost)

    changed = threading.Condition()
    reader = reading.Reader(Hasty(part), changed, every=every)
    reader.start()
    numbers = []
    with changed:
        while changed.wait_for(lambda: reader.waiting or reader.ended, 30) and reader.waiting:
            numbers.append(reader.take().frame.number)
            changed.notify_all()
    reader.close()
    assert numbers == [number for number in (0, 1, 6, 11) if number % every == 0]
    assert (reader.captured, reader.dropped) == (captured, dropped)
    assert reader.captured == len(numbers) + reader.dropped


def test_a_camera_whose_library_raises_what_it_likes_is_lost_and_comes_back(
    tiny_engine: Path, part: Part
) -> None:
    class Odd(Camera):
        def read(self) -> Frame | None:
            if self._number == 10 and not told:
                raise RuntimeError("cannot read rtsp://viewer:s3cret@camera")
            return super().read()

    told: list[Event] = []
    with open_judging_engine(tiny_engine) as engine:
        stream = Stream([Odd(part, total=20)], engine, on_event=told.append)
        stream.run()
    (line,) = counts_of(stream)
    assert (line["captured"], line["reconnects"]) == (20, 1)
    assert [e.kind for e in told] == ["source-lost", "source-back"]
    assert "RuntimeError in test_reader.py" in told[0].text
    assert "s3cret" not in told[0].text


def test_a_camera_that_comes_and_goes_is_asked_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, part: Part
) -> None:
    """One frame between two losses is no recovery; frames for as long as the last pause are."""
    now = [1000.0]
    waited: list[float] = []
    monkeypatch.setattr(reading, "FIRST_DELAY_S", 0.5)
    monkeypatch.setattr("agp_edge.sources.reader.time.monotonic", lambda: now[0])
    monkeypatch.setattr("agp_edge.sources.reader.random.uniform", lambda low, high: high)
    flaps = Camera(part, total=200, losses=[1, 2, 3, 4, 150])
    read = flaps.read

    def later() -> Frame | None:
        now[0] += 0.1
        return read()

    monkeypatch.setattr(flaps, "read", later)
    reader = reading.Reader(flaps, threading.Condition())
    monkeypatch.setattr(reader._stop, "wait", lambda timeout=None: waited.append(timeout or 0))
    reader.start()
    reader._thread.join(10)
    assert reader.ended
    assert waited == [0.5, 1.0, 2.0, 4.0, 0.5]
