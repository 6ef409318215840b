"""What a frame asks of the allocator on its way through a GPU session, counted on stand-ins; run by test_tensorrt_session.py.

The driver and TensorRT are stand-ins that ask for nothing themselves: what is counted is ours and that of NVIDIA's bindings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agp_edge.engines import RunOptions
from agp_edge.engines.sidecar import Sidecar
from agp_edge.engines.tensorrt_session import TensorRTSession
from agp_edge.frame import FrameSpec
from benchmarks.allocations import count_calls
from tests.stand_ins.cuda_driver import StandIn
from tests.stand_ins.tensorrt_runtime import VERSION, make_module, write_plan

FRAME = FrameSpec(width=640, height=480, channels=3)
FRAMES = 3000


@pytest.mark.parametrize(
    "options",
    [RunOptions(), RunOptions(memory="mapped"), RunOptions(slots=1)],
    ids=["pinned", "mapped", "one"],
)
def test_a_frame_keeps_nothing_and_asks_for_no_large_piece(tmp_path: Path, options: RunOptions) -> None:
    driver = StandIn()
    plan = write_plan((1, 480, 640, 3), "idle")
    sidecar = Sidecar(
        name="tiny", precision="fp32", backend="tensorrt", backend_version=VERSION, frame=FRAME, plan_sha256="0" * 64,
        bundle_sha256="0" * 64, device={}, build_seconds=0.1, normal_scores=[], gate=None,
    )  # fmt: skip
    frame = np.zeros(FRAME.shape, np.uint8)
    with TensorRTSession(
        "TensorRT", make_module(driver), tmp_path / "plan", sidecar, plan, options
    ) as session:
        driver.forget_calls()
        number = 0

        def one_frame() -> None:
            nonlocal number
            slot = session.slots[number % len(session.slots)]
            number += 1
            slot.submit((frame,))
            slot.wait()

        counted = count_calls(one_frame, FRAMES)
        calls = set(driver.calls())
    print(counted)
    assert not {call for call in calls if "Alloc" in call or "Create" in call or "Instantiate" in call}
    assert counted["allocations"] < 30, counted
    assert abs(counted["kept"]) < 0.2, counted
    assert counted["bytes"] < 2048, counted
    driver.check()
