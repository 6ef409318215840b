"""A plan at work: on stand-ins everywhere, and for real where a GPU is."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from agp_edge.cuda import BINDINGS
from agp_edge.engines import get_backend
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.gpu import Gpu, probe_gpus
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.engines.sidecar import Sidecar
from agp_edge.engines.tensorrt_capabilities import VARIANTS
from agp_edge.engines.tensorrt_session import why_not_run
from agp_edge.files import sha256_file
from agp_edge.frame import FrameSpec
from benchmarks.allocations import build_counter, counted_environment
from tests.stand_ins.cuda_driver import run_checks

ORIN = Gpu(0, "Orin", "8.7")


def test_on_stand_ins_for_tensorrt_and_the_driver(tmp_path: Path) -> None:
    run_checks(Path(__file__).with_name("checks_of_a_session.py"), tmp_path)


@pytest.mark.timeout(900)  # The first time pycuda is built.
@pytest.mark.parametrize("binding", list(BINDINGS))
def test_several_sessions_on_one_device(binding: str, tmp_path: Path) -> None:
    run_checks(Path(__file__).with_name("checks_of_several_sessions.py"), tmp_path, binding=binding)


def test_what_a_frame_asks_of_the_allocator(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make a counter with")
    environment = counted_environment(build_counter(tmp_path))
    run_checks(Path(__file__).with_name("checks_of_allocations.py"), tmp_path, environment)


# --- is a plan run where it is built? ----------------------------------------------------------------


def test_with_its_gpu_and_a_binding_it_is() -> None:
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings: pip install 'agp-edge[cuda]'")
    assert why_not_run([ORIN], "", ["8.6", "8.7"]) is None


def test_without_a_gpu_the_driver_says_why_not() -> None:
    assert why_not_run([], "no NVIDIA driver (here)", ["8.7"]) == "no NVIDIA driver (here)"


def test_for_another_gpu_both_are_named() -> None:
    told = "it is for compute capability 8.6, 8.9, the GPU here is Orin (8.7)"
    assert why_not_run([ORIN, Gpu(1, "RTX", "8.9")], "", ["8.6", "8.9"]) == told


@pytest.mark.usefixtures("no_cuda_binding")
def test_without_a_binding_the_extra_is_named() -> None:
    told = why_not_run([ORIN], "", ["8.7"]) or ""
    assert "cuda.bindings.driver, which is not installed" in told
    assert told.endswith("pip install 'agp-edge[cuda]'")


# --- for real ----------------------------------------------------------------------------------------


def skip_without(backend: str) -> None:
    """Skip, and say what is missing."""
    gpus, reason = probe_gpus()
    if not gpus:
        pytest.skip(f"needs a GPU: {reason}")
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings: pip install 'agp-edge[cuda]'")
    if importlib.util.find_spec(VARIANTS[backend].module) is None:
        pytest.skip(f"needs {VARIANTS[backend].title}")
    if missing := get_backend(backend).unavailable():
        pytest.skip(f"needs {VARIANTS[backend].title} for this GPU: {missing}")


BACKENDS = [
    pytest.param("tensorrt-rtx", marks=pytest.mark.gpu),
    pytest.param("tensorrt", marks=[pytest.mark.gpu, pytest.mark.tensorrt]),
]


@pytest.mark.parametrize("name", BACKENDS)
def test_on_a_gpu_it_says_what_onnx_runtime_says(
    name: str, tiny_model: Path, tmp_path: Path, cache_home: Path
) -> None:
    skip_without(name)
    pytest.importorskip("onnxruntime")
    backend, plan, frame = get_backend(name), tmp_path / "plan", FrameSpec(64, 48, 3)
    result = backend.build(tiny_model, plan, BuildOptions())
    assert result.runs_here, result.notes
    sidecar = Sidecar(
        name="tiny", precision="fp32", backend=name, backend_version=result.backend_version, frame=frame,
        plan_sha256=sha256_file(plan), bundle_sha256="0" * 64, device=result.device, build_seconds=0.1,
        normal_scores=[], gate=None,
    )  # fmt: skip
    frames = np.random.default_rng(1).integers(0, 256, (3, *frame.shape), np.uint8)
    with OnnxRuntimeSession(tiny_model, frame) as session:
        expected = session.infer(frames)
    for _ in range(2):
        with backend.open(plan, sidecar) as session:
            given = session.infer(frames)
            assert session.runtime["device"] == probe_gpus()[0][0].name
        np.testing.assert_allclose(given.anomaly_map, expected.anomaly_map, atol=1e-3)
        np.testing.assert_allclose(given.score, expected.score, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", BACKENDS)
def test_on_a_gpu_a_build_passes_the_gate(
    name: str, precision: str, tmp_path: Path, cache_home: Path, request: pytest.FixtureRequest
) -> None:
    skip_without(name)
    from agp_edge.bundle import Bundle
    from agp_edge.engines.builder import build_engine
    from agp_edge.engines.sidecar import cast_precision

    bundle = Bundle(request.getfixturevalue("calibrated_bundle"))
    engine = tmp_path / f"part.{precision}.{name}.engine"
    built = build_engine(bundle, cast_precision(precision), name, save_engine=engine)
    assert built.report is not None
    assert built.report.outcome == "passed"
    assert built.sidecar.normal_scores
