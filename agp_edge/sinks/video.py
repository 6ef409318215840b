"""Annotated video, coded so that a browser plays it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agp_edge.clock import utc
from agp_edge.errors import InputError
from agp_edge.extras import import_cv2
from agp_edge.files import translate_write_errors
from agp_edge.sinks.base import Judgement, Sink
from agp_edge.sinks.disk import OwnFiles, on_disk

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

SEGMENT_S = 600.0
"""How long a file of a live stream is where nothing else is said."""

RESERVE_BYTES = 4 << 20
"""OpenCV does not report a full disk: the video ends while there is room for what its coder still holds."""


def check_replaceable(path: Path) -> None:
    """See that `path` may be written: it is absent, empty, or a video of its suffix.

    Raises:
        InputError: an unknown suffix, or something else is there.
    """
    suffix = _known_suffix(path)
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
    """One source's frames with heat map and verdict as video.

    Without `segment_s` it is one file, and an earlier video is replaced at the first frame. With it, it is one file after
    another, `line_20260203T040506Z.webm` for `line.webm`, called after its first frame's time in UTC: so a restart
    replaces nothing, and the oldest can go.

    A file is ended, and so readable, before the disk is full; when there is room again, the next frame begins another,
    `line_2.webm` where there are no segments.

    Args:
        path: the file; its suffix chooses the coding.
        size_wh: (width, height) of the frames.
        fps: frames a second at which it plays.
        source: only frames of this source are written; None takes all.
        roi: only those of this region of interest, by its name; None takes all.
        segment_s: after so many seconds another file is begun; None for one file.
        limit_bytes: what the segments may take, those of earlier runs too; the oldest go. None is no limit.

    Raises:
        InputError: as `check_replaceable`, no codec for it here, a place that cannot be written, or a limit without segments.
        DiskFullError: there is no room to begin.
    """

    name = "--video"
    wants = "pictures"

    def __init__(
        self,
        path: Path,
        size_wh: tuple[int, int],
        fps: float,
        source: str | None = None,
        *,
        roi: str | None = None,
        segment_s: float | None = None,
        limit_bytes: int | None = None,
    ) -> None:
        self._cv2 = import_cv2("writing video")
        if segment_s is None:
            check_replaceable(path)
            if limit_bytes is not None:
                raise InputError("one video has no oldest part to delete", "give --video-segment too")
        self._path, self._source, self._roi, self._segment_s = path, source, roi, segment_s
        self._size_wh, self._fps = size_wh, fps
        self._frames = self._files = 0
        self._begun = 0.0
        self._writer: Any = None
        self._named = False  # Whether the file at hand has its own name, and so a frame.
        self._current = path
        self._own = OwnFiles(
            path.parent,
            rf"{re.escape(path.stem)}_(?P<time>\d{{8}}T\d{{6}})Z(?:_\d+)?",
            (path.suffix,),
            self.name,
            limit_bytes=limit_bytes,
        )
        # Under another name until there is a frame: a stream that fails before must not cost an earlier video.
        self._work = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        with translate_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._check_room()
            self._work.open("wb").close()
        self.codec = ""
        with _quiet_stderr():
            for codec in CODECS[_known_suffix(path)]:
                self._writer = self._open(self._work, codec)
                if self._writer.isOpened():
                    self.codec = codec
                    return
        self._work.unlink(missing_ok=True)
        raise InputError(
            f"OpenCV {self._cv2.__version__} here has no coder for {path.suffix}: tried {', '.join(CODECS[path.suffix.lower()])}",
            f"take another suffix: {', '.join(s for s in CODECS if s != path.suffix.lower())}",
        )

    def write(self, judgement: Judgement) -> None:
        """Add a frame.

        Raises:
            InputError: it is of another size than the video, or the file cannot be written.
            DiskFullError: there is no room, for the next one there may be.
        """
        roi = judgement.roi[0] if judgement.roi is not None else None
        if self._source not in (None, judgement.source) or self._roi not in (None, roi):
            return
        assert judgement.pixels is not None, "a sink that wants pictures gets them"
        height, width = judgement.pixels.shape[:2]
        if (width, height) != self._size_wh:
            raise InputError(
                f"a frame of {judgement.source} is {width}x{height}, its video {self._size_wh[0]}x{self._size_wh[1]}",
                "a video keeps its size: start the stream again to record frames of another",
            )
        if self._named and self._segment_s is not None and time.monotonic() - self._begun >= self._segment_s:
            self._end()
        try:
            self._check_room()
        except BaseException:
            self._end()
            raise
        if not self._named:
            self._begin(judgement.wall_s)
        self._writer.write(judgement.annotated())
        self._frames += 1

    def close(self) -> None:
        """Write the video's end; without a frame there is no video."""
        self._end()

    def describe(self) -> str:
        """How many frames went into which video, and how many old ones had to go."""
        if not self._frames:
            return ""
        more = f" and {self._files - 1} more" if self._files > 1 else ""
        gone = f", the {self._own.deleted} oldest there deleted" if self._own.deleted else ""
        return f"{self._frames} frames in {self._current}{more}{gone}"

    def _begin(self, wall_s: float) -> None:
        """Have a file under its own name."""
        if self._writer is None:
            with translate_write_errors(self._work):
                self._work.parent.mkdir(parents=True, exist_ok=True)
                self._work.open("wb").close()
            self._writer = self._open(self._work, self.codec)
        path = self._free_path(wall_s)
        try:
            if not self._writer.isOpened():
                raise InputError(f"OpenCV cannot begin the video {path}", "see whether there is memory left")
            with translate_write_errors(path):
                self._work.replace(path)
        except BaseException:
            self._writer, broken = None, self._writer
            broken.release()
            self._work.unlink(missing_ok=True)
            raise
        self._current, self._begun, self._named = path, time.monotonic(), True
        self._files += 1

    def _end(self) -> None:
        """Write the end of the file at hand, if there is one."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if self._named:
            self._named = False
            with contextlib.suppress(OSError):
                self._own.add(on_disk(self._current.stat().st_size))
        else:
            self._work.unlink(missing_ok=True)

    def _free_path(self, wall_s: float) -> Path:
        if self._segment_s is None and not self._files:
            return self._path  # An earlier video gives way.
        stem, count = self._path.stem, 1 + self._files
        if self._segment_s is not None:
            stem, count = f"{stem}_{utc(wall_s).strftime('%Y%m%dT%H%M%SZ')}", 1
        while (path := self._path.with_stem(stem if count == 1 else f"{stem}_{count}")).exists():
            count += 1
        return path

    def _open(self, path: Path, codec: str) -> Any:
        four = self._cv2.VideoWriter_fourcc(*codec)
        return self._cv2.VideoWriter(str(path), self._cv2.CAP_FFMPEG, four, self._fps, self._size_wh)

    def _check_room(self) -> None:
        """See that there is room for the end of the file at hand, and make it where segments may go.

        Raises:
            DiskFullError: there is none.
            InputError: the file at hand is not there any more.
        """
        held = 0
        if self._named:
            with translate_write_errors(self._current):
                held = self._current.stat().st_size
        self._own.make_room(held, RESERVE_BYTES, keep=self._current.stem if self._named else None)


def _known_suffix(path: Path) -> str:
    """The suffix by which the coding is chosen.

    Raises:
        InputError: it is that of no video.
    """
    suffix = path.suffix.lower()
    if suffix not in CODECS:
        raise InputError(f"{path} has no suffix of a video", f"take one of: {', '.join(CODECS)}")
    return suffix


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
