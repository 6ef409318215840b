"""A camera of MJPEG over HTTP in a process of its own: `python -m tests.servers.http_camera WIDTHxHEIGHT [PORT]`.

Prints its port; each line on stdin ends the answers of now.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator


class HttpCamera:
    """The camera as benchmarks drive it, on one port all its life.

    Args:
        size: `WIDTHxHEIGHT`.
    """

    def __init__(self, size: str = "64x48") -> None:
        self.port = "0"
        self._size = size
        self.start()

    def start(self) -> None:
        """Start, on the same port as before."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.http_camera", self._size, self.port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()
        assert self.port, "the camera did not start"

    def pids(self) -> set[int]:
        """Its process."""
        return {self._process.pid}

    def cut(self) -> None:
        """End the answers of now."""
        assert self._process.stdin is not None
        self._process.stdin.write("cut\n")
        self._process.stdin.flush()

    def stall(self) -> None:
        """Give nothing more, but close nothing either."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stall`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End at once; safe to call twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def serve(width: int, height: int, port: int) -> None:
    """Serve until stdin ends."""
    import cv2
    import numpy as np

    from tests.servers.mjpeg import MjpegServer, part

    cuts = 0
    picture = part(bytes(cv2.imencode(".jpg", np.full((height, width, 3), 60, np.uint8))[1]))

    def parts() -> Iterator[bytes]:
        at = cuts
        while cuts == at:
            yield picture
            time.sleep(0.02)

    with MjpegServer(parts, port=port) as server:
        print(server.port, flush=True)
        for _ in sys.stdin:
            cuts += 1


if __name__ == "__main__":
    width, height = sys.argv[1].split("x")
    serve(int(width), int(height), int(sys.argv[2]))
