"""Windows: what is refused before the first frame, and real windows where OpenCV here has any (pip's headless one has none)."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from agp_edge.errors import InputError
from agp_edge.sinks import Judgement
from agp_edge.sinks.show import ShowSink, check_windows
from agp_edge.sinks.show_window import HEAD, receive

cv2 = pytest.importorskip("cv2")
WINDOWS = not any(
    line.strip().startswith("GUI:") and line.split()[-1] == "NONE"
    for line in cv2.getBuildInformation().splitlines()
)


@pytest.fixture
def with_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if OpenCV here were built with windows, to see what else is asked for."""
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real X server of a test's own."""
    if not WINDOWS:
        pytest.skip("OpenCV here is built without windows: pip install opencv-python")
    if not shutil.which("Xvfb"):
        pytest.skip("a screen needs Xvfb: apt install xvfb")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1600x900x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL) as server:
        os.close(write)
        with os.fdopen(read) as number:
            monkeypatch.setenv("DISPLAY", f":{number.readline().strip()}")
        yield
        server.terminate()


def write_for_long(sink: ShowSink, judgement: Judgement) -> None:
    """More than a pipe holds."""
    for _ in range(200):
        sink.write(judgement)


@pytest.mark.skipif(WINDOWS, reason="OpenCV here has windows")
def test_an_opencv_without_windows_is_refused_and_the_other_package_named() -> None:
    with pytest.raises(InputError, match="built without windows") as caught:
        ShowSink()
    assert "pip install opencv-python;" in caught.value.hint


@pytest.mark.usefixtures("with_windows")
def test_without_a_desktop_there_is_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "")
    with pytest.raises(InputError, match="neither DISPLAY nor WAYLAND_DISPLAY"):
        ShowSink()
    monkeypatch.setenv("DISPLAY", ":0")
    check_windows()


@pytest.mark.usefixtures("with_windows")
def test_a_display_that_cannot_be_reached_is_an_error_and_not_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISPLAY", ":4711")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(InputError, match=r"the window of --show cannot be opened: ."):
        ShowSink()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_pictures_come_through_a_pipe_as_they_are() -> None:
    rng = np.random.default_rng(0)
    pictures = [
        ("agp-edge cam", rng.integers(0, 256, (48, 64, 3), np.uint8)),
        ("Ä", np.zeros((1, 2, 3), np.uint8)),
    ]
    stream = io.BytesIO()
    for title, picture in pictures:
        name = title.encode()
        stream.write(HEAD.pack(len(name), *picture.shape[:2]) + name + picture.tobytes())
    data = stream.getvalue()
    stream.seek(0)
    for title, picture in pictures:
        received = receive(stream)
        assert received is not None
        assert received[0] == title
        np.testing.assert_array_equal(received[1], picture)
    assert receive(stream) is None
    # A stream that was killed in the middle of a picture.
    stream = io.BytesIO(data[:-1])
    assert receive(stream) is not None
    assert receive(stream) is None


@pytest.mark.usefixtures("screen")
def test_frames_are_shown_and_no_more_than_can_be_seen(judgement: Judgement) -> None:
    sink = ShowSink()
    until = time.monotonic() + 1
    written = 0
    while time.monotonic() < until:
        sink.write(replace(judgement, verdict="OK"))
        written += 1
    sink.write(judgement)
    sink.close()
    sink.close()
    shown = int(sink.describe().split()[0])
    assert 2 <= shown <= 25
    assert written > shown


@pytest.mark.usefixtures("screen")
def test_a_window_that_dies_or_hangs_is_an_error_and_comes_back(
    judgement: Judgement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agp_edge.sinks.show.AGAIN_S", 0.5)
    monkeypatch.setattr("agp_edge.sinks.show.STUCK_S", 0.5)
    sink = ShowSink()
    for number, said in ((signal.SIGKILL, "is gone"), (signal.SIGSTOP, "does not answer")):
        sink.write(judgement)
        assert sink._process is not None
        os.kill(sink._process.pid, number)
        with pytest.raises(InputError, match=said):
            write_for_long(sink, judgement)
        with pytest.raises(InputError, match=said):
            sink.write(judgement)
        time.sleep(0.6)
    sink.write(judgement)
    sink.close()
