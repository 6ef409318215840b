"""Frames of several cameras in one batch, and how long they wait for each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import InputError, SourceLostError
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.sources import open_source
from agp_edge.stream import Stream
from tests.agp_edge.stream.rig import Camera, Collect, Scripted, counts_of, with_slots

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


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
