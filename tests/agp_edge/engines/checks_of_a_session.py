"""Checks of the TensorRT session on modules that stand in for TensorRT and the driver; run by test_tensorrt_session.py.

They show what our code asks and when, and that nothing leaks. Of TensorRT or a GPU they show nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.engines import RunOptions
from agp_edge.engines.base import infer_in
from agp_edge.errors import AgpEdgeError, ArtefactError, DeviceLostError, InputError, WorkStoppedError
from tests.stand_ins.cuda_driver import StandIn
from tests.stand_ins.plans import SHAPE, OpenPlan, brightness, draw
from tests.stand_ins.tensorrt_runtime import VERSION, make_module, write_plan

OUT_OF_MEMORY, INVALID_VALUE, ILLEGAL_ADDRESS = 2, 1, 700

# --- frames there, maps back -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_frame_has_its_own_map_and_score(open_plan: OpenPlan, count: int) -> None:
    frames = draw(count)
    with open_plan() as session:
        result = session.infer(frames)
    assert result.score.dtype == result.anomaly_map.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(result.anomaly_map, brightness(frames), rtol=1e-6)
    np.testing.assert_array_equal(result.score, result.anomaly_map.max((1, 2)))


def test_a_result_stays_when_the_next_frame_comes_and_when_the_session_is_closed(open_plan: OpenPlan) -> None:
    with open_plan() as session:
        first = session.infer(draw(2))
        kept = first.score.copy(), first.anomaly_map.copy()
        assert session.infer(draw(2, seed=2)).score.tolist() != kept[0].tolist()
    np.testing.assert_array_equal(first.score, kept[0])
    np.testing.assert_array_equal(first.anomaly_map, kept[1])


def test_frames_that_are_not_contiguous(open_plan: OpenPlan) -> None:
    frames = draw(4)[::2, ::-1]
    with open_plan() as session:
        np.testing.assert_allclose(session.infer(frames).anomaly_map, brightness(frames), rtol=1e-6)


GRAPH_FRAME = (
    "cuMemcpyHtoDAsync", "cuEventRecord", "cuStreamWaitEvent", "cuGraphLaunch", "cuEventRecord", "cuEventSynchronize",
)  # fmt: skip
QUEUED_FRAME = (
    "cuMemcpyHtoDAsync", "cuEventRecord", "cuStreamWaitEvent", "execute", "cuMemcpyDtoHAsync", "cuEventRecord",
    "cuEventSynchronize",
)  # fmt: skip
MAPPED_FRAME = ("cuGraphLaunch", "cuEventRecord", "cuEventSynchronize")
MAP = ("cuMemcpyDtoHAsync", "cuEventRecord", "cuEventSynchronize")
OPTIONS = [
    pytest.param(RunOptions(), GRAPH_FRAME, MAP, id="graph"),
    pytest.param(RunOptions(cuda_graphs=False), QUEUED_FRAME, MAP, id="queued"),
    pytest.param(RunOptions(memory="mapped"), MAPPED_FRAME, (), id="mapped"),
]


@pytest.mark.parametrize(("options", "frame", "anomaly_map"), OPTIONS)
def test_what_a_frame_costs(
    open_plan: OpenPlan, driver: StandIn, options: RunOptions, frame: tuple[str, ...], anomaly_map: tuple[str, ...]
) -> None:  # fmt: skip
    with open_plan(options=options) as session:
        assert len(session.slots) == 3
        for slot in session.slots:
            frames = draw(2)
            before = len(driver.calls())
            slot.submit(frames)
            score = slot.wait()
            assert driver.calls()[before:] == list(frame)
            np.testing.assert_allclose(score, brightness(frames).max((1, 2)), rtol=1e-6)
            before = len(driver.calls())
            for _ in range(2):
                np.testing.assert_allclose(slot.anomaly_map(), brightness(frames), rtol=1e-6)
            assert driver.calls()[before:] == list(anomaly_map), (
                "the map is brought once, and only when asked for"
            )


@pytest.mark.parametrize(("slots", "memory"), [(1, "pinned"), (3, "pinned"), (2, "mapped")])
def test_everything_is_allocated_once(open_plan: OpenPlan, driver: StandIn, slots: int, memory: str) -> None:
    with open_plan(options=RunOptions(slots=slots, memory=memory)) as session:
        opened = driver.calls()
        assert opened.count("cuMemHostAlloc") == 3 * slots
        assert opened.count("cuMemAlloc") == 1 + (3 * slots if memory == "pinned" else 0), (
            "and memory to compute in"
        )
        assert opened.count("cuStreamCreate") == 3
        assert opened.count("cuGraphInstantiate") == opened.count("+context") == slots
        assert [call for call in opened if call.startswith("bind-")] == [
            "bind-frames", "bind-score", "bind-anomaly_map",
        ] * slots  # fmt: skip
        sides = 2 if memory == "pinned" else 1
        assert session.runtime["buffer_bytes"] == slots * sides * (2 * 48 * 64 * 3 + 2 * 4 + 2 * 6 * 8 * 4)


def test_slots_are_under_way_at_once_and_keep_apart(open_plan: OpenPlan) -> None:
    with open_plan() as session:
        batches = [draw(2, seed) for seed in range(3)]
        for slot, frames in zip(session.slots, batches, strict=True):
            slot.submit(list(frames))
        scores = [slot.wait().copy() for slot in session.slots]
        maps = [slot.anomaly_map().copy() for slot in session.slots]
    for frames, score, anomaly_map in zip(batches, scores, maps, strict=True):
        np.testing.assert_allclose(anomaly_map, brightness(frames), rtol=1e-6)
        np.testing.assert_array_equal(score, anomaly_map.max((1, 2)))


def test_the_last_may_be_waited_for_first(open_plan: OpenPlan) -> None:
    """Computing is in the order of `submit`; who waits for the last finds the others done."""
    with open_plan() as session:
        batches = [draw(2, seed) for seed in range(3)]
        for slot, frames in zip(session.slots, batches, strict=True):
            slot.submit(frames)
        for slot, frames in zip(reversed(session.slots), reversed(batches), strict=True):
            np.testing.assert_allclose(slot.wait(), brightness(frames).max((1, 2)), rtol=1e-6)


def test_a_slot_that_is_submitted_to_before_it_was_waited_for(open_plan: OpenPlan) -> None:
    """The copy of the first frames may still go on: it is waited for, not raced."""
    first, second = draw(2, 1), draw(2, 2)
    with open_plan() as session:
        slot = session.slots[0]
        slot.submit(first)
        slot.submit(second)
        np.testing.assert_allclose(slot.wait(), brightness(second).max((1, 2)), rtol=1e-6)


def test_fewer_frames_than_a_batch(open_plan: OpenPlan) -> None:
    with open_plan() as session:
        slot = session.slots[0]
        slot.submit(draw(2))
        slot.wait()
        one = draw(1, seed=5)
        slot.submit(one)
        assert slot.wait().shape == (1,)
        np.testing.assert_allclose(slot.anomaly_map(), brightness(one), rtol=1e-6)


@pytest.mark.parametrize("frames", [draw(3), draw(2)[:, :40], draw(2).astype(np.int16), draw(0)])
def test_frames_that_a_slot_does_not_take(open_plan: OpenPlan, driver: StandIn, frames: NDArray[Any]) -> None:
    with open_plan() as session:
        before = len(driver.calls())
        with pytest.raises(InputError):
            session.slots[0].submit(frames)
        with pytest.raises(ValueError, match="nothing was submitted"):
            session.slots[0].wait()
        assert driver.calls()[before:] == []


def test_what_a_time_of_it_includes(open_plan: OpenPlan) -> None:
    with open_plan() as session:
        assert session.runtime == {
            "library": f"TensorRT {VERSION}",
            "device": "stand-in",
            "memory": "pinned",
            "transfers": True,
            "cuda_graphs": True,
            "spin_wait": False,
            "slots": 3,
            "buffer_bytes": 3 * 2 * (2 * 48 * 64 * 3 + 2 * 4 + 2 * 6 * 8 * 4),
            "device_memory_bytes": 0,
        }


# --- memory and graphs -----------------------------------------------------------------------------


def test_on_an_integrated_gpu_both_kinds_of_memory_are_tried(open_plan: OpenPlan, driver: StandIn) -> None:
    driver.restart(integrated=True)
    with open_plan() as session:
        told = session.runtime
        trial = told["memory_trial_ms"]
        assert sorted(trial) == ["mapped", "pinned"]
        faster = min(trial, key=lambda name: (trial[name], name))
        assert (told["memory"], told["transfers"]) == (faster, faster == "pinned")
        frames = draw(2)
        np.testing.assert_allclose(session.infer(frames).anomaly_map, brightness(frames), rtol=1e-6)


@pytest.mark.parametrize("memory", ["pinned", "mapped"])
def test_what_is_asked_for_is_not_tried(open_plan: OpenPlan, driver: StandIn, memory: str) -> None:
    driver.restart(integrated=True)
    with open_plan(options=RunOptions(memory=memory)) as session:
        assert session.runtime["memory"] == memory
        assert "memory_trial_ms" not in session.runtime


def test_one_slot_has_nothing_to_try_with(open_plan: OpenPlan, driver: StandIn) -> None:
    driver.restart(integrated=True)
    with open_plan(options=RunOptions(slots=1)) as session:
        assert session.runtime["memory"] == "mapped"
        assert "memory_trial_ms" not in session.runtime


def test_what_is_tried_is_what_will_run(open_plan: OpenPlan, driver: StandIn) -> None:
    """With graphs, in turns, and nothing of the trial is left."""
    driver.restart(integrated=True)
    with open_plan():
        calls = driver.calls()
    trial = calls[calls.index("cuMemcpyHtoDAsync") :]
    launches = [call for call in trial if call in ("cuMemcpyHtoDAsync", "cuGraphLaunch")][: 3 * 15]
    assert launches == ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuGraphLaunch"] * 15


def test_mapped_memory_on_a_gpu_that_maps_none(open_plan: OpenPlan, driver: StandIn) -> None:
    driver.restart(maps=False)
    with pytest.raises(InputError, match="stand-in maps no memory of the host"):
        open_plan(options=RunOptions(memory="mapped"))
    driver.restart(integrated=True, maps=False)
    with open_plan() as session:
        assert session.runtime["memory"] == "pinned"


@pytest.mark.parametrize("options", [RunOptions(memory="paged"), RunOptions(slots=0), RunOptions(slots=17)])
def test_options_that_are_none(open_plan: OpenPlan, driver: StandIn, options: RunOptions) -> None:
    with pytest.raises(InputError):
        open_plan(options=options)
    assert driver.calls() == []


def test_a_plan_that_no_graph_can_hold_is_queued_and_that_is_said(
    open_plan: OpenPlan, driver: StandIn
) -> None:
    driver.refuse_graphs()
    with open_plan() as session:
        assert session.runtime["cuda_graphs"] is False
        assert session.runtime["no_cuda_graphs"].startswith(
            "cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
        )
        assert driver.calls().count("cuStreamBeginCapture") == 1, "one refusal is enough"
        assert driver.calls().count("execute") == 3 * 3 + 1 + 3 * 3, "that they can be queued is seen at once"
        frames = draw(2)
        np.testing.assert_allclose(session.infer(frames).anomaly_map, brightness(frames), rtol=1e-6)


def test_slots_have_graphs_all_or_none(open_plan: OpenPlan, driver: StandIn) -> None:
    """Its third context is the one that does not let itself be captured."""
    with open_plan(write_plan(SHAPE, "capture-3")) as session:
        assert session.runtime["cuda_graphs"] is False
        assert driver.calls().count("cuGraphExecDestroy") == 2
        for slot in session.slots:
            before = len(driver.calls())
            infer_in(slot, draw(2))
            assert driver.calls()[before:] == [*QUEUED_FRAME, *MAP]


def test_a_plan_for_the_dla_is_not_captured(open_plan: OpenPlan, driver: StandIn) -> None:
    with open_plan(device={"dla": {"core": 0}}, num_DLA_cores=1) as session:
        assert session.runtime["no_cuda_graphs"] == "a plan for the DLA is not captured"
        assert "cuStreamBeginCapture" not in driver.calls()
        session.infer(draw(2))


def test_a_plan_that_tensorrt_does_not_capture(open_plan: OpenPlan, driver: StandIn) -> None:
    with open_plan(write_plan(SHAPE, "execute-4"), options=RunOptions(slots=1)) as session:
        assert session.runtime["no_cuda_graphs"].endswith("run 4: the shapes are not set")
        before = len(driver.calls())
        session.infer(draw(2))
        assert driver.calls()[before:] == [*QUEUED_FRAME, *MAP]


def test_without_memory_to_compute_in(open_plan: OpenPlan, driver: StandIn) -> None:
    with open_plan(write_plan(SHAPE, scratch=0)) as session:
        assert driver.calls().count("cuMemAlloc") == 9
        session.infer(draw(2))


def test_engine_before_memory_before_stream_before_device(open_plan: OpenPlan, driver: StandIn) -> None:
    session = open_plan(options=RunOptions(slots=1))
    session.infer(draw(1))
    before = len(driver.calls())
    session.close()
    session.close()
    assert driver.calls()[before:] == [
        *["cuStreamSynchronize"] * 3, "cuGraphExecDestroy", *["cuEventDestroy"] * 3, *["cuMemFree", "cuMemFreeHost"] * 3,
        "-context", "-engine", "-runtime", "cuMemFree", *["cuStreamDestroy"] * 3, "cuCtxSetCurrent",
        "cuDevicePrimaryCtxRelease",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="is closed"):
        session.infer(draw(1))


def test_frames_under_way_when_it_is_closed(open_plan: OpenPlan) -> None:
    """Freeing their memory at once would pull it from under the copies, and the stand-in counts that as wrong."""
    session = open_plan()
    for slot in session.slots:
        slot.submit(draw(2))
    session.close()


def test_another_thread_may_run_it(open_plan: OpenPlan) -> None:
    frames = draw(2)
    given: list[Any] = []
    with open_plan() as session:
        thread = threading.Thread(target=lambda: given.append(session.infer(frames)))
        thread.start()
        thread.join()
    np.testing.assert_allclose(given[0].anomaly_map, brightness(frames), rtol=1e-6)


# --- plans that it does not take -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("deserialize", f"TensorRT {VERSION} does not take engine PLAN: magic tag does not match"),
        ("context", f"TensorRT {VERSION} has no room for engine PLAN: out of memory"),
        ("address", f"TensorRT {VERSION} takes no memory for frames of engine PLAN: no reason given"),
    ],
)
def test_what_tensorrt_refuses(open_plan: OpenPlan, tmp_path: Path, fault: str, told: str) -> None:
    with pytest.raises(ArtefactError) as info:
        open_plan(write_plan(SHAPE, fault))
    assert info.value.what == told.replace("PLAN", str(tmp_path / "tiny.fp32.tensorrt.engine"))
    assert info.value.exit_code == 4
    assert "agp-edge build-engine" in info.value.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors["frames"].update(type="FLOAT"),
        lambda tensors: tensors["score"].update(type="HALF"),
        lambda tensors: tensors["anomaly_map"].update(type="HALF"),
        lambda tensors: tensors["anomaly_map"].update(shape=[2, -1, 8]),
        lambda tensors: tensors["anomaly_map"].update(shape=[1, 6, 8]),
        lambda tensors: tensors["score"].update(shape=[1]),
        lambda tensors: tensors["frames"].update(shape=[2, 48, 64]),
        lambda tensors: tensors["score"].update(mode="INPUT"),
        lambda tensors: tensors.pop("score"),
        lambda tensors: tensors.update(more={"mode": "OUTPUT", "type": "FLOAT", "shape": [2]}),
    ],
)
def test_a_plan_of_another_interface(open_plan: OpenPlan, change: Callable[[Any], object]) -> None:
    with pytest.raises(ArtefactError, match="no graph of ours: it takes") as info:
        open_plan(write_plan(SHAPE, change=change))
    assert "build it again" in info.value.hint


@pytest.mark.parametrize("shape", [(1, 48, 64, 3), (2, 48, 64, 1), (2, 64, 48, 3)])
def test_a_plan_of_another_frame(open_plan: OpenPlan, shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(ArtefactError, match=r"takes frames of \[.*\], its sidecar says \[2, 48, 64, 3\]"):
        open_plan(write_plan(shape))


@pytest.mark.parametrize("change", [{"location": "HOST"}, {"format": "CHW4"}])
def test_a_tensor_that_is_not_plain_memory_of_the_device(open_plan: OpenPlan, change: dict[str, str]) -> None:
    with pytest.raises(ArtefactError, match="does not have anomaly_map in plain memory"):
        open_plan(write_plan(SHAPE, change=lambda tensors: tensors["anomaly_map"].update(change)))


def test_host_code_stays_disallowed(open_plan: OpenPlan, driver: StandIn) -> None:
    with pytest.raises(ArtefactError, match="would run host code"):
        open_plan(engine_host_code_allowed=True)
    assert not any(call.startswith("core") for call in driver.calls()), "the plan was read all the same"


def test_a_runtime_that_gives_null(
    open_plan: OpenPlan, driver: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def null(*_: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module = make_module(driver)
    monkeypatch.setattr("tests.stand_ins.plans.make_module", lambda *_: module)
    monkeypatch.setattr(module, "Runtime", null)
    with pytest.raises(ArtefactError, match=f"TensorRT {VERSION} does not start: no reason given"):
        open_plan()


# --- the DLA ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "core"), [({}, "core-1"), ({"dla": {"core": 1}}, "core1")])
def test_the_dla_core_of_the_sidecar(
    open_plan: OpenPlan, driver: StandIn, device: dict[str, Any], core: str
) -> None:
    with open_plan(device=device, num_DLA_cores=2):
        assert [call for call in driver.calls() if call.startswith("core")] == [core]


def test_a_device_without_that_core(open_plan: OpenPlan) -> None:
    with pytest.raises(ArtefactError, match="is for DLA core 1, this device has 1"):
        open_plan(device={"dla": {"core": 1}}, num_DLA_cores=1)


def test_a_tensorrt_that_drives_no_dla_is_named(open_plan: OpenPlan) -> None:
    with pytest.raises(
        ArtefactError, match=f"is for DLA core 0, TensorRT {VERSION} drives no DLA of a Jetson"
    ):
        open_plan(device={"dla": {"core": 0}}, num_DLA_cores=0)


@pytest.mark.parametrize("dla", [{}, {"core": "0"}, {"core": -1}, {"core": True}, "0", 0, []])
def test_a_sidecar_whose_dla_is_none(open_plan: OpenPlan, driver: StandIn, dla: object) -> None:
    with pytest.raises(ArtefactError, match="names no core of the DLA"):
        open_plan(device={"dla": dla}, num_DLA_cores=2)
    assert driver.calls() == []


# --- what fails on the way -------------------------------------------------------------------------


def test_a_first_run_that_tensorrt_refuses(open_plan: OpenPlan) -> None:
    with pytest.raises(
        WorkStoppedError, match=r"does not run engine .*: run 1: the shapes are not set"
    ) as info:
        open_plan(write_plan(SHAPE, "execute"))
    assert info.value.exit_code == 5


def test_a_run_that_tensorrt_refuses(open_plan: OpenPlan, driver: StandIn) -> None:
    with open_plan(write_plan(SHAPE, "execute-5"), options=RunOptions(cuda_graphs=False)) as session:
        session.infer(draw(2))
        with pytest.raises(WorkStoppedError, match="run 5: the shapes are not set"):
            session.infer(draw(2))
        assert driver.calls()[-3:] == ["cuStreamSynchronize"] * 3, "the copy of the frame may still go on"
        session.infer(draw(2))


def test_a_run_refused_because_the_gpu_is_lost(open_plan: OpenPlan, driver: StandIn) -> None:
    with open_plan(write_plan(SHAPE, "execute-4"), options=RunOptions(cuda_graphs=False)) as session:
        driver.fail(4, ILLEGAL_ADDRESS, sticky=True)
        with pytest.raises(DeviceLostError, match="cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"):
            session.infer(draw(2))


def test_a_lost_gpu_is_told_at_every_frame_that_follows_and_not_when_it_is_closed(
    open_plan: OpenPlan, driver: StandIn
) -> None:
    session = open_plan()
    driver.fail(6, ILLEGAL_ADDRESS, sticky=True)
    for slot, call in zip(session.slots, ("cuEventSynchronize", "cuMemcpyHtoDAsync"), strict=False):
        with pytest.raises(DeviceLostError, match=f"{call}: CUDA_ERROR_ILLEGAL_ADDRESS"):
            infer_in(slot, draw(2))
    session.close()


def one_frame(open_plan: OpenPlan) -> None:
    with open_plan(options=RunOptions(slots=1)) as session:
        session.infer(draw(2))


OPENING = (
    "cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", *["cuDeviceGetAttribute"] * 4, "cuDevicePrimaryCtxGetState",
    "cuDevicePrimaryCtxSetFlags", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuDevicePrimaryCtxRetain", "cuMemGetInfo", *["cuStreamCreate"] * 3, "cuMemAlloc",
    *["cuMemHostAlloc", "cuMemAlloc"] * 3, *["cuEventCreate"] * 3, *["cuMemcpyDtoHAsync"] * 3, "cuStreamSynchronize",
)  # fmt: skip
CAPTURING = (
    "cuStreamBeginCapture",
    "cuMemcpyDtoHAsync",
    "cuStreamEndCapture",
    "cuGraphInstantiate",
    "cuGraphDestroy",
    "cuGraphLaunch",
    "cuStreamSynchronize",
)
CLOSING = (
    *["cuStreamSynchronize"] * 3, "cuGraphExecDestroy", *["cuEventDestroy"] * 3, *["cuMemFree", "cuMemFreeHost"] * 3,
    "cuMemFree", *["cuStreamDestroy"] * 3, "cuCtxSetCurrent", "cuDevicePrimaryCtxRelease",
)  # fmt: skip
CALLS = (*OPENING, *CAPTURING, "cuMemGetInfo", *GRAPH_FRAME, *MAP, *CLOSING)


def test_the_calls_of_one_frame(open_plan: OpenPlan, driver: StandIn) -> None:
    """Guards the tests below, which have each of them fail."""
    one_frame(open_plan)
    assert [call for call in driver.calls() if call.startswith("cu")] == list(CALLS)


@pytest.mark.parametrize(
    ("number", "call"), [pytest.param(n, call, id=f"{n}-{call}") for n, call in enumerate(CALLS, 1)]
)
@pytest.mark.parametrize(
    ("code", "sticky", "kind", "told"),
    [
        (OUT_OF_MEMORY, False, ArtefactError, "CUDA_ERROR_OUT_OF_MEMORY (out of memory)"),
        (INVALID_VALUE, False, AgpEdgeError, "CUDA_ERROR_INVALID_VALUE (invalid argument)"),
        (ILLEGAL_ADDRESS, True, DeviceLostError, "CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)"),
    ],
)  # fmt: skip
def test_an_error_of_cuda_in_any_call(
    open_plan: OpenPlan, driver: StandIn, number: int, call: str, code: int, sticky: bool, kind: type, told: str
) -> None:  # fmt: skip
    driver.fail(number, code, sticky=sticky)
    if call in ("cuStreamEndCapture", "cuGraphInstantiate") and not sticky:
        with open_plan(options=RunOptions(slots=1)) as session:
            assert session.runtime["no_cuda_graphs"] == f"{call}: {told}"
            frames = draw(2)
            np.testing.assert_allclose(session.infer(frames).anomaly_map, brightness(frames), rtol=1e-6)
        return
    with pytest.raises(AgpEdgeError) as info:
        one_frame(open_plan)
    assert type(info.value) is kind
    assert info.value.what == f"{call}: {told}"


def test_ctrl_c_while_it_opens(open_plan: OpenPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agp_edge.engines.tensorrt_session.check_tensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_plan()
