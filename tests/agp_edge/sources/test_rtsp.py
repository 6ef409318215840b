"""RTSP cameras, with real servers on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agp_edge.errors import InputError, SourceLostError
from agp_edge.judging import open_judging_engine
from agp_edge.sources import Source, SourceOptions, open_source
from agp_edge.sources.options import Transport
from agp_edge.stream import Stream
from tests.servers.rtsp import RtspServer
from tests.waiting import wait_until

SOFTWARE = SourceOptions(decode="software", timeout_s=30)
"""Longer than a busy machine takes to decode a picture."""


@contextlib.contextmanager
def streaming(
    engine: Path, address: str, events: list[str], options: SourceOptions = SOFTWARE
) -> Iterator[Stream]:
    """A stream of an address that runs until the block ends, and whose counts then add up."""
    source = open_source(f"rtsp://admin:se/cret@{address}", options)
    with open_judging_engine(engine) as judging:
        stream = Stream([source], judging, on_event=lambda event: events.append(str(event)))
        running = threading.Thread(target=stream.run)
        running.start()
        try:
            yield stream
        finally:
            stream.stop()
            running.join()
    (counts,) = stream.summary()["sources"]
    assert counts["captured"] == counts["judged"] + counts["dropped"] + counts["failed"]
    assert "cret" not in str(stream.summary()) + str(events)


def read_on(source: Source) -> None:
    for _ in range(1000):
        source.read()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_come_over_both_transports(rtsp: RtspServer, transport: Transport) -> None:
    options = SourceOptions(transport=transport, decode="software", timeout_s=20)
    with open_source(f"rtsp://{rtsp.address}", options) as source:
        frames = [source.read() for _ in range(5)]
        assert source.fps == pytest.approx(30)
    for frame in frames:
        assert frame is not None
        assert frame.pixels.shape == (48, 64, 3)
        # A white ball on black.
        assert frame.pixels.max() > 200
        assert frame.pixels.min() < 30
    numbers = [frame.number for frame in frames if frame]
    assert numbers == sorted(set(numbers))


def test_a_server_that_is_killed_and_comes_back(rtsp: RtspServer, tiny_engine: Path) -> None:
    events: list[str] = []
    with streaming(tiny_engine, rtsp.address, events) as stream:
        wait_until(lambda: stream.judged >= 5)
        rtsp.kill()
        wait_until(lambda: any("no more frames" in event for event in events))
        before = stream.judged
        rtsp.start()
        wait_until(lambda: stream.judged >= before + 5)
    assert stream.summary()["sources"][0]["reconnects"] == 1
    assert any("is back" in event for event in events)


def test_a_server_that_stalls_without_a_word(rtsp: RtspServer, tiny_engine: Path) -> None:
    events: list[str] = []
    options = SourceOptions(decode="software", timeout_s=2)
    with streaming(tiny_engine, rtsp.address, events, options) as stream:
        wait_until(lambda: stream.judged >= 5)
        rtsp.stall()
        wait_until(
            lambda: any("gives nothing for 2 s" in event or "no more frames" in event for event in events)
        )
        before = stream.judged
        rtsp.go_on()
        wait_until(lambda: stream.judged >= before + 5)
    assert stream.summary()["sources"][0]["reconnects"] >= 1


def test_a_server_that_comes_back_with_another_size(rtsp: RtspServer) -> None:
    with open_source(f"rtsp://{rtsp.address}", SOFTWARE) as source:
        frame = source.read()
        assert frame is not None
        assert frame.pixels.shape == (48, 64, 3)
        rtsp.kill()
        with pytest.raises(SourceLostError):
            read_on(source)
        rtsp.start("96x64")
        source.open()
        after = source.read()
        assert after is not None
        assert after.pixels.shape == (64, 96, 3)
        assert after.number > frame.number


def test_a_camera_that_is_not_there_is_lost_not_wrong() -> None:
    with pytest.raises(SourceLostError, match="connection refused") as caught:
        open_source("rtsp://admin:secret@127.0.0.1:1/live", SOFTWARE).open()
    assert "secret" not in str(caught.value)


def test_a_camera_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begin = time.monotonic()
        source = open_source(f"rtsp://admin:secret@{address}/live", SourceOptions(timeout_s=0.5))
        with pytest.raises(SourceLostError, match=r"within 0\.5 s") as caught:
            source.open()
    assert time.monotonic() - begin < 20
    assert "secret" not in str(caught.value)


def test_passwords_are_asked_for_and_refusals_told_as_such(start_rtsp: Callable[..., RtspServer]) -> None:
    server = start_rtsp(password="right")
    with open_source(f"rtsp://admin:right@{server.address}", SOFTWARE) as source:
        source.read()
    for user in ("admin:wrong@", ""):
        with pytest.raises(InputError, match=r"refuses user and password \(401\)") as caught:
            open_source(f"rtsp://{user}{server.address}", SOFTWARE).open()
        assert "wrong" not in str(caught.value)
    with pytest.raises(SourceLostError, match=r"no stream that the camera has \(404\)"):
        open_source(f"rtsp://admin:right@{server.address}/other", SOFTWARE).open()


def test_a_stream_is_not_held_up_by_a_camera_that_says_nothing(rtsp: RtspServer, tiny_engine: Path) -> None:
    events: list[str] = []
    with streaming(tiny_engine, rtsp.address, events) as stream:
        wait_until(lambda: stream.judged >= 3)
        rtsp.stall()
        time.sleep(0.2)
        begin = time.monotonic()
    # Sooner than the camera's time-out, and nothing is told of a camera that was let go.
    wait_until(lambda: not any(thread.name.startswith("read rtsp") for thread in threading.enumerate()), 20)
    assert time.monotonic() - begin < 20
    assert [event for event in events if "stopping" not in event] == []


@pytest.mark.parametrize(
    ("codec", "transport"), [("H264", "tcp"), ("H264", "udp"), ("H265", "udp"), ("JPEG", "udp")]
)
def test_a_picture_of_which_parts_were_lost_is_never_shown(
    start_rtsp: Callable[..., RtspServer], codec: str, transport: Transport
) -> None:
    server = start_rtsp("320x240", codec=codec, lose=0.02)
    options = SourceOptions(transport=transport, decode="software", timeout_s=20)
    whole, failed = 0, 0
    end = time.monotonic() + 60
    with open_source(f"rtsp://{server.address}", options) as source:
        while (whole < 15 or failed < 5) and time.monotonic() < end:
            try:
                frame = source.read()
            except InputError as error:
                failed += "is damaged" in str(error)
                continue
            assert frame is not None
            bars = frame.pixels[10:130].astype(int)
            assert abs(bars - bars[60]).mean() < 0.5
            whole += 1
    assert whole >= 15
    assert failed >= 5


def test_hardware_that_is_not_there_is_no_software(rtsp: RtspServer) -> None:
    from agp_edge.sources.gst_rtsp import rtsp_hardware_decoder

    if rtsp_hardware_decoder() is not None:
        pytest.skip("this machine decodes in hardware")
    with pytest.raises(InputError, match="nothing here that decodes"):
        open_source(f"rtsp://{rtsp.address}", SourceOptions(decode="hardware")).open()
