"""Network cameras, with real servers on loopback."""

from __future__ import annotations

import http.server
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import SourceLostError
from agp_edge.judging import open_judging_engine
from agp_edge.sources import open_source
from agp_edge.stream import Stream

SERVER = Path(__file__).parents[2] / "servers" / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"


class RtspServer:
    """The server of tests/servers in a process of its own, on one port all its life."""

    def __init__(self) -> None:
        self.port = ""
        self.start()

    def start(self) -> None:
        command = [SYSTEM_PYTHON, str(SERVER), "64x48", *([self.port] if self.port else [])]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        assert self.port, "the RTSP server did not start"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def rtsp() -> Iterator[RtspServer]:
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if (
        not Path(SYSTEM_PYTHON).exists()
        or subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False).returncode
    ):
        pytest.skip(
            f"{SYSTEM_PYTHON} has no gi with GstRtspServer: apt install python3-gi gir1.2-gst-rtsp-server-1.0"
        )
    server = RtspServer()
    yield server
    server.kill()


@pytest.fixture
def mjpeg(part: Callable[..., NDArray[np.uint8]]) -> Iterator[str]:
    """The URL of an MJPEG camera; every tenth part has a defect."""
    cv2 = pytest.importorskip("cv2")
    pictures = [cv2.imencode(".jpg", part(i, defect=i % 10 == 9))[1].tobytes() for i in range(40)]
    over = threading.Event()

    class Camera(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            try:
                while not over.wait(0.01):
                    picture = pictures[number % len(pictures)]
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                    self.wfile.write(head.encode() + picture + b"\r\n")
                    number += 1
            except OSError:
                pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://user:secret@127.0.0.1:{server.server_port}/video"
    over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_mjpeg_over_http(mjpeg: str, tiny_engine: Path) -> None:
    events: list[str] = []
    with open_judging_engine(tiny_engine) as engine:
        stream = Stream([open_source(mjpeg)], engine, frames=30, on_event=events.append)
        stream.run()
    (counts,) = stream.summary()["sources"]
    assert counts["judged"] == 30
    assert counts["captured"] == counts["judged"] + counts["dropped"] + counts["failed"]
    assert counts["failed"] == 0
    assert counts["ng"] >= 1
    assert "secret" not in str(stream.summary()) + str(events)


def test_a_camera_that_is_not_there_is_lost_not_wrong() -> None:
    with pytest.raises(SourceLostError) as caught:
        open_source("rtsp://admin:secret@127.0.0.1:1/live").open()
    assert "secret" not in str(caught.value)


def test_an_rtsp_server_that_is_killed_and_comes_back(rtsp: RtspServer, tiny_engine: Path) -> None:
    events: list[str] = []
    source = open_source(f"rtsp://admin:se/cret@127.0.0.1:{rtsp.port}/live")
    with open_judging_engine(tiny_engine) as engine:
        stream = Stream([source], engine, on_event=events.append)
        running = threading.Thread(target=stream.run)
        running.start()
        try:
            wait_until(lambda: stream.judged >= 5)
            rtsp.kill()
            wait_until(lambda: any("no more frames" in event for event in events))
            before = stream.judged
            rtsp.start()
            wait_until(lambda: stream.judged >= before + 5)
        finally:
            stream.stop()
            running.join()
    (counts,) = stream.summary()["sources"]
    assert counts["reconnects"] == 1
    assert counts["captured"] == counts["judged"] + counts["dropped"] + counts["failed"]
    assert any("is back" in event for event in events)
    assert "cret" not in str(stream.summary()) + str(events)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
