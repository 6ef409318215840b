"""The stream with a real engine: counts that add up, the newest frame, what ends it."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.engines import Inference, Session
from agp_edge.engines.slots import CallSlot
from agp_edge.errors import DeviceLostError, DiskFullError, InputError, SourceLostError
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.sinks import Judgement, Sink
from agp_edge.sources import Frame, Source, open_source
from agp_edge.sources import reader as reading
from agp_edge.stream import STAGES, Stream

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


class Collect(Sink):
    def __init__(self, pause_s: float = 0, *, needs_maps: bool = False) -> None:
        self.all: list[Judgement] = []
        self.wants = "pictures" if needs_maps else "verdicts"
        self.closed = False
        self._pause_s = pause_s

    def write(self, judgement: Judgement) -> None:
        time.sleep(self._pause_s)
        self.all.append(judgement)

    def close(self) -> None:
        self.closed = True


class Camera(Source):
    """A live source at about 500 frames a second; `losses` says after which frames it is lost."""

    def __init__(
        self, part: Part, total: int = 10**9, losses: Sequence[int] = (), name: str = "camera"
    ) -> None:
        self.name, self.live, self.fps = name, True, None
        self._part, self._total, self._losses = part, total, list(losses)
        self._number = 0

    def open(self) -> None:
        pass

    def read(self) -> Frame | None:
        if self._losses and self._number == self._losses[0]:
            self._losses.pop(0)
            raise SourceLostError(f"{self.name} gives no more frames", "see that it is on")
        if self._number >= self._total:
            return None
        time.sleep(0.002)
        number, self._number = self._number, self._number + 1
        return Frame(self._part(number), number, time.monotonic_ns(), time.time(), "arrival", self.name)

    def close(self) -> None:
        pass


class SeveralSlots(Session):
    """A session with more places than one for frames, as on a GPU; they compute when they are waited for."""

    def __init__(self, session: Session, count: int, pause_s: float = 0) -> None:
        self.frame = session.frame
        self._session = session
        self._pause_s = pause_s
        self.asked_for_maps = 0
        self.slots = tuple(self._Slot(self) for _ in range(count))

    class _Slot(CallSlot):
        def __init__(self, owner: SeveralSlots) -> None:
            super().__init__(owner.frame, owner.compute)
            self._owner = owner

        def _anomaly_map(self) -> NDArray[np.float32]:
            self._owner.asked_for_maps += 1
            return super()._anomaly_map()

    def compute(self, frames: NDArray[np.uint8]) -> Inference:
        time.sleep(self._pause_s)
        return self._session.infer(frames)

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        raise AssertionError("a stream uses slots")

    def close(self) -> None:
        pass


@pytest.fixture(params=[0, 1, 2, 3], ids=["its-own-slot", "1-slot", "2-slots", "3-slots"])
def engine(tiny_engine: Path, request: pytest.FixtureRequest) -> Iterator[JudgingEngine]:
    with open_judging_engine(tiny_engine) as opened:
        yield with_slots(opened, request.param) if request.param else opened


def with_slots(engine: JudgingEngine, count: int, pause_s: float = 0) -> JudgingEngine:
    return dataclasses.replace(engine, session=SeveralSlots(engine.session, count, pause_s))


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FIRST_DELAY_S", 0.01)


def counts_of(stream: Stream) -> list[dict[str, int]]:
    lines: list[dict[str, int]] = stream.summary()["sources"]
    for line in lines:
        assert line["captured"] == line["judged"] + line["dropped"] + line["failed"]
        assert line["judged"] == line["ok"] + line["ng"]
    return lines


def test_every_frame_of_a_file_is_judged_in_order(
    tmp_path: Path, engine: JudgingEngine, part: Part, write_video: WriteVideo
) -> None:
    bad = {3, 17, 18}
    video = write_video(tmp_path / "parts.avi", [part(i, defect=i in bad) for i in range(30)])
    sink = Collect(pause_s=0.002)
    stream = Stream([open_source(str(video))], engine, [sink])
    stream.run()
    (counts,) = counts_of(stream)
    assert (counts["captured"], counts["judged"], counts["dropped"], counts["failed"]) == (30, 30, 0, 0)
    assert [j.frame for j in sink.all] == list(range(30))
    assert {j.frame for j in sink.all if j.verdict == "NG"} == bad
    assert sink.closed
    for judgement in sink.all:
        assert list(judgement.latency_ms) == list(STAGES)
        stages = [judgement.latency_ms[stage] for stage in STAGES[:-1]]
        assert min(stages) >= 0
        assert judgement.latency_ms["total"] == pytest.approx(sum(stages))
        assert (judgement.verdict == "NG") == bool(judgement.regions)
    x, y, width, height, peak = sink.all[3].regions[0].as_list()
    assert (x, y, width, height) == (24, 16, 16, 16), "the defect is where it was drawn"
    assert peak == pytest.approx(sink.all[3].score, abs=1e-5)
    assert stream.summary()["sources"][0]["latency_ms"]["total"]["n"] == 30
    assert stream.summary()["runtime"] == engine.session.runtime


def test_a_slow_engine_gets_the_newest_frame_of_a_camera(engine: JudgingEngine, part: Part) -> None:
    sink = Collect(pause_s=0.02)
    stream = Stream([Camera(part, total=100)], engine, [sink])
    stream.run()
    (counts,) = counts_of(stream)
    assert counts["captured"] == 100
    assert counts["dropped"] > 50
    numbers = [j.frame for j in sink.all]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 99, "the newest frame is never the one that is dropped"


def test_a_lost_camera_comes_back_and_is_counted(engine: JudgingEngine, part: Part) -> None:
    events: list[str] = []
    sink = Collect()
    stream = Stream([Camera(part, total=30, losses=(10, 10, 20))], engine, [sink], on_event=events.append)
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
    reader = reading.Reader(camera, threading.Condition(), on_event=events.append)
    monkeypatch.setattr(reader._stop, "wait", lambda timeout=None: False)
    reader.start()
    reader._thread.join(10)
    assert reader.ended
    first, another, reminder, lost, lost_again = (e for e in events if "is back" not in e)
    assert first.startswith("it does not answer: check address, user and password; ")
    assert "Ctrl-C" in first
    assert another.startswith("another does not answer: ")
    assert reminder == "it does not answer: still trying, 7 tries"
    assert lost.startswith("camera gives no more frames")
    assert lost_again == lost, "after a frame it is news again"


def test_progress_has_words_before_the_first_verdict(
    tmp_path: Path, engine: JudgingEngine, part: Part
) -> None:
    write_png(tmp_path / "0.png", part(0))
    told: list[str] = []
    stream = Stream([open_source(str(tmp_path / "?.png"))], engine)
    stream._show(lambda done, total, text="": told.append(text))
    stream.run(lambda done, total, text="": told.append(text))
    assert told[0] == "judged, no verdict yet"
    assert told[-1].startswith("judged, last OK 0.298, 0 NG, 0 dropped")


def test_several_sources_at_once(
    tmp_path: Path, engine: JudgingEngine, part: Part, write_video: WriteVideo
) -> None:
    first = write_video(tmp_path / "a.avi", [part(i) for i in range(20)])
    second = write_video(tmp_path / "b.avi", [part(i, defect=True) for i in range(5)])
    sink = Collect()
    sources = [open_source(str(first)), open_source(str(second)), Camera(part, total=50)]
    stream = Stream(sources, engine, [sink])
    stream.run()
    a, b, camera = counts_of(stream)
    assert (a["judged"], a["ng"]) == (20, 0)
    assert (b["judged"], b["ng"]) == (5, 5)
    assert camera["captured"] == 50
    for path, total in ((first, 20), (second, 5)):
        assert [j.frame for j in sink.all if j.source == str(path)] == list(range(total))


def test_every_and_frames(tmp_path: Path, engine: JudgingEngine, part: Part, write_video: WriteVideo) -> None:
    video = write_video(tmp_path / "a.avi", [part(i) for i in range(30)])
    sink = Collect()
    stream = Stream([open_source(str(video))], engine, [sink], every=3, frames=5)
    stream.run()
    (counts,) = counts_of(stream)
    assert [j.frame for j in sink.all] == [0, 3, 6, 9, 12]
    # What was read ahead of the stop is still in the file.
    assert (counts["captured"], counts["dropped"]) == (5, 0)


def test_stop_ends_a_camera_that_never_ends(engine: JudgingEngine, part: Part) -> None:
    sink = Collect()
    stream = Stream([Camera(part)], engine, [sink])
    running = threading.Thread(target=stream.run)
    running.start()
    while stream.judged < 3:
        time.sleep(0.005)
    stream.stop()
    running.join(10)
    assert not running.is_alive()
    (counts,) = counts_of(stream)
    assert counts["judged"] == len(sink.all)
    assert sink.closed


def test_a_mono_engine_judges_colour(tmp_path: Path, tiny_mono_engine: Path, part: Part) -> None:
    write_png(tmp_path / "shots" / "0.png", part(0))
    write_png(tmp_path / "shots" / "1.png", part(1, defect=True))
    sink = Collect()
    with open_judging_engine(tiny_mono_engine) as engine:
        Stream([open_source(str(tmp_path / "shots"))], engine, [sink]).run()
    assert [j.verdict for j in sink.all] == ["OK", "NG"]
    pixels = sink.all[1].pixels
    assert pixels is not None
    assert pixels.shape == (48, 64, 1)


def test_a_batch_engine_gives_the_same_verdicts(
    tmp_path: Path, engine: JudgingEngine, tiny_batch_engine: Path, part: Part, write_video: WriteVideo
) -> None:
    video = write_video(tmp_path / "a.avi", [part(i, defect=i % 4 == 1) for i in range(10)])
    one, four = Collect(), Collect()
    Stream([open_source(str(video))], engine, [one]).run()
    with open_judging_engine(tiny_batch_engine) as batched:
        stream = Stream([open_source(str(video))], batched, [four])
        stream.run()
    counts_of(stream)
    assert [(j.frame, j.verdict) for j in four.all] == [(j.frame, j.verdict) for j in one.all]
    np.testing.assert_allclose([j.score for j in four.all], [j.score for j in one.all], rtol=1e-6)


class Scripted(Source):
    """A live source that gives a frame when it is told to, and ends when it is told to."""

    def __init__(self, part: Part, name: str) -> None:
        self.name, self.live, self.fps = name, True, None
        self._part = part
        self._orders: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def open(self) -> None:
        pass

    def give(self, number: int | None) -> None:
        self._orders.put(number)

    def read(self) -> Frame | None:
        number = self._orders.get()
        if number is None:
            return None
        return Frame(self._part(number), number, time.monotonic_ns(), time.time(), "arrival", self.name)

    def close(self) -> None:
        pass


def batches_of(
    tiny_batch_engine: Path, part: Part, give: Callable[[list[Scripted]], None], *, batch_wait_ms: float
) -> list[int]:
    """Run a stream of four scripted cameras over the engine that takes four; how many frames were in each batch."""
    seen: list[int] = []
    cameras = [Scripted(part, f"camera-{i}") for i in range(4)]
    sink = Collect()
    with open_judging_engine(tiny_batch_engine) as engine:
        stream = Stream(cameras, engine, [sink], batch_wait_ms=batch_wait_ms)
        submit = stream._free[0].submit

        def noted(frames: list[NDArray[np.uint8]]) -> None:
            seen.append(len(frames))
            submit(frames)

        stream._free[0].submit = noted  # type: ignore[method-assign,assignment]
        running = threading.Thread(target=stream.run)
        running.start()
        give(cameras)
        running.join(10)
        assert not running.is_alive()
    counts_of(stream)
    return seen


def test_cameras_share_a_batch_when_their_frames_are_near(tiny_batch_engine: Path, part: Part) -> None:
    def give(cameras: list[Scripted]) -> None:
        for camera in cameras:
            time.sleep(0.02)
            camera.give(0)
        for camera in cameras:
            camera.give(None)

    assert batches_of(tiny_batch_engine, part, give, batch_wait_ms=1000) == [4]


def test_a_frame_does_not_wait_for_longer_than_it_may(tiny_batch_engine: Path, part: Part) -> None:
    def give(cameras: list[Scripted]) -> None:
        cameras[0].give(0)
        time.sleep(0.3)
        cameras[1].give(0)
        time.sleep(0.3)
        for camera in cameras:
            camera.give(None)

    assert batches_of(tiny_batch_engine, part, give, batch_wait_ms=20) == [1, 1]
    assert batches_of(tiny_batch_engine, part, give, batch_wait_ms=0) == [1, 1]


def test_nobody_waits_for_a_camera_that_has_ended(tiny_batch_engine: Path, part: Part) -> None:
    begin = time.monotonic()

    def give(cameras: list[Scripted]) -> None:
        for camera in cameras[1:]:
            camera.give(None)
        time.sleep(0.05)
        cameras[0].give(0)
        cameras[0].give(None)

    assert batches_of(tiny_batch_engine, part, give, batch_wait_ms=1000) == [1]
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("wait_ms", [-1, 1001, float("nan")])
def test_a_wait_that_is_none(engine: JudgingEngine, part: Part, wait_ms: float) -> None:
    with pytest.raises(InputError, match="--batch-wait"):
        Stream([Camera(part)], engine, batch_wait_ms=wait_ms)


def test_a_camera_that_is_off_costs_the_others_nothing(tiny_batch_engine: Path, part: Part) -> None:
    """Neither one that never opened nor one that was lost is waited for."""

    class Off(Camera):
        def open(self) -> None:
            raise SourceLostError(f"{self.name} does not answer", "see that it is on")

    lost = Camera(part, losses=[1] * 10**6, name="lost")
    sink = Collect()
    with open_judging_engine(tiny_batch_engine) as engine:
        sources = [Scripted(part, "on"), Off(part, name="off"), lost]
        stream = Stream(sources, engine, [sink], batch_wait_ms=1000)
        running = threading.Thread(target=stream.run)
        running.start()
        time.sleep(0.2)
        for number in range(3):
            begin = time.monotonic()
            sources[0].give(number)  # type: ignore[attr-defined]
            while not [j for j in sink.all if (j.source, j.frame) == ("on", number)]:
                assert time.monotonic() - begin < 0.9, "it waited for a camera that is off"
                time.sleep(0.005)
        stream.stop()
        sources[0].give(None)  # type: ignore[attr-defined]
        running.join(20)
        assert not running.is_alive()
    counts_of(stream)


def test_a_newer_frame_does_not_begin_the_wait_anew(tiny_batch_engine: Path, part: Part) -> None:
    """A camera that is faster than the wait would otherwise wait for a silent one for ever."""
    silent = Scripted(part, "silent")
    with open_judging_engine(tiny_batch_engine) as engine:
        stream = Stream([Camera(part, name="fast"), silent], engine, [Collect()], batch_wait_ms=50)
        running = threading.Thread(target=stream.run)
        running.start()
        time.sleep(1.0)
        judged = stream.judged
        stream.stop()
        silent.give(None)
        running.join(20)
        assert not running.is_alive()
    counts_of(stream)
    assert 5 < judged < 40


@pytest.mark.parametrize("cameras", [2, 3, 5])
def test_more_cameras_than_places_have_their_turns(tiny_engine: Path, part: Part, cameras: int) -> None:
    with open_judging_engine(tiny_engine) as one:
        sources = [Camera(part, name=f"camera-{i}") for i in range(cameras)]
        stream = Stream(sources, with_slots(one, 1, pause_s=0.01), [Collect()], frames=20 * cameras)
        stream.run()
    judged = [line["judged"] for line in counts_of(stream)]
    assert min(judged) >= 17, judged


def test_a_source_that_breaks_off_keeps_what_it_gave(
    tmp_path: Path, engine: JudgingEngine, part: Part, write_video: WriteVideo
) -> None:
    class Broken(Camera):
        def __init__(self) -> None:
            super().__init__(part, losses=[5], name="broken")
            self.live = False

    video = write_video(tmp_path / "a.avi", [part(i) for i in range(40)])
    sink = Collect(pause_s=0.002)
    stream = Stream([Broken(), open_source(str(video))], engine, [sink])
    with pytest.raises(SourceLostError):
        stream.run()
    broken, _ = counts_of(stream)
    assert (broken["captured"], broken["judged"], broken["failed"]) == (5, 5, 0)


def test_a_verdict_is_written_though_the_engine_takes_no_more(
    tmp_path: Path, tiny_engine: Path, part: Part, write_video: WriteVideo
) -> None:
    video = write_video(tmp_path / "a.avi", [part(i, defect=True) for i in range(10)])
    sink = Collect()
    with open_judging_engine(tiny_engine) as one:
        engine = with_slots(one, 2, pause_s=0.01)
        given = iter(range(100))
        for slot in engine.session.slots:
            submit = slot._submit

            def fail(frames: object, count: int, submit: Callable[..., None] = submit) -> None:
                if next(given) == 3:
                    raise DeviceLostError("the GPU is gone", "start again")
                submit(frames, count)

            slot._submit = fail  # type: ignore[method-assign]
        stream = Stream([open_source(str(video))], engine, [sink])
        with pytest.raises(DeviceLostError):
            stream.run()
    (counts,) = counts_of(stream)
    assert [j.frame for j in sink.all] == [0, 1, 2]
    assert (counts["judged"], counts["failed"]) == (3, 1)


def test_a_sensor_s_clock_that_is_ahead(engine: JudgingEngine, part: Part) -> None:
    class Ahead(Camera):
        def read(self) -> Frame | None:
            frame = super().read()
            if frame is None:
                return None
            return dataclasses.replace(frame, captured_ns=frame.captured_ns + 10**8, clock="sensor")

    sink = Collect()
    Stream([Ahead(part, total=5)], engine, [sink]).run()
    assert all(j.latency_ms["capture"] == 0 for j in sink.all)


INTERRUPTED = [
    pytest.param(
        name, line - function.__code__.co_firstlineno, id=f"{name}-{line - function.__code__.co_firstlineno}"
    )
    for name, function in ((n, getattr(Stream, n)) for n in ("_bring", "_finish", "_take", "_judge"))
    for line in sorted({line for _, _, line in function.__code__.co_lines() if line})[1:]
]


@pytest.mark.parametrize(("function", "offset"), INTERRUPTED)
def test_an_interrupt_at_any_line_leaves_counts_that_add_up(
    tmp_path: Path, tiny_engine: Path, part: Part, function: str, offset: int
) -> None:
    """As a second Ctrl-C is raised: in the middle of whatever is done."""
    for i in range(8):
        write_png(tmp_path / f"{i}.png", part(i, defect=True))
    code = getattr(Stream, function).__code__
    passed = 0

    def interrupt(frame: FrameType, event: str, argument: object) -> Any:
        def look(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal passed
            if event == "line" and frame.f_lineno == code.co_firstlineno + offset:
                passed += 1
                if passed == 2:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return look

        return look if frame.f_code is code else None

    with open_judging_engine(tiny_engine) as one:
        stream = Stream([open_source(str(tmp_path / "?.png"))], with_slots(one, 3), [Collect()])
        before = sys.gettrace()
        sys.settrace(interrupt)
        try:
            with contextlib.suppress(KeyboardInterrupt, InputError):
                stream.run()
        finally:
            sys.settrace(before)
    counts_of(stream)


def test_each_source_keeps_its_order_in_shared_batches(
    tmp_path: Path, tiny_batch_engine: Path, part: Part, write_video: WriteVideo
) -> None:
    paths = [write_video(tmp_path / f"{i}.avi", [part(n) for n in range(6 + i)]) for i in range(3)]
    sink = Collect()
    with open_judging_engine(tiny_batch_engine) as batched:
        stream = Stream([open_source(str(path)) for path in paths], with_slots(batched, 3), [sink])
        stream.run()
    for i, path in enumerate(paths):
        assert [j.frame for j in sink.all if j.source == str(path)] == list(range(6 + i))


# --- several slots ---------------------------------------------------------------------------------


class Look(Collect):
    """Notes how many batches are under way while a verdict is written."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: Stream | None = None
        self.under_way: list[int] = []

    def write(self, judgement: Judgement) -> None:
        assert self.stream is not None
        self.under_way.append(len(self.stream._under_way))
        super().write(judgement)


@pytest.mark.parametrize(("slots", "most"), [(1, 0), (2, 1), (3, 2)])
def test_frames_of_a_file_are_under_way_while_a_verdict_is_written(
    tmp_path: Path, tiny_engine: Path, part: Part, write_video: WriteVideo, slots: int, most: int
) -> None:
    video = write_video(tmp_path / "a.avi", [part(i) for i in range(30)])
    look = Look()
    with open_judging_engine(tiny_engine) as one:
        look.stream = Stream([open_source(str(video))], with_slots(one, slots, pause_s=0.01), [look])
        look.stream.run()
    assert max(look.under_way) == most
    assert look.under_way.count(most) > 15


def test_a_camera_s_frame_is_not_brought_before_it_can_be_looked_at(tiny_engine: Path, part: Part) -> None:
    """It would get as old as the sinks are slow."""
    look = Look()
    with open_judging_engine(tiny_engine) as one:
        look.stream = Stream([Camera(part, total=60)], with_slots(one, 3, pause_s=0.005), [look])
        look.stream.run()
    assert set(look.under_way) == {0}


@pytest.mark.parametrize(("needs_maps", "asked"), [(False, 2), (True, 10)])
def test_a_map_is_brought_for_those_who_look_at_it(
    tmp_path: Path, tiny_engine: Path, part: Part, write_video: WriteVideo, needs_maps: bool, asked: int
) -> None:
    video = write_video(tmp_path / "a.avi", [part(i, defect=i in (2, 7)) for i in range(10)])
    sink = Collect(needs_maps=needs_maps)
    with open_judging_engine(tiny_engine) as one:
        engine = with_slots(one, 3)
        Stream([open_source(str(video))], engine, [sink]).run()
    assert isinstance(engine.session, SeveralSlots)
    assert engine.session.asked_for_maps == asked
    for judgement in sink.all:
        assert (judgement.anomaly_map is not None) == (needs_maps or judgement.verdict == "NG")


def test_frames_under_way_are_judged_before_a_bad_one_ends_the_stream(
    tmp_path: Path, tiny_engine: Path, part: Part
) -> None:
    for i in range(6):
        write_png(tmp_path / f"{i}.png", part(i) if i < 5 else part(i)[:40])
    sink = Collect()
    with open_judging_engine(tiny_engine) as one:
        stream = Stream([open_source(str(tmp_path / "?.png"))], with_slots(one, 3), [sink])
        with pytest.raises(InputError, match=r"64x40.*64x48"):
            stream.run()
    (counts,) = counts_of(stream)
    assert (counts["judged"], counts["failed"]) == (5, 1)


def test_an_engine_that_fails_costs_what_was_under_way_and_it_is_counted(
    tmp_path: Path, tiny_engine: Path, part: Part, write_video: WriteVideo
) -> None:
    video = write_video(tmp_path / "a.avi", [part(i) for i in range(10)])
    with open_judging_engine(tiny_engine) as one:
        engine = with_slots(one, 3)
        calls = iter(range(100))
        infer = one.session.infer

        def fail(frames: NDArray[np.uint8]) -> Inference:
            if next(calls) == 4:
                raise DeviceLostError("the GPU is gone", "start again")
            return infer(frames)

        for slot in engine.session.slots:
            slot._call = fail  # type: ignore[attr-defined]
        stream = Stream([open_source(str(video))], engine, [Collect()])
        with pytest.raises(DeviceLostError):
            stream.run()
    (counts,) = counts_of(stream)
    assert (counts["judged"], counts["failed"]) == (4, 2), "the one that failed, and one behind it"


def test_an_unreadable_image_fails_and_the_others_are_judged(
    tmp_path: Path, engine: JudgingEngine, part: Part
) -> None:
    write_png(tmp_path / "0.png", part(0))
    (tmp_path / "1.png").write_bytes(b"no image")
    write_png(tmp_path / "2.png", part(2))
    events: list[str] = []
    stream = Stream([open_source(str(tmp_path / "?.png"))], engine, on_event=events.append)
    stream.run()
    (counts,) = counts_of(stream)
    assert (counts["captured"], counts["judged"], counts["failed"]) == (3, 2, 1)
    assert "1.png" in events[0]


def test_nothing_that_could_be_read_is_bad_input(tmp_path: Path, engine: JudgingEngine) -> None:
    (tmp_path / "1.png").write_bytes(b"no image")
    stream = Stream([open_source(str(tmp_path / "?.png"))], engine)
    with pytest.raises(InputError, match=r"1\.png"):
        stream.run()
    assert counts_of(stream)[0]["failed"] == 1


def test_a_frame_of_another_size(tmp_path: Path, engine: JudgingEngine, part: Part) -> None:
    write_png(tmp_path / "0.png", part(0))
    write_png(tmp_path / "1.png", part(1)[:40])
    sink = Collect()
    stream = Stream([open_source(str(tmp_path / "?.png"))], engine, [sink])
    with pytest.raises(InputError, match=r"64x40.*64x48"):
        stream.run()
    (counts,) = counts_of(stream)
    assert (counts["judged"], counts["failed"]) == (1, 1)
    assert sink.closed


def test_a_sink_that_fails_ends_the_stream_and_all_are_closed(engine: JudgingEngine, part: Part) -> None:
    class Full(Collect):
        def write(self, judgement: Judgement) -> None:
            raise DiskFullError("no space left", "free some")

    full, other = Full(), Collect()
    stream = Stream([Camera(part)], engine, [other, full])
    with pytest.raises(DiskFullError):
        stream.run()
    (counts,) = counts_of(stream)
    assert counts["judged"] == len(other.all) == 1
    assert full.closed
    assert other.closed


def test_a_source_that_does_not_exist_ends_the_stream(
    tmp_path: Path, engine: JudgingEngine, part: Part
) -> None:
    stream = Stream([Camera(part), open_source(str(tmp_path / "absent.mp4"))], engine)
    with pytest.raises(InputError, match="absent"):
        stream.run()
    counts_of(stream)


@pytest.mark.parametrize(("every", "frames"), [(0, None), (1, 0), (-1, None)])
def test_numbers_that_make_no_sense(
    engine: JudgingEngine, part: Part, every: int, frames: int | None
) -> None:
    with pytest.raises(InputError):
        Stream([Camera(part)], engine, every=every, frames=frames)


def test_no_source_and_the_same_twice(engine: JudgingEngine, part: Part) -> None:
    with pytest.raises(InputError):
        Stream([], engine)
    with pytest.raises(InputError, match="twice"):
        Stream([Camera(part), Camera(part)], engine)
