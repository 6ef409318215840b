"""Which TensorRT is here, what it can do, and what it is to build for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from agp_edge.engines import get_backend
from agp_edge.engines.base import Backend, BuildOptions
from agp_edge.engines.gpu import Gpu
from agp_edge.engines.tensorrt_capabilities import VARIANTS, Capabilities, choose_targets
from agp_edge.errors import ArtefactError, InputError, MissingExtraError
from tests.stand_ins.tensorrt_bindings import UnavailableError, environment, prepare

ROOT = Path(__file__).resolve().parents[3]

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


PROBE = """
import importlib, json, sys
from dataclasses import asdict
from agp_edge.engines import tensorrt as builder
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.gpu import Gpu
from agp_edge.engines.tensorrt_capabilities import Capabilities
from agp_edge.errors import ArtefactError
from pathlib import Path

module = importlib.import_module("tensorrt")
builder.probe_gpus = lambda: ([Gpu(0, "Orin", "8.7")], "")
try:
    builder.get_backend("tensorrt").build(Path("model"), Path("plan"), BuildOptions())
    told = "it was built"
except ArtefactError as error:
    told = error.what
print(json.dumps([module.__version__, asdict(Capabilities.probe(module)), told]))
"""


@pytest.mark.parametrize(
    ("version", "dla"),
    [("10.3.0", "weak"), ("11.4.0.106", "strong")],
)
def test_capabilities_of_nvidias_own_bindings(version: str, dla: str) -> None:
    """Of TensorRT itself there is only the Python side here: it loads, and there is nothing behind it."""
    try:
        made = prepare(version, ROOT / "build" / "tensorrt")
    except UnavailableError as error:
        pytest.skip(f"needs the Python bindings of TensorRT {version}: {error}")
    found = environment(made)
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT), found["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=found, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    named, capabilities, told = json.loads(done.stdout)
    assert named == version
    assert capabilities == {
        "network_flags": 1 if dla == "strong" else 2,
        "targets": {},
        "timing_cache": True,
        "progress": True,
        "optimization_level": True,
        "version_compatible": True,
        "hardware_compatible": True,
        "dla": dla,
        "inspector": True,
    }
    assert told == f"TensorRT {version} does not start: no reason given"


def test_where_typing_is_always_strong_no_flag_is_needed() -> None:
    module: Any = types.SimpleNamespace(NetworkDefinitionCreationFlag=object, BuilderFlag=object)
    assert Capabilities.probe(module).network_flags == 0


def test_tensorrt_8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = types.SimpleNamespace(__members__={"FP16": 0})
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
    assert found.progress
    assert found.optimization_level
    assert (found.timing_cache, found.version_compatible, found.hardware_compatible, found.dla) == (
        False, False, False, None,
    ), "names of its twin's that a builder ahead of time does not honour"  # fmt: skip


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
