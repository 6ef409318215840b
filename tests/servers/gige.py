"""Aravis' fake camera of GigE Vision on loopback: a real one to whoever speaks to it, in a process of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = "arv-fake-gv-camera-0.8"
GVCP_PORT = 3956


class FakeCamera:
    """One camera with the serial number `serial`, until it is killed; 512x512 Mono8 at 25 frames a second.

    Its address needs no search, which takes a second.
    """

    uri = "genicam://127.0.0.1"

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self, *arguments: str) -> None:
        """Switch it on, as it was made; it is on when this returns."""
        self._process = subprocess.Popen(
            [PROGRAM, "-i", "127.0.0.1", "-s", self.serial, *arguments], stdout=subprocess.DEVNULL
        )
        end = time.monotonic() + 30
        while not _is_bound():
            assert self._process.poll() is None, f"{PROGRAM} did not start"
            assert time.monotonic() < end
            time.sleep(0.01)

    def restart(self, *arguments: str) -> None:
        """Off and on: it forgets what it was told."""
        self.kill()
        self.start(*arguments)

    def pids(self) -> set[int]:
        """Its process."""
        return set() if self._process is None else {self._process.pid}

    def kill(self) -> None:
        """Pull its plug."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stall(self) -> None:
        """It answers nothing any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)


def _is_bound() -> bool:
    """Whether something on this machine listens on GVCP's port."""
    lines = Path("/proc/net/udp").read_text().splitlines()[1:]
    return any(int(line.split()[1].rpartition(":")[2], 16) == GVCP_PORT for line in lines)


def missing() -> str | None:
    """What has to be installed for it; None if it is there."""
    return None if shutil.which(PROGRAM) else f"there is no {PROGRAM}: apt install aravis-tools"


@contextmanager
def fake_camera() -> Iterator[FakeCamera]:
    """A camera that is on; whoever else tests with one on this machine waits, the port of GVCP is one and fixed."""
    with (Path(tempfile.gettempdir()) / "agp-edge-fake-camera.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        camera = FakeCamera(f"AGP{os.getpid()}")
        try:
            yield camera
        finally:
            camera.kill()
