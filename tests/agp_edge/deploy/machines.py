"""Machines as file trees, for doctor to look at.

None of these machines is here; their files are laid out and worded as public sources show them:

- Orin, names of clocks: `/sys/class/devfreq/17000000.gpu` in rbonghi/jetson_stats, jtop/core/gpu.py; cores of the DLA below
  `/sys/devices/platform/bus@0/13e00000.host1x/15880000.nvdla0`, as `nvpmodel --verbose` prints it on JetPack 6, and
  `bus@0/host1x@13e00000/nvdla0@15880000` in the device tree of tegra234.
- Thor: `/sys/class/devfreq/gpu-gpc-0` in jtop/core/thor_gpu.py; the first line of `nv_tegra_release` and the modes of
  nvpmodel.conf as its developer kit with JetPack 7 has them. Thor has no DLA, so no device is called nvdla:
  https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/inference-library/work-with-dla.html
- `nvidia-l4t-gstreamer` puts its plugins into /usr/lib/aarch64-linux-gnu/gstreamer-1.0: README of gst-nvvideo4linux2 in the
  sources of Jetson Linux. CSI sensors are called `vi-output, imx219 9-0010`, as `v4l2-ctl --list-devices` shows.
- `/proc/driver/nvidia`: chapter "The /proc file system interface" in the README of NVIDIA's Linux driver.
- JetPack's cv2 lies in /usr/lib/python3.10/dist-packages/cv2/python-3.10, that of Ubuntu in /usr/lib/python3/dist-packages.
- `version.json`: the CUDA toolkit from 11.1 on. `E:ID_V4L_CAPABILITIES`: src/udev/v4l_id in systemd.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agp_edge.deploy.findings import Modules, Site

UBUNTU = {"etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nID=ubuntu\nID_LIKE=debian\n'}
DEBIAN = {"etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'}
FEDORA = {"etc/os-release": "NAME=Fedora\nID=fedora\n"}

GSTREAMER_ON_ARM = "usr/lib/aarch64-linux-gnu/gstreamer-1.0"
GSTREAMER_ON_PC = "usr/lib/x86_64-linux-gnu/gstreamer-1.0"
CPU0 = "sys/devices/system/cpu/cpu0/cpufreq"

ORIN = {
    **UBUNTU,
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
    "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=25W >\n< PM_CONFIG DEFAULT=1 >\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build"
    "  (buildbrain@mobile)  Tue Jan  7 17:35:12 PST 2025\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "sys/class/devfreq/15340000.vic/min_freq": "115200000\n",
    "sys/class/devfreq/15340000.vic/max_freq": "601600000\n",
    f"{CPU0}/scaling_governor": "schedutil\n",
    f"{CPU0}/scaling_cur_freq": "729600\n",
    f"{CPU0}/scaling_min_freq": "729600\n",
    f"{CPU0}/scaling_max_freq": "1497600\n",
    "proc/device-tree/bus@0/host1x@13e00000/nvdla0@15880000/status": "okay\0",
    "proc/device-tree/bus@0/host1x@13e00000/nvdla1@158c0000/status": "okay\0",
    "sys/bus/platform/devices/15880000.nvdla0/modalias": "",
    "sys/bus/platform/devices/15880000.nvdla0/driver/uevent": "",
    "sys/bus/platform/devices/158c0000.nvdla1/modalias": "",
    "sys/bus/platform/devices/158c0000.nvdla1/driver/uevent": "",
    "proc/device-tree/tegra-camera-platform/modules/module0/badge": "jakku_rear_IMX219\0",
    "dev/video0": "",
    "sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n",
    f"{GSTREAMER_ON_ARM}/libgstnvvideo4linux2.so": "",
    f"{GSTREAMER_ON_ARM}/libgstnvarguscamerasrc.so": "",
    f"{GSTREAMER_ON_ARM}/libgstvideo4linux2.so": "",
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}',
    "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0": "",
}
"""An Orin NX with JetPack 6.2 and one CSI camera."""

THOR = {
    "etc/os-release": "ID=ubuntu\nID_LIKE=debian\n",
    "etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, "
    "DATE: Fri Aug 22 00:55:42 UTC 2025\n# KERNEL_VARIANT: oot\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
    "var/lib/nvpmodel/status": "pmode:0000\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.00  Release Build\n",
    **{f"sys/class/devfreq/gpu-gpc-0/{name}_freq": "1575000000\n" for name in ("cur", "min", "max")},
    **{f"sys/class/devfreq/gpu-nvd-0/{name}_freq": "1692000000\n" for name in ("cur", "min", "max")},
    **{f"{CPU0}/scaling_{name}_freq": "2601000\n" for name in ("cur", "min", "max")},
    "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "13.0.0"}}',
}
"""An AGX Thor with JetPack 7.0, its clocks pinned by jetson_clocks."""

CARD = {
    "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
}
RTX = {
    **UBUNTU,
    **CARD,
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 06:54:38 UTC 2025\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA RTX A2000 12GB\n",
    "usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06": "",
    f"{GSTREAMER_ON_PC}/libgstnvcodec.so": "",
    f"{GSTREAMER_ON_PC}/libgstlibav.so": "",
    "dev/video0": "",
    "dev/video1": "",
    "sys/class/video4linux/video0/name": "HD Webcam: HD Webcam\n",
    "sys/class/video4linux/video0/dev": "81:0\n",
    "sys/class/video4linux/video1/name": "HD Webcam: HD Webcam\n",
    "sys/class/video4linux/video1/dev": "81:1\n",
    "run/udev/data/c81:0": "I:1\nE:ID_V4L_VERSION=2\nE:ID_V4L_CAPABILITIES=:capture:\n",
    "run/udev/data/c81:1": "I:2\nE:ID_V4L_VERSION=2\nE:ID_V4L_CAPABILITIES=:\n",
}
"""A PC with an RTX card and a webcam, which has a device for pictures and one for metadata."""

BARE: dict[str, str] = {}
"""A container with nothing mounted into it."""


def build(root: Path, files: Mapping[str, str]) -> Path:
    """Write a machine's files below a folder."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def nothing(name: str) -> None:
    """A Python without any package."""
    return


def only(*names: str) -> Any:
    """A Python that has these packages and no other."""
    return lambda name: importlib.util.find_spec("json") if name in names else None


def site(
    root: Path,
    files: Mapping[str, str],
    find_spec: Any = nothing,
    arch: str = "x86_64",
) -> Site:
    """A machine to look at."""
    return Site(build(root, files), arch, Modules(find_spec))
