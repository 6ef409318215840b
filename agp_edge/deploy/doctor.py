"""What this machine can do, and how to get the rest.

Nothing here may crash or hang on a machine that is half set up, so no library is imported into this process: modules
are found without running them, versions come from their metadata, hardware from files. What only a library itself
can tell (how OpenCV was built, what ONNX Runtime runs on, whether TensorRT finds its libraries) is asked in a process
of its own.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agp_edge import __version__
from agp_edge.deploy.findings import SYSTEM_VENV, Check, Site, installed_version
from agp_edge.deploy.jetson import check_jetson
from agp_edge.deploy.nvidia import (
    Answer,
    check_bindings,
    check_cuda,
    check_gpu,
    check_tensorrt,
    has_driver,
    tensorrt_version,
)
from agp_edge.deploy.probes import Probes
from agp_edge.deploy.video import GSTREAMER_PROBE, check_cameras, check_decoders, check_gige
from agp_edge.machine import describe_machine, memory_bytes

HOST_REMEDY = "pip install -e '.[host]'"

_PROBES = {
    "cv2": """
import cv2, re
answer = {"version": cv2.__version__, "FFMPEG": bool(re.search(r"^ *FFMPEG: +YES", cv2.getBuildInformation(), re.M))}
""",
    "onnxruntime": """
import onnxruntime
answer = {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}
""",
    "openvino": """
import openvino
found = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
answer = {"version": openvino.__version__.split("-")[0], "capabilities": list(found)}
""",
    "tensorrt": """
import tensorrt
answer = {"version": tensorrt.__version__}
""",
    "gstreamer": GSTREAMER_PROBE,
    # By its path: the package around it would bring numpy.
    "gpu": f"""
import runpy
driver = runpy.run_path({str(Path(__file__).parents[1] / "engines" / "gpu.py")!r})
gpus, reason = driver["probe_gpus"]()
cuda = driver["driver_cuda_version"]()
answer = {{
    "gpus": [f"{{gpu.name}} (compute capability {{gpu.compute_capability}})" for gpu in gpus],
    "reason": reason,
    "cuda": cuda and ".".join(map(str, cuda)),
}}
""",
}

DRIVERS = ("gpu", "gstreamer")
"""Those that ask no module of Python but the system's drivers."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        checks: in the order to print them.
        world: `host` where training and export can be imported, else `device`.
        run: backends whose engines run here.
        build: backends that engines can be built for here.
        train: whether a network can be trained here.
        machine: as `describe_machine`.
    """

    checks: list[Check]
    world: Literal["host", "device"]
    run: list[str]
    build: list[str]
    train: bool
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `doctor --json`."""
        return asdict(self)

    def summary(self) -> str:
        """What this machine can do, in a sentence."""
        return (
            f"this machine can run: {', '.join(self.run) or 'nothing'}; "
            f"build: {', '.join(self.build) or 'nothing'}; train: {'yes' if self.train else 'no'}"
        )


def diagnose(site: Site | None = None) -> Diagnosis:
    """Look at a machine; a second at most, unless a library works longer than that to import. Nothing missing is an error.

    Args:
        site: where its files lie and what is installed; None is this machine.
    """
    site = site or Site()
    # They start together, and the files are read meanwhile: the probes are what takes time.
    questions = {
        name: code for name, code in _PROBES.items() if name not in DRIVERS and site.modules.has(name)
    }
    if has_driver(site):
        questions["gpu"] = _PROBES["gpu"]
    if site.libraries("libgstreamer-1.0.so.0"):
        questions["gstreamer"] = _PROBES["gstreamer"]
    with Probes(questions, drivers=DRIVERS) as probes:
        machine = describe_machine(site.root)
        jetson = check_jetson(site, tensorrt_version(site))
        cameras = [check_cameras(site), check_gige(site)]
        answers = probes.answers()
    return _conclude(site, answers, machine, jetson, cameras)


def _conclude(
    site: Site,
    answers: Mapping[str, dict[str, Any] | str],
    machine: dict[str, Any],
    jetson: list[Check],
    cameras: list[Check],
) -> Diagnosis:
    world: Literal["host", "device"] = "host" if site.modules.has_host() else "device"
    gpu = check_gpu(site, answers.get("gpu"))
    tensorrt = check_tensorrt(site, gpu, answers.get("tensorrt"))
    host = [_host_module(site, name, purpose) for name, purpose in _HOST_MODULES.items()]
    cv2 = _opencv(site, answers.get("cv2"))
    ort = _onnxruntime(answers.get("onnxruntime"))
    openvino = _openvino(answers.get("openvino"))
    checks = [
        _python(),
        Check("agp-edge", "ok", f"{__version__}, {_WORLDS[world]}"),
        _numpy(site),
        cv2,
        ort,
        openvino,
        gpu,
        check_cuda(site, gpu, answers.get("gpu")),
        check_bindings(site, gpu, answers.get("gpu")),
        *tensorrt,
        *jetson,
        *host,
        *cameras,
        check_decoders(site, _has(answers.get("cv2"), "FFMPEG"), gpu.state == "ok", answers.get("gstreamer")),
        _cpu(site, machine),
        _memory(site),
        _disk(),
    ]
    good = {check.name for check in checks if check.state == "ok"}
    return Diagnosis(
        checks=checks,
        world=world,
        run=[backend for backend, needs in RUNS.items() if needs <= good],
        build=[backend for backend, needs in BUILDS.items() if needs <= good],
        train=world == "host" and {"torch", "OpenCV"} <= good,
        machine=machine,
    )


RUNS = {
    "onnxruntime": {"ONNX Runtime"},
    "openvino": {"OpenVINO"},
    "tensorrt": {"TensorRT", "NVIDIA GPU", "CUDA in Python"},
    "tensorrt-rtx": {"TensorRT-RTX", "NVIDIA GPU", "CUDA in Python"},
}
"""Backend -> the checks that must be good for its engines to run here."""

BUILDS = {
    "onnxruntime": {"ONNX Runtime"},
    "openvino": {"OpenVINO"},
    "tensorrt": {"TensorRT", "NVIDIA GPU"},
    # Ahead of time, for a GPU that may be elsewhere.
    "tensorrt-rtx": {"TensorRT-RTX"},
}
"""Backend -> the checks that must be good for its engines to be built here."""

_WORLDS = {
    "host": "a host: training and export are here",
    "device": "a device: training and export are on a host, in a checkout of agp-edge",
}

_HOST_MODULES = {
    "torch": "training",
    "transformers": "vision-transformer backbones",
    "onnx": "export and calibration",
}
"""Module -> what needs it."""


def _host_module(site: Site, module: str, purpose: str) -> Check:
    if not site.modules.has(module):
        return Check(module, "missing", f"needed for {purpose}", HOST_REMEDY)
    return Check(module, "ok", installed_version((module,)) or "version unknown")


def _numpy(site: Site) -> Check:
    if not site.modules.has("numpy"):
        return Check("numpy", "missing", "needed for arithmetic", _get_numpy(site))
    return Check("numpy", "ok", installed_version(("numpy",)) or "version unknown")


def _get_numpy(site: Site) -> str:
    # JetPack 6's OpenCV is built with numpy 1 and does not import beside numpy 2.
    return f"pip install 'numpy>=1.24{',<2' if site.is_jetpack_6 else ''}'"


def _python() -> Check:
    good = (3, 10) <= sys.version_info[:2] <= (3, 13)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check(
        "Python", "ok" if good else "missing", detail if good else f"{detail}; 3.10 to 3.13 are tested"
    )


def _opencv(site: Site, answer: Answer) -> Check:
    if answer is None and site.is_jetson and site.in_system_python("cv2*"):
        return Check(
            "OpenCV", "missing", "the system's Python has it, this venv does not see it", SYSTEM_VENV
        )
    if not isinstance(answer, dict):
        check = _library(
            "OpenCV", "cv2", answer, "images, videos and cameras", "pip install 'agp-edge[camera]'"
        )
        # Its last words are "numpy.core.multiarray failed to import".
        if answer and "numpy" in answer and site.is_jetpack_6:
            return replace(check, detail=f"{check.detail}; JetPack's wants numpy 1", remedy=_get_numpy(site))
        return check
    if answer.get("FFMPEG"):
        return Check("OpenCV", "ok", f"{answer['version']}, with FFmpeg")
    detail = f"{answer['version']}, without FFmpeg: rtsp:// and video files need it"
    return Check("OpenCV", "ok", detail, "pip install 'agp-edge[camera]'")


def _onnxruntime(answer: Answer) -> Check:
    get = "pip install 'agp-edge[onnxruntime]'"
    if not isinstance(answer, dict):
        return _library("ONNX Runtime", "onnxruntime", answer, "building and running engines on the CPU", get)
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in answer["providers"])
    return Check("ONNX Runtime", "ok", f"{answer['version']}, providers: {providers}")


def _openvino(answer: Answer) -> Check:
    get = "pip install 'agp-edge[openvino]'"
    if not isinstance(answer, dict):
        return _library("OpenVINO", "openvino", answer, "building and running its engines on the CPU", get)
    known = [name for name in ("FP32", "FP16", "BF16", "INT8") if name in answer["capabilities"]]
    return Check("OpenVINO", "ok", f"{answer['version']}, this CPU counts in {', '.join(known)}")


def _library(name: str, module: str, answer: str | None, purpose: str, get: str) -> Check:
    """A library that gave no answer: it is not installed, or it does not import."""
    if answer is None:
        return Check(name, "missing", f"needed for {purpose}", get)
    # Installing it again may mend it or not; its own words are what tells.
    return Check(
        name, "missing", f"installed, but importing it failed: {answer}", f"python -c 'import {module}'"
    )


def _has(answer: Answer, name: str) -> bool:
    return isinstance(answer, dict) and bool(answer.get(name))


def _cpu(site: Site, machine: Mapping[str, Any]) -> Check:
    parts = [machine["cpu"] or site.arch, f"{machine['cores_usable']} cores usable"]
    if machine["cpu_quota"] is not None:
        parts.append(f"limited to {machine['cpu_quota']:g}")
    if machine["governor"]:
        parts.append(f"governor {machine['governor']}")
    if machine["cpu_mhz"]:
        slowest, fastest = (round(mhz) for mhz in machine["cpu_mhz"])
        now = str(fastest) if slowest == fastest else f"{slowest} to {fastest}"
        most = f" of {machine['cpu_max_mhz']:.0f}" if machine["cpu_max_mhz"] else ""
        parts.append(f"at {now}{most} MHz")
    return Check("CPU", "ok", ", ".join(parts))


def _memory(site: Site) -> Check:
    found = memory_bytes(site.root)
    if found is None:
        return Check("memory", "not here", "no /proc/meminfo")
    total, available = found
    return Check("memory", "ok", f"{_gib(available)} of {_gib(total)} GiB free")


def _disk() -> Check:
    usage = shutil.disk_usage(Path.cwd())
    return Check("disk", "ok", f"{_gib(usage.free)} of {_gib(usage.total)} GiB free in this folder")


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"
