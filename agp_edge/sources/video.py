"""Video files: every frame, in order, as fast as they are taken, or at the rate at which they were recorded."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources.base import Frame
from agp_edge.sources.container import missing_bytes
from agp_edge.sources.opencv import OpenCvSource
from agp_edge.sources.options import AS_IT_IS, SourceOptions

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
"""What a file is called that is a video, in lower case; others are tried all the same."""

USUAL_FPS = 25.0
LONGEST_GAP_S = 10.0
"""A larger step of a file's time stamps is no pause but another clock, as where two recordings were joined."""

MOST_SKIPPED_S = 0.5
"""However far behind it is, so often a frame is given."""


class VideoFileSource(OpenCvSource):
    """A video file.

    One that is cut off gives the frames that it has, and then an InputError that says so, where its container tells how
    long it was.

    With `options.realtime` it is like a camera: its frames come at the times at which they were recorded, relative to the
    first, and the newest wins. What could not be decoded in time is left out, and counted in `Frame.lost`.

    Args:
        path: the file.
        options: `realtime` means something here.
    """

    takes = frozenset({"realtime"})

    def __init__(self, path: str, options: SourceOptions = AS_IT_IS) -> None:
        self._path = Path(path)
        super().__init__(path, live=options.realtime, ends=True)
        self._interrupted = threading.Event()
        self._pace: _Pace | None = None
        self._told_cut_off = False

    def open(self) -> None:
        """Open it, at its beginning."""
        super().open()
        self._told_cut_off = False
        self._pace = _Pace(self.fps or USUAL_FPS) if self.live else None

    def read(self) -> Frame | None:
        """The next frame, [H, W, 3] BGR, or None at the end; in real time, when its time has come.

        Raises:
            InputError: once, at the end: the file is cut off.
        """
        if self._interrupted.is_set():
            raise SourceLostError(f"{self.name} is not played any more", "it was interrupted")
        # Where the file breaks off, FFmpeg gives what its decoder still holds only to whoever asks once more.
        frame = super().read() or super().read()
        if frame is None and not self._told_cut_off:
            self._told_cut_off = True
            if missing := missing_bytes(self._path):
                raise InputError(
                    f"video {self._path} is cut off: it ends after {self._number} frames, and {missing:,} bytes are missing",
                    "copy it again; what it has was read",
                )
        return frame

    def interrupt(self) -> None:
        """Make a `read` that waits for a frame's time raise SourceLostError."""
        self._interrupted.set()

    def _grab(self) -> bool:
        if self._pace is None:
            return super()._grab()
        given = time.monotonic()
        while super()._grab():
            ahead_s = self._pace.ahead_s(float(self._capture.get(_POS_MSEC)))
            late = -ahead_s > 1 / (self.fps or USUAL_FPS)
            if not late or time.monotonic() - given > MOST_SKIPPED_S:
                if self._interrupted.wait(max(0.0, ahead_s)):
                    raise SourceLostError(f"{self.name} is not played any more", "it was interrupted")
                return True
            self._number += 1
            self._lost += 1
        return False

    def _connect(self, cv2: Any) -> Any:
        if not self._path.is_file():
            what = "is a folder" if self._path.is_dir() else "does not exist"
            raise InputError(
                f"video {self._path} {what}", "give a video file, an image, a folder of images or a URI"
            )
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_ANY)
        if not capture.isOpened():
            size = self._path.stat().st_size
            missing = missing_bytes(self._path)
            cut = f"; it is cut off, {missing:,} more are missing" if missing else ""
            raise InputError(
                f"video {self._path} ({size} bytes) does not open{cut}",
                "it is no video, damaged, or coded in a way that OpenCV does not read; try: ffprobe FILE",
            )
        return capture


_POS_MSEC = 0
"""OpenCV's CAP_PROP_POS_MSEC: the time of the frame that was grabbed."""


class _Pace:
    """When frames are due, on the monotonic clock, by the time stamps in their file."""

    def __init__(self, fps: float) -> None:
        self._step_s = 1 / fps
        self._due: float | None = None
        self._stamp_s = 0.0

    def ahead_s(self, stamp_ms: float) -> float:
        """How long before its time the next frame was decoded; negative if it is late."""
        now, stamp_s = time.monotonic(), stamp_ms / 1000
        if self._due is None:
            self._due = now
        else:
            step_s = stamp_s - self._stamp_s
            # A file without stamps says 0 for every frame, a damaged one jumps.
            self._due += step_s if 0 < step_s <= LONGEST_GAP_S else self._step_s
        self._stamp_s = stamp_s
        return self._due - now
