"""`rtsp_server.py` as tests drive it: in a process of its own, on one port all its life."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from pathlib import Path

SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"


def missing() -> str | None:
    """What has to be installed for it; None if it is there."""
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if (
        Path(SYSTEM_PYTHON).exists()
        and not subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False).returncode
    ):
        return None
    return f"{SYSTEM_PYTHON} has no gi with GstRtspServer: apt install python3-gi gir1.2-gst-rtsp-server-1.0"


class RtspServer:
    """A server that gives a moving ball at 30 frames a second.

    Args:
        size: `WIDTHxHEIGHT`.
        password: of the user `admin`, asked for by Digest; None asks for nothing.
        codec: `H264`, `H265` or `JPEG`.
        lose: the share of packets that never leave it. Then bars move sideways, and each row is like every other.
    """

    def __init__(
        self,
        size: str = "64x48",
        password: str | None = None,
        codec: str = "H264",
        lose: float | None = None,
    ) -> None:
        self.port = "0"
        self._options = ["--codec", codec, *([] if password is None else ["--password", password])]
        self._options += [] if lose is None else ["--lose", str(lose)]
        self.start(size)

    @property
    def address(self) -> str:
        """As in a URL: host, port and path."""
        return f"127.0.0.1:{self.port}/live"

    def start(self, size: str = "64x48") -> None:
        """Start, on the same port as before."""
        command = [SYSTEM_PYTHON, str(SERVER), size, self.port, *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        assert self.port, "the RTSP server did not start"

    def pids(self) -> set[int]:
        """Its process."""
        return {self._process.pid}

    def stall(self) -> None:
        """Give nothing more, but close nothing either."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stall`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End at once; safe to call twice."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
