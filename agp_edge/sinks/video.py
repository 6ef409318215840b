"""Annotated video, coded so that a browser plays it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agp_edge.errors import DiskFullError, InputError
from agp_edge.extras import import_cv2
from agp_edge.files import translate_write_errors
from agp_edge.rendering import annotate
from agp_edge.sinks.base import Judgement, Sink

CODECS = {
    ".webm": ("VP80", "VP90"),
    ".mp4": ("avc1", "vp09", "mp4v"),
    ".mkv": ("VP80", "MJPG"),
    ".avi": ("MJPG",),
}
"""Suffix -> codecs in order of preference. OpenCV from pip has no H.264: `.mp4` is then VP9, which browsers play."""

RESERVE_BYTES = 4 << 20
"""OpenCV does not report a full disk: the video ends while there is room for what its coder still holds."""


class VideoSink(Sink):
    """One source's frames with heat map and verdict as a video; an existing file is replaced.

    Args:
        path: the file; its suffix chooses the coding.
        size_wh: (width, height) of the frames.
        fps: frames a second at which it plays.
        source: only frames of this source are written; None takes all.

    Raises:
        InputError: an unknown suffix, no codec for it here, or a place that cannot be written.
        DiskFullError: there is no room to begin.
    """

    def __init__(self, path: Path, size_wh: tuple[int, int], fps: float, source: str | None = None) -> None:
        cv2 = import_cv2("writing video")
        suffix = path.suffix.lower()
        if suffix not in CODECS:
            raise InputError(f"{path} has no suffix of a video", f"take one of: {', '.join(CODECS)}")
        self._path, self._source = path, source
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("wb").close()
        self._check_room()
        with _quiet_stderr():
            for codec in CODECS[suffix]:
                four = cv2.VideoWriter_fourcc(*codec)
                self._writer: Any = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, four, fps, size_wh)
                if self._writer.isOpened():
                    self.codec = codec
                    return
        path.unlink(missing_ok=True)
        raise InputError(
            f"OpenCV {cv2.__version__} here has no coder for {suffix}: tried {', '.join(CODECS[suffix])}",
            f"take another suffix: {', '.join(s for s in CODECS if s != suffix)}",
        )

    def write(self, judgement: Judgement) -> None:
        """Add a frame."""
        if self._source not in (None, judgement.source):
            return
        self._check_room()
        picture = annotate(
            judgement.pixels,
            judgement.anomaly_map,
            judgement.verdict,
            judgement.score,
            judgement.threshold,
            judgement.regions,
        )
        self._writer.write(picture)

    def close(self) -> None:
        """Write the video's end."""
        self._writer.release()

    def _check_room(self) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if free < RESERVE_BYTES:
            raise DiskFullError(
                f"no space left to write {self._path}: {free} bytes are free, the video's end needs {RESERVE_BYTES}",
                "free space there, or give another place; what was complete is kept",
            )


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """FFmpeg prints to the process's stderr while OpenCV tries codecs; used before any thread is started."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
