"""What every source that OpenCV reads has in common: one capture, its time stamps, its frames as ours."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from typing import Any

import numpy as np

from agp_edge.errors import SourceLostError
from agp_edge.extras import CV2_SILENT, import_cv2, set_cv2_log_level
from agp_edge.sources.base import Frame, Source

PURPOSE = "reading cameras and videos"


class OpenCvSource(Source):
    """A source read through `cv2.VideoCapture`; a kind of source writes `_connect`.

    Args:
        name: the source's name, without any password.
        live: whether the newest frame wins.
        ends: whether it has an end, as a file has.
    """

    def __init__(self, name: str, *, live: bool, ends: bool = False) -> None:
        self.name = name
        self.live = live
        self._ends = ends
        self._lost = 0
        self.fps: float | None = None
        self._capture: Any = None
        self._number = 0

    @abstractmethod
    def _connect(self, cv2: Any) -> Any:
        """Give an opened `VideoCapture`, or raise InputError or SourceLostError."""

    def load(self) -> None:
        """Import OpenCV."""
        # FFmpeg and OpenCV print to stderr on their own; what matters of it comes back as an error of ours.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        set_cv2_log_level(import_cv2(PURPOSE), CV2_SILENT)

    def open(self) -> None:
        """Connect. A camera's sequence numbers go on where they were; a file begins again at 0."""
        self.load()
        self.close()
        cv2 = import_cv2(PURPOSE)
        self._capture = self._connect(cv2)
        if self._ends:
            self._number = self._lost = 0
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = rate if 0 < rate <= 1000 else None

    def read(self) -> Frame | None:
        """The next frame: [H, W, 3] BGR, or [H, W, 1] from a mono camera."""
        if self._capture is None:
            raise SourceLostError(f"{self.name} is not open", "open it first")
        pixels = None
        if self._grab():
            # Between the two calls: a frame's time is its arrival, not the end of its conversion.
            captured_ns, wall_s = time.monotonic_ns(), time.time()
            _, pixels = self._capture.retrieve()
        if pixels is None:
            if self._ends:
                return None
            raise SourceLostError(f"{self.name} gives no more frames", "see that it is on and reachable")
        if pixels.ndim == 2:
            pixels = pixels[..., np.newaxis]
        number, self._number = self._number, self._number + 1
        lost, self._lost = self._lost, 0
        return Frame(np.ascontiguousarray(pixels), number, captured_ns, wall_s, "arrival", self.name, lost)

    def _grab(self) -> bool:
        """Have the next frame, not yet converted; False if there is none."""
        grabbed: bool = self._capture.grab()
        return grabbed

    def close(self) -> None:
        """Let go; safe to call twice."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None
