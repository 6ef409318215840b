"""The probe against real shared libraries: a small one made here that answers as a driver does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from agp_edge.engines.gpu import Gpu, driver_cuda_version, probe_gpus

DRIVER = r"""
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 10 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    if (length < 5) return 1;
    strcpy(name, device == 10 ? "Orin" : "RTX");
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (attribute != 75 && attribute != 76) return 1;
    *value = attribute == 75 ? (device == 10 ? 8 : 12) : (device == 10 ? 7 : 0);
    return 0;
}
int cuGetErrorString(int code, const char **text) { *text = "no CUDA-capable device"; return 0; }
"""


def make_driver(folder: Path, *, init: int = 0, count: int = 0, source: str = DRIVER) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a driver with")
    (folder / "driver.c").write_text(source)
    library = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", f"-DINIT={init}", f"-DCOUNT={count}"]
    subprocess.run([*command, "-o", str(library), str(folder / "driver.c")], check=True)
    return str(library)


def test_every_gpu_with_its_name_and_compute_capability(tmp_path: Path) -> None:
    gpus, reason = probe_gpus(make_driver(tmp_path, count=2))
    assert gpus == [Gpu(0, "Orin", "8.7"), Gpu(1, "RTX", "12.0")]
    assert reason == ""


def test_a_driver_that_fails_is_quoted(tmp_path: Path) -> None:
    gpus, reason = probe_gpus(make_driver(tmp_path, init=100, count=2))
    assert gpus == []
    assert reason == "the NVIDIA driver gives no GPU (cuInit: error 100, no CUDA-capable device)"


def test_a_driver_without_gpus(tmp_path: Path) -> None:
    assert probe_gpus(make_driver(tmp_path, count=0)) == ([], "the NVIDIA driver sees no GPU")


def test_a_library_that_is_no_driver(tmp_path: Path) -> None:
    library = make_driver(tmp_path, source="int something_else;")
    gpus, reason = probe_gpus(library)
    assert gpus == []
    assert reason.startswith(f"{library} is no NVIDIA driver")


def test_no_library_at_all(tmp_path: Path) -> None:
    gpus, reason = probe_gpus(str(tmp_path / "libcuda.so.1"))
    assert gpus == []
    assert reason.startswith("no NVIDIA driver")


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    file = tmp_path / "libcuda.so.1"
    file.write_bytes(b"no ELF")
    gpus, reason = probe_gpus(str(file))
    assert gpus == []
    assert reason.startswith("no NVIDIA driver")


@pytest.mark.gpu
def test_the_gpu_of_this_machine() -> None:
    gpus, reason = probe_gpus()
    if not gpus:
        pytest.skip(f"needs a GPU: {reason}")
    assert reason == ""
    assert float(gpus[0].compute_capability) >= 5


def test_the_newest_cuda_that_a_driver_takes(tmp_path: Path) -> None:
    """12060 is 12.6, as `cuDriverGetVersion` counts."""
    version = "int cuDriverGetVersion(int *version) { *version = 12060; return INIT; }"
    assert driver_cuda_version(make_driver(tmp_path, source=version)) == (12, 6)
    (tmp_path / "bad").mkdir()
    assert driver_cuda_version(make_driver(tmp_path / "bad", init=3, source=version)) is None
    (tmp_path / "none").mkdir()
    assert driver_cuda_version(make_driver(tmp_path / "none", source="int something_else;")) is None
    assert driver_cuda_version(str(tmp_path / "absent.so")) is None
