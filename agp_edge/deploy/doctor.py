"""What this machine can do, and how to get the rest.

Nothing here may crash or hang on a machine that is half set up, so no library is imported into this process: modules
are found without running them, versions come from their metadata, hardware from files. What only a library itself
can tell (how OpenCV was built, what ONNX Runtime runs on) is asked in a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from agp_edge import __version__
from agp_edge.machine import (
    ROOT,
    describe_machine,
    l4t_version,
    memory_bytes,
    nvidia_driver,
    power_mode,
    read_fact,
)

State = Literal["ok", "missing", "not here"]
FindSpec = Callable[[str], Any]

PROBE_SECONDS = 20
MIN_TENSORRT = (10, 3)
MIN_L4T = (36, 4)
HOST_REMEDY = "pip install -e '.[host]'"

_PROBES = {
    "cv2": """
import cv2, re
info = cv2.getBuildInformation()
built = {k: v == "YES" for k, v in re.findall(r"^ *(GStreamer|FFMPEG): +(YES|NO)", info, re.M)}
answer = {"version": cv2.__version__, **built}
""",
    "onnxruntime": """
import onnxruntime
answer = {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}
""",
    "gpu": f"""
sys.path.append({str(Path(__file__).parents[2])!r})
from agp_edge.engines.gpu import probe_gpus
gpus, reason = probe_gpus()
answer = {{"gpus": [f"{{gpu.name}} (compute capability {{gpu.compute_capability}})" for gpu in gpus], "reason": reason}}
""",
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked for.

    Attributes:
        name: what it is.
        state: `ok`; `missing`, it could be had; `not here`, this machine has no such thing.
        detail: a version, a name, or why.
        remedy: the command that gets it, or None.
    """

    name: str
    state: State
    detail: str
    remedy: str | None = None


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


def diagnose(root: Path = ROOT, find_spec: FindSpec = importlib.util.find_spec) -> Diagnosis:
    """Look at this machine; well below a second, and nothing that is missing is an error.

    Args:
        root: where `proc`, `sys`, `dev` and `etc` lie.
        find_spec: how modules are found.
    """
    modules = _Modules(find_spec)
    # They start together, and only then is any of them read: they are what takes time.
    probes = {name: _start(_PROBES[name]) for name in ("cv2", "onnxruntime") if modules.has(name)}
    if nvidia_driver(root) or l4t_version(root):
        probes["gpu"] = _start(_PROBES["gpu"])
    gpu = _gpu(root, probes.get("gpu"))
    jetson = _jetson(root)
    tensorrt = _tensorrt(modules, gpu, jetson)
    rtx = _tensorrt_rtx(modules)
    world: Literal["host", "device"] = "host" if modules.has_host() else "device"
    host = [_module(modules, *wanted) for wanted in _HOST_MODULES]
    cv2 = _opencv(probes.get("cv2"))
    ort = _onnxruntime(probes.get("onnxruntime"))

    builds = {
        "onnxruntime": ort.state == "ok",
        "tensorrt": gpu.state == tensorrt.state == "ok",
        # Ahead of time, for a GPU that may be elsewhere.
        "tensorrt-rtx": rtx.state == "ok",
    }
    torch_ok = host[0].state == "ok"
    checks = [
        _python(),
        Check("agp-edge", "ok", f"{__version__}, {_WORLDS[world]}"),
        _module(modules, "numpy", "numpy", ("numpy",), "arithmetic", "pip install 'numpy>=1.24'"),
        cv2,
        ort,
        tensorrt,
        rtx,
        gpu,
        jetson,
        *host,
        _cameras(root),
        _memory(root),
        _disk(),
    ]
    return Diagnosis(
        checks=checks,
        world=world,
        run=["onnxruntime"] if ort.state == "ok" else [],
        build=[name for name, can in builds.items() if can],
        train=world == "host" and torch_ok and cv2.state == "ok",
        machine=describe_machine(root),
    )


_WORLDS = {
    "host": "a host: training and export are here",
    "device": "a device: training and export are on a host, in a checkout of agp-edge",
}

_HOST_MODULES: list[tuple[str, str, tuple[str, ...], str, str]] = [
    ("torch", "torch", ("torch",), "training", HOST_REMEDY),
    ("transformers", "transformers", ("transformers",), "vision-transformer backbones", HOST_REMEDY),
    ("onnx", "onnx", ("onnx",), "export and calibration", HOST_REMEDY),
]
"""Name, module, distributions, what needs it, how to get it."""


class _Modules:
    """What is installed, found without importing it."""

    def __init__(self, find_spec: FindSpec) -> None:
        self._find_spec = find_spec

    def find(self, name: str) -> Any:
        try:
            return self._find_spec(name)
        except (ImportError, ValueError):
            return None

    def has(self, name: str) -> bool:
        return self.find(name) is not None

    def has_host(self) -> bool:
        # `export` and `calib` are common names: only those beside agpnet are ours.
        specs = [self.find(name) for name in ("agpnet", "export", "calib")]
        origins = {
            str(Path(spec.origin).parent.parent) if spec is not None and spec.origin else None
            for spec in specs
        }
        return len(origins) == 1 and None not in origins


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _module(
    modules: _Modules, name: str, module: str, distributions: tuple[str, ...], purpose: str, remedy: str
) -> Check:
    if not modules.has(module):
        return Check(name, "missing", f"needed for {purpose}", remedy)
    return Check(name, "ok", _version(distributions) or "version unknown")


def _start(code: str) -> subprocess.Popen[str]:
    # Without the current folder on the path: a folder called like a library is not the library.
    program = f"import json, sys\nsys.path = [p for p in sys.path if p]\n{code}\nprint(json.dumps(answer))"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _answer(probe: subprocess.Popen[str]) -> dict[str, Any] | str:
    """What a probe found, or in a few words how it failed."""
    with probe:
        try:
            out, error = probe.communicate(timeout=PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            probe.kill()
            return f"its import took more than {PROBE_SECONDS} s"
    if probe.returncode:
        last = (error.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        return f"installed, but it does not import: {last[:200]}"
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def _python() -> Check:
    good = (3, 10) <= sys.version_info[:2] <= (3, 13)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check(
        "Python", "ok" if good else "missing", detail if good else f"{detail}; 3.10 to 3.13 are tested"
    )


def _opencv(probe: subprocess.Popen[str] | None) -> Check:
    remedy = "pip install 'agp-edge[camera]'"
    if probe is None:
        return Check("OpenCV", "missing", "needed for images, videos and cameras", remedy)
    found = _answer(probe)
    if isinstance(found, str):
        return Check("OpenCV", "missing", found, remedy)
    parts = [f"with{'' if found.get(name) else 'out'} {label}" for name, label in _OPENCV_PARTS]
    detail = f"{found['version']}, {', '.join(parts)}"
    if found.get("GStreamer"):
        return Check("OpenCV", "ok", detail)
    return Check(
        "OpenCV",
        "ok",
        f"{detail} (a csi:// camera needs it: the system's own OpenCV, in a venv with --system-site-packages)",
        "sudo apt install python3-opencv",
    )


_OPENCV_PARTS = (("FFMPEG", "FFmpeg"), ("GStreamer", "GStreamer"))


def _onnxruntime(probe: subprocess.Popen[str] | None) -> Check:
    remedy = "pip install 'agp-edge[onnxruntime]'"
    if probe is None:
        return Check("ONNX Runtime", "missing", "needed to build and run engines on the CPU", remedy)
    found = _answer(probe)
    if isinstance(found, str):
        return Check("ONNX Runtime", "missing", found, remedy)
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in found["providers"])
    return Check("ONNX Runtime", "ok", f"{found['version']}, providers: {providers}")


def _tensorrt(modules: _Modules, gpu: Check, jetson: Check) -> Check:
    least = ".".join(map(str, MIN_TENSORRT))
    on_jetson = jetson.state != "not here"
    remedy = "sudo apt install python3-libnvinfer" if on_jetson else f"pip install 'tensorrt>={least}'"
    if not modules.has("tensorrt"):
        if gpu.state == "not here":
            return Check("TensorRT", "not here", "needs an NVIDIA GPU")
        hint = ", then a venv with --system-site-packages" if on_jetson else ""
        return Check("TensorRT", "missing", f"needed to build engines for this GPU{hint}", remedy)
    version = _version(("tensorrt", "tensorrt-cu13", "tensorrt-cu12"))
    match = re.match(r"(\d+)\.(\d+)", version or "")
    if match and (int(match[1]), int(match[2])) < MIN_TENSORRT:
        return Check("TensorRT", "missing", f"{version} is too old, {least} or later is needed", remedy)
    where = "" if gpu.state == "ok" else "; without a GPU it does not build"
    return Check("TensorRT", "ok", f"{version or 'version unknown'}{where}")


def _tensorrt_rtx(modules: _Modules) -> Check:
    if modules.has("tensorrt_rtx"):
        version = _version(("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"))
        return Check("TensorRT-RTX", "ok", f"{version or 'version unknown'}, builds plans without a GPU too")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Check(
            "TensorRT-RTX", "not here", f"there is none for {platform.system()} {platform.machine()}"
        )
    purpose = "needed to build plans for RTX GPUs, with or without one here"
    return Check("TensorRT-RTX", "missing", purpose, "pip install 'agp-edge[tensorrt-rtx]'")


def _gpu(root: Path, probe: subprocess.Popen[str] | None) -> Check:
    name = "NVIDIA GPU"
    if probe is None:
        if _nvidia_on_pci(root):
            return Check(name, "missing", "a card is there, its driver is not", "sudo ubuntu-drivers install")
        return Check(name, "not here", "no NVIDIA card on PCI, no driver")
    loaded = f"driver {nvidia_driver(root) or 'of L4T'}"
    found = _answer(probe)
    if isinstance(found, str):
        return Check(name, "missing", f"{loaded} is loaded; asking it failed: {found}")
    if not found["gpus"]:
        # The host's /proc shows through in a container that was given no GPU.
        hint = "a container needs --gpus all, or --runtime nvidia"
        return Check(name, "missing", f"{loaded} is loaded, but {found['reason']}; {hint}")
    return Check(name, "ok", f"{', '.join(found['gpus'])}, {loaded}")


def _nvidia_on_pci(root: Path) -> bool:
    return any(
        read_fact(device, "vendor") == "0x10de" and (read_fact(device, "class") or "").startswith("0x03")
        for device in root.glob("sys/bus/pci/devices/*")
    )


def _jetson(root: Path) -> Check:
    l4t = l4t_version(root)
    if l4t is None:
        return Check("Jetson", "not here", "no /etc/nv_tegra_release")
    model = read_fact(root, "proc/device-tree/model") or "unknown model"
    mode = power_mode(root)
    detail = f"{model}, L4T {l4t}" + (f", power mode {mode}" if mode else "")
    if tuple(int(part) for part in l4t.split(".")[:2]) < MIN_L4T:
        return Check(
            "Jetson", "missing", f"{detail}; its TensorRT is too old: JetPack 6.1 (L4T 36.4) or later"
        )
    return Check("Jetson", "ok", detail)


def _cameras(root: Path) -> Check:
    devices = sorted(root.glob("dev/video[0-9]*"), key=lambda path: (len(path.name), path.name))
    if not devices:
        return Check("cameras", "not here", "no /dev/video*; a network camera or a file needs none")
    named = []
    for device in devices:
        title = read_fact(root, f"sys/class/video4linux/{device.name}/name")
        named.append(f"/dev/{device.name}" + (f" ({title})" if title else ""))
    closed = [device for device in devices if not os.access(device, os.R_OK | os.W_OK)]
    if closed:
        detail = f"{', '.join(named)}; this user may not open {', '.join(path.name for path in closed)}"
        return Check("cameras", "missing", detail, 'sudo usermod -aG video "$USER"')
    return Check("cameras", "ok", ", ".join(named))


def _memory(root: Path) -> Check:
    found = memory_bytes(root)
    if found is None:
        return Check("memory", "not here", "no /proc/meminfo")
    total, available = found
    return Check("memory", "ok", f"{_gib(available)} of {_gib(total)} GiB free")


def _disk() -> Check:
    usage = shutil.disk_usage(Path.cwd())
    return Check("disk", "ok", f"{_gib(usage.free)} of {_gib(usage.total)} GiB free in this folder")


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f}"
