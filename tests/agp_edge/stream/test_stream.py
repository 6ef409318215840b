"""The stream with a real engine: counts that add up, the newest frame, what ends it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.errors import DiskFullError, InputError, SourceLostError
from agp_edge.events import Event
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.sinks import Judgement
from agp_edge.sources import Frame, open_source
from agp_edge.stream import STAGES, Stream
from tests.agp_edge.stream.rig import Camera, Collect, counts_of, with_slots

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


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


@pytest.mark.parametrize("slots", [1, 3])
def test_a_slow_engine_gets_the_newest_frame_of_a_camera(tiny_engine: Path, part: Part, slots: int) -> None:
    sink = Collect()
    with open_judging_engine(tiny_engine) as engine:
        stream = Stream([Camera(part, total=100)], with_slots(engine, slots, pause_s=0.02), [sink])
        stream.run()
    (counts,) = counts_of(stream)
    assert counts["captured"] == 100
    assert counts["dropped"] > 50
    numbers = [j.frame for j in sink.all]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 99, "the newest frame is never the one that is dropped"


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
    sink = Collect(wants="pictures")
    with open_judging_engine(tiny_mono_engine) as engine:
        Stream([open_source(str(tmp_path / "shots"))], engine, [sink]).run()
    assert [j.verdict for j in sink.all] == ["OK", "NG"]
    pixels = sink.all[1].pixels
    assert pixels is not None
    assert pixels.shape == (48, 64, 1)


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


def test_an_unreadable_image_fails_and_the_others_are_judged(
    tmp_path: Path, engine: JudgingEngine, part: Part
) -> None:
    write_png(tmp_path / "0.png", part(0))
    (tmp_path / "1.png").write_bytes(b"no image")
    write_png(tmp_path / "2.png", part(2))
    events: list[str] = []
    stream = Stream(
        [open_source(str(tmp_path / "?.png"))], engine, on_event=lambda event: events.append(event.text)
    )
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


class Full(Collect):
    """A sink on a disk that is full while `full` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True

    def write(self, judgement: Judgement) -> None:
        if self.full:
            raise DiskFullError("no space left", "free some")
        super().write(judgement)


def test_a_sink_that_fails_ends_a_stream_of_files_and_all_are_closed(
    tmp_path: Path, engine: JudgingEngine, part: Part, write_video: WriteVideo
) -> None:
    video = write_video(tmp_path / "a.avi", [part(i) for i in range(5)])
    full, other = Full(), Collect()
    stream = Stream([open_source(str(video))], engine, [other, full])
    with pytest.raises(DiskFullError):
        stream.run()
    (counts,) = counts_of(stream)
    assert counts["judged"] == len(other.all)
    assert full.closed
    assert other.closed


def test_a_sink_that_fails_costs_a_camera_nothing_and_gets_what_comes_later(
    engine: JudgingEngine, part: Part
) -> None:
    events: list[Event] = []
    full, other = Full(), Collect()

    def look(event: Event) -> None:
        events.append(event)
        if event.kind == "sink-failed":
            full.full = False

    stream = Stream([Camera(part, total=50)], engine, [other, full], on_event=look)
    stream.run()
    (counts,) = counts_of(stream)
    assert counts["judged"] == len(other.all)
    of_other, of_full = stream.summary()["sinks"]
    assert (of_other["written"], of_other["lost"]) == (counts["judged"], 0)
    assert of_full["lost"] >= 1
    assert of_full["written"] == len(full.all) == counts["judged"] - of_full["lost"]
    assert [e.kind for e in events] == ["sink-failed", "sink-back"]


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
