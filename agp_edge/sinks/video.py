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
from agp_edge.sinks.base import Judgement, Sink

CODECS = {
    ".webm": ("VP80", "VP90"),
    ".mp4": ("avc1", "vp09", "mp4v"),
    ".mkv": ("VP80", "MJPG"),
    ".avi": ("MJPG",),
}
"""Suffix -> codecs in order of preference. OpenCV from pip has no H.264: `.mp4` is then VP9, which browsers play."""

_MAGIC = {
    ".webm": (0, b"\x1aE\xdf\xa3"),
    ".mkv": (0, b"\x1aE\xdf\xa3"),
    ".mp4": (4, b"ftyp"),
    ".avi": (8, b"AVI "),
}
"""Suffix -> offset and bytes by which a file of that kind is known."""

RESERVE_BYTES = 4 << 20
"""OpenCV does not report a full disk: the video ends while there is room for what its coder still holds."""


def check_replaceable(path: Path) -> None:
    """See that `path` may be written: it is absent, empty, or a video of its suffix.

    Raises:
        InputError: an unknown suffix, or something else is there.
    """
    suffix = path.suffix.lower()
    if suffix not in CODECS:
        raise InputError(f"{path} has no suffix of a video", f"take one of: {', '.join(CODECS)}")
    with translate_write_errors(path):
        if not path.exists():
            return
        if path.is_file():
            offset, magic = _MAGIC[suffix]
            with path.open("rb") as file:
                head = file.read(offset + len(magic))
            if not head or head[offset:] == magic:
                return
    raise InputError(
        f"{path} exists and is no {suffix} video", "give --video another file, or remove that one"
    )


class VideoSink(Sink):
    """One source's frames with heat map and verdict as a video; an earlier video is replaced at the first frame.

    Args:
        path: the file; its suffix chooses the coding.
        size_wh: (width, height) of the frames.
        fps: frames a second at which it plays.
        source: only frames of this source are written; None takes all.

    Raises:
        InputError: as `check_replaceable`, no codec for it here, or a place that cannot be written.
        DiskFullError: there is no room to begin.
    """

    name = "--video"
    wants = "pictures"

    def __init__(self, path: Path, size_wh: tuple[int, int], fps: float, source: str | None = None) -> None:
        cv2 = import_cv2("writing video")
        check_replaceable(path)
        suffix = path.suffix.lower()
        self._path, self._source = path, source
        self._frames = 0
        # Under another name until there is a frame: a stream that fails before must not cost an earlier video.
        self._work = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._check_room()
            self._work.open("wb").close()
        with _quiet_stderr():
            for codec in CODECS[suffix]:
                four = cv2.VideoWriter_fourcc(*codec)
                self._writer: Any = cv2.VideoWriter(str(self._work), cv2.CAP_FFMPEG, four, fps, size_wh)
                if self._writer.isOpened():
                    self.codec = codec
                    return
        self._work.unlink(missing_ok=True)
        raise InputError(
            f"OpenCV {cv2.__version__} here has no coder for {suffix}: tried {', '.join(CODECS[suffix])}",
            f"take another suffix: {', '.join(s for s in CODECS if s != suffix)}",
        )

    def write(self, judgement: Judgement) -> None:
        """Add a frame."""
        if self._source not in (None, judgement.source):
            return
        self._check_room()
        if not self._frames:
            with translate_write_errors(self._path):
                self._work.replace(self._path)
        self._frames += 1
        picture = judgement.annotated()
        self._writer.write(picture)

    def close(self) -> None:
        """Write the video's end; without a frame there is no video."""
        self._writer.release()
        if not self._frames:
            self._work.unlink(missing_ok=True)

    def describe(self) -> str:
        """How many frames went into which video."""
        return f"{self._frames} frames in {self._path}" if self._frames else ""

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
