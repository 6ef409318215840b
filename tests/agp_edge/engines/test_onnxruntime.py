from __future__ import annotations

import platform
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.cuda import BINDINGS
from agp_edge.engines import get_backend, open_engine, read_sidecar
from agp_edge.engines import onnxruntime as backend
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.gpu import Gpu, probe_gpus
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.engines.onnxruntime_gpu import OnnxRuntimeGpuSession
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import sha256_file, write_json
from agp_edge.frame import GRAPHS, FrameSpec
from tests.stand_ins.cuda_driver import run_checks

pytest.importorskip("onnxruntime")

FRAME = FrameSpec(64, 48, 3)


def frames(n: int, frame: FrameSpec = FRAME) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, *frame.shape), dtype=np.uint8)


def with_batch(model: Path, batch: int) -> Path:
    """The same graph for another batch: ONNX writes it into the inputs and outputs alone."""
    import onnx

    graph = onnx.load(str(model))
    for tensor in (*graph.graph.input, *graph.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.graph.value_info[:]
    path = model.with_name(f"batch{batch}.onnx")
    onnx.save(graph, str(path))
    return path


def accept(engine: Path) -> None:
    """Make the sidecar agree with a plan that was changed."""
    sidecar = read_json_sidecar(engine)
    write_json(sidecar_path(engine), {**sidecar, "plan_sha256": sha256_file(engine)})


def read_json_sidecar(engine: Path) -> dict[str, object]:
    from agp_edge.files import read_json

    return read_json(sidecar_path(engine), "sidecar")


def test_an_engine_says_what_its_graph_says(tiny_model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    heard: list[tuple[int, int]] = []
    result = get_backend("onnxruntime").build(
        tiny_model, plan, BuildOptions(), lambda done, total, note="": heard.append((done, total))
    )
    assert result.runs_here
    assert result.device["machine"] == platform.machine()
    assert heard[-1] == (1, 1)
    with OnnxRuntimeSession(tiny_model, FRAME) as graph, OnnxRuntimeSession(plan, FRAME) as engine:
        expected, got = graph.infer(frames(3)), engine.infer(frames(3))
    np.testing.assert_allclose(got.score, expected.score, rtol=1e-6)
    np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, rtol=1e-6)
    # And the graph says what it was written to say: the mean brightness of its brightest 8x8 cell.
    cells = frames(3).reshape(3, 6, 8, 8, 8, 3).mean(axis=(2, 4, 5)) / 255
    np.testing.assert_allclose(got.anomaly_map, cells, rtol=1e-5)
    np.testing.assert_allclose(got.score, cells.max(axis=(1, 2)), rtol=1e-5)


def test_open_engine_gives_session_and_sidecar(tiny_engine: Path) -> None:
    session, sidecar = open_engine(tiny_engine)
    with session:
        result = session.infer(frames(1))
    assert sidecar == read_sidecar(tiny_engine)
    assert result.score.shape == (1,)
    assert result.score.dtype == np.float32
    assert result.anomaly_map.shape == (1, 6, 8)
    session.close()


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
def test_a_batch_is_filled_up_and_cut(tiny_model: Path, n: int) -> None:
    batched = replace(FRAME, batch=4)
    with (
        OnnxRuntimeSession(tiny_model, FRAME) as one,
        OnnxRuntimeSession(with_batch(tiny_model, 4), batched) as four,
    ):
        expected, got = one.infer(frames(n)), four.infer(frames(n))
    assert got.score.shape == (n,)
    np.testing.assert_allclose(got.score, expected.score, rtol=1e-6)
    np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 48, 63, 3), np.uint8),
        np.zeros((1, 48, 64, 1), np.uint8),
        np.zeros((48, 64, 3), np.uint8),
        np.zeros((1, 48, 64, 3), np.float32),
    ],
    ids=lambda a: f"{a.shape}-{a.dtype}",
)
def test_a_frame_of_another_shape_is_bad_input(tiny_engine: Path, wrong: NDArray[np.uint8]) -> None:
    session, _ = open_engine(tiny_engine)
    with session, pytest.raises(InputError, match=r"expected frames of \[N, 48, 64, 3\] uint8") as info:
        session.infer(wrong)
    assert info.value.exit_code == 2


def test_an_engine_of_another_machine_is_refused(tiny_engine: Path) -> None:
    value = read_json_sidecar(tiny_engine)
    write_json(sidecar_path(tiny_engine), {**value, "device": {"machine": "vax"}})
    with pytest.raises(ArtefactError, match="built for vax") as info:
        open_engine(tiny_engine)
    assert info.value.exit_code == 4


@pytest.mark.parametrize(
    ("provider", "told"),
    [
        ("CUDAExecutionProvider", "was built for CUDA: no NVIDIA driver"),
        (
            "TensorrtExecutionProvider",
            "for provider TensorrtExecutionProvider, which this agp-edge does not know",
        ),
        (7, "for provider 7, which this agp-edge does not know"),
    ],
)
def test_an_engine_of_another_provider_is_refused_and_never_run_on_the_cpu(
    tiny_engine: Path, provider: object, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "probe_gpus", lambda: ([], "no NVIDIA driver (here)"))
    device = {"machine": platform.machine(), "provider": provider}
    write_json(sidecar_path(tiny_engine), {**read_json_sidecar(tiny_engine), "device": device})
    with pytest.raises(ArtefactError, match=re.escape(told)) as info:
        open_engine(tiny_engine)
    assert info.value.exit_code == 4


def test_a_gpu_is_taken_where_there_is_one_and_the_cpu_never_in_its_place(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    assert backend.choose_provider() == "CPUExecutionProvider"
    monkeypatch.setattr(backend, "probe_gpus", lambda: ([Gpu(0, "a GPU", "8.7")], ""))
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert backend.choose_provider() == "CPUExecutionProvider", "this ONNX Runtime has no CUDA"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    assert backend.choose_provider() == "CUDAExecutionProvider"
    # It said that it could, and cannot: as where the libraries of CUDA are missing.
    with pytest.raises(ArtefactError, match="ONNX Runtime"):
        backend.get_backend("onnxruntime").build(tiny_model, tmp_path / "plan", BuildOptions())


@pytest.mark.timeout(900)  # The first time pycuda is built.
@pytest.mark.parametrize("binding", list(BINDINGS))
def test_the_session_for_a_gpu_on_a_driver_that_stands_in(binding: str, tmp_path: Path) -> None:
    run_checks(Path(__file__).with_name("checks_of_onnxruntime.py"), tmp_path, binding=binding)


@pytest.mark.gpu
def test_on_a_gpu_it_says_what_the_cpu_says(tiny_model: Path, tmp_path: Path) -> None:
    if backend.choose_provider() != "CUDAExecutionProvider":
        pytest.skip("needs a GPU and onnxruntime-gpu")
    built = backend.get_backend("onnxruntime").build(tiny_model, tmp_path / "plan", BuildOptions())
    assert built.device["provider"] == "CUDAExecutionProvider"
    frame = FrameSpec(64, 48, 3)
    frames = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3)).astype(np.uint8)
    with (
        OnnxRuntimeSession(tiny_model, frame) as cpu,
        OnnxRuntimeGpuSession(tmp_path / "plan", frame) as gpu,
    ):
        np.testing.assert_allclose(gpu.infer(frames).score, cpu.infer(frames).score, rtol=1e-4)
        assert gpu.runtime["device"] == probe_gpus()[0][0].name


def test_a_plan_that_is_no_graph_is_refused(tiny_engine: Path) -> None:
    tiny_engine.write_bytes(b"this was never a graph" * 20)
    accept(tiny_engine)
    with pytest.raises(ArtefactError, match="no ONNX graph of ours: byte 0 begins no field"):
        open_engine(tiny_engine)


def test_no_mutated_plan_that_its_sidecar_names_brings_it_down(tiny_engine: Path) -> None:
    whole = tiny_engine.read_bytes()
    rng = random.Random(2)
    for _ in range(100):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        tiny_engine.write_bytes(data)
        accept(tiny_engine)
        try:
            session, _ = open_engine(tiny_engine)
        except ArtefactError:
            continue
        session.close()


def test_a_graph_of_another_frame_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ArtefactError, match="no graph of ours"):
        OnnxRuntimeSession(tiny_model, FrameSpec(64, 64, 3))


def test_a_graph_that_it_does_not_take(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"\x08garbage")
    with pytest.raises(ArtefactError, match="does not take") as info:
        get_backend("onnxruntime").build(model, tmp_path / "plan", BuildOptions())
    assert info.value.exit_code == 4
    assert not (tmp_path / "plan").exists()


def test_a_cpu_has_no_compute_capability(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compute-capability") as info:
        get_backend("onnxruntime").build(
            tiny_model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6",))
        )
    assert info.value.exit_code == 2


def test_it_can_build_here() -> None:
    assert get_backend("onnxruntime").unavailable() is None


def test_no_such_backend() -> None:
    with pytest.raises(InputError, match="abacus"):
        get_backend("abacus")


def test_layers_are_what_was_executed(calibrated_bundle: Path, tmp_path: Path) -> None:
    found = {}
    for precision in GRAPHS:
        model = calibrated_bundle / f"model.{precision}.onnx"
        layers = get_backend("onnxruntime").build(model, tmp_path / precision, BuildOptions()).layers
        assert layers is not None
        assert layers.source == "the runtime"
        found[precision] = layers.counts
    assert {p for kind, p in found["fp32"] if kind != "Cast"} == {"float"}
    assert any(p == "float16" for _, p in found["fp16"])
    # Which kernel multiplies integers depends on the version; that one does, and that none did before, does not.
    products = {kind: n for (kind, p), n in found["int8"].items() if p == "uint8" and kind != "Cast"}
    assert sum(n for kind, n in products.items() if "MatMul" in kind or "Gemm" in kind) >= 8
    assert not [p.name for p in tmp_path.iterdir() if p.suffix == ".json"], "its profile is gone"
