"""What is asked before a TensorRT plan is opened, and in which order: machine, driver, GPU, module, version."""

from __future__ import annotations

import importlib
import platform
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agp_edge.engines import Sidecar, gpu, open_engine, read_sidecar
from agp_edge.engines import tensorrt as builder
from agp_edge.engines.base import Backend, BuildOptions
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.engines.tensorrt_capabilities import VARIANTS
from agp_edge.engines.tensorrt_opening import check_suits
from agp_edge.errors import ArtefactError, InputError, MissingExtraError
from agp_edge.files import sha256_file, write_json
from agp_edge.frame import FrameSpec
from tests.agp_edge.engines.test_gpu import make_driver

GiveGpus = Callable[..., None]
HERE = platform.machine()


def engine_of(folder: Path, backend: str = "tensorrt", version: str = "10.13.0", **device: Any) -> Path:
    """An engine whose plan no runtime gets to see."""
    plan = folder / f"part.fp32.{backend}.engine"
    plan.write_bytes(b"a plan")
    sidecar = Sidecar(
        name="part", precision="fp32", backend=backend, backend_version=version, frame=FrameSpec(64, 48, 3),
        plan_sha256=sha256_file(plan), bundle_sha256="0" * 64,
        device={"machine": HERE, "compute_capabilities": ["8.7"], **device},
        build_seconds=1.0, normal_scores=[], gate=None,
    )  # fmt: skip
    write_json(sidecar_path(plan), sidecar.to_dict())
    return plan


def refused(engine: Path, match: str, kind: type[InputError | ArtefactError] = ArtefactError) -> str:
    with pytest.raises(kind, match=match) as info:
        open_engine(engine)
    assert type(info.value) is kind
    return info.value.hint


def suits(engine: Path, module: types.ModuleType) -> bool:
    """Whether a plan passes everything that is asked before CUDA and a runtime are."""
    sidecar = read_sidecar(engine)
    found = check_suits(
        engine, sidecar, VARIANTS[sidecar.backend], vars(builder)["probe_gpus"], lambda: module
    )
    return found is module


@pytest.fixture
def give_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`give_driver(count=1)`: a driver library that says so; see `test_gpu`."""

    def give(**options: Any) -> None:
        library = make_driver(tmp_path, **options)
        monkeypatch.setattr(builder, "probe_gpus", lambda: gpu.probe_gpus(library))

    return give


def test_another_machine_before_all_else(tmp_path: Path, give_gpus: GiveGpus) -> None:
    give_gpus()
    engine = engine_of(tmp_path, machine="vax", compute_capabilities=["9.9"])
    assert "build-engine BUNDLE" in refused(engine, f"was built for vax, this machine is {HERE}")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"init": 100, "count": 1}, "cuInit: error 100, no CUDA-capable device"),
        ({"count": 0}, "the NVIDIA driver sees no GPU"),
        ({"source": "int nothing;"}, "is no NVIDIA driver"),
    ],
)
def test_no_driver_or_no_gpu(
    tmp_path: Path, give_driver: Callable[..., None], options: dict[str, Any], says: str
) -> None:
    give_driver(**options)
    hint = refused(engine_of(tmp_path), f"needs an NVIDIA GPU: .*{says}")
    assert "agp-edge doctor" in hint
    assert "--backend onnxruntime" in hint


def test_a_gpu_of_another_compute_capability_names_both(
    tmp_path: Path, give_driver: Callable[..., None]
) -> None:
    give_driver(count=2)
    engine = engine_of(tmp_path, "tensorrt-rtx", compute_capabilities=["8.6", "12.0"])
    # The second GPU of the driver would suit; CUDA runs on the first.
    hint = refused(engine, r"was built for compute capability 8\.6, 12\.0, the GPU here is Orin, 8\.7")
    assert hint.endswith("agp-edge build-engine BUNDLE --backend tensorrt-rtx")


@pytest.mark.parametrize("wrong", [None, [], "8.7", [8.7], {"8.7": 1}, [["8.7"]]])
def test_a_sidecar_that_names_no_gpu(tmp_path: Path, give_gpus: GiveGpus, wrong: Any) -> None:
    give_gpus("8.7")
    refused(engine_of(tmp_path, compute_capabilities=wrong), "does not say for which GPUs")


def test_a_hardware_compatible_plan_runs_from_ampere_on(
    full: types.ModuleType, tmp_path: Path, give_gpus: GiveGpus
) -> None:
    engine = engine_of(tmp_path, compute_capabilities=["8.0"], hardware_compatible=True)
    give_gpus("12.0")
    assert suits(engine, full)
    give_gpus("7.5")
    refused(engine, "the GPU here is a GPU, 7.5")


@pytest.mark.parametrize(
    ("backend", "module", "kind"),
    [("tensorrt", "tensorrt", InputError), ("tensorrt-rtx", "tensorrt_rtx", MissingExtraError)],
)
def test_then_a_module_that_is_missing(
    tmp_path: Path,
    give_gpus: GiveGpus,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    module: str,
    kind: type[InputError],
) -> None:
    give_gpus("8.7")

    def no_module(name: str) -> types.ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", no_module)
    engine = engine_of(tmp_path, backend)
    sidecar = read_sidecar(engine)
    # `get_backend` of the package imports its module by name, too.
    opener = builder.get_backend(backend)
    with pytest.raises(
        kind, match=f"running TensorRT.* engines needs {module}, which is not installed"
    ) as info:
        opener.open(engine, sidecar)
    assert info.value.exit_code == 2


@pytest.mark.parametrize(
    ("built", "here", "compatible", "read"),
    [
        ("10.13.0", "10.13.0", False, True),
        ("10.13.0.35", "10.13.0", False, False),
        ("10.3.0", "10.13.0", False, False),
        ("10.3.0", "10.13.0", True, True),
        ("10.3.0", "11.0.1", True, True),
        ("11.0.1", "10.13.0", True, False),
        ("", "10.13.0", True, False),
        ("x" * 5000, "10.13.0", True, False),
        ("10.3.0", "10.13.0", "true", False),
        ("9.0", "10.0", True, True),
    ],
)
def test_versions(
    full: types.ModuleType,
    tmp_path: Path,
    give_gpus: GiveGpus,
    built: str,
    here: str,
    compatible: Any,
    read: bool,
) -> None:
    vars(full)["__version__"] = here
    give_gpus("8.7")
    device = {"version_compatible": compatible} if compatible else {}
    engine = engine_of(tmp_path, version=built, **device)
    if read:
        assert suits(engine, full)
    else:
        hint = refused(engine, f"was built with TensorRT .*{here} is installed")
        assert hint.endswith("build-engine BUNDLE --backend tensorrt")


def test_no_object_of_tensorrt_is_made(
    full: types.ModuleType, tmp_path: Path, give_gpus: GiveGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for name in ("Builder", "Runtime", "ILogger", "Logger"):
        monkeypatch.setattr(full, name, lambda *_, name=name: made.append(name))
    give_gpus("8.6")
    refused(engine_of(tmp_path), "the GPU here is")
    give_gpus("8.7")
    assert suits(engine_of(tmp_path), full)
    assert made == []


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_without_a_gpu_tensorrt_is_not_even_imported(tmp_path: Path, backend: str) -> None:
    if gpu.probe_gpus()[0]:
        pytest.skip("needs a machine without a GPU")
    engine = engine_of(tmp_path, backend)
    code = (
        "import sys\nfrom pathlib import Path\nfrom agp_edge.engines import open_engine\n"
        "try:\n    open_engine(Path(sys.argv[1]))\nexcept Exception as error:\n    print(error.exit_code, error.what)\n"
        "print([name for name in sys.modules if name.startswith('tensorrt')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(engine)], capture_output=True, text=True, check=True, timeout=60
    )
    said, modules = done.stdout.splitlines()
    assert said.startswith(f"4 engine {engine} needs an NVIDIA GPU: ")
    assert modules == "[]"


def test_a_plan_of_tensorrt_rtx_itself(
    rtx: Backend, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus
) -> None:
    """A real plan: what its build wrote down is what its opening asks for."""
    give_gpus()
    plan = tmp_path / "tiny.fp32.tensorrt-rtx.engine"
    result = rtx.build(tiny_model, plan, BuildOptions(compute_capabilities=("8.6",)))
    sidecar = Sidecar(
        name="tiny", precision="fp32", backend="tensorrt-rtx", backend_version=result.backend_version,
        frame=FrameSpec(64, 48, 3), plan_sha256=sha256_file(plan), bundle_sha256="0" * 64,
        device=result.device, build_seconds=0.1, normal_scores=[], gate=None,
    )  # fmt: skip
    write_json(sidecar_path(plan), sidecar.to_dict())
    refused(plan, "needs an NVIDIA GPU")
    give_gpus("8.9")
    refused(plan, r"compute capability 8\.6, the GPU here is a GPU, 8\.9")
    give_gpus("8.6")
    assert suits(plan, importlib.import_module("tensorrt_rtx"))
    write_json(sidecar_path(plan), replace(sidecar, backend_version="1.0").to_dict())
    refused(plan, r"built with TensorRT-RTX 1\.0, .* is installed here")
