from __future__ import annotations

from pathlib import Path

import pytest

from agp_edge.deploy.findings import Check
from agp_edge.deploy.jetson import check_jetson
from tests.agp_edge.deploy.machines import ORIN, RTX, THOR, build, site


def look(root: Path, files: dict[str, str], tensorrt: str | None = "10.3.0") -> dict[str, Check]:
    return {check.name: check for check in check_jetson(site(root, files, arch="aarch64"), tensorrt)}


def without(files: dict[str, str], *parts: str) -> dict[str, str]:
    return {name: text for name, text in files.items() if not any(part in name for part in parts)}


def test_an_orin(tmp_path: Path) -> None:
    checks = look(tmp_path, ORIN)

    board = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert checks["Jetson"] == Check("Jetson", "ok", f"{board}, L4T 36.4.3 (JetPack 6.2)")
    assert checks["power mode"] == Check(
        "power mode",
        "ok",
        "25W (mode 1), GPU at 306 of 918 MHz, clocks move with the load",
        "sudo jetson_clocks",
    )
    assert checks["DLA"] == Check("DLA", "ok", "2 cores (nvdla0, nvdla1)")
    assert checks["CSI sensors"] == Check("CSI sensors", "ok", "imx219 (/dev/video0)")


def test_a_thor_has_no_dla_and_pinned_clocks(tmp_path: Path) -> None:
    checks = look(tmp_path, THOR)

    assert checks["Jetson"].detail == "NVIDIA Jetson AGX Thor Developer Kit, L4T 38.2.0 (JetPack 7.0)"
    assert checks["power mode"] == Check(
        "power mode", "ok", "MAXN (mode 0), GPU at 1575 of 1575 MHz, clocks pinned"
    )
    assert checks["DLA"] == Check("DLA", "not here", "this module has none")
    assert checks["CSI sensors"].state == "not here"


def test_a_pc_has_one_line(tmp_path: Path) -> None:
    assert [(check.name, check.state) for check in check_jetson(site(tmp_path, RTX))] == [
        ("Jetson", "not here")
    ]


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("# R36 (release), REVISION: 4.0, GCID: 1", "L4T 36.4.0 (JetPack 6.1)"),
        ("# R36 (release), REVISION: 4.4, GCID: 1", "L4T 36.4.4 (JetPack 6.2.1)"),
        ("# R36 (release), REVISION: 5.0, GCID: 1", "L4T 36.5.0 (JetPack 6.2.2)"),
        ("# R38 (release), REVISION: 4.0, GCID: 1", "L4T 38.4.0 (JetPack 7.1)"),
        # What apt brings between releases.
        ("# R36 (release), REVISION: 4.2, GCID: 1", "L4T 36.4.2 (JetPack 6.1 rev 1)"),
        ("# R36 (release), REVISION: 4.7, GCID: 1", "L4T 36.4.7 (JetPack 6.2.1)"),
        ("# R36 (release), REVISION: 5.2, GCID: 1", "L4T 36.5.2 (JetPack 6.2.3)"),
        ("# R38 (release), REVISION: 2.2, GCID: 1", "L4T 38.2.2 (JetPack 7.0)"),
        # One that is not known is of the line of those before it, which is not that of those after it.
        ("# R36 (release), REVISION: 4.1, GCID: 1", "L4T 36.4.1, of JetPack 6.1's line"),
        ("# R36 (release), REVISION: 4.9, GCID: 1", "L4T 36.4.9, of JetPack 6.2's line"),
        ("# R36 (release), REVISION: 5.10, GCID: 1", "L4T 36.5.10, of JetPack 6.2's line"),
        ("# R39 (release), REVISION: 2.7, GCID: 1", "L4T 39.2.7, of JetPack 7.2's line"),
        ("# R39 (release), REVISION: 3.0, GCID: 1", "L4T 39.3.0"),
        ("# R40 (release), REVISION: 0, GCID: 1", "L4T 40.0"),
    ],
)
def test_jetpack_is_named_where_it_is_known(tmp_path: Path, release: str, said: str) -> None:
    check = look(tmp_path, {"etc/nv_tegra_release": release})["Jetson"]
    assert (check.state, check.detail) == ("ok", f"unknown model, {said}")


def test_an_old_jetson_is_told_which_jetpack_it_needs(tmp_path: Path) -> None:
    release = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n"
    check = look(tmp_path, {"etc/nv_tegra_release": release})["Jetson"]

    assert check.state == "missing"
    assert "L4T 35.4.1 (JetPack 5.1.2)" in check.detail
    assert "JetPack 6.1" in check.detail


def test_a_container_on_a_jetson_shows_the_board_alone(tmp_path: Path) -> None:
    check = look(tmp_path, without(ORIN, "nv_tegra_release"))["Jetson"]
    assert check.state == "ok"
    assert "L4T unknown" in check.detail


@pytest.mark.parametrize("gone", ["/driver/uevent", "sys/bus/platform"])
def test_cores_that_no_driver_takes_do_not_count(tmp_path: Path, gone: str) -> None:
    """As on an Orin Nano, where they are fused off: devices without a driver, or nodes without a device."""
    check = look(tmp_path, without(ORIN, gone))["DLA"]
    assert check.state == "not here"
    assert "2 in the device tree" in check.detail


def test_one_core_of_two(tmp_path: Path) -> None:
    check = look(tmp_path, without(ORIN, "nvdla1/driver"))["DLA"]
    assert (check.state, check.detail) == ("ok", "1 core (nvdla0)")


@pytest.mark.parametrize("tensorrt", ["10.16.2.10", "11.3.0", "11.4.0.106"])
def test_cores_that_the_tensorrt_here_does_not_drive_are_not_good(tmp_path: Path, tensorrt: str) -> None:
    check = look(tmp_path, ORIN, tensorrt)["DLA"]
    assert (check.state, check.remedy) == ("missing", None)
    assert check.detail.startswith(f"2 cores (nvdla0, nvdla1), but TensorRT {tensorrt} drives no DLA")


@pytest.mark.parametrize("tensorrt", [None, "10.3.0", "11.4.1"])
def test_cores_that_it_drives_and_those_that_nobody_drives_yet(tmp_path: Path, tensorrt: str | None) -> None:
    assert look(tmp_path, ORIN, tensorrt)["DLA"].state == "ok"


def test_pinned_means_the_gpu_and_every_core_that_is_on(tmp_path: Path) -> None:
    pinned = {**ORIN, "sys/class/devfreq/17000000.gpu/min_freq": "918000000\n"}
    assert "clocks move" in look(tmp_path, pinned)["power mode"].detail, "the CPU still moves"
    build(tmp_path, {"sys/devices/system/cpu/cpu0/online": "0\n"})
    assert "clocks pinned" in look(tmp_path, pinned)["power mode"].detail, "a core that is off does not count"


def test_an_unknown_power_mode_asks_for_root(tmp_path: Path) -> None:
    check = look(tmp_path, without(ORIN, "var/lib/nvpmodel"))["power mode"]
    assert (check.state, check.remedy) == ("missing", "sudo nvpmodel -q")


def test_a_sensor_that_does_not_answer_and_one_that_nothing_reads(tmp_path: Path) -> None:
    silent = look(tmp_path / "silent", without(ORIN, "video4linux", "dev/video"))["CSI sensors"]
    assert (silent.state, silent.remedy) == ("missing", "sudo /opt/nvidia/jetson-io/jetson-io.py")
    assert "jakku_rear_IMX219" in silent.detail

    unread = look(tmp_path / "unread", without(ORIN, "nvargus"))["CSI sensors"]
    assert (unread.state, unread.remedy) == ("missing", "sudo apt install nvidia-l4t-gstreamer")
