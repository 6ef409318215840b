from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources import gst_binding
from agp_edge.sources.gst_binding import Layout, load_gst
from agp_edge.sources.gst_picture import FORMATS, colour_matrix, picture_pixels
from agp_edge.sources.gstreamer import GstSource, Pipeline
from tests.agp_edge.sources.gst import held, need, read_until_lost
from tests.waiting import wait_until

pytest.importorskip("cv2")

SMPTE75_BGR = (
    (191, 191, 191),
    (0, 191, 191),
    (191, 191, 0),
    (0, 191, 0),
    (191, 0, 191),
    (0, 0, 191),
    (191, 0, 0),
)
"""The bars of `pattern=smpte75` (SMPTE EG 1), from the left."""


class TestSource(GstSource):
    """A pipeline of the test's own, whose source is called `camera`."""

    __test__ = False

    def __init__(
        self, description: str, timeout_s: float = 20, *, colours: str | None = None, stamped: bool = True
    ):
        super().__init__("the test", timeout_s, stamped=stamped)
        self._description = description
        self._colours = colours

    def _make(self) -> Pipeline:
        return Pipeline(self._description, self.name, self._colours)


def bars(pixels: Any) -> list[list[int]]:
    height, width = pixels.shape[:2]
    return [pixels[height // 3, int(width * (bar + 0.5) / 7)].tolist() for bar in range(7)]


@pytest.mark.parametrize("size", ["320x240", "322x242"])
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_every_pixel_format_gives_the_same_picture(pixel_format: str, size: str) -> None:
    """322 pixels are padded to 324 bytes in a row, and to 164 in one of I420's colours."""
    need("videotestsrc")
    width, height = map(int, size.split("x"))
    caps = f"video/x-raw,format={pixel_format},width={width},height={height},framerate=30/1"
    with TestSource(f"videotestsrc is-live=true pattern=smpte75 ! {caps}") as source:
        frame = source.read()
    assert frame is not None
    assert source.fps == 30
    assert frame.pixels.flags.c_contiguous
    if pixel_format == "GRAY8":
        # Luma in limited range: 16 + 219 * 0.75.
        assert frame.pixels.shape == (height, width, 1)
        assert frame.pixels[height // 3, 10] == pytest.approx(180, abs=1)
        return
    assert frame.pixels.shape == (height, width, 3)
    np.testing.assert_allclose(bars(frame.pixels), SMPTE75_BGR, atol=2)


def test_times_are_monotonic_and_numbers_go_on() -> None:
    need("videotestsrc")
    began_ns, began_s = time.monotonic_ns(), time.time()
    with TestSource("videotestsrc is-live=true ! video/x-raw,format=BGR,framerate=100/1") as source:
        frames = [source.read() for _ in range(5)]
        source.close()
        source.open()
        frames += [source.read() for _ in range(2)]
    times = [frame.captured_ns for frame in frames if frame]
    assert [frame.number for frame in frames if frame] == list(range(7))
    assert began_ns < times[0] < times[-1] < time.monotonic_ns()
    assert times == sorted(times)
    assert {frame.clock for frame in frames if frame} == {"arrival"}
    for frame in frames:
        assert frame is not None
        assert (frame.captured_ns - began_ns) / 1e9 == pytest.approx(frame.wall_s - began_s, abs=0.5)


def test_a_time_is_when_a_picture_came_not_when_it_was_taken() -> None:
    """It waits half a second in a queue behind the source, as in an image processor."""
    need("videotestsrc")
    caps = "video/x-raw,format=BGR,framerate=20/1"
    late = f"videotestsrc is-live=true ! {caps} ! queue min-threshold-time=500000000"
    ages: dict[bool, int] = {}
    for stamped in (True, False):
        with TestSource(late, stamped=stamped) as source:
            frame = source.read()
            assert frame is not None
            ages[stamped] = time.monotonic_ns() - frame.captured_ns
    assert ages[True] > 400e6
    assert ages[True] > ages[False]


def test_the_newest_picture_is_taken() -> None:
    need("videotestsrc")
    with TestSource("videotestsrc is-live=true ! video/x-raw,format=BGR,framerate=100/1") as source:
        before = source.read()
        time.sleep(0.5)
        after = source.read()
    assert before is not None
    assert after is not None
    assert after.captured_ns - before.captured_ns > 0.3e9, "an older one is not kept"


@pytest.mark.parametrize(
    ("description", "kind", "words"),
    [
        ("nosuchelement", InputError, 'no element "nosuchelement"'),
        ("videotestsrc ! video/x-raw,format=NONE", InputError, "can't handle caps"),
        ("videotestsrc ! video/x-raw,format=RGB16", InputError, "pixel format RGB16"),
        ("videotestsrc num-buffers=0", SourceLostError, "it ended"),
        ("videotestsrc ! identity error-after=1", SourceLostError, "Failed after iterations"),
        ("filesrc location=/nonexistent", SourceLostError, 'No such file "/nonexistent"'),
        ("audiotestsrc is-live=true", SourceLostError, "gives no pictures"),
        ("videotestsrc is-live=true ! valve drop=true", SourceLostError, "no frame for 0.3 s"),
    ],
)
def test_what_does_not_open_says_why(description: str, kind: type[Exception], words: str) -> None:
    need("videotestsrc")
    source = TestSource(description, 0.3 if "valve" in description else 20)
    with pytest.raises(kind, match=words):
        source.open()
    assert not [t for t in threading.enumerate() if "the test" in t.name], "nothing is left running"
    with pytest.raises(SourceLostError, match="not open"):
        source.read()
    source.close()


def test_a_camera_that_stalls_and_comes_back() -> None:
    need("videotestsrc")
    source = TestSource(
        "videotestsrc name=camera is-live=true ! video/x-raw,framerate=100/1,format=BGR ! valve name=valve",
        0.5,
    )
    with source:
        assert source.read()
        assert source._pipeline is not None
        source._pipeline.set("valve", {"drop": "true"})
        assert read_until_lost(source).what == "the test gives no frame for 0.5 s"
        source.open()
        assert source.read()


def test_an_element_that_does_not_stop_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """`identity` sleeps for 1.5 s in its thread, which stopping has to wait for, as for a driver that hangs."""
    need("videotestsrc")
    source = TestSource(
        "videotestsrc is-live=true ! video/x-raw,framerate=100/1,format=BGR ! tee name=t ! queue leaky=2 max-size-buffers=1 "
        "! identity sleep-time=1500000 ! fakesink async=false t. ! queue"
    )
    source.open()
    monkeypatch.setattr("agp_edge.sources.gstreamer.CLOSE_S", 0.1)
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 1
    assert [t.name for t in threading.enumerate()].count("stop the test") == 1
    with pytest.raises(SourceLostError, match="has not let go"):
        source.open()
    assert [t.name for t in threading.enumerate()].count("stop the test") == 1, "no more threads at each try"
    wait_until(lambda: not [t for t in threading.enumerate() if "the test" in t.name])
    source.open()
    assert source.read()
    monkeypatch.undo()
    source.close()


def test_an_element_that_does_not_start_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a FIFO blocks until somebody writes into it, as a driver may block for ever."""
    need("videotestsrc")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setattr("agp_edge.sources.gstreamer.CLOSE_S", 0.1)
    source = TestSource(f"filesrc location={fifo} ! rawvideoparse format=bgr width=4 height=4", 0.2)
    began = time.monotonic()
    with pytest.raises(SourceLostError, match=r"does not start within 0\.2 s"):
        source.open()
    for _ in range(3):
        with pytest.raises(SourceLostError, match="has not let go"):
            source.open()
    assert time.monotonic() - began < 2
    assert [t.name for t in threading.enumerate() if "the test" in t.name] == ["start the test"]
    writer = os.open(fifo, os.O_RDWR)
    wait_until(lambda: not [t for t in threading.enumerate() if "the test" in t.name])
    os.close(writer)
    monkeypatch.undo()
    source.close()
    assert source._pipeline is None


def test_many_cycles_leave_nothing() -> None:
    """Opened well, opened in vain, closed while pictures come."""
    need("videotestsrc")
    good = TestSource(
        "videotestsrc is-live=true ! video/x-raw,format=NV12,width=640,height=480,framerate=100/1"
    )
    bad = TestSource("videotestsrc ! identity error-after=1")
    before = (0, 0, 0)
    for cycle in range(60):
        with good:
            assert good.read()
        with pytest.raises(SourceLostError):
            bad.open()
        if cycle == 19:
            before = held()
    after = held()
    # GStreamer keeps a few threads for the next one.
    assert after[1] <= before[1]
    assert after[2] <= before[2] + 2
    assert after[0] - before[0] < 2048


def test_what_waits_on_the_bus_is_let_go() -> None:
    """Each element says there what it does, and nobody else would read it in months."""
    need("videotestsrc")
    source = TestSource("videotestsrc is-live=true ! video/x-raw,format=GRAY8,framerate=100/1")
    with source:
        for _ in range(3):
            source.read()
        assert source._pipeline is not None
        assert load_gst().gst_bus_pop(source._pipeline._bus) is None


def test_properties_are_values_and_never_pipelines() -> None:
    need("videotestsrc")
    gst = load_gst()
    element = gst.gst_element_factory_make(b"filesrc", None)
    gst.gst_object_ref_sink(element)
    try:
        for value in ('a" ! fakesink name="b', "'; rm -rf /", '"quoted"', "ä ö", ""):
            gst.set_property(element, "location", value)
        gst.set_property(element, "blocksize", "8192")
        for name, value in [("blocksize", "8192 ! fakesink"), ("blocksize", "many"), ("location", "a\0b")]:
            with pytest.raises(InputError, match=name) as caught:
                gst.set_property(element, name, value)
            assert value not in str(caught.value)
        with pytest.raises(InputError, match="blocksize, do-timestamp, location"):
            gst.set_property(element, "exposure", "1")
    finally:
        gst.gst_object_unref(element)


def test_a_number_out_of_range_is_refused_without_a_word_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    need("videotestsrc")
    gst = load_gst()
    element = gst.gst_element_factory_make(b"videotestsrc", None)
    gst.gst_object_ref_sink(element)
    with pytest.raises(InputError, match="pattern"):
        gst.set_property(element, "pattern", "999")
    gst.gst_object_unref(element)
    assert capfd.readouterr() == ("", "")


def test_a_missing_library_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gst_binding._LIBRARIES, "app", ("libgstapp-0.so", "libgstreamer-plugins-base1.0-0"))
    with pytest.raises(InputError, match=r"libgstapp-0\.so") as caught:
        gst_binding.Gst()
    assert caught.value.hint.startswith("install it: sudo apt install libgstreamer-plugins-base1.0-0")


def test_nothing_is_loaded_until_a_source_opens() -> None:
    code = "import agp_edge.sources.csi, agp_edge.sources.gst_rtsp as r; r.GstRtspSource('rtsp://x/'); print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "libgst" not in done.stdout


@pytest.mark.parametrize("pixel_format", ["NV12", "I420"])
@pytest.mark.parametrize("full", [False, True])
def test_planes_may_lie_anywhere(pixel_format: str, full: bool) -> None:
    """As decoders leave them: rows and planes padded, here with noise that must not be seen."""
    rng = np.random.default_rng(0)
    width, height = 38, 26
    chroma = [width] if pixel_format == "NV12" else [width // 2] * 2
    planes = [rng.integers(16, 235, (height, width), np.uint8)]
    planes += [rng.integers(16, 240, (height // 2, row), np.uint8) for row in chroma]

    def lay(strides: list[int], gap: int) -> tuple[Any, Layout]:
        data = rng.integers(0, 255, 10_000).astype(np.uint8)
        offsets, at = [], gap
        for plane, stride in zip(planes, strides, strict=True):
            rows = np.lib.stride_tricks.as_strided(data[at:], plane.shape, (stride, 1))
            rows[:] = plane
            offsets.append(at)
            at += stride * len(plane) + gap
        return data, Layout(pixel_format, width, height, None, full, "bt601", tuple(offsets), tuple(strides))

    tight = picture_pixels(*lay([width, *chroma], 0))
    for strides, gap in [([64, *(2 * row for row in chroma)], 0), ([40, *(row + 5 for row in chroma)], 7)]:
        np.testing.assert_array_equal(picture_pixels(*lay(strides, gap)), tight)
    data, layout = lay([width, *chroma], 1)
    with pytest.raises(InputError, match="too few"):
        picture_pixels(data[: 38 * 26 + 100], layout)


def test_colours_by_the_standards_own_numbers() -> None:
    """White, black and the primaries of BT.709 in limited range (ITU-R BT.709-6, 3.4), and of JFIF in full."""
    limited = [(235, 128, 128), (16, 128, 128), (63, 102, 240), (173, 42, 26), (32, 240, 118)]
    full = [(255, 128, 128), (0, 128, 128), (76, 85, 255), (150, 44, 21), (29, 255, 107)]
    wanted = [(255, 255, 255), (0, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 0)]
    for matrix, full_range, colours in (("bt709", False, limited), ("bt601", True, full)):
        found = [colour_matrix(matrix, full_range) @ [*colour, 1] for colour in colours]
        np.testing.assert_allclose(found, wanted, atol=2)


@pytest.mark.parametrize("colours", ["1:4:0:0", "2:4:5:4", "bt709", "1:3:5:1"])
def test_a_decoder_here_gives_what_opencvs_gives(tmp_path: Path, colours: str) -> None:
    """A verdict must not depend on who decodes: range and matrix are taken from the stream in both."""
    import cv2

    need("videotestsrc", "x264enc", "h264parse", "avdec_h264")
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("what FFmpeg in this OpenCV makes of colours is not known here")
    file = tmp_path / "bars.h264"
    coder = (
        "videotestsrc num-buffers=3 pattern=smpte75 ! video/x-raw,format=BGR,width=640,height=480 ! videoconvert "
        f"! video/x-raw,format=I420,colorimetry={colours} ! x264enc pass=quant quantizer=5 "
        f"! video/x-h264,profile=high,stream-format=byte-stream ! filesink location={file}"
    )
    subprocess.run(["gst-launch-1.0", "-q", *coder.split()], check=True)
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    theirs = capture.read()[1]
    capture.release()
    with TestSource(
        f"filesrc location={file} ! h264parse name=parse ! avdec_h264", colours="parse"
    ) as source:
        frame = source.read()
    assert frame is not None
    np.testing.assert_allclose(bars(frame.pixels), SMPTE75_BGR, atol=3)
    np.testing.assert_allclose(bars(frame.pixels), bars(theirs), atol=4)


def test_structures_have_the_sizes_of_the_headers() -> None:
    """On 64 bits, as `sizeof` in C gives them (GStreamer 1.22)."""
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        pytest.skip("another size of pointers")
    assert ctypes.sizeof(gst_binding.GstMiniObject) == 64
    assert ctypes.sizeof(gst_binding.GstBuffer) == 112
    assert ctypes.sizeof(gst_binding.GstMapInfo) == 104
    assert gst_binding.GstVideoInfo.stride.offset == 104
    assert gst_binding.GstVideoMeta.stride.offset == 80
