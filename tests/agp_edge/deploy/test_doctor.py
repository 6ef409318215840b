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
from agp_edge.deploy import doctor, nvidia
from agp_edge.deploy.doctor import BUILDS, RUNS, Diagnosis, diagnose
from agp_edge.deploy.findings import SYSTEM_VENV, Check, Modules
from agp_edge.deploy.probes import Probes
from agp_edge.engines import BACKENDS
from tests.agp_edge.deploy.machines import BARE, CARD, ORIN, RTX, THOR, UBUNTU, nothing, only, site
from tests.agp_edge.sources.gst import need

STATES = {"ok", "missing", "not here"}
HEAVY = ("cv2", "onnxruntime", "openvino", "torch", "tensorrt", "tensorrt_rtx", "numpy", "cuda", "pycuda")

MACHINES = {
    "orin": (ORIN, "aarch64", "Orin (compute capability 8.7)", "12.6"),
    "thor": (THOR, "aarch64", "NVIDIA Thor (compute capability 11.0)", "13.0"),
    "rtx": (RTX, "x86_64", "NVIDIA RTX A2000 12GB (compute capability 8.6)", "13.0"),
    "container": (BARE, "x86_64", None, None),
    "half": ({**UBUNTU, **CARD}, "x86_64", None, None),
}


def driver_says(monkeypatch: pytest.MonkeyPatch, gpu: str | None, cuda: str | None) -> None:
    """Stand in for a driver, which is not here."""
    answer = {"gpus": [gpu] if gpu else [], "reason": "" if gpu else "no NVIDIA driver", "cuda": cuda}
    monkeypatch.setitem(doctor._PROBES, "gpu", f"answer = {answer}")


def look(
    root: Path,
    files: dict[str, str],
    find_spec: Any = nothing,
    arch: str = "x86_64",
) -> tuple[Diagnosis, dict[str, Check]]:
    diagnosis = diagnose(site(root, files, find_spec, arch))
    return diagnosis, {check.name: check for check in diagnosis.checks}


def run_doctor(report: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "from agp_edge.cli import main; main()", "doctor", "--json", str(report)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def test_the_command_ends_well_and_writes_json(tmp_path: Path) -> None:
    report = tmp_path / "doctor.json"
    done = run_doctor(report)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["check", "state", "detail"]
    assert "this machine can run: onnxruntime" in done.stdout
    assert max(map(len, lines)) <= 80
    found = json.loads(report.read_text())
    assert set(found) == {"checks", "world", "run", "build", "train", "machine"}
    assert all(set(check) == {"name", "state", "detail", "remedy"} for check in found["checks"])
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert len(states) == len(found["checks"]), "no two checks share a name"
    assert states["Python"] == states["agp-edge"] == states["numpy"] == states["ONNX Runtime"] == "ok"
    assert set(states.values()) <= STATES
    assert "onnxruntime" in found["run"]
    assert found["machine"]["cores_usable"] >= 1
    for check in found["checks"]:
        assert any(line.startswith(check["name"]) for line in lines)


def test_the_command_survives_libraries_that_crash_and_hang(tmp_path: Path) -> None:
    """Real modules on the path, found before the installed ones."""
    path = tmp_path / "path"
    path.mkdir()
    (path / "cv2.py").write_text("import os; os.abort()")
    (path / "openvino.py").write_text("import time; time.sleep(1000)")
    (path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    # None of these may be imported at all.
    for name in (
        "tensorrt_rtx",
        "tensorrt_lean",
        "cuda",
        "pycuda",
        "torch",
        "transformers",
        "gi",
    ):
        (path / f"{name}.py").write_text("import os; os.abort()")
    report = tmp_path / "doctor.json"
    done = run_doctor(report, PYTHONPATH=str(path))

    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = json.loads(report.read_text())
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["OpenCV"]["state"] == checks["OpenVINO"]["state"] == "missing"
    assert checks["OpenCV"]["detail"] == "installed, but importing it failed: died of SIGABRT"
    assert checks["OpenCV"]["remedy"] == "python -c 'import cv2'"
    assert checks["OpenVINO"]["detail"] == "installed, but importing it failed: did not answer"
    assert checks["TensorRT"]["state"] == "missing"
    assert "importing it failed: ImportError: libnvinfer.so.10: cannot" in checks["TensorRT"]["detail"]
    assert checks["TensorRT"]["remedy"] == "python -c 'import tensorrt'"
    assert not {"tensorrt"} & {*found["run"], *found["build"]}
    assert checks["ONNX Runtime"]["state"] == checks["disk"]["state"] == "ok"
    assert found["train"] is False, "training reads images"


def test_nothing_is_imported_into_this_process() -> None:
    code = f"""
import json, sys
import agp_edge.deploy.doctor
at_import = sorted(set({HEAVY}) & set(sys.modules))
agp_edge.deploy.doctor.diagnose()
print(json.dumps([at_import, sorted(set({HEAVY}) & set(sys.modules))]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == [[], []]


def test_every_backend_is_looked_for() -> None:
    assert set(BACKENDS) <= set(BUILDS)
    assert set(RUNS) <= set(BUILDS)


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_is_told_in_80_columns_with_whole_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files, arch, gpu, cuda = MACHINES[name]
    driver_says(monkeypatch, gpu, cuda)
    diagnosis, checks = look(tmp_path, files, arch=arch)
    text = describe_diagnosis(diagnosis)

    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith("train: no")
    assert json.loads(json.dumps(diagnosis.to_dict()))["world"] == "device"
    for check in checks.values():
        assert check.state in STATES
        assert check.remedy is None or f"$ {check.remedy}\n" in text
        assert check.remedy is None or check.state != "not here", "what cannot be had has no command"
    assert checks["NVIDIA GPU"].state == {"container": "not here", "half": "missing"}.get(name, "ok")
    assert ("DLA" in checks) == (name in ("orin", "thor"))


def test_a_bare_machine_is_told_how_to_get_everything(tmp_path: Path) -> None:
    diagnosis, checks = look(tmp_path, BARE)

    assert (diagnosis.world, diagnosis.run, diagnosis.build, diagnosis.train) == ("device", [], [], False)
    assert checks["OpenCV"].remedy == "pip install 'agp-edge[camera]'"
    assert checks["ONNX Runtime"].remedy == "pip install 'agp-edge[onnxruntime]'"
    assert checks["OpenVINO"].remedy == "pip install 'agp-edge[openvino]'"
    assert checks["torch"].remedy == "pip install -e '.[host]'"
    assert checks["cameras"].state == checks["NVIDIA GPU"].state == checks["Jetson"].state == "not here"
    assert diagnosis.summary() == "this machine can run: nothing; build: nothing; train: no"


def test_an_rtx_card_is_built_for_by_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver_says(monkeypatch, "NVIDIA RTX A2000 12GB (compute capability 8.6)", "13.0")
    monkeypatch.setitem(doctor._PROBES, "tensorrt", "answer = {'version': '10.3.0'}")
    monkeypatch.setattr(nvidia, "installed_version", lambda names: "10.3.0")
    diagnosis, _ = look(tmp_path, RTX, only("tensorrt", "tensorrt_rtx"))
    assert diagnosis.build == ["tensorrt", "tensorrt-rtx"]

    monkeypatch.setattr(nvidia, "installed_version", lambda names: "10.2.0")
    assert look(tmp_path, RTX, only("tensorrt"))[0].build == [], "it is too old"


def test_rtx_plans_are_built_without_a_gpu_but_do_not_run(tmp_path: Path) -> None:
    diagnosis, _ = look(tmp_path, BARE, only("tensorrt_rtx"))

    assert (diagnosis.run, diagnosis.build) == ([], ["tensorrt-rtx"])


def test_openvino_says_what_this_cpu_counts_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"version": "2025.3.0", "capabilities": ["WINOGRAD", "FP32", "INT8", "BF16", "EXPORT_IMPORT"]}
    monkeypatch.setitem(doctor._PROBES, "openvino", f"answer = {answer}")
    diagnosis, checks = look(tmp_path, BARE, only("openvino"))

    assert checks["OpenVINO"].detail == "2025.3.0, this CPU counts in FP32, BF16, INT8"
    assert diagnosis.run == diagnosis.build == ["openvino"]


def test_openvino_itself_is_asked() -> None:
    pytest.importorskip("openvino")
    with Probes({"it": doctor._PROBES["openvino"]}) as asked:
        found = asked.answers()["it"]
    assert isinstance(found, dict)
    assert "FP32" in found["capabilities"]


def test_the_driver_is_asked_in_a_process_of_its_own() -> None:
    with Probes({"it": doctor._PROBES["gpu"]}, drivers=("it",)) as asked:
        found = asked.answers()["it"]

    assert isinstance(found, dict)
    assert bool(found["gpus"]) != bool(found["reason"])
    assert bool(found["cuda"]) >= bool(found["gpus"]), "a driver that has a GPU has a version"


JETPACKS_CV2 = {"usr/lib/python3.10/dist-packages/cv2/python-3.10/cv2.cpython-310-aarch64-linux-gnu.so": ""}


def test_an_opencv_is_pip_s_or_jetpack_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No source needs GStreamer in it."""
    get = "pip install 'agp-edge[camera]'"
    for name, files in (("orin", ORIN), ("pc", RTX)):
        check = look(tmp_path / name, files)[1]["OpenCV"]
        assert (check.state, check.remedy) == ("missing", get)
    hidden = look(tmp_path / "hidden", {**ORIN, **JETPACKS_CV2})[1]["OpenCV"]
    assert (hidden.state, hidden.remedy) == ("missing", SYSTEM_VENV)
    assert hidden.detail == "the system's Python has it, this venv does not see it"

    for ffmpeg, detail, remedy in (
        (True, "4.12.0, with FFmpeg", None),
        (False, "4.12.0, without FFmpeg: rtsp:// and video files need it", get),
    ):
        monkeypatch.setitem(doctor._PROBES, "cv2", f"answer = {{'version': '4.12.0', 'FFMPEG': {ffmpeg}}}")
        check = look(tmp_path / "orin", ORIN, only("cv2"))[1]["OpenCV"]
        assert (check.state, check.detail, check.remedy) == ("ok", detail, remedy)


def test_how_opencv_was_built_is_asked() -> None:
    cv2 = pytest.importorskip("cv2")
    with Probes({"it": doctor._PROBES["cv2"]}) as asked:
        found = asked.answers()["it"]
    assert found == {"version": cv2.__version__, "FFMPEG": cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)}


GSTREAMER = {"usr/lib/x86_64-linux-gnu/libgstreamer-1.0.so.0": ""}


def test_gstreamer_is_asked_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin for NVIDIA's cards is in gstreamer1.0-plugins-bad, on machines without a card too."""
    driver_says(monkeypatch, "NVIDIA RTX A2000 12GB (compute capability 8.6)", "13.0")
    monkeypatch.setitem(doctor._PROBES, "gstreamer", "answer = {'nvh264dec': False, 'avdec_h264': True}")
    check = look(tmp_path / "there", {**RTX, **GSTREAMER})[1]["video decoders"]
    assert (check.state, check.remedy) == ("ok", "gst-inspect-1.0 nvh264dec")
    assert check.detail.startswith("avdec_h264; nvh264dec does not open")

    monkeypatch.setitem(doctor._PROBES, "gstreamer", "import os; os.abort()")
    check = look(tmp_path / "there", {**RTX, **GSTREAMER})[1]["video decoders"]
    assert "GStreamer: died of SIGABRT" in check.detail


def test_a_decoder_is_what_opens_here() -> None:
    """GStreamer itself, and a registry of plugins that has to be made first."""
    need("avdec_h264")
    with Probes({"it": doctor._PROBES["gstreamer"]}, drivers=("it",)) as asked:
        found = asked.answers()["it"]
    assert isinstance(found, dict)
    assert found["avdec_h264"] is True
    if not Path("/proc/driver/nvidia/version").exists():
        assert not found.get("nvh264dec")
        assert not found.get("nvv4l2decoder")


def test_numpy_is_of_the_version_that_jetpack_s_opencv_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look(tmp_path / "orin", ORIN)[1]["numpy"].remedy == "pip install 'numpy>=1.24,<2'"
    assert look(tmp_path / "thor", THOR)[1]["numpy"].remedy == "pip install 'numpy>=1.24'"
    assert look(tmp_path / "pc", RTX)[1]["numpy"].remedy == "pip install 'numpy>=1.24'"

    last_words = "numpy.core.multiarray failed to import"
    monkeypatch.setitem(doctor._PROBES, "cv2", f"raise ImportError('{last_words}')")
    check = look(tmp_path / "orin", ORIN, only("cv2"))[1]["OpenCV"]
    assert (check.state, check.remedy) == ("missing", "pip install 'numpy>=1.24,<2'")
    assert check.detail.endswith(f"{last_words}; JetPack's wants numpy 1")
    assert look(tmp_path / "pc", RTX, only("cv2"))[1]["OpenCV"].remedy == "python -c 'import cv2'"


def test_an_orin_whose_tensorrt_drives_no_dla(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver_says(monkeypatch, "Orin (compute capability 8.7)", "13.2")
    library = "usr/lib/aarch64-linux-gnu/libnvinfer.so."
    files = {name: text for name, text in ORIN.items() if not name.startswith(library)}
    assert look(tmp_path / "old", ORIN)[1]["DLA"].state == "ok"
    assert look(tmp_path / "new", {**files, f"{library}10.16.2": ""})[1]["DLA"].state == "missing"


def test_clocks_and_governor_of_the_processor(tmp_path: Path) -> None:
    assert "governor schedutil, at 730 of 1498 MHz" in look(tmp_path, ORIN)[1]["CPU"].detail


def test_a_folder_that_shares_a_library_s_name_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "onnxruntime.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    _, checks = look(tmp_path, BARE, only("onnxruntime"))

    assert checks["ONNX Runtime"].state == "ok"
    assert "CPU" in checks["ONNX Runtime"].detail


def test_packages_elsewhere_called_export_make_no_host() -> None:
    def find_spec(name: str) -> Any:
        if name == "agpnet":
            return importlib.util.find_spec(name)
        return importlib.util.spec_from_file_location(name, f"/elsewhere/{name}/__init__.py")

    assert not Modules(find_spec).has_host()
    assert Modules().has_host()
