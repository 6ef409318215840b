from __future__ import annotations

import os
from pathlib import Path

import pytest

from agp_edge.deploy.findings import Check, Site
from agp_edge.deploy.video import DECODERS, check_cameras, check_decoders, check_gige
from agp_edge.sources.gst_rtsp import HARDWARE, SOFTWARE
from tests.agp_edge.deploy.machines import BARE, DEBIAN, FEDORA, ORIN, RTX, UBUNTU, site


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


ARAVIS = "usr/lib/x86_64-linux-gnu/libaravis-0.{}.so.0"
GET_ARAVIS = "sudo apt install libaravis-0.8-0"


def test_aravis(tmp_path: Path) -> None:
    def look(name: str, files: dict[str, str]) -> Check:
        return check_gige(site(tmp_path / name, files))

    assert look("there", {ARAVIS.format(8): ""}) == Check("GigE Vision", "ok", "Aravis 0.8")
    assert look("both", {ARAVIS.format(8): "", ARAVIS.format(10): ""}).state == "ok"
    newer = look("newer", {**UBUNTU, ARAVIS.format(10): ""})
    assert (newer.state, newer.remedy) == ("missing", GET_ARAVIS)
    assert "0.10 is there, 0.8 is not" in newer.detail
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


@pytest.mark.parametrize(
    ("files", "gpu", "answer", "state", "detail", "remedy"),
    [
        (RTX, True, {"nvh264dec": True, "avdec_h264": True}, "ok", "nvh264dec, avdec_h264", None),
        # Its plugin is there, it is not offered: no driver, or one that is not let into a container.
        (
            RTX,
            True,
            {"avdec_h264": True},
            "ok",
            "avdec_h264; nvh264dec is installed and has no decoder to drive",
            "gst-inspect-1.0 nvh264dec",
        ),
        (RTX, False, {"avdec_h264": True}, "ok", "avdec_h264", None),
        (RTX, False, {"vah264dec": True, "avdec_h264": True}, "ok", "vah264dec, avdec_h264", None),
        (
            ORIN,
            True,
            {"nvv4l2decoder": True, "v4l2h264dec": False},
            "ok",
            "nvv4l2decoder; v4l2h264dec does not open",
            None,
        ),
        (
            DEBIAN,
            False,
            {},
            "missing",
            "neither FFmpeg in OpenCV nor a GStreamer element",
            "sudo apt install gstreamer1.0-libav",
        ),
        (
            RTX,
            False,
            "did not answer",
            "missing",
            "neither FFmpeg in OpenCV nor a GStreamer element; GStreamer: did not answer",
            "sudo apt install gstreamer1.0-libav",
        ),
    ],
)
def test_what_gstreamer_says_of_decoders_counts_more_than_its_files(
    tmp_path: Path,
    files: dict[str, str],
    gpu: bool,
    answer: dict[str, bool] | str,
    state: str,
    detail: str,
    remedy: str | None,
) -> None:
    check = check_decoders(site(tmp_path, files), False, gpu, answer)
    assert (check.state, check.detail, check.remedy) == (state, detail, remedy)


def test_doctor_asks_for_every_decoder_that_a_source_takes() -> None:
    assert {*HARDWARE, SOFTWARE["H264"]} == set(DECODERS)


def test_this_machine_is_looked_at_without_opening_anything() -> None:
    checks = [check_cameras(Site()), check_gige(Site()), check_decoders(Site(), False, False)]
    assert {check.state for check in checks} <= {"ok", "missing", "not here"}
