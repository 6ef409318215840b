"""What only a Jetson has: JetPack, power modes and pinned clocks, DLA, CSI sensors. All of it is read from files."""

from __future__ import annotations

import re

from agp_edge.deploy.findings import Check, Site, version_tuple
from agp_edge.dla import why_no_dla
from agp_edge.machine import clocks_pinned, gpu_clock, power_mode, read_fact

MIN_L4T = (36, 4)

# NVIDIA's archive of JetPack, https://developer.nvidia.com/embedded/jetpack-archive, and its pages for each release,
# as https://developer.nvidia.com/embedded/jetpack/downloads/archive-7.1.md: "JetPack 7.1 with Jetson Linux 38.4".
# 36.4.2, 36.4.7 and 38.2.2, which apt brings: jtop/core/jetson_variables.py of rbonghi/jetson_stats. 36.5.2: as those who
# have it name it.
JETPACK = {
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.2": "6.1 rev 1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
"""Jetson Linux -> the JetPack that it came with, or that apt brought up to it."""

ELSEWHERE = Check("Jetson", "not here", "no Jetson Linux (/etc/nv_tegra_release)")


def name_l4t(l4t: str) -> str:
    """A version of Jetson Linux with its JetPack, as in `L4T 36.4.3 (JetPack 6.2)`.

    One that is not known, between or after known ones that differ in the last number alone, is of their line, as in
    `L4T 36.4.9, of JetPack 6.2's line`.
    """
    if l4t in JETPACK:
        return f"L4T {l4t} (JetPack {JETPACK[l4t]})"
    number = version_tuple(l4t, 3)
    before = [known for known in JETPACK if number and _is_patch_of(number, version_tuple(known, 3))]
    if not before:
        return f"L4T {l4t}"
    line = version_tuple(JETPACK[before[-1]]) or ()
    return f"L4T {l4t}, of JetPack {'.'.join(map(str, line))}'s line"


def _is_patch_of(number: tuple[int, ...], known: tuple[int, ...] | None) -> bool:
    return known is not None and number[:2] == known[:2] and known <= number


def check_jetson(site: Site, tensorrt: str | None = None) -> list[Check]:
    """All that is particular to a Jetson; one line where this is none.

    Args:
        site: where to look.
        tensorrt: version of the TensorRT that would drive a DLA, or None.
    """
    if not site.is_jetson:
        return [ELSEWHERE]
    return [_software(site), _power(site), _dla(site, tensorrt), _csi(site)]


def _software(site: Site) -> Check:
    board = site.board or "unknown model"
    if site.l4t is None:
        # NVIDIA's container runtime mounts the file; a plain container does not have it.
        return Check(
            "Jetson", "ok", f"{board}; a container that does not show /etc/nv_tegra_release: L4T unknown"
        )
    detail = f"{board}, {name_l4t(site.l4t)}"
    found = version_tuple(site.l4t)
    if found is not None and found < MIN_L4T:
        return Check(
            "Jetson", "missing", f"{detail}; its TensorRT is too old: JetPack 6.1 (L4T 36.4) or later"
        )
    return Check("Jetson", "ok", detail)


def _power(site: Site) -> Check:
    mode = power_mode(site.root)
    clock = gpu_clock(site.root)
    parts = [mode or "mode unknown (nvpmodel has kept none)"]
    if clock:
        parts.append(f"GPU at {clock.now_mhz:.0f} of {clock.most_mhz:.0f} MHz")
    pinned = clocks_pinned(site.root)
    if pinned is not None:
        parts.append("clocks pinned" if pinned else "clocks move with the load")
    return Check(
        "power mode",
        "ok" if mode else "missing",
        ", ".join(parts),
        "sudo nvpmodel -q" if not mode else "sudo jetson_clocks" if pinned is False else None,
    )


def _dla(site: Site, tensorrt: str | None) -> Check:
    # A device for each core, in one flat folder whatever the bus above it is called, which changed with every
    # JetPack. The driver refuses a core that is fused off, so only one that it took counts.
    devices = site.glob("sys/bus/platform/devices/*.nvdla*")
    working = [device for device in devices if (device / "driver").exists()]
    if working:
        names = ", ".join(device.name.partition(".")[2] for device in working)
        cores = f"{len(working)} core{'s' if len(working) > 1 else ''} ({names})"
        no_dla = why_no_dla(tensorrt)
        return Check("DLA", "missing", f"{cores}, but {no_dla}") if no_dla else Check("DLA", "ok", cores)
    nodes = site.glob(
        "proc/device-tree/bus@0/host1x@*/nvdla[0-9]*@*", "proc/device-tree/host1x@*/nvdla[0-9]*@*"
    )
    if devices or nodes:
        count = len(devices) or len(nodes)
        detail = (
            f"{count} in the device tree, none that the driver took: this module has none, or not enabled"
        )
        return Check("DLA", "not here", detail)
    return Check("DLA", "not here", "this module has none")


def _csi(site: Site) -> Check:
    name = "CSI sensors"
    found = []
    for device in site.glob("sys/class/video4linux/video*/name"):
        match = re.match(r"vi-output, (\S+)", read_fact(device.parent, "name") or "")
        if match:
            found.append(f"{match[1]} (/dev/{device.parent.name})")
    badges = [
        read_fact(badge.parent, "badge") or badge.parent.name
        for badge in site.glob("proc/device-tree/tegra-camera-platform/modules/module*/badge")
    ]
    if not found and not badges:
        return Check(name, "not here", "none in the device tree")
    if not found:
        detail = (
            f"the device tree names {', '.join(badges)}, but none answered: look at the cable and the choice"
        )
        return Check(name, "missing", detail, "sudo /opt/nvidia/jetson-io/jetson-io.py")
    if not site.libraries("gstreamer-1.0/libgstnvarguscamerasrc.so"):
        detail = f"{', '.join(found)}; csi:// needs the GStreamer element nvarguscamerasrc"
        return Check(name, "missing", detail, site.apt("nvidia-l4t-gstreamer"))
    return Check(name, "ok", ", ".join(found))
