"""Several batches under way at once, and what becomes of them when something ends the stream."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.engines import Inference
from agp_edge.errors import DeviceLostError, InputError
from agp_edge.judging import open_judging_engine
from agp_edge.sinks import Judgement
from agp_edge.sinks.base import Wants
from agp_edge.sources import open_source
from agp_edge.stream import Stream
from tests.agp_edge.stream.rig import Camera, Collect, SeveralSlots, counts_of, with_slots

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


@pytest.fixture
def under_way(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many other batches were under way each time that one was judged."""
    seen: list[int] = []
    judge = Stream._judge

    def look(stream: Stream, *arguments: Any) -> list[Judgement]:
        seen.append(len(stream._under_way))
        return judge(stream, *arguments)

    monkeypatch.setattr(Stream, "_judge", look)
    return seen


@pytest.mark.parametrize(("slots", "most"), [(1, 0), (2, 1), (3, 2)])
def test_frames_of_a_file_are_under_way_while_another_is_judged(
    tmp_path: Path,
    tiny_engine: Path,
    part: Part,
    write_video: WriteVideo,
    under_way: list[int],
    slots: int,
    most: int,
) -> None:
    video = write_video(tmp_path / "a.avi", [part(i) for i in range(30)])
    with open_judging_engine(tiny_engine) as one:
        Stream([open_source(str(video))], with_slots(one, slots, pause_s=0.01)).run()
    assert max(under_way) == most
    assert under_way.count(most) > 15


def test_a_camera_s_frame_is_not_brought_before_it_can_be_looked_at(
    tiny_engine: Path, part: Part, under_way: list[int]
) -> None:
    """It would only get old in a queue."""
    with open_judging_engine(tiny_engine) as one:
        Stream([Camera(part, total=60)], with_slots(one, 3, pause_s=0.005)).run()
    assert set(under_way) == {0}


@pytest.mark.parametrize(("wants", "asked"), [("verdicts", 2), ("rejects", 2), ("pictures", 10)])
def test_a_map_is_brought_for_those_who_look_at_it(
    tmp_path: Path, tiny_engine: Path, part: Part, write_video: WriteVideo, wants: Wants, asked: int
) -> None:
    video = write_video(tmp_path / "a.avi", [part(i, defect=i in (2, 7)) for i in range(10)])
    sink = Collect(wants=wants)
    with open_judging_engine(tiny_engine) as one:
        engine = with_slots(one, 3)
        Stream([open_source(str(video))], engine, [sink]).run()
    assert isinstance(engine.session, SeveralSlots)
    assert engine.session.asked_for_maps == asked
    assert [j.frame for j in sink.all] == ([2, 7] if wants == "rejects" else list(range(10)))
    for judgement in sink.all:
        assert (judgement.anomaly_map is not None) == (wants != "verdicts")
        assert (judgement.pixels is not None) == (wants != "verdicts")


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
    assert counts["judged"] == 4
    assert counts["failed"] in (1, 2), "the one that failed, and one behind it if it was read by then"


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
