"""Which TensorRT is here, what it can do, and what it is to build for."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from agp_edge.engines import get_backend
from agp_edge.engines.base import Backend, BuildOptions
from agp_edge.engines.gpu import Gpu
from agp_edge.engines.tensorrt import VARIANTS, Capabilities, choose_targets
from agp_edge.errors import ArtefactError, InputError, MissingExtraError

NO_GPU = "no NVIDIA driver (here)"


def test_rtx_can_build_here(rtx: Backend) -> None:
    assert rtx.unavailable() is None


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_module_that_is_not_installed(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None in sys.modules is Python's own way to say that a module is not there.
    monkeypatch.setitem(sys.modules, VARIANTS[name].module, None)
    backend = get_backend(name)
    with pytest.raises(InputError, match="not installed") as info:
        backend.build(tiny_model, tmp_path / "plan", BuildOptions())
    assert info.value.exit_code == 2
    assert "pip install" in info.value.hint
    assert "not installed" in (backend.unavailable() or "")


def test_the_extra_of_rtx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r"agp-edge\[tensorrt-rtx\]"):
        get_backend("tensorrt-rtx").build(Path("m"), Path("p"), BuildOptions())


@pytest.mark.parametrize(
    "fault",
    ["raise ImportError('libnvinfer.so.11: cannot open shared object file')", "import tensorrt_libs_gone"],
)
def test_a_module_that_does_not_load(
    fault: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text(fault)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ArtefactError, match="does not load") as info:
        get_backend("tensorrt").build(tiny_model, tmp_path / "plan", BuildOptions())
    assert info.value.exit_code == 4


# --- the table of capabilities and the choice of targets: values in, values out --------------------


class _Flag:
    STRONGLY_TYPED = 1


def test_capabilities_of_tensorrt_10_and_11() -> None:
    module: Any = types.SimpleNamespace(
        NetworkDefinitionCreationFlag=_Flag, BuilderFlag=types.SimpleNamespace(), IProgressMonitor=object
    )
    assert Capabilities.probe(module) == Capabilities(2, {}, timing_cache=True, progress=True)


def test_where_typing_is_always_strong_no_flag_is_needed() -> None:
    module: Any = types.SimpleNamespace(NetworkDefinitionCreationFlag=object, BuilderFlag=object)
    assert Capabilities.probe(module).network_flags == 0


def test_tensorrt_8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = types.SimpleNamespace(FP16=0)
    module: Any = types.SimpleNamespace(NetworkDefinitionCreationFlag=object, BuilderFlag=flags)
    assert Capabilities.probe(module).network_flags is None
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    assert "too old" in (get_backend("tensorrt").unavailable() or "")


@pytest.mark.usefixtures("rtx")
def test_capabilities_of_rtx() -> None:
    import tensorrt_rtx

    found = Capabilities.probe(tensorrt_rtx)
    assert found.targets["8.6"] == "SM86"
    assert found.targets["12.0"] == "SM120"
    assert not found.timing_cache
    assert found.progress


OFFERED = {"8.6": "SM86", "12.0": "SM120"}


def test_targets() -> None:
    orin, ada = [Gpu(0, "Orin", "8.7")], [Gpu(0, "RTX", "8.6")]
    assert choose_targets("T", OFFERED, ("12.0", "12.0", "8.6"), orin, "") == ["12.0", "8.6"]
    assert choose_targets("T", OFFERED, (), ada, "") == ["8.6"]
    assert choose_targets("T", OFFERED, (), [], NO_GPU) == ["8.6", "12.0"]
    assert choose_targets("T", {}, (), orin, "") == ["8.7"]
    assert choose_targets("T", {}, ("8.7",), orin, "") == ["8.7"]


def test_targets_that_cannot_be() -> None:
    orin = [Gpu(0, "Orin", "8.7")]
    with pytest.raises(ArtefactError, match="Orin"):
        choose_targets("T", OFFERED, (), orin, "")
    with pytest.raises(InputError, match="only for the GPU that is here"):
        choose_targets("T", {}, ("8.6",), orin, "")
    with pytest.raises(ArtefactError, match=r"no NVIDIA driver \(here\)"):
        choose_targets("T", {}, ("8.6",), [], NO_GPU)
