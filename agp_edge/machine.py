"""What is known of this machine: the facts that a result file needs to be compared with another.

Only files are read, mostly of /proc and /sys: no command is run and no driver is touched. A fact that the machine
does not tell is None. The host name is left out, because result files are passed on.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/")


@dataclass(frozen=True)
class Clock:
    """A clock that the kernel moves between two limits.

    Attributes:
        now_mhz: where it is.
        least_mhz: the lower limit.
        most_mhz: the upper limit; on a Jetson what the power mode allows.
    """

    now_mhz: float
    least_mhz: float
    most_mhz: float


def read_fact(root: Path, path: str) -> str | None:
    """The text of a small system file below `root`, stripped; None if it is absent, unreadable or empty."""
    try:
        text = (root / path).read_text(errors="replace")
    except OSError:
        return None
    return text.strip("\0 \t\r\n") or None


def describe_machine(root: Path = ROOT) -> dict[str, Any]:
    """The machine and the state it is in now.

    Args:
        root: where `proc`, `sys` and `etc` lie.

    Returns:
        `machine` (architecture), `model`, `kernel`, `cpu`, `cores`, `cores_usable` (by this process), `cpu_quota`
        (cores that a container is limited to), `governor`, `cpu_mhz` ([slowest, fastest] core now), `cpu_max_mhz`
        (what the fastest core may reach), `gpu_mhz` and `gpu_max_mhz` (Jetson), `clocks_pinned` (Jetson),
        `power_mode` (Jetson), `l4t` (Jetson), `nvidia_driver`, `gpus`, `memory_bytes`, `load_average` (1, 5, 15
        minutes).
    """
    memory = memory_bytes(root)
    gpu = gpu_clock(root)
    return {
        "machine": platform.machine(),
        "model": _model(root),
        "kernel": platform.release(),
        "cpu": _cpu(root),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "cpu_quota": _cpu_quota(root),
        "governor": _governor(root),
        "cpu_mhz": _cpu_mhz(root),
        "cpu_max_mhz": _cpu_max_mhz(root),
        "gpu_mhz": gpu.now_mhz if gpu else None,
        "gpu_max_mhz": gpu.most_mhz if gpu else None,
        "clocks_pinned": clocks_pinned(root),
        "power_mode": power_mode(root),
        "l4t": l4t_version(root),
        "nvidia_driver": nvidia_driver(root),
        "gpus": gpu_names(root),
        "memory_bytes": memory[0] if memory else None,
        "load_average": load_average(root),
    }


def memory_bytes(root: Path = ROOT) -> tuple[int, int] | None:
    """Memory as (total, available), in bytes."""
    text = read_fact(root, "proc/meminfo") or ""
    found = dict(re.findall(r"^(MemTotal|MemAvailable):\s+(\d+) kB", text, re.MULTILINE))
    if len(found) < 2:
        return None
    return int(found["MemTotal"]) * 1024, int(found["MemAvailable"]) * 1024


def load_average(root: Path = ROOT) -> list[float] | None:
    """Processes that run or wait to, on average over 1, 5 and 15 minutes."""
    fields = (read_fact(root, "proc/loadavg") or "").split()[:3]
    try:
        return [float(field) for field in fields] or None
    except ValueError:
        return None


def nvidia_driver(root: Path = ROOT) -> str | None:
    """Version of the NVIDIA kernel driver, as in `580.65.06`."""
    text = read_fact(root, "proc/driver/nvidia/version") or ""
    match = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text, re.MULTILINE)
    return match[1] if match else None


def gpu_names(root: Path = ROOT) -> list[str]:
    """NVIDIA GPUs on PCI that the driver knows, in order of bus; the GPU inside a Jetson is not among them."""
    names = []
    for path in sorted(root.glob("proc/driver/nvidia/gpus/*/information")):
        match = re.search(r"^Model:\s*(.+)$", read_fact(path.parent, path.name) or "", re.MULTILINE)
        names.append(match[1].strip() if match else "unknown")
    return names


def l4t_version(root: Path = ROOT) -> str | None:
    """Version of Jetson Linux, as in `36.4.3`; None on anything but a Jetson."""
    text = read_fact(root, "etc/nv_tegra_release") or ""
    match = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else None


def power_mode(root: Path = ROOT) -> str | None:
    """Power mode of a Jetson, as in `25W (mode 1)`: what `nvpmodel` keeps, read without asking for root."""
    match = re.search(r"pmode:(\d+)", read_fact(root, "var/lib/nvpmodel/status") or "")
    if not match:
        return None
    number = int(match[1])
    names = re.findall(
        r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>",
        read_fact(root, "etc/nvpmodel.conf") or "",
        re.MULTILINE,
    )
    name = {int(mode): name for mode, name in names}.get(number)
    return f"{name} (mode {number})" if name else f"mode {number}"


def gpu_clock(root: Path = ROOT) -> Clock | None:
    """Clock of the GPU inside a Jetson; None elsewhere, where only the driver's own tools tell."""
    for pattern in _GPU_DEVFREQ:
        for folder in sorted(root.glob(pattern)):
            hertz = [_number(folder, f"{name}_freq") for name in ("cur", "min", "max")]
            if None not in hertz:
                return Clock(*(value / 1e6 for value in hertz if value is not None))
    return None


_GPU_DEVFREQ = (
    "sys/class/devfreq/gpu-gpc-0",  # Thor, whose graphics clusters and video engines have a clock each
    "sys/class/devfreq/*.gpu",  # Orin with JetPack 6 and later
    "sys/class/devfreq/*.ga10b",  # Orin with JetPack 5
    "sys/devices/platform/*.gpu/devfreq/*",
    "sys/devices/platform/bus@0/*.gpu/devfreq/*",
)


def clocks_pinned(root: Path = ROOT) -> bool | None:
    """Whether a Jetson's GPU and cores are held at one frequency each, as `jetson_clocks` does; None elsewhere.

    The memory's clock is not looked at: only root can read it.
    """
    gpu = gpu_clock(root)
    if gpu is None:
        return None
    limits = [(gpu.least_mhz, gpu.most_mhz)]
    for folder in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
        least, most = (_number(folder, f"scaling_{name}_freq") for name in ("min", "max"))
        if least is not None and most is not None and read_fact(folder.parent, "online") != "0":
            limits.append((least, most))
    return all(least == most for least, most in limits)


def _number(folder: Path, name: str) -> int | None:
    text = read_fact(folder, name) or ""
    return int(text) if text.isdigit() else None


def _model(root: Path) -> str | None:
    board = read_fact(root, "proc/device-tree/model")
    if board:
        return board
    parts = [read_fact(root, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    return " ".join(part for part in parts if part) or None


def _cpu(root: Path) -> str | None:
    fields = re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", read_fact(root, "proc/cpuinfo") or "", re.MULTILINE)
    first: dict[str, str] = {}
    for name, value in fields:
        first.setdefault(name, value.strip())
    if first.get("model name"):
        return first["model name"]
    if "CPU part" in first:
        # ARM kernels give numbers only; the names are in a table of util-linux that changes with every core.
        return f"ARM implementer {first.get('CPU implementer', '?')} part {first['CPU part']}"
    return None


def _cpu_quota(root: Path) -> float | None:
    modern = (read_fact(root, "sys/fs/cgroup/cpu.max") or "").split()
    older = [read_fact(root, f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    for quota, period in (fields for fields in (modern, older) if len(fields) == 2):
        if quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
    return None


def _governor(root: Path) -> str | None:
    paths = root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    found = {read_fact(path.parent, path.name) for path in paths} - {None}
    return ", ".join(sorted(str(name) for name in found)) or None


def _cpu_mhz(root: Path) -> list[float] | None:
    paths = root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    texts = [read_fact(path.parent, path.name) or "" for path in paths]
    mhz = [int(text) / 1000 for text in texts if text.isdigit()]
    if not mhz:
        mhz = [
            float(value)
            for value in re.findall(
                r"^cpu MHz\s*:\s*([\d.]+)$", read_fact(root, "proc/cpuinfo") or "", re.MULTILINE
            )
        ]
    return [min(mhz), max(mhz)] if mhz else None


def _cpu_max_mhz(root: Path) -> float | None:
    folders = root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq")
    found = [
        kilohertz for folder in folders if (kilohertz := _number(folder, "scaling_max_freq")) is not None
    ]
    return max(found) / 1000 if found else None
