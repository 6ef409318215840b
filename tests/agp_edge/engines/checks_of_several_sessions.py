"""Several engines on one device, a GPU and a DLA, and many sessions one after the other; run by test_tensorrt_session.py."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from agp_edge.cuda import load_driver
from agp_edge.datasets.images import write_png
from agp_edge.engines import RunOptions, Session
from agp_edge.errors import DeviceLostError
from agp_edge.judging import JudgingEngine
from agp_edge.sinks import Judgement, Sink
from agp_edge.sources import open_source
from agp_edge.stream import Stream
from agp_edge.verdict import Judge
from tests.stand_ins.cuda_driver import StandIn
from tests.stand_ins.plans import OpenPlan, brightness, draw

ILLEGAL_ADDRESS = 700


def use(session: Session, seed: int, rounds: int) -> None:
    """Send batches through all slots, and hold what comes back against what is to come."""
    for number in range(rounds):
        batches = [draw(2, seed + 100 * number + i) for i in range(len(session.slots))]
        for slot, frames in zip(session.slots, batches, strict=True):
            slot.submit(frames)
        for slot, frames in zip(session.slots, batches, strict=True):
            np.testing.assert_allclose(slot.wait(), brightness(frames).max((1, 2)), rtol=1e-6)
            np.testing.assert_allclose(slot.anomaly_map(), brightness(frames), rtol=1e-6)


def together(*sessions: Session, rounds: int = 20) -> None:
    """Use sessions at once, each in a thread of its own."""
    failed: list[BaseException] = []

    def work(session: Session, seed: int) -> None:
        try:
            use(session, seed, rounds)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(s, 1000 * i)) for i, s in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_two_engines_on_one_device_at_once(open_plan: OpenPlan) -> None:
    with open_plan() as one, open_plan() as other:
        together(one, other)


def test_the_gpu_and_a_dla_at_once(open_plan: OpenPlan, driver: StandIn) -> None:
    with (
        open_plan(num_DLA_cores=1) as gpu,
        open_plan(device={"dla": {"core": 0}}, num_DLA_cores=1) as dla,
    ):
        assert [call for call in driver.calls() if call.startswith("core")] == ["core-1", "core0"]
        together(gpu, dla)


def test_one_goes_and_the_other_stays(open_plan: OpenPlan) -> None:
    one, other = open_plan(), open_plan()
    use(one, 0, 2)
    one.close()
    use(other, 0, 2)
    other.close()


def test_a_lost_device_is_told_by_each_and_both_are_closed(open_plan: OpenPlan, driver: StandIn) -> None:
    one, other = open_plan(), open_plan()
    driver.fail(1, ILLEGAL_ADDRESS, sticky=True)
    for session in (one, other):
        with pytest.raises(DeviceLostError):
            use(session, 0, 1)
    other.close()
    one.close()
    # On a lost device the context of the second cannot be made current again: what it had goes with the process.
    driver.restart()


def test_sessions_one_after_the_other_leave_nothing(
    open_plan: OpenPlan, driver: StandIn, tmp_path: Path
) -> None:
    """The driver counts what is alive; that the process does not grow is measured by benchmarks/session_cycles.py."""
    for number in range(100):
        driver.forget_calls()
        with open_plan() as session:
            use(session, number, 1)
        driver.check()


# --- a stream over a GPU session -------------------------------------------------------------------


class Kept(Sink):
    """Verdicts, and the sum of each map that came with one."""

    wants = "frames"

    def __init__(self) -> None:
        self.verdicts: list[tuple[int, str]] = []
        self.maps: dict[int, float] = {}
        self.closed = False

    def write(self, judgement: Judgement) -> None:
        self.verdicts.append((judgement.frame, judgement.verdict))
        if judgement.anomaly_map is not None:
            self.maps[judgement.frame] = float(judgement.anomaly_map.sum())

    def close(self) -> None:
        self.closed = True


def write_parts(folder: Path, count: int, bad: tuple[int, ...]) -> Path:
    """Grey images, the bad ones with a white square."""
    folder.mkdir()
    for number in range(count):
        image = np.full((48, 64, 3), 60, np.uint8)
        if number in bad:
            image[16:32, 16:32] = 255
        write_png(folder / f"{number:03}.png", image)
    return folder


def judging(session: Session) -> JudgingEngine:
    return JudgingEngine(Path("tiny.engine"), session, Judge([], None, threshold=0.5), "0" * 64, None)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_stream_over_a_gpu_session(
    open_plan: OpenPlan, driver: StandIn, tmp_path: Path, slots: int
) -> None:
    folder = write_parts(tmp_path / "parts", 21, bad=(4, 17))
    sink = Kept()
    with open_plan(options=RunOptions(slots=slots)) as session:
        before = len(driver.calls())
        stream = Stream([open_source(str(folder))], judging(session), [sink])
        stream.run()
        calls = driver.calls()[before:]
    assert sink.verdicts == [(n, "NG" if n in (4, 17) else "OK") for n in range(21)]
    assert sorted(sink.maps) == [4, 17], "maps are brought of rejected frames alone"
    (counts,) = stream.summary()["sources"]
    assert (counts["captured"], counts["judged"], counts["failed"]) == (21, 21, 0)
    # The scores of 11 batches come by graph launches, where the binding has graphs.
    assert calls.count("cuMemcpyDtoHAsync") == (2 if load_driver().captures_graphs else 2 + 11)
    assert not [call for call in calls if "Alloc" in call or "Create" in call or "bind" in call]
    assert stream.summary()["runtime"]["slots"] == slots


@pytest.mark.parametrize("at", [3, 30, 41])
def test_a_gpu_that_is_lost_ends_the_stream_and_every_frame_is_counted(
    open_plan: OpenPlan, driver: StandIn, tmp_path: Path, at: int
) -> None:
    folder = write_parts(tmp_path / "parts", 30, bad=())
    sink = Kept()
    with open_plan() as session:
        driver.fail(at, ILLEGAL_ADDRESS, sticky=True)
        stream = Stream([open_source(str(folder))], judging(session), [sink])
        with pytest.raises(DeviceLostError) as info:
            stream.run()
    assert info.value.exit_code == 5
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in info.value.what
    (counts,) = stream.summary()["sources"]
    assert counts["captured"] == counts["judged"] + counts["dropped"] + counts["failed"]
    assert counts["judged"] == len(sink.verdicts) < 30
    assert counts["failed"] > 0
    assert sink.closed
