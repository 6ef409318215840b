"""The stream with a real engine: counts that add up, the newest frame, what ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.errors import DiskFullError, InputError, SourceLostError
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.sinks import Judgement, Sink
from agp_edge.sources import Frame, Source, open_source
from agp_edge.sources import reader as reading
from agp_edge.stream import STAGES, Stream

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


class Collect(Sink):
    def __init__(self, pause_s: float = 0) -> None:
        self.all: list[Judgement] = []
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


@pytest.fixture
def engine(tiny_engine: Path) -> Iterator[JudgingEngine]:
    with open_judging_engine(tiny_engine) as opened:
        yield opened


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
    assert sink.all[0].pixels.shape == (48, 64, 1)


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
