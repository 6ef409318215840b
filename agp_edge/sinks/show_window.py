"""The process of the windows: `python -m agp_edge.sinks.show_window`, started by `ShowSink` and by nobody else.

A display server that goes away ends the process that holds a window, whatever that does besides; so it is not the stream's.
Pictures come on stdin, and the newest of each source is shown. It ends when stdin does, or when a person closes the windows.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from agp_edge.extras import import_cv2

HEAD = struct.Struct("<III")
"""Bytes of the title, height, width; then the title in UTF-8, and [height, width, 3] bytes BGR."""

LOOK_MS = 30
KEYS_THAT_CLOSE = (27, ord("q"))
READY = b"ready\n"


def receive(stream: BinaryIO) -> tuple[str, NDArray[np.uint8]] | None:
    """The next picture and its title; None at the end."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    length, height, width = HEAD.unpack(head)
    title, data = stream.read(length), stream.read(height * width * 3)
    if len(data) < height * width * 3:
        return None
    return title.decode(), np.frombuffer(data, np.uint8).reshape(height, width, 3)


class _Newest:
    """The newest picture of each source, as a thread reads them."""

    def __init__(self, stream: BinaryIO) -> None:
        self.ended = False
        self._lock = threading.Lock()
        self._pictures: dict[str, NDArray[np.uint8]] = {}
        threading.Thread(target=self._read, args=(stream,), name="pictures", daemon=True).start()

    def take(self) -> dict[str, NDArray[np.uint8]]:
        """Those that came since the last call."""
        with self._lock:
            taken, self._pictures = self._pictures, {}
        return taken

    def _read(self, stream: BinaryIO) -> None:
        while (received := receive(stream)) is not None:
            with self._lock:
                self._pictures[received[0]] = received[1]
        self.ended = True


def main() -> None:
    """Show what comes."""
    cv2 = import_cv2("a window")
    # Opened before anything comes: a display that cannot be reached ends the process here.
    probe = "agp-edge"
    cv2.namedWindow(probe, cv2.WINDOW_NORMAL)
    cv2.waitKey(1)
    os.write(1, READY)
    # From here on libraries may complain for months, and nobody reads it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    newest = _Newest(sys.stdin.buffer)
    shown: set[str] = set()
    while not newest.ended:
        for title, picture in newest.take().items():
            if title not in shown:
                _open(cv2, title, picture, shown, probe)
            cv2.imshow(title, picture)
        if cv2.waitKey(LOOK_MS) in KEYS_THAT_CLOSE:
            return
        if any(cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1 for title in shown):
            return


def _open(cv2: Any, title: str, picture: NDArray[np.uint8], shown: set[str], probe: str) -> None:
    if not shown:
        cv2.destroyWindow(probe)
    height, width = picture.shape[:2]
    cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
    cv2.resizeWindow(title, width, height)
    shown.add(title)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Windows are the display server's to clear away; a toolkit's own end may wait for it, or complain.
    os._exit(0)
