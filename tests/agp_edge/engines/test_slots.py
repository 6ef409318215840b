"""Slots of engines on the CPU: whose memory a frame is read from, and that what is said is said of that frame."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.engines import RunOptions, Session
from agp_edge.engines.base import Inference
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.engines.openvino import OpenVinoSession
from agp_edge.engines.slots import Batch, CallSlot
from agp_edge.errors import InputError
from agp_edge.frame import ANY_SIZE, FrameSpec
from benchmarks.allocations import build_counter, counted_environment
from tests.agp_edge.engines.test_onnxruntime import with_batch

FRAME = FrameSpec(64, 48, 3)
BATCHED = replace(FRAME, batch=4)
Open = Callable[[FrameSpec], Session]


def draw(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """[count, 48, 64, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *FRAME.shape), np.uint8)


def brightness(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[N, 6, 8]: what the tiny graph says of frames."""
    cells: NDArray[np.float64] = frames.reshape(len(frames), 6, 8, 8, 8, 3).mean((2, 4, 5)) / 255
    return cells


@pytest.fixture(params=["onnxruntime", "openvino", "called"])
def open_session(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Open]:
    """`open_session(frame)`: the tiny graph on each CPU backend, and an engine that is only a function."""

    class Called(Session):
        def __init__(self, frame: FrameSpec) -> None:
            self.frame = frame

        def _infer(self, frames: NDArray[np.uint8]) -> Inference:
            cells = brightness(frames).astype(np.float32)
            return Inference(cells.max((1, 2)), cells)

        def close(self) -> None:
            pass

    opened: list[Session] = []

    def give(frame: FrameSpec) -> Session:
        model = tiny_model if frame.batch == 1 else with_batch(tiny_model, frame.batch)
        if request.param == "called":
            session: Session = Called(frame)
        elif request.param == "openvino":
            pytest.importorskip("openvino")
            session = OpenVinoSession(model.read_bytes(), str(model), frame)
        else:
            session = OnnxRuntimeSession(model, frame)
        opened.append(session)
        return session

    yield give
    for session in opened:
        session.close()


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (4, 4), (4, 1), (4, 3)])
@pytest.mark.parametrize("listed", [True, False])
def test_a_slot_says_of_frames_what_there_is_to_say(
    open_session: Open, batch: int, count: int, listed: bool
) -> None:
    (slot,) = open_session(replace(FRAME, batch=batch)).slots
    for seed in range(3):
        frames = draw(count, seed)
        slot.submit(list(frames) if listed else frames)
        score = slot.wait()
        assert score.shape == (count,)
        np.testing.assert_allclose(score, brightness(frames).max((1, 2)), rtol=1e-5)
        np.testing.assert_allclose(slot.anomaly_map(), brightness(frames), rtol=1e-5)


def test_a_view_that_is_not_contiguous(open_session: Open) -> None:
    (slot,) = open_session(FRAME).slots
    wide = np.random.default_rng(0).integers(0, 256, (48, 100, 3), np.uint8)
    view = wide[:, 20:84]
    slot.submit([view])
    np.testing.assert_allclose(slot.wait(), brightness(view[np.newaxis]).max((1, 2)), rtol=1e-5)


def test_a_read_only_frame(open_session: Open) -> None:
    """As numpy gives it of a camera's buffer that is lent."""
    (slot,) = open_session(FRAME).slots
    frame = np.frombuffer(draw(1).tobytes(), np.uint8).reshape(FRAME.shape)
    slot.submit([frame])
    np.testing.assert_allclose(slot.wait(), brightness(frame[np.newaxis]).max((1, 2)), rtol=1e-5)


def test_it_may_be_asked_again(open_session: Open) -> None:
    (slot,) = open_session(FRAME).slots
    slot.submit(draw(1))
    assert slot.wait().tolist() == slot.wait().tolist()
    assert slot.anomaly_map().tolist() == slot.anomaly_map().tolist()


@pytest.mark.parametrize(
    "frames", [draw(2), draw(0), draw(1)[:, :40], draw(1).astype(np.int16), draw(1)[..., :1]]
)
def test_frames_that_it_does_not_take(open_session: Open, frames: NDArray[np.uint8]) -> None:
    (slot,) = open_session(FRAME).slots
    slot.submit(draw(1))
    for given in (frames, list(frames)):
        with pytest.raises(InputError):
            slot.submit(given)
        with pytest.raises(ValueError, match="nothing was submitted"):
            slot.wait()
        with pytest.raises(ValueError, match="nothing was submitted"):
            slot.anomaly_map()


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_score_says_what_infer_says(open_session: Open, count: int) -> None:
    session = open_session(BATCHED)
    frames = draw(count)
    np.testing.assert_array_equal(session.score(frames), session.infer(frames).score)
    for wrong in (frames[:, :40], frames[:0]):
        for ask in (session.score, session.infer):
            with pytest.raises(InputError, match="expected frames of"):
                ask(wrong)


def test_a_run_that_takes_any_size_has_no_slots() -> None:
    class AnySize(Session):
        frame = ANY_SIZE

        def _infer(self, frames: NDArray[np.uint8]) -> Inference:
            raise AssertionError

        def close(self) -> None:
            pass

    with pytest.raises(InputError, match="any size"):
        _ = AnySize().slots


# --- whose memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "frames", "copied"),
    [
        (1, draw(1), False),
        (1, [draw(1)[0]], False),
        (4, draw(4), False),
        (4, list(draw(4)), True),
        (4, draw(2), True),
        (1, draw(1)[:, ::-1], True),
    ],
)
def test_a_whole_batch_is_used_where_it_lies(batch: int, frames: NDArray[np.uint8], copied: bool) -> None:
    kept = Batch(replace(FRAME, batch=batch))
    kept.take(frames)
    assert kept.frames.shape == (batch, *FRAME.shape)
    assert kept.frames.flags.c_contiguous
    assert np.shares_memory(kept.frames, frames[0]) != copied
    np.testing.assert_array_equal(kept.frames[: len(frames)], frames)


def test_onnx_runtime_reads_a_frame_where_it_lies(tiny_model: Path) -> None:
    """What is written into the frame after `submit` is what is judged: there is no copy in between."""
    with OnnxRuntimeSession(tiny_model, FRAME) as session:
        (slot,) = session.slots
        frame = draw(1)
        slot.submit(frame)
        frame[:] = 255
        assert slot.wait().tolist() == [pytest.approx(1)]
        first = slot.wait()
        slot.submit(np.zeros_like(frame))
        assert slot.wait() is first, "scores come to the same place"


def test_a_slot_calls_its_engine_once(tiny_model: Path) -> None:
    calls: list[int] = []

    def call(frames: NDArray[np.uint8]) -> Inference:
        calls.append(len(frames))
        return Inference(np.zeros(1, np.float32), np.zeros((1, 6, 8), np.float32))

    slot = CallSlot(FRAME, call)
    slot.submit(draw(1))
    assert calls == []
    slot.wait()
    slot.wait()
    slot.anomaly_map()
    assert calls == [1]


# --- options of a GPU ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (RunOptions(memory="mapped"), "--memory"),
        (RunOptions(cuda_graphs=False), "--no-cuda-graphs"),
        (RunOptions(spin_wait=True), "--spin-wait"),
    ],
)
def test_an_engine_on_the_cpu_takes_nothing_that_a_gpu_has(
    tiny_engine: Path, options: RunOptions, flag: str
) -> None:
    from agp_edge.engines import open_engine

    with pytest.raises(InputError, match=f"{flag} is for an engine on a GPU, this one runs on the CPU"):
        open_engine(tiny_engine, options)


# --- allocations -----------------------------------------------------------------------------------


def test_a_frame_asks_less_of_the_allocator_than_a_bare_session(tiny_engine: Path, tmp_path: Path) -> None:
    """Counted before the C library, Python's own objects too: nothing stays, and the frame is not copied."""
    code = """
import sys
from pathlib import Path
from benchmarks.allocations import measure
ours, bare = measure(Path(sys.argv[1]), 3000)["per_frame"].values()
assert ours["allocations"] <= bare["allocations"], (ours, bare)
assert abs(ours["kept"]) < 0.2, ours
assert ours["bytes"] < 64 * 48 * 3, (ours, "less than a copy of the frame")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_engine)],
        env=counted_environment(build_counter(tmp_path)),
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
