"""Sessions over plans of the TensorRT that stands in, on the driver that stands in: fixtures for checks run by `run_checks`."""

from __future__ import annotations

import gc
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.engines import RunOptions, Session, Sidecar, open_engine, tensorrt
from agp_edge.engines.gpu import Gpu
from agp_edge.engines.run_options import RUN_AS_USUAL
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.files import sha256_file, write_json
from agp_edge.frame import FrameSpec
from tests.stand_ins.cuda_driver import StandIn
from tests.stand_ins.tensorrt_runtime import CELL, VERSION, make_module, write_plan

FRAME = FrameSpec(width=64, height=48, channels=3, batch=2)
SHAPE = (2, 48, 64, 3)
OpenPlan = Callable[..., Session]


@pytest.fixture
def driver() -> Iterator[StandIn]:
    stand_in = StandIn()
    # Objects of an earlier test that only the collector finds would speak up in this one's log.
    gc.collect()
    gc.disable()
    yield stand_in
    gc.enable()
    stand_in.check()
    made = [call[1:] for call in stand_in.calls() if call.startswith("+")]
    gone = [call[1:] for call in stand_in.calls() if call.startswith("-")]
    assert sorted(made) == sorted(gone)


@pytest.fixture
def open_plan(driver: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenPlan:
    """`open_plan(plan, device={...}, options=..., **attributes of the runtime)`: through `open_engine`, as a command does."""

    def give(
        plan: bytes = write_plan(SHAPE),
        device: dict[str, Any] | None = None,
        options: RunOptions = RUN_AS_USUAL,
        **attributes: Any,
    ) -> Session:
        monkeypatch.setitem(sys.modules, "tensorrt", make_module(driver, **attributes))
        # Which GPU is here is asked beforehand, and has tests of its own; these are of what the session asks.
        monkeypatch.setattr(tensorrt, "probe_gpus", lambda: ([Gpu(0, "stand-in", "8.7")], ""))
        path = tmp_path / "tiny.fp32.tensorrt.engine"
        path.write_bytes(plan)
        here = {"machine": platform.machine(), "compute_capabilities": ["8.7"], **(device or {})}
        sidecar = Sidecar(
            name="tiny", precision="fp32", backend="tensorrt", backend_version=VERSION, frame=FRAME,
            plan_sha256=sha256_file(path), bundle_sha256="0" * 64, device=here, build_seconds=0.1,
            normal_scores=[], gate=None,
        )  # fmt: skip
        write_json(sidecar_path(path), sidecar.to_dict())
        return open_engine(path, options)[0]

    return give


def draw(count: int, seed: int = 1) -> NDArray[np.uint8]:
    """[count, 48, 64, 3] uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE[1:]), np.uint8)


def brightness(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, 6, 8]: what the engine is to say of frames."""
    parts = frames.reshape(len(frames), 48 // CELL, CELL, 64 // CELL, CELL, 3)
    cells: NDArray[np.float32] = (parts.mean((2, 4, 5)) / 255).astype(np.float32)
    return cells
