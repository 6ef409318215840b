from __future__ import annotations

import json
from pathlib import Path

import pytest

from agp_edge import machine

JETSON = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "etc/nvpmodel.conf": "# nvpmodel\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n"
    "< POWER_MODEL ID=2 NAME=15W >\n< PM_CONFIG DEFAULT=2 >\n",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    "CPU variant\t: 0x0\nCPU part\t: 0xd42\n\nprocessor\t: 1\nCPU part\t: 0xd42\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build"
    "  (buildbrain@mobile)  Tue Jan  7 17:35:12 PST 2025\n",
    "proc/meminfo": "MemTotal:       15984892 kB\nMemFree:         9000000 kB\nMemAvailable:   12000000 kB\n",
    "proc/loadavg": "0.52 0.58 0.59 1/597 12345\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1190400\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "729600\n",
    **{f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_min_freq": "729600\n" for n in (0, 1)},
    **{f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_max_freq": "1497600\n" for n in (0, 1)},
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "612000000\n",
}

PC = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD Ryzen 7 5700G with Radeon Graphics\ncpu MHz\t\t: 3792.874\n"
    "\nprocessor\t: 1\nmodel name\t: AMD Ryzen 7 5700G with Radeon Graphics\ncpu MHz\t\t: 1400.000\n",
    "sys/class/dmi/id/sys_vendor": "ASUS\n",
    "sys/class/dmi/id/product_name": "PN53\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  "
    "Thu Oct 19 18:56:32 UTC 2023\nGCC version:  gcc version 12.2.0 (GCC)\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA RTX A2000 12GB\nIRQ:   \t\t 131\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
}


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_jetson_is_read_from_its_files(tmp_path: Path) -> None:
    found = machine.describe_machine(write_tree(tmp_path, JETSON))

    assert found["model"] == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert found["cpu"] == "ARM implementer 0x41 part 0xd42"
    assert found["l4t"] == "36.4.3"
    assert found["power_mode"] == "15W (mode 2)"
    assert found["nvidia_driver"] == "540.4.0"
    assert found["gpus"] == []
    assert found["governor"] == "schedutil"
    assert found["cpu_mhz"] == [729.6, 1190.4]
    assert found["cpu_max_mhz"] == 1497.6
    assert (found["gpu_mhz"], found["gpu_max_mhz"]) == (306.0, 612.0)
    assert found["clocks_pinned"] is False
    assert found["memory_bytes"] == 15984892 * 1024
    assert found["load_average"] == [0.52, 0.58, 0.59]


def test_a_pc_with_a_gpu_and_a_limit_on_cores(tmp_path: Path) -> None:
    found = machine.describe_machine(write_tree(tmp_path, PC))

    assert found["model"] == "ASUS PN53"
    assert found["cpu"] == "AMD Ryzen 7 5700G with Radeon Graphics"
    assert found["cpu_mhz"] == [1400.0, 3792.874]
    assert found["nvidia_driver"] == "535.129.03"
    assert found["gpus"] == ["NVIDIA RTX A2000 12GB"]
    assert found["cpu_quota"] == 1.5
    assert found["l4t"] is found["power_mode"] is found["governor"] is None
    assert found["gpu_mhz"] is found["gpu_max_mhz"] is found["clocks_pinned"] is found["cpu_max_mhz"] is None


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    found = machine.describe_machine(tmp_path)

    assert found["cores_usable"] >= 1
    assert {
        found[key] for key in ("model", "cpu", "cpu_quota", "cpu_mhz", "nvidia_driver", "load_average")
    } == {None}


def test_this_machine_is_described_as_json_without_its_host_name() -> None:
    found = machine.describe_machine()

    assert found["memory_bytes"] > 0
    assert "hostname" not in json.loads(json.dumps(found))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        (
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            2.0,
        ),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    assert machine.describe_machine(write_tree(tmp_path, files))["cpu_quota"] == expected


def test_a_power_mode_without_a_name_keeps_its_number(tmp_path: Path) -> None:
    assert machine.power_mode(write_tree(tmp_path, {"var/lib/nvpmodel/status": "pmode:0008"})) == "mode 8"


@pytest.mark.parametrize(
    "folder",
    [
        "sys/class/devfreq/gpu-gpc-0",
        "sys/class/devfreq/17000000.ga10b",
        "sys/devices/platform/17000000.gpu/devfreq/17000000.gpu",
        "sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu",
    ],
)
def test_the_clock_of_the_gpu_wherever_a_jetpack_puts_it(tmp_path: Path, folder: str) -> None:
    """The places are those that jtop/core/gpu.py and thor_gpu.py of rbonghi/jetson_stats look in, and nvpmodel's own."""
    other = {f"sys/class/devfreq/15340000.vic/{name}_freq": "1\n" for name in ("cur", "min", "max")}
    assert machine.gpu_clock(write_tree(tmp_path, other)) is None
    hertz = {"cur": 306_000_000, "min": 114_750_000, "max": 918_000_000}
    write_tree(tmp_path, {f"{folder}/{name}_freq": f"{value}\n" for name, value in hertz.items()})
    assert machine.gpu_clock(tmp_path) == machine.Clock(306.0, 114.75, 918.0)


def test_half_a_clock_is_none(tmp_path: Path) -> None:
    write_tree(tmp_path, {"sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n"})
    assert machine.gpu_clock(tmp_path) is None
    assert machine.clocks_pinned(tmp_path) is None
