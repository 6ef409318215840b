"""Full TensorRT, which needs a GPU even to build.

What this project does with it is the same code as for TensorRT-RTX, so that code is run here on TensorRT-RTX
with its targets hidden; only TensorRT itself stays untested where there is no GPU.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agp_edge.engines import get_backend
from agp_edge.engines import tensorrt as builder
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.gpu import probe_gpus
from agp_edge.errors import ArtefactError, InputError

GiveGpus = Callable[..., None]


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


@pytest.mark.filterwarnings("ignore:.*Timing cache:DeprecationWarning")
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
    assert result.device["compute_capabilities"] == ["8.7"]
    assert result.backend_version == "10.13.0"
    assert not result.runs_here


def test_a_timing_cache_that_cannot_be_read(
    full: types.ModuleType, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus
) -> None:
    give_gpus("8.7")
    with pytest.raises(InputError, match="cannot read timing cache"):
        get_backend("tensorrt").build(tiny_model, tmp_path / "plan", BuildOptions(timing_cache=tmp_path))


@pytest.mark.parametrize("made", [None, object()], ids=["damaged", "of another GPU"])
def test_a_timing_cache_that_is_not_taken(tmp_path: Path, made: object) -> None:
    config: Any = types.SimpleNamespace(
        create_timing_cache=lambda data: made, set_timing_cache=lambda cache, ignore: False
    )
    with pytest.raises(ArtefactError, match="damaged, or of another GPU") as info:
        builder.load_timing_cache(config, tmp_path / "timing")
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
    assert cache.stat().st_size > 0
    assert result.device["compute_capabilities"] == [probe_gpus()[0][0].compute_capability]
    cache.write_bytes(b"no timing cache" * 100)
    with pytest.raises(ArtefactError, match="timing cache"):
        backend.build(tiny_model, tmp_path / "plan", BuildOptions((), 64, cache))
