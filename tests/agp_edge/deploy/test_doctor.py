from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agp_edge.cli.device import describe_diagnosis
from agp_edge.deploy import doctor
from agp_edge.deploy.doctor import Check, Diagnosis, diagnose

ORIN = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "var/lib/nvpmodel/status": "pmode:0001\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=25W >\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
}
RTX = {
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def rtx_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that offers a card."""
    answer = {"gpus": ["NVIDIA RTX A2000 12GB (compute capability 8.6)"], "reason": ""}
    monkeypatch.setitem(doctor._PROBES, "gpu", f"answer = {answer}")


def nothing(name: str) -> None:
    return None


def only(*names: str) -> Any:
    """A machine on which these modules are installed, as far as they are here, and no other."""
    return lambda name: importlib.util.find_spec("json") if name in names else None


def look(root: Path, find_spec: Any = nothing) -> tuple[Diagnosis, dict[str, Check]]:
    diagnosis = diagnose(root, find_spec)
    return diagnosis, {check.name: check for check in diagnosis.checks}


def test_the_command_ends_well_and_writes_json(tmp_path: Path) -> None:
    report = tmp_path / "doctor.json"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from agp_edge.cli import main; main()", "doctor", "--json", str(report)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].split() == ["check", "state", "detail"]
    assert done.stdout.splitlines()[-1].lstrip().startswith(("this machine can", "build", "train"))
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = json.loads(report.read_text())
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert states["Python"] == states["agp-edge"] == states["numpy"] == states["ONNX Runtime"] == "ok"
    assert set(states.values()) <= {"ok", "missing", "not here"}
    assert "onnxruntime" in found["run"]
    assert found["machine"]["cores_usable"] >= 1


def test_nothing_is_imported_into_this_process() -> None:
    code = (
        "import sys; from agp_edge.deploy.doctor import diagnose; diagnose(); "
        "sys.exit(sorted({'cv2', 'onnxruntime', 'torch', 'tensorrt', 'tensorrt_rtx', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stderr.strip() == "[]"


def test_a_bare_machine_is_told_how_to_get_everything(tmp_path: Path) -> None:
    diagnosis, checks = look(tmp_path)

    assert (diagnosis.world, diagnosis.run, diagnosis.build, diagnosis.train) == ("device", [], [], False)
    assert checks["OpenCV"].remedy == "pip install 'agp-edge[camera]'"
    assert checks["ONNX Runtime"].remedy == "pip install 'agp-edge[onnxruntime]'"
    assert checks["torch"].remedy == "pip install -e '.[host]'"
    assert checks["cameras"].state == checks["NVIDIA GPU"].state == checks["Jetson"].state == "not here"
    assert diagnosis.summary() == "this machine can run: nothing; build: nothing; train: no"


def test_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        doctor._PROBES, "gpu", "answer = {'gpus': ['Orin (compute capability 8.7)'], 'reason': ''}"
    )
    _, checks = look(tree(tmp_path, ORIN))

    assert checks["Jetson"] == Check(
        "Jetson", "ok",
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit, L4T 36.4.3, power mode 25W (mode 1)",
    )  # fmt: skip
    assert checks["NVIDIA GPU"].detail == "Orin (compute capability 8.7), driver 540.4.0"
    assert checks["TensorRT"].remedy == "sudo apt install python3-libnvinfer"


def test_an_old_jetson_is_told_which_jetpack_it_needs(tmp_path: Path) -> None:
    release = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n"
    _, checks = look(tree(tmp_path, {"etc/nv_tegra_release": release}))

    assert checks["Jetson"].state == "missing"
    assert "L4T 35.4.1" in checks["Jetson"].detail
    assert "JetPack 6.1" in checks["Jetson"].detail


@pytest.mark.usefixtures("rtx_card")
def test_an_rtx_card_is_built_for_by_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda names: "10.3.0")
    diagnosis, checks = look(tree(tmp_path, RTX), only("tensorrt", "tensorrt_rtx"))

    assert checks["NVIDIA GPU"] == Check(
        "NVIDIA GPU", "ok", "NVIDIA RTX A2000 12GB (compute capability 8.6), driver 580.65.06"
    )
    assert diagnosis.build == ["tensorrt", "tensorrt-rtx"]


def test_rtx_plans_are_built_without_a_gpu_but_do_not_run(tmp_path: Path) -> None:
    diagnosis, _ = look(tmp_path, only("tensorrt_rtx"))

    assert (diagnosis.run, diagnosis.build) == ([], ["tensorrt-rtx"])


@pytest.mark.usefixtures("rtx_card")
@pytest.mark.parametrize("version", ["8.6.2", "10.2.0.19"])
def test_a_tensorrt_that_is_too_old_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda names: version)
    diagnosis, checks = look(tree(tmp_path, RTX), only("tensorrt"))

    assert checks["TensorRT"].state == "missing"
    assert f"{version} is too old" in checks["TensorRT"].detail
    assert diagnosis.build == []


def test_a_card_without_its_driver(tmp_path: Path) -> None:
    card = "sys/bus/pci/devices/0000:01:00.0"
    _, checks = look(tree(tmp_path, {f"{card}/vendor": "0x10de\n", f"{card}/class": "0x030000\n"}))

    assert (checks["NVIDIA GPU"].state, checks["NVIDIA GPU"].remedy) == (
        "missing",
        "sudo ubuntu-drivers install",
    )


def test_a_container_that_was_given_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"gpus": [], "reason": "no NVIDIA driver (libcuda.so.1: cannot open)"}
    monkeypatch.setitem(doctor._PROBES, "gpu", f"answer = {answer}")
    _, checks = look(tree(tmp_path, RTX))

    assert checks["NVIDIA GPU"].state == "missing"
    assert "libcuda.so.1" in checks["NVIDIA GPU"].detail
    assert "--gpus all" in checks["NVIDIA GPU"].detail


def test_the_driver_is_asked_in_a_process_of_its_own() -> None:
    found = doctor._answer(doctor._start(doctor._PROBES["gpu"]))

    assert isinstance(found, dict)
    assert bool(found["gpus"]) != bool(found["reason"])


def test_cameras_are_named_in_order(tmp_path: Path) -> None:
    files = {f"dev/video{n}": "" for n in (10, 2)} | {"sys/class/video4linux/video2/name": "HD Webcam\n"}
    _, checks = look(tree(tmp_path, files))

    assert checks["cameras"] == Check("cameras", "ok", "/dev/video2 (HD Webcam), /dev/video10")


def test_a_camera_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    _, checks = look(tree(tmp_path, {"dev/video0": ""}))

    assert checks["cameras"].state == "missing"
    assert checks["cameras"].remedy == 'sudo usermod -aG video "$USER"'


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('libGL.so.1: cannot open')", "does not import: ImportError: libGL.so.1"),
        ("import os; os.abort()", "does not import: exit code -6"),
        ("import time; time.sleep(60)", "more than"),
    ],
)
def test_a_library_that_crashes_or_hangs_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    monkeypatch.setitem(doctor._PROBES, "cv2", code)
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.5 if "sleep" in code else 60)
    _, checks = look(tmp_path, only("cv2"))

    assert checks["OpenCV"].state == "missing"
    assert words in checks["OpenCV"].detail


def test_a_folder_that_shares_a_library_s_name_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "onnxruntime.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    _, checks = look(tmp_path, only("onnxruntime"))

    assert checks["ONNX Runtime"].state == "ok"
    assert "CPU" in checks["ONNX Runtime"].detail


def test_packages_elsewhere_called_export_make_no_host() -> None:
    def find_spec(name: str) -> Any:
        if name == "agpnet":
            return importlib.util.find_spec(name)
        return importlib.util.spec_from_file_location(name, f"/elsewhere/{name}/__init__.py")

    assert not doctor._Modules(find_spec).has_host()
    assert doctor._Modules(importlib.util.find_spec).has_host()


def test_what_is_printed_fits_80_columns_and_keeps_commands_whole(tmp_path: Path) -> None:
    diagnosis, checks = look(tree(tmp_path, ORIN))
    text = describe_diagnosis(diagnosis)

    assert max(map(len, text.splitlines())) <= 80
    for check in checks.values():
        assert check.remedy is None or f"$ {check.remedy}" in text
    assert text.endswith("train: no")
