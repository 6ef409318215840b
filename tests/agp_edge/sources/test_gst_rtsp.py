"""RTSP through GStreamer, from a real server. What decodes in hardware is not here: FFmpeg's decoder takes its place in the pipeline."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources import SourceOptions, gst_rtsp
from agp_edge.sources.gst_rtsp import GstRtspSource, decoder_of, rtsp_hardware_decoder
from tests.agp_edge.sources.gst import held, need, read_until_lost, wait_until

pytest.importorskip("cv2")

SERVER = Path(__file__).parents[2] / "servers" / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"
SECRET = "se:c/r@t%"


class Server:
    """The server of tests/servers, in a process of its own."""

    def __init__(self, size: str, *arguments: str, port: str = "0") -> None:
        command = [SYSTEM_PYTHON, str(SERVER), size, port, *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        assert self.port, "the RTSP server did not start"

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    need("rtspsrc", "rtph264depay", "h264parse", "avdec_h264", "x264enc")
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False).returncode:
        pytest.skip(
            f"{SYSTEM_PYTHON} has no GstRtspServer: apt install python3-gi gir1.2-gst-rtsp-server-1.0"
        )
    servers: list[Server] = []

    def start(*arguments: str, port: str = "0") -> Server:
        servers.append(Server(*arguments, port=port))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def source_of(
    server: Server, *, user: str = "", timeout_s: float = 20, transport: str = "tcp"
) -> GstRtspSource:
    options = SourceOptions(decode="software", timeout_s=timeout_s, transport=transport)  # type: ignore[arg-type]
    return GstRtspSource(f"rtsp://{user}127.0.0.1:{server.port}/live", options)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_ball_moves(serve: Callable[..., Server], transport: str) -> None:
    with source_of(serve("64x48"), transport=transport) as source:
        frames = [source.read() for _ in range(10)]
        assert source.fps == 30
    assert [frame.number for frame in frames if frame] == list(range(10))
    assert {frame.pixels.shape for frame in frames if frame} == {(48, 64, 3)}
    assert frames[0] is not None
    assert frames[9] is not None
    assert (frames[0].pixels != frames[9].pixels).any()
    assert int(frames[0].pixels.max()) > 200 > 50 > int(frames[0].pixels.min())
    assert frames[0].captured_ns < frames[9].captured_ns < time.monotonic_ns()


def test_killed_and_back_in_another_size(serve: Callable[..., Server]) -> None:
    server = serve("64x48")
    source = source_of(server)
    source.open()
    assert source.read()
    server.kill()
    assert "it ended" in read_until_lost(source).what
    with pytest.raises(SourceLostError, match="Failed to connect"):
        source.open()
    serve("160x120", port=server.port)
    source.open()
    frame = source.read()
    source.close()
    assert frame is not None
    assert frame.pixels.shape == (120, 160, 3)
    assert frame.number >= 1, "numbers go on"


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_stalled_without_closing(serve: Callable[..., Server], transport: str) -> None:
    server = serve("64x48")
    source = source_of(server, timeout_s=1, transport=transport)
    source.open()
    server.send(signal.SIGSTOP)
    began = time.monotonic()
    assert "no frame for 1 s" in read_until_lost(source).what
    source.close()
    with pytest.raises(SourceLostError):
        source.open()
    assert time.monotonic() - began < 20, "its time-outs hold"
    server.send(signal.SIGCONT)
    wait_until(lambda: opens(source))
    assert source.read()
    source.close()


def opens(source: GstRtspSource) -> bool:
    try:
        source.open()
    except SourceLostError:
        return False
    return True


def test_h265_is_found_out(serve: Callable[..., Server]) -> None:
    need("rtph265depay", "h265parse", "avdec_h265", "x265enc")
    source = source_of(serve("320x240", "--codec", "H265"))
    for _ in range(2):
        with source:
            frame = source.read()
            assert frame is not None
            assert frame.pixels.shape == (240, 320, 3)
    assert source._codecs[0] == "H265", "the second time it is tried first"


def test_a_codec_that_nothing_decodes(serve: Callable[..., Server]) -> None:
    with pytest.raises(InputError, match=r"sends neither H\.264 nor H\.265"):
        source_of(serve("64x48", "--codec", "JPEG")).open()


def test_a_password_opens_and_is_never_told(
    serve: Callable[..., Server], capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve("64x48", "--password", SECRET)
    with source_of(server, user=f"admin:{SECRET.replace('%', '%25')}@") as source:
        assert source.read()
        assert SECRET not in source.name
        arguments = Path("/proc/self/cmdline").read_text()
        assert "c/r@t" not in arguments
    for user in ("admin:wr/0ng@", ""):
        with pytest.raises(SourceLostError, match=r"\(401\)") as caught:
            source_of(server, user=user).open()
        assert "wr/0ng" not in str(caught.value)
        assert caught.value.hint == "see user and password: rtsp://USER:PASSWORD@…"
    assert capfd.readouterr() == ("", "")


def test_an_address_cannot_add_to_the_pipeline(serve: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "written"
    source = GstRtspSource(
        f'rtsp://127.0.0.1:{serve("64x48").port}/live" ! filesink location="{file}',
        SourceOptions(decode="software"),
    )
    with pytest.raises(SourceLostError):
        source.open()
    assert not file.exists()


def test_cycles_leave_nothing(serve: Callable[..., Server]) -> None:
    source = source_of(serve("64x48"))
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


def test_hardware_that_is_not_here_is_refused(serve: Callable[..., Server]) -> None:
    if rtsp_hardware_decoder() is not None:
        pytest.skip("there is a decoder in hardware")
    source = GstRtspSource(f"rtsp://127.0.0.1:{serve('64x48').port}/live", SourceOptions(decode="hardware"))
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
