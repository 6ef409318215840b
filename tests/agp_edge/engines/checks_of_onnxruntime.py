"""ONNX Runtime's session for a GPU, on the driver that stands in and ONNX Runtime's CPU provider; run by test_onnxruntime.py.

The stand-in's device memory is the host's, so that the CPU provider can use it by its addresses as the CUDA provider uses a
GPU's. It computes at once and not in the stream: only mapped memory, where there are no copies to wait for, can be tried.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agp_edge.engines import RunOptions
from agp_edge.engines.gpu_slots import GpuSlot
from agp_edge.engines.onnxruntime_gpu import OnnxRuntimeGpuSession
from agp_edge.errors import ArtefactError
from agp_edge.frame import FrameSpec
from tests.stand_ins.cuda_driver import StandIn
from tests.stand_ins.plans import brightness, draw

FRAME = FrameSpec(64, 48, 3)


@pytest.fixture
def driver() -> Iterator[StandIn]:
    stand_in = StandIn()
    yield stand_in
    stand_in.check()


def open_graph(model: Path, **options: bool | int) -> OnnxRuntimeGpuSession:
    chosen = RunOptions(memory="mapped", **options)  # type: ignore[arg-type]
    return OnnxRuntimeGpuSession(model, FRAME, options=chosen, provider="CPUExecutionProvider", place="cpu")


def test_each_slot_has_its_own_memory(driver: StandIn, tiny_model: Path) -> None:
    with open_graph(tiny_model) as session:
        batches = [draw(1, seed) for seed in range(3)]
        for slot, frames in zip(session.slots, batches, strict=True):
            slot.submit(frames)
        for slot, frames in zip(session.slots, batches, strict=True):
            np.testing.assert_allclose(slot.wait(), brightness(frames).max((1, 2)), rtol=1e-5)
            np.testing.assert_allclose(slot.anomaly_map(), brightness(frames), rtol=1e-5)
        frames = draw(4)
        np.testing.assert_allclose(session.infer(frames).anomaly_map, brightness(frames), rtol=1e-5)
        np.testing.assert_array_equal(session.score(frames), session.infer(frames).score)


def test_what_a_time_of_it_includes(driver: StandIn, tiny_model: Path) -> None:
    with open_graph(tiny_model, slots=2, cuda_graphs=False) as session:
        told = session.runtime
        assert told.pop("library").startswith("onnxruntime ")
        assert told == {
            "device": "stand-in",
            "memory": "mapped",
            "transfers": False,
            "cuda_graphs": False,
            "no_cuda_graphs": "they were not wanted",
            "spin_wait": False,
            "slots": 2,
            "buffer_bytes": 2 * (48 * 64 * 3 + 4 + 6 * 8 * 4),
            "device_memory_bytes": 0,
        }


def test_a_graph_that_it_does_not_load_leaves_nothing(driver: StandIn, tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtefactError):
        open_graph(tmp_path / "no.onnx")


def test_a_closed_session_takes_nothing(driver: StandIn, tiny_model: Path) -> None:
    session = open_graph(tiny_model)
    slot = session.slots[0]
    assert isinstance(slot, GpuSlot)
    runtime = weakref.ref(slot._run._session)  # type: ignore[attr-defined]
    session.close()
    session.close()
    with pytest.raises(ValueError, match="is closed"):
        slot.submit(draw(1))
    with pytest.raises(ValueError, match="GpuRun is closed"):
        slot._run.queue(0)
    assert runtime() is None, "ONNX Runtime would go after the stream that it computes in"
