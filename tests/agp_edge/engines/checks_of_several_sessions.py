"""Several engines on one device, a GPU and a DLA, and many sessions one after the other; run by test_tensorrt_session.py."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from agp_edge.engines import Session
from agp_edge.errors import DeviceLostError
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


def test_sessions_one_after_the_other_leave_nothing(
    open_plan: OpenPlan, driver: StandIn, tmp_path: Path
) -> None:
    """The driver counts what is alive; that the process does not grow is measured by benchmarks/session_cycles.py."""
    for number in range(100):
        driver.forget_calls()
        with open_plan() as session:
            use(session, number, 1)
        driver.check()
