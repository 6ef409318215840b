"""CSI cameras. `nvarguscamerasrc` is on Jetsons alone: `videotestsrc` takes its place, everything around it is what runs there."""

from __future__ import annotations

import time

import pytest

from agp_edge.errors import InputError
from agp_edge.sources import SourceOptions, open_source
from agp_edge.sources.csi import CameraElement, CsiSource
from agp_edge.sources.gst_binding import load_gst
from agp_edge.sources.gstreamer import Pipeline
from tests.agp_edge.sources.gst import need, read_until_lost

pytest.importorskip("cv2")

BALL = "18"
"""The number of videotestsrc's moving ball."""

LIVE = {"is-live": "true"}


class TestPatternSource(CsiSource):
    """The class itself, with another element where the camera's is; a pattern's number is its sensor."""

    __test__ = False
    camera = CameraElement("videotestsrc", "pattern", "video/x-raw", "videoconvert")


@pytest.mark.parametrize("pixel_format", [None, "NV12", "BGRx"])
def test_size_rate_and_controls_reach_the_camera(pixel_format: str | None) -> None:
    need("videotestsrc", "videoconvert")
    options = SourceOptions(
        size_wh=(64, 48),
        fps=29.97,
        pixel_format=pixel_format,
        controls={
            **LIVE,
            "foreground-color": "0xff0000ff",
            "background-color": "0xffff0000",
            "motion": "sweep",
        },
    )
    with TestPatternSource(f"csi://{BALL}", options) as source:
        frame = source.read()
        assert source.fps == pytest.approx(29.97, abs=0.001)
    assert frame is not None
    assert frame.pixels.shape == (48, 64, 3)
    red, blue = (0, 0, 255), (255, 0, 0)
    assert {tuple(int(v > 127) * 255 for v in frame.pixels[y, x]) for y in range(48) for x in range(64)} >= {
        red,
        blue,
    }
    assert (frame.source, frame.clock) == (f"csi://{BALL}", "arrival")
    assert 0 <= time.monotonic_ns() - frame.captured_ns < 60e9


def test_a_camera_that_fails_while_it_runs() -> None:
    need("videotestsrc", "videoconvert")
    source = TestPatternSource("csi://0", SourceOptions(controls={**LIVE, "num-buffers": "3"}))
    with source:
        assert read_until_lost(source).what == "csi://0: it ended"


@pytest.mark.parametrize(
    ("controls", "words"),
    [
        ({"exposure": "1"}, "'exposure'"),
        ({"motion": "circle ! fakesink"}, "motion"),
        ({"motion": 'sweep" ! fakesink name="x'}, "motion"),
        ({"foreground-color": "many"}, "foreground-color"),
    ],
)
def test_a_control_that_is_none_is_refused(controls: dict[str, str], words: str) -> None:
    need("videotestsrc", "videoconvert")
    with pytest.raises(InputError, match=words) as caught:
        TestPatternSource("csi://0", SourceOptions(controls=controls)).open()
    assert caught.value.what.startswith("csi://0: ")
    assert caught.value.hint.startswith(("it has: animation-mode", "see what it takes"))


def test_a_size_that_the_camera_does_not_have() -> None:
    need("videotestsrc", "videoconvert")
    source = TestPatternSource("csi://0", SourceOptions(size_wh=(0, 48), controls=LIVE))
    with pytest.raises(InputError, match="csi://0: GStreamer makes no pipeline"):
        source.open()


def test_a_jetson_s_pipeline_is_well_formed() -> None:
    """Word for word, but for its two elements; GStreamer reads the kind of memory, the rate and the rest."""
    need("fakesrc", "appsink")
    text = CsiSource("csi://1", SourceOptions(size_wh=(1280, 720), fps=59.94, pixel_format="BGRx")).describe()
    assert text == (
        "nvarguscamerasrc name=camera ! video/x-raw(memory:NVMM),format=NV12,width=1280,height=720,framerate=2997/50 "
        "! nvvidconv ! video/x-raw,format=BGRx"
    )
    here = text.replace("nvarguscamerasrc", "fakesrc")
    Pipeline(here.replace("nvvidconv", "fakesink fakesrc"), "test").close()
    with pytest.raises(InputError, match="can't handle caps"):
        Pipeline(here.replace("nvvidconv", "identity"), "test")


def test_a_machine_that_is_no_jetson_is_told_so() -> None:
    if load_gst().has_element("nvarguscamerasrc"):
        pytest.skip("this is a Jetson")
    with pytest.raises(InputError, match="no element nvarguscamerasrc") as caught:
        open_source("csi://0", SourceOptions(size_wh=(1280, 720), controls={"wbmode": "1"})).open()
    assert "nvidia-l4t-gstreamer" in caught.value.hint


@pytest.mark.parametrize("uri", ["csi://", "csi://left", "csi://0 ! fakesink", "csi://²"])
def test_what_is_no_sensor(uri: str) -> None:
    with pytest.raises(InputError, match="names no CSI sensor"):
        CsiSource(uri)


def test_what_is_told_to_it() -> None:
    with pytest.raises(InputError, match="NV12, BGRx"):
        open_source("csi://0", SourceOptions(pixel_format="YUYV"))
    with pytest.raises(InputError, match="--transport does not apply to csi://0"):
        open_source("csi://0", SourceOptions(transport="udp"))
