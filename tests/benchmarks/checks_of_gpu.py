"""The benchmark of a GPU from end to end on stand-ins for TensorRT and the driver; run by test_gpu.py.

They show that it runs, that its result is whole, and that it frees what it takes. Its figures here are of nothing.
"""

from __future__ import annotations

import gc
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.cuda import BINDINGS, open_device
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.engines.sidecar import Sidecar, read_engine, sidecar_path
from agp_edge.files import sha256_file, write_json
from agp_edge.frame import FrameSpec
from benchmarks import gpu, gpu_adapters
from benchmarks.gpu_contest import BARE, VARIANTS
from benchmarks.gpu_engines import given_engine
from benchmarks.gpu_floor import BareOnnxRuntime, Floor, FloorError, How
from benchmarks.gpu_report import describe, describe_for_terminal
from benchmarks.gpu_stages import PARTS
from tests.stand_ins.cuda_driver import StandIn
from tests.stand_ins.plans import brightness, draw
from tests.stand_ins.tensorrt_runtime import VERSION, make_module, write_plan

ILLEGAL_ADDRESS, INVALID_VALUE = 700, 1
OURS = {"ours", "ours_map", *VARIANTS}

Measure = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "tensorrt", make_module(stand_in, allows_static=True))
    monkeypatch.setattr(gpu, "QUICK_SECONDS", 0.02)
    yield stand_in
    gc.collect()
    stand_in.check()


def write_engine(folder: Path, batch: int, fault: str = "", scores: tuple[float, ...] = (0.4, 0.5)) -> Path:
    """An engine of the TensorRT that stands in."""
    path = folder / f"tiny-{batch}{fault}.fp16.tensorrt.engine"
    path.write_bytes(write_plan((batch, 48, 64, 3), fault))
    sidecar = Sidecar(
        name="tiny", precision="fp16", backend="tensorrt", backend_version=VERSION,
        frame=FrameSpec(64, 48, 3, batch), plan_sha256=sha256_file(path), bundle_sha256="0" * 64,
        device={"machine": platform.machine(), "compute_capabilities": ["8.7"]}, build_seconds=0.1,
        normal_scores=list(scores), gate={"outcome": "passed"},
    )  # fmt: skip
    write_json(sidecar_path(path), sidecar.to_dict())
    return path


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    """`measure(engine, ...)`: exit code and result of a quick run, as a command."""

    def give(*arguments: object) -> tuple[int, dict[str, Any]]:
        out = tmp_path / "gpu.json"
        code = gpu.main([*map(str, arguments), "--quick", "--json", str(out)])
        return code, json.loads(out.read_text())

    return give


def test_a_whole_result(
    driver: StandIn, measure: Measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = measure("--engines", write_engine(tmp_path, 1), write_engine(tmp_path, 8, scores=()))
    assert code == 0
    assert (report["benchmark"], report["complete"], report["quick"]) == ("gpu", True, True)
    assert report["gpu"] == {
        "name": "stand-in", "compute_capability": "8.7", "integrated": False, "maps_host_memory": True,
        "memory_bytes": 8 << 20, "sleeps": True, "driver": report["machine"]["nvidia_driver"], "cuda": "13.0",
    }  # fmt: skip
    assert report["bindings"]["cuda-python"]["works"] is True
    assert report["binding"] == "cuda-python"
    assert [engine["batch"] for engine in report["engines"]] == [1, 8]
    for engine in report["engines"]:
        assert engine["not_measured"] == dict.fromkeys(
            ("torch_eager", "torch_compile"), "no run was given: --run RUN"
        )
        figures = engine["figures"]
        assert set(figures) == OURS | set(BARE)
        for name, figure in figures.items():
            assert figure["ms"]["n"] >= 5, name
            assert figure["score_difference"] == 0, name
        for name in OURS:
            ratio = figures[name]["over_floor"]
            assert 0 < ratio["low_95"] <= ratio["ratio"] <= ratio["high_95"]
        assert figures["ours_spin"]["floor"] == "bare_spin"
        assert figures["ours_queued"]["cuda_graphs"] is False
        assert figures["ours_mapped"]["cuda_graphs"] is True
        assert engine["target"]["at_most"] == 1.03
        assert set(engine["stages"]["ms"]) == {"to_pinned", *PARTS}
        assert engine["stages"]["bytes"]["frames"] == engine["batch"] * 48 * 64 * 3
        assert engine["post"]["verdicts_ms"] > 0
        assert engine["post"]["regions"] > 0
        assert list(engine["throughput"]) == ["1", "2", "3"]
        assert engine["throughput"]["1"]["over_one"]["ratio"] == 1
        assert engine["runtime"]["memory"] == "pinned"
    written = (tmp_path / "gpu.json").read_text()
    assert str(tmp_path) not in written
    assert str(Path.home()) not in written
    out, _ = capsys.readouterr()
    assert out.strip() == describe_for_terminal(report).strip()
    assert max(map(len, out.splitlines())) <= 80
    assert "TRT fp16" in describe(report)


def test_an_engine_that_does_not_run_is_shown_and_the_next_one_is_measured(
    driver: StandIn, measure: Measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [write_engine(tmp_path, 1, fault) for fault in ("deserialize", "context", "execute")]
    code, report = measure("--engines", *broken, write_engine(tmp_path, 1))
    assert code == 0
    for engine, said in zip(
        report["engines"], ("magic tag does not match", "out of memory", "said no"), strict=False
    ):
        assert engine["figures"] == {}
        assert set(engine["not_measured"]) >= OURS - {"ours_map"}
        assert any(said in reason for reason in engine["not_measured"].values()), engine["not_measured"]
        assert engine["target"]["holds"] is None
    assert set(report["engines"][3]["figures"]) == OURS | set(BARE)
    assert "magic tag does not match" in capsys.readouterr().out


def test_where_no_graph_can_be_the_floor_is_queued(driver: StandIn, measure: Measure, tmp_path: Path) -> None:
    driver.refuse_graphs()
    _, report = measure("--engines", write_engine(tmp_path, 1))
    (engine,) = report["engines"]
    assert engine["runtime"]["cuda_graphs"] is False
    assert set(engine["figures"]) == OURS | {"bare_queued"}
    assert engine["figures"]["ours"]["floor"] == "bare_queued"
    assert "CAPTURE_INVALIDATED" in engine["not_measured"]["bare_graph"]
    assert report["bindings"]["cuda-python"]["works"] is False
    assert "over_floor" not in engine["figures"]["ours_spin"], (
        "there is no loop of that form to hold it against"
    )


def test_a_bundle_of_which_nothing_can_be_built(
    driver: StandIn, measure: Measure, calibrated_bundle: Path
) -> None:
    """The TensorRT that stands in has no builder, and the ONNX Runtime of the tests no CUDA."""
    code, report = measure(calibrated_bundle, "--backends", "tensorrt", "onnxruntime")
    assert code == 0
    assert [(e["backend"], e["precision"]) for e in report["engines"]] == [
        (backend, precision)
        for backend in ("tensorrt", "onnxruntime")
        for precision in ("fp32", "fp16", "int8")
    ]
    assert all(set(engine["not_measured"]) == {"build"} for engine in report["engines"])
    assert "no CUDA provider" in report["engines"][3]["not_measured"]["build"]


def test_a_gpu_that_is_lost_ends_nothing_silently(
    driver: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = [write_engine(tmp_path, batch) for batch in (1, 2)]
    candidates = [given_engine(path) for path in engines]

    def lose() -> dict[str, Any]:
        driver.fail(200, ILLEGAL_ADDRESS, sticky=True)
        return {}

    monkeypatch.setattr(gpu, "check_bindings", lose)
    saved: list[int] = []
    report = gpu.measure(candidates, seconds=0.02, save=lambda r: saved.append(len(r["engines"])))
    assert saved == [1, 2]
    for engine in report["engines"]:
        assert any("ILLEGAL_ADDRESS" in reason for reason in engine["not_measured"].values())
    assert report["complete"]
    assert describe(report)
    driver.restart()


# --- the adapters ----------------------------------------------------------------------------------


def test_every_binding_that_is_installed_works(driver: StandIn) -> None:
    said = gpu_adapters.check_bindings()
    assert set(said) == set(BINDINGS)
    here = said["cuda-python"]
    assert here["checks"] == dict.fromkeys(gpu_adapters.CHECKS, "works")
    assert re.match(r"\d+\.", here["version"])
    assert here["sleeps"]


def test_what_a_gpu_does_not_offer_is_no_fault(driver: StandIn) -> None:
    driver.restart(maps=False)
    here = gpu_adapters.check_bindings()["cuda-python"]
    assert here["checks"]["mapped memory"] == "not offered: this GPU maps no memory of the host"
    assert here["works"]


def test_a_call_that_fails_is_told_and_the_other_checks_go_on(driver: StandIn) -> None:
    driver.refuse_graphs()
    here = gpu_adapters.check_bindings()["cuda-python"]
    assert here["checks"]["graph"].startswith("cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
    assert here["checks"]["events"] == "works"
    assert not here["works"]


def test_bytes_that_come_back_wrong_are_seen(driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agp_edge.cuda.Stream.copy_in", lambda *_: None)
    here = gpu_adapters.check_bindings()["cuda-python"]
    assert re.match(r"\d+ of \d+ bytes came back wrong", here["checks"]["round trip"])


def test_a_device_that_does_not_open(driver: StandIn) -> None:
    driver.restart(devices=0)
    here = gpu_adapters.check_bindings()["cuda-python"]
    assert (here["installed"], here["works"]) == (True, False)
    assert "cuInit" in here["reason"]


# --- the floor -------------------------------------------------------------------------------------

BARE_CALLS = {
    "bare_graph": ["cuGraphLaunch", "cuStreamSynchronize"],
    "bare_queued": ["cuMemcpyHtoDAsync", "execute", "cuMemcpyDtoHAsync", "cuStreamSynchronize"],
    "bare_mapped": ["cuGraphLaunch", "cuStreamSynchronize"],
    "bare_map": ["cuGraphLaunch", "cuStreamSynchronize"],
    "bare_spin": ["cuGraphLaunch", "cuEventRecord", "cuEventSynchronize"],
}


@pytest.mark.parametrize("name", BARE)
def test_what_a_bare_loop_asks_of_the_driver(driver: StandIn, tmp_path: Path, name: str) -> None:
    path = write_engine(tmp_path, 2)
    candidate = given_engine(path)
    assert (candidate.backend, candidate.batch) == ("tensorrt", 2)
    with open_device() as device, Floor(device, *read_engine(path)) as floor, floor.loop(BARE[name]) as loop:
        for seed in range(3):
            frames = draw(2, seed)
            before = len(driver.calls())
            np.testing.assert_allclose(loop(frames), brightness(frames).max((1, 2)), rtol=1e-6)
            assert driver.calls()[before:] == BARE_CALLS[name]


def test_bare_onnx_runtime_over_memory_of_ours(driver: StandIn, tiny_model: Path) -> None:
    """On its CPU provider, which computes at once and not in the stream: so over mapped memory, without copies."""
    frame = FrameSpec(64, 48, 3)
    sidecar = Sidecar(
        name="tiny", precision="fp32", backend="onnxruntime", backend_version="1", frame=frame,
        plan_sha256="", bundle_sha256="", device={}, build_seconds=0.1, normal_scores=[], gate=None,
    )  # fmt: skip

    def load(_: Sidecar, plan: bytes, stream: int) -> BareOnnxRuntime:
        return BareOnnxRuntime(plan, stream, "CPUExecutionProvider", "cpu")

    frames = draw(1)
    with OnnxRuntimeSession(tiny_model, frame) as session:
        expected = session.infer(frames).score
    with (
        open_device() as device,
        Floor(device, sidecar, tiny_model.read_bytes(), load) as floor,
        floor.loop(How(mapped=True)) as loop,
        floor.loop(How(mapped=True, graph=False, spins=True)) as other,
    ):
        assert np.array_equal(loop(frames), expected)
        assert np.array_equal(other(frames), expected)


def test_a_bare_loop_that_fails_leaves_nothing(driver: StandIn, tmp_path: Path) -> None:
    path = write_engine(tmp_path, 1, "execute-6")
    with open_device() as device, Floor(device, *read_engine(path)) as floor:
        # Five warm-up runs, and the sixth is the one that is captured.
        with pytest.raises(FloorError, match="said no"):
            floor.loop(How())
        with floor.loop(How(graph=False)) as loop:
            driver.fail(1, INVALID_VALUE)
            with pytest.raises(Exception, match="INVALID_VALUE"):
                loop(draw(1))
