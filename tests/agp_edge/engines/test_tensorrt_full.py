"""Full TensorRT, which needs a GPU even to build.

What this project does with it is the same code as for TensorRT-RTX, so that code is run here on TensorRT-RTX
with its targets hidden; only TensorRT itself stays untested where there is no GPU.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import pytest

from agp_edge.engines import get_backend
from agp_edge.engines import tensorrt as builder
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.gpu import probe_gpus
from agp_edge.errors import ArtefactError, InputError
from tests.agp_edge.engines.graphs import write_conv_model

GiveGpus = Callable[..., None]

# TensorRT-RTX, which stands for TensorRT here, has these calls, does nothing, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")


def test_the_device_is_probed_before_any_tensorrt_object_is_made(
    full: types.ModuleType,
    tiny_model: Path,
    tmp_path: Path,
    give_gpus: GiveGpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    for name in ("Builder", "OnnxParser", "Runtime", "ILogger"):
        monkeypatch.setattr(full, name, lambda *_, name=name: made.append(name))
    give_gpus()
    backend = get_backend("tensorrt")
    with pytest.raises(ArtefactError, match="no NVIDIA driver") as info:
        backend.build(tiny_model, tmp_path / "plan", BuildOptions())
    assert info.value.exit_code == 4
    assert "no NVIDIA driver" in (backend.unavailable() or "")
    assert made == []


def test_with_its_gpu_it_builds_and_keeps_its_timings(
    full: types.ModuleType, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus
) -> None:
    give_gpus("8.7")
    backend = get_backend("tensorrt")
    assert backend.unavailable() is None
    cache = tmp_path / "timing"
    for _ in range(2):
        result = backend.build(tiny_model, tmp_path / "plan", BuildOptions(timing_cache=cache))
        assert cache.stat().st_size > 0
        assert result.notes == ()
    assert result.device["compute_capabilities"] == ["8.7"]
    assert result.backend_version == "10.13.0"
    assert result.runs_here
    assert result.layers is not None
    assert result.layers.source == "the network before the build", "no GPU here reads the plan back"


def test_unless_told_otherwise_timings_are_kept_by_gpu_and_version(
    full: types.ModuleType, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus, cache_home: Path
) -> None:
    give_gpus("8.7")
    build = get_backend("tensorrt").build
    file = cache_home / "agp-edge" / "timing" / "a-GPU-8.7-tensorrt-10.13.0.cache"
    assert build(tiny_model, tmp_path / "plan", BuildOptions()).notes == ()
    assert file.stat().st_size > 0
    file.write_bytes(file.read_bytes()[:-1])
    (note,) = build(tiny_model, tmp_path / "plan", BuildOptions()).notes
    assert note == (
        f"timing cache {file} is damaged: its hash is not the one recorded; it was set aside as {file.name}.damaged"
    )
    assert build(tiny_model, tmp_path / "plan", BuildOptions()).notes == ()


def test_a_home_that_cannot_be_written_costs_the_cache_and_not_the_build(
    full: types.ModuleType, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus, cache_home: Path
) -> None:
    give_gpus("8.7")
    cache_home.write_text("no folder")
    (note,) = get_backend("tensorrt").build(tiny_model, tmp_path / "plan", BuildOptions()).notes
    assert note.startswith("no timing cache: cannot write ")
    assert (tmp_path / "plan").stat().st_size > 1000


def test_a_cache_that_was_asked_for_is_not_set_aside(
    full: types.ModuleType, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus
) -> None:
    give_gpus("8.7")
    build = get_backend("tensorrt").build
    cache = tmp_path / "timing"
    build(tiny_model, tmp_path / "plan", BuildOptions(timing_cache=cache))
    before = cache.read_bytes()
    give_gpus("8.9")
    with pytest.raises(
        ArtefactError, match=r"is of a GPU \(8\.7\), TensorRT 10\.13\.0, this build of a GPU \(8\.9\)"
    ):
        build(tiny_model, tmp_path / "plan", BuildOptions(timing_cache=cache))
    assert cache.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (BuildOptions(optimization_level=6), "there is no optimization level 6"),
        (BuildOptions(optimization_level=-1), "there is no optimization level -1"),
        (BuildOptions(dla=0), "the DLA does not run fp32 graphs of ours"),
        (BuildOptions(dla=0, precision="int8"), "the DLA does not run int8 graphs of ours"),
        (BuildOptions(dla=0, precision="fp16", version_compatible=True), "for this device and this version alone"),
        (BuildOptions(precision="bf16"), "TensorRT does not build bf16"),
        (BuildOptions(workspace_mib=0), "a workspace of 0 MiB is none"),
    ],
)  # fmt: skip
def test_what_it_does_not_take(
    full: types.ModuleType, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus, options: BuildOptions, told: str
) -> None:  # fmt: skip
    give_gpus("8.7")
    with pytest.raises(InputError, match=told) as info:
        get_backend("tensorrt").build(tiny_model, tmp_path / "plan", options)
    assert info.value.exit_code == 2
    assert not (tmp_path / "plan").exists()


def test_hardware_compatible_plans_are_not_for_a_jetson(
    full: types.ModuleType,
    tiny_model: Path,
    tmp_path: Path,
    give_gpus: GiveGpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_gpus("8.7")
    monkeypatch.setattr(builder, "l4t_version", lambda: "36.4.3")
    with pytest.raises(InputError, match="takes no --hardware-compatible: on a Jetson"):
        get_backend("tensorrt").build(tiny_model, tmp_path / "plan", BuildOptions(hardware_compatible=True))


def test_a_device_without_that_dla_core(
    full: types.ModuleType, tmp_path: Path, give_gpus: GiveGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_gpus("8.7")
    model = write_conv_model(tmp_path / "model.onnx", "fp16")
    build = get_backend("tensorrt").build
    monkeypatch.setattr(full, "__version__", "10.3.0")
    with pytest.raises(ArtefactError, match="this device has 0 DLA cores, and no core 0") as info:
        build(model, tmp_path / "plan", BuildOptions(dla=0, precision="fp16"))
    assert info.value.exit_code == 4
    monkeypatch.setattr(full, "__version__", "10.16.2")
    with pytest.raises(
        ArtefactError, match=r"no DLA core 0: TensorRT 10\.16\.2 drives no DLA of a Jetson: 10\.7 was"
    ) as info:
        build(model, tmp_path / "plan", BuildOptions(dla=0, precision="fp16"))
    assert info.value.exit_code == 4


def test_without_progress_of_its_own_it_still_builds(
    full: types.ModuleType,
    tiny_model: Path,
    tmp_path: Path,
    give_gpus: GiveGpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_gpus("8.7")
    monkeypatch.delattr(full, "IProgressMonitor")
    heard: list[int] = []
    get_backend("tensorrt").build(
        tiny_model, tmp_path / "plan", BuildOptions(), lambda done, total, note="": heard.append(done)
    )
    assert heard == [0, 100]


def test_a_builder_that_gives_null_is_an_error_of_ours(
    full: types.ModuleType,
    tiny_model: Path,
    tmp_path: Path,
    give_gpus: GiveGpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def null(*_: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(full, "Builder", null)
    give_gpus("8.7")
    with pytest.raises(ArtefactError, match=r"TensorRT 10\.13\.0 does not start"):
        get_backend("tensorrt").build(tiny_model, tmp_path / "plan", BuildOptions())


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_full_tensorrt_on_its_gpu(tiny_model: Path, tmp_path: Path) -> None:
    if reason := get_backend("tensorrt").unavailable():
        pytest.skip(f"needs TensorRT and a GPU: {reason}")
    cache = tmp_path / "timing"
    backend = get_backend("tensorrt")
    for _ in range(2):
        result = backend.build(tiny_model, tmp_path / "plan", BuildOptions((), 64, cache))
    assert (tmp_path / "plan").stat().st_size > 1000
    assert result.layers is not None
    assert result.layers.source == "the engine inspector"
    assert cache.stat().st_size > 0
    assert result.device["compute_capabilities"] == [probe_gpus()[0][0].compute_capability]
    cache.write_bytes(b"no timing cache" * 100)
    with pytest.raises(ArtefactError, match="timing cache"):
        backend.build(tiny_model, tmp_path / "plan", BuildOptions((), 64, cache))
