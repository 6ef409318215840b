from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agp_edge.deploy import nvidia
from agp_edge.deploy.findings import SYSTEM_VENV, Check
from agp_edge.deploy.nvidia import check_bindings, check_cuda, check_gpu, check_tensorrt, tensorrt_version
from tests.agp_edge.deploy.machines import BARE, CARD, DEBIAN, FEDORA, ORIN, RTX, THOR, UBUNTU, only, site

A2000 = {"gpus": ["NVIDIA RTX A2000 12GB (compute capability 8.6)"], "reason": "", "cuda": "13.0"}
ORIN_GPU = {"gpus": ["Orin (compute capability 8.7)"], "reason": "", "cuda": "12.6"}
NO_LIBRARY: dict[str, Any] = {
    "gpus": [],
    "reason": "no NVIDIA driver (libcuda.so.1: cannot open shared object file)",
    "cuda": None,
}
GPU = Check("NVIDIA GPU", "ok", "one")
NO_GPU = Check("NVIDIA GPU", "not here", "none")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Distribution -> version, instead of what is installed here."""
    versions: dict[str, str] = {}
    monkeypatch.setattr(
        nvidia,
        "installed_version",
        lambda names: next((versions[name] for name in names if name in versions), None),
    )
    return versions


@pytest.mark.parametrize(
    ("files", "answer", "state", "words", "remedy"),
    [
        (RTX, A2000, "ok", "A2000 12GB (compute capability 8.6), driver 580.65.06", None),
        (ORIN, ORIN_GPU, "ok", "Orin (compute capability 8.7), driver 540.4.0", None),
        (BARE, None, "not here", "no NVIDIA card on PCI", None),
        # Half installed, in the ways in which that happens.
        ({**UBUNTU, **CARD}, None, "missing", "its driver is not", "sudo ubuntu-drivers install"),
        ({**DEBIAN, **CARD}, None, "missing", "its driver is not", "sudo apt install nvidia-driver"),
        ({**FEDORA, **CARD}, None, "missing", "its driver is not", None),
        (
            {**UBUNTU, **CARD, "usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06": ""},
            None,
            "missing",
            "library of driver 580.65.06 are there, its kernel module is not loaded",
            "sudo modprobe nvidia",
        ),
        (
            {name: text for name, text in RTX.items() if "libcuda" not in name},
            NO_LIBRARY,
            "missing",
            "its library is not installed",
            "sudo ubuntu-drivers install",
        ),
        (
            {
                **{name: text for name, text in RTX.items() if "libcuda" not in name},
                "usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05": "",
            },
            {"gpus": [], "reason": "the NVIDIA driver gives no GPU (cuInit: error 803)", "cuda": None},
            "missing",
            "the kernel module is of driver 580.65.06, the library of 580.95.05",
            "sudo reboot",
        ),
        ({**RTX, ".dockerenv": ""}, NO_LIBRARY, "missing", "--gpus all", None),
        (RTX, "did not answer", "missing", "asking it failed: did not answer", "sudo ubuntu-drivers install"),
        (ORIN, "died of SIGSEGV", "missing", "died of SIGSEGV", "sudo apt install nvidia-l4t-cuda"),
    ],
)
def test_the_gpu_and_its_driver(
    tmp_path: Path, files: dict[str, str], answer: Any, state: str, words: str, remedy: str | None
) -> None:
    check = check_gpu(site(tmp_path, files), answer)

    assert (check.state, check.remedy) == (state, remedy)
    assert words in check.detail


@pytest.mark.parametrize(
    ("files", "answer", "wanted"),
    [
        (ORIN, ORIN_GPU, Check("CUDA", "ok", "the driver takes up to 12.6, toolkit 12.6.68")),
        (
            RTX,
            A2000,
            Check(
                "CUDA",
                "missing",
                "the driver takes up to 13.0, no runtime library, which TensorRT needs",
                "pip install nvidia-cuda-runtime",
            ),
        ),
        (
            {**RTX, "usr/lib/x86_64-linux-gnu/libcudart.so.12.4.127": ""},
            A2000,
            Check("CUDA", "ok", "the driver takes up to 13.0, runtime library 12.4.127"),
        ),
        (
            {**RTX, "usr/local/cuda/version.json": "{half", "usr/local/cuda-12.4/version.json": "[]"},
            {**A2000, "cuda": "12.4"},
            Check(
                "CUDA",
                "missing",
                "the driver takes up to 12.4, no runtime library, which TensorRT needs",
                "pip install nvidia-cuda-runtime-cu12",
            ),
        ),
        (
            {name: text for name, text in THOR.items() if "cuda" not in name},
            "did not answer",
            Check(
                "CUDA",
                "missing",
                "no runtime library, which TensorRT needs",
                "sudo apt install nvidia-jetpack",
            ),
        ),
    ],
)
@pytest.mark.usefixtures("installed")
def test_cuda_by_driver_toolkit_and_runtime(
    tmp_path: Path, files: dict[str, str], answer: Any, wanted: Check
) -> None:
    assert check_cuda(site(tmp_path, files), GPU, answer) == wanted


def test_the_runtime_of_a_wheel_counts(tmp_path: Path, installed: dict[str, str]) -> None:
    installed["nvidia-cuda-runtime-cu12"] = "12.9.79"
    assert (
        check_cuda(site(tmp_path, BARE, only("nvidia")), NO_GPU, None).detail
        == "runtime library 12.9.79, needs an NVIDIA GPU"
    )


def test_python_s_bindings(tmp_path: Path, installed: dict[str, str]) -> None:
    orin, pc = site(tmp_path / "orin", ORIN), site(tmp_path / "pc", RTX)
    assert check_bindings(orin, GPU, ORIN_GPU).remedy == "pip install 'cuda-bindings>=12.9.1,<13'"
    assert check_bindings(pc, GPU, A2000).remedy == "pip install 'agp-edge[cuda]'"
    assert check_bindings(pc, NO_GPU, None).state == "not here"

    somebody_s_cuda = site(tmp_path / "pc", {}, only("cuda"))
    assert check_bindings(somebody_s_cuda, GPU, A2000).state == "missing"
    installed |= {"cuda-bindings": "13.0.1", "pycuda": "2025.1"}
    both = site(tmp_path / "pc", {}, only("cuda", "pycuda"))
    assert check_bindings(both, GPU, A2000) == Check(
        "CUDA in Python", "ok", "cuda-bindings 13.0.1, pycuda 2025.1"
    )
    alone = check_bindings(site(tmp_path / "pc", {}, only("pycuda")), GPU, A2000)
    assert alone == Check("CUDA in Python", "ok", "pycuda 2025.1, which has no CUDA graphs")


def family(
    root: Path, files: dict[str, str], *modules: str, arch: str = "x86_64", answer: Any = None
) -> dict[str, Check]:
    gpu = GPU if files else NO_GPU
    checks = check_tensorrt(site(root, files, only(*modules), arch), gpu, answer)
    return {check.name: check for check in checks}


def test_tensorrt_on_a_jetson_comes_from_jetpack(tmp_path: Path) -> None:
    checks = family(tmp_path, ORIN, arch="aarch64")
    assert checks["TensorRT"].remedy == "sudo apt install python3-libnvinfer"
    assert checks["TensorRT"].detail.startswith("its library 10.3.0 is there")
    assert checks["TensorRT lean"].remedy == "sudo apt install python3-libnvinfer-lean"
    assert checks["TensorRT dispatch"].remedy == "sudo apt install python3-libnvinfer-dispatch"
    assert checks["TensorRT-RTX"] == Check("TensorRT-RTX", "not here", "there is none for Linux on aarch64")


def test_a_venv_that_does_not_see_jetpack_s_tensorrt(tmp_path: Path) -> None:
    files = {**ORIN, "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""}
    check = family(tmp_path, files)["TensorRT"]
    assert (check.state, check.remedy) == ("missing", SYSTEM_VENV)


def test_tensorrt_on_a_pc_comes_from_pip(tmp_path: Path) -> None:
    remedies = [check.remedy for check in family(tmp_path, RTX).values()]
    assert remedies == [
        "pip install 'tensorrt>=10.3'",
        "pip install tensorrt-lean",
        "pip install tensorrt-dispatch",
        "pip install 'agp-edge[tensorrt-rtx]'",
    ]


def test_the_family_with_its_versions(tmp_path: Path, installed: dict[str, str]) -> None:
    installed |= {"tensorrt-cu12": "10.9.0.34", "tensorrt-lean": "10.9.0.34", "tensorrt-rtx": "1.1.1.26"}
    modules = ("tensorrt", "tensorrt_lean", "tensorrt_dispatch", "tensorrt_rtx")
    found = family(tmp_path, RTX, *modules)

    assert [check.state for check in found.values()] == ["ok"] * 4
    assert [check.detail for check in found.values()] == [
        "10.9.0.34",
        "10.9.0.34",
        "version unknown",
        "1.1.1.26, builds plans without a GPU too",
    ]
    assert "without a GPU it does not build" in family(tmp_path / "bare", BARE, *modules)["TensorRT"].detail


@pytest.mark.parametrize("version", ["8.6.2", "10.2.0.19"])
def test_a_tensorrt_that_is_too_old_is_not_counted(
    tmp_path: Path, installed: dict[str, str], version: str
) -> None:
    installed["tensorrt"] = version
    check = family(tmp_path, RTX, "tensorrt")["TensorRT"]
    assert check.state == "missing"
    assert f"{version} is too old" in check.detail


NO_COMPILER = "ImportError: libnvdla_compiler.so: cannot open shared object file: No such file or directory"


def test_a_tensorrt_that_lacks_the_compiler_of_the_dla(tmp_path: Path, installed: dict[str, str]) -> None:
    installed["tensorrt"] = "10.3.0"
    assert family(tmp_path / "orin", ORIN, "tensorrt", answer=NO_COMPILER)["TensorRT"] == Check(
        "TensorRT",
        "missing",
        f"10.3.0, but importing it failed: {NO_COMPILER}",
        "sudo apt install nvidia-l4t-dla-compiler",
    )
    contained = family(tmp_path / "container", {**ORIN, ".dockerenv": ""}, "tensorrt", answer=NO_COMPILER)
    assert contained["TensorRT"].detail.endswith("; a container has it from the host: install it there")


def test_a_tensorrt_that_does_not_import(tmp_path: Path, installed: dict[str, str]) -> None:
    installed["tensorrt"] = "10.9.0.34"
    wanted = Check(
        "TensorRT",
        "missing",
        "10.9.0.34, but importing it failed: died of SIGSEGV",
        "python -c 'import tensorrt'",
    )
    assert family(tmp_path, RTX, "tensorrt", answer="died of SIGSEGV")["TensorRT"] == wanted
    # Nothing on a PC has that package.
    assert family(tmp_path, RTX, "tensorrt", answer=NO_COMPILER)["TensorRT"].remedy == wanted.remedy


@pytest.mark.usefixtures("installed")
def test_a_tensorrt_without_metadata_says_its_version_itself(tmp_path: Path) -> None:
    assert family(tmp_path, RTX, "tensorrt", answer={"version": "10.9.0"})["TensorRT"].detail == "10.9.0"
    check = family(tmp_path, RTX, "tensorrt", answer={"version": "8.6.2"})["TensorRT"]
    assert check.state == "missing"
    assert "8.6.2 is too old" in check.detail


def test_which_tensorrt_is_here(tmp_path: Path, installed: dict[str, str]) -> None:
    installed["tensorrt"] = "11.4.1"
    assert tensorrt_version(site(tmp_path, ORIN, only("tensorrt"))) == "11.4.1"
    assert tensorrt_version(site(tmp_path, ORIN)) == "10.3.0", "that of the system's library"
    assert tensorrt_version(site(tmp_path / "bare", BARE)) is None
