from __future__ import annotations

import os
from pathlib import Path

import pytest

from agp_edge.deploy.findings import Check, Site
from agp_edge.deploy.video import check_cameras, check_decoders, check_gige
from tests.agp_edge.deploy.machines import BARE, DEBIAN, FEDORA, ORIN, RTX, UBUNTU, only, site


def test_cameras_are_named_in_order(tmp_path: Path) -> None:
    files = {f"dev/video{n}": "" for n in (10, 2)} | {"sys/class/video4linux/video2/name": "HD Webcam\n"}
    assert check_cameras(site(tmp_path, files)) == Check(
        "cameras", "ok", "/dev/video2 (HD Webcam), /dev/video10"
    )


def test_a_device_of_metadata_is_marked_by_what_udev_keeps(tmp_path: Path) -> None:
    assert check_cameras(site(tmp_path, RTX)).detail == (
        "/dev/video0 (HD Webcam: HD Webcam), /dev/video1 (HD Webcam: HD Webcam; no capture device)"
    )


def test_without_udev_sysfs_tells_for_a_usb_camera(tmp_path: Path) -> None:
    """As in a container: the second device of each pair is metadata; other drivers number otherwise."""
    files = {name: text for name, text in RTX.items() if not name.startswith("run/udev")}
    for index in (0, 1):
        files[f"sys/class/video4linux/video{index}/index"] = f"{index}\n"
    where = site(tmp_path, files)
    assert "no capture device" not in check_cameras(where).detail

    (tmp_path / "sys/bus/usb/drivers/uvcvideo").mkdir(parents=True)
    for index in (0, 1):
        device = tmp_path / f"sys/class/video4linux/video{index}/device"
        device.mkdir()
        (device / "driver").symlink_to(tmp_path / "sys/bus/usb/drivers/uvcvideo")
    assert check_cameras(where).detail.count("no capture device") == 1
    assert check_cameras(where).detail.endswith("/dev/video1 (HD Webcam: HD Webcam; no capture device)")


def test_devices_that_give_no_pictures_make_no_camera(tmp_path: Path) -> None:
    files = {
        "dev/video10": "",
        "sys/class/video4linux/video10/dev": "81:5\n",
        "run/udev/data/c81:5": "E:ID_V4L_CAPABILITIES=:video_output:\n",
    }
    assert check_cameras(site(tmp_path, files)).state == "not here"


def test_a_camera_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    check = check_cameras(site(tmp_path, RTX))

    assert (check.state, check.remedy) == ("missing", 'sudo usermod -aG video "$USER"')
    assert check.detail.endswith("this user may not open video0"), "nobody opens the other"


ARAVIS = {
    "usr/lib/x86_64-linux-gnu/libaravis-0.8.so.0": "",
    "usr/lib/x86_64-linux-gnu/girepository-1.0/Aravis-0.8.typelib": "",
}
GET_ARAVIS = "sudo apt install gir1.2-aravis-0.8 python3-gi"


def test_aravis(tmp_path: Path) -> None:
    library = dict([next(iter(ARAVIS.items()))])

    def look(name: str, files: dict[str, str], *modules: str) -> Check:
        return check_gige(site(tmp_path / name, files, only(*modules)))

    assert look("all", ARAVIS, "gi") == Check("GigE Vision", "ok", "Aravis 0.8")
    assert look("library", {**UBUNTU, **library}, "gi").state == "missing"
    assert "Python's gi is not" in look("no gi", {**UBUNTU, **ARAVIS}).detail
    assert look("none", UBUNTU).remedy == look("jetson", ORIN).remedy == GET_ARAVIS
    assert look("elsewhere", FEDORA).remedy is None


@pytest.mark.parametrize(
    ("files", "ffmpeg", "gpu", "state", "words", "remedy"),
    [
        (ORIN, False, True, "ok", "nvv4l2decoder, v4l2h264dec", None),
        (RTX, True, True, "ok", "nvh264dec, avdec_h264, FFmpeg in OpenCV", None),
        (DEBIAN, True, False, "ok", "FFmpeg in OpenCV", None),
        (DEBIAN, False, False, "missing", "neither", "sudo apt install gstreamer1.0-libav"),
        (UBUNTU, True, True, "ok", "nvh264dec would", "sudo apt install gstreamer1.0-plugins-bad"),
        (BARE, False, False, "missing", "neither", None),
        (
            {name: text for name, text in ORIN.items() if "gstreamer" not in name},
            True,
            True,
            "ok",
            "FFmpeg in OpenCV; nvv4l2decoder would decode on the GPU's own decoder",
            "sudo apt install nvidia-l4t-gstreamer",
        ),
    ],
)
def test_what_decodes_video(
    tmp_path: Path,
    files: dict[str, str],
    ffmpeg: bool,
    gpu: bool,
    state: str,
    words: str,
    remedy: str | None,
) -> None:
    check = check_decoders(site(tmp_path, files), ffmpeg, gpu)
    assert (check.state, check.remedy) == (state, remedy)
    assert check.detail.startswith(words) or words in check.detail


def test_this_machine_is_looked_at_without_opening_anything() -> None:
    checks = [check_cameras(Site()), check_gige(Site()), check_decoders(Site(), False, False)]
    assert {check.state for check in checks} <= {"ok", "missing", "not here"}
