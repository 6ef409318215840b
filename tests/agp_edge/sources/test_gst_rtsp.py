"""RTSP through GStreamer, from a real server. What decodes in hardware is not here: FFmpeg's decoder takes its place in the pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources import SourceOptions, gst_rtsp
from agp_edge.sources.gst_rtsp import GstRtspSource, decoder_of, rtsp_hardware_decoder
from agp_edge.sources.rtsp import FfmpegRtspSource, RtspSource
from tests.agp_edge.sources.gst import held, need, read_until_lost
from tests.servers.rtsp import RtspServer
from tests.waiting import wait_until

pytest.importorskip("cv2")

SOFTWARE = SourceOptions(decode="software", timeout_s=20)
SECRET = "se:c/r@t%"


@pytest.fixture
def serve(start_rtsp: Callable[..., RtspServer]) -> Callable[..., RtspServer]:
    need("rtspsrc", "rtph264depay", "h264parse", "avdec_h264", "x264enc")
    return start_rtsp


def source_of(
    server: RtspServer, *, user: str = "", timeout_s: float = 20, transport: str = "tcp"
) -> GstRtspSource:
    options = SourceOptions(decode="software", timeout_s=timeout_s, transport=transport)  # type: ignore[arg-type]
    return GstRtspSource(f"rtsp://{user}{server.address}", options)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_ball_moves(serve: Callable[..., RtspServer], transport: str) -> None:
    with source_of(serve(), transport=transport) as source:
        frames = [source.read() for _ in range(10)]
        assert source.fps == 30
    assert [frame.number for frame in frames if frame] == list(range(10))
    assert {frame.pixels.shape for frame in frames if frame} == {(48, 64, 3)}
    assert frames[0] is not None
    assert frames[9] is not None
    assert (frames[0].pixels != frames[9].pixels).any()
    assert int(frames[0].pixels.max()) > 200 > 50 > int(frames[0].pixels.min())
    assert frames[0].captured_ns < frames[9].captured_ns < time.monotonic_ns()


def test_killed_and_back_in_another_size(serve: Callable[..., RtspServer]) -> None:
    server = serve()
    source = source_of(server)
    source.open()
    assert source.read()
    server.kill()
    assert "it ended" in read_until_lost(source).what
    with pytest.raises(SourceLostError, match="Failed to connect"):
        source.open()
    server.start("160x120")
    source.open()
    frame = source.read()
    source.close()
    assert frame is not None
    assert frame.pixels.shape == (120, 160, 3)
    assert frame.number >= 1, "numbers go on"


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_stalled_without_closing(serve: Callable[..., RtspServer], transport: str) -> None:
    server = serve()
    source = source_of(server, timeout_s=1, transport=transport)
    source.open()
    server.stall()
    began = time.monotonic()
    assert "no frame for 1 s" in read_until_lost(source).what
    source.close()
    with pytest.raises(SourceLostError):
        source.open()
    assert time.monotonic() - began < 20, "its time-outs hold"
    server.go_on()
    wait_until(lambda: opens(source))
    assert source.read()
    source.close()


def opens(source: GstRtspSource) -> bool:
    try:
        source.open()
    except SourceLostError:
        return False
    return True


def test_h265_is_found_out(serve: Callable[..., RtspServer]) -> None:
    need("rtph265depay", "h265parse", "avdec_h265", "x265enc")
    source = source_of(serve("320x240", codec="H265"))
    for _ in range(2):
        with source:
            frame = source.read()
            assert frame is not None
            assert frame.pixels.shape == (240, 320, 3)
    assert source._codecs[0] == "H265", "the second time it is tried first"


def test_a_codec_that_nothing_decodes(serve: Callable[..., RtspServer]) -> None:
    with pytest.raises(InputError, match=r"sends neither H\.264 nor H\.265"):
        source_of(serve(codec="JPEG")).open()


def test_a_password_opens_and_is_never_told(
    serve: Callable[..., RtspServer], capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve(password=SECRET)
    with source_of(server, user=f"admin:{SECRET.replace('%', '%25')}@") as source:
        assert source.read()
        assert SECRET not in source.name
    for user in ("admin:wr/0ng@", ""):
        with pytest.raises(InputError, match=r"refuses user and password \(401\)") as caught:
            source_of(server, user=user).open()
        assert "wr/0ng" not in str(caught.value)
    unknown = GstRtspSource(
        f"rtsp://admin:{SECRET.replace('%', '%25')}@127.0.0.1:{server.port}/nothing", SOFTWARE
    )
    with pytest.raises(SourceLostError, match=r"no stream that the camera has \(404\)"):
        unknown.open()
    assert capfd.readouterr() == ("", "")


def test_an_address_cannot_add_to_the_pipeline(serve: Callable[..., RtspServer], tmp_path: Path) -> None:
    file = tmp_path / "written"
    source = GstRtspSource(f'rtsp://{serve().address}" ! filesink location="{file}', SOFTWARE)
    with pytest.raises(SourceLostError):
        source.open()
    assert not file.exists()


def test_cycles_leave_nothing(serve: Callable[..., RtspServer]) -> None:
    source = source_of(serve())
    before = (0, 0, 0)
    for cycle in range(40):
        with source:
            assert source.read()
        if cycle == 14:
            before = held()
    after = held()
    assert after[1] <= before[1]
    assert after[2] <= before[2] + 2
    assert after[0] - before[0] < 4096


def test_a_wait_is_ended_from_another_thread(serve: Callable[..., RtspServer]) -> None:
    server = serve()
    source = source_of(server, timeout_s=60)
    source.open()
    server.stall()
    timer = threading.Timer(0.3, source.interrupt)
    timer.start()
    assert "was told to stop" in read_until_lost(source, 30).what
    timer.join()
    source.close()
    with pytest.raises(SourceLostError, match="was told to stop"):
        source.open()


def test_a_camera_is_decoded_in_hardware_where_there_is_some(
    serve: Callable[..., RtspServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `--source rtsp://…` makes; FFmpeg's element stands in for one of hardware."""
    uri = f"rtsp://{serve().address}"
    # FFmpeg is told by the environment, which outlives this test.
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")
    monkeypatch.setattr(gst_rtsp, "HARDWARE", {"avdec_h264": gst_rtsp.SOFTWARE})
    rtsp_hardware_decoder.cache_clear()
    source = RtspSource(uri, SourceOptions(decode="hardware", timeout_s=20))
    with source:
        assert source.read()
        assert isinstance(source._inner, GstRtspSource)
        source.interrupt()
        with pytest.raises(SourceLostError, match="was told to stop"):
            source.read()
    monkeypatch.setattr(gst_rtsp, "HARDWARE", {})
    rtsp_hardware_decoder.cache_clear()
    source = RtspSource(uri, SourceOptions(timeout_s=20))
    with source:
        assert source.read()
        assert isinstance(source._inner, FfmpegRtspSource)
    with pytest.raises(InputError, match="nothing here that decodes"):
        RtspSource(uri, SourceOptions(decode="hardware")).load()
    rtsp_hardware_decoder.cache_clear()


def test_hardware_is_what_opens_not_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`v4l2src` can be made everywhere, and opens where there is a camera; FFmpeg's decoder opens here."""
    need("avdec_h264", "v4l2src")
    if Path("/dev/video0").exists():
        pytest.skip("there is a camera")
    table = {"v4l2src": {"H264": "v4l2src", "H265": "v4l2src"}}
    monkeypatch.setattr(gst_rtsp, "HARDWARE", table)
    rtsp_hardware_decoder.cache_clear()
    assert rtsp_hardware_decoder() is None
    table["avdec_h264"] = {"H264": "avdec_h264 ! identity", "H265": "nosuchelement"}
    rtsp_hardware_decoder.cache_clear()
    assert rtsp_hardware_decoder() == "avdec_h264"
    assert decoder_of("H264", "hardware") == decoder_of("H264", "auto") == "avdec_h264 ! identity"
    assert decoder_of("H265", "hardware") is None
    assert decoder_of("H265", "auto") == "avdec_h265", "the processor decodes what the hardware does not"
    assert decoder_of("H264", "software") == "avdec_h264"
    rtsp_hardware_decoder.cache_clear()


def test_hardware_that_is_not_here_is_refused(serve: Callable[..., RtspServer]) -> None:
    if rtsp_hardware_decoder() is not None:
        pytest.skip("there is a decoder in hardware")
    source = GstRtspSource(f"rtsp://{serve().address}", SourceOptions(decode="hardware"))
    with pytest.raises(InputError, match=r"nothing here decodes H264 of .* in hardware"):
        source.open()


def test_the_pipeline_of_every_decoder_is_well_formed() -> None:
    """Elements of decoders that are not here are replaced, the text around them is what a Jetson runs."""
    from agp_edge.sources.gstreamer import Pipeline

    need("rtspsrc", "h264parse", "h265parse", "avdec_h264", "avdec_h265")
    for ways in [*gst_rtsp.HARDWARE.values(), gst_rtsp.SOFTWARE]:
        for codec, way in ways.items():
            elements = [f"avdec_{codec.lower()}", "identity"][: len(way.split(" ! "))]
            Pipeline(gst_rtsp.describe(codec, " ! ".join(elements)), "test").close()
