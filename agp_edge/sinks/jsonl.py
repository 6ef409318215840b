"""Verdicts as JSON lines, each whole in the file before the next verdict is taken."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import stat
import sys
import time
from pathlib import Path
from typing import BinaryIO

from agp_edge.errors import InputError
from agp_edge.files import sync, to_json, translate_write_errors
from agp_edge.sinks.base import Judgement, Sink

KEEP = 10
"""Rotated files that are kept, as most users of logrotate have it."""

LONGEST_FSYNC_S = 3600.0
READ_BYTES = 1 << 20


def parse_fsync(text: str) -> float:
    """How many seconds of lines a power cut may cost, from `never`, `every` or a number.

    Returns:
        `inf` for never (the kernel writes on its own, on Linux after about 30 s), 0 for every line, else seconds.

    Raises:
        InputError: it is none of them.
    """
    named = {"never": math.inf, "every": 0.0}
    if text in named:
        return named[text]
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_FSYNC_S:
        raise InputError(
            f"--jsonl-fsync {text} is no policy",
            f"take never, every (each line), or seconds up to {LONGEST_FSYNC_S:g}",
        )
    return seconds


class JsonlSink(Sink):
    """A file of JSON lines, or stdout. An existing file is gone on with: a restarted stream loses nothing.

    Whatever stops the process, lines are whole: a last half one, which only a kill or a power cut can leave, is cut off
    when the file is opened again. After an error the file is opened anew at the next line, so that writing goes on when a
    full disk has room again, a lost drive is back, or `logrotate` has moved the file away.

    Args:
        target: the file, or `-` for stdout. A pipe (FIFO) is opened at the first line, where that waits for a reader.
        rotate_bytes: no file gets larger (but for a single line): then `FILE` becomes `FILE.1`, that `FILE.2`, and so on.
        keep: rotated files that are kept; the oldest goes.
        fsync: what `parse_fsync` takes. Seconds are looked at when a line comes, and at the end.

    Raises:
        InputError: it cannot be written, holds something else than JSON lines, or a setting makes no sense.
    """

    name = "--jsonl"

    def __init__(
        self, target: str, rotate_bytes: int | None = None, keep: int = KEEP, fsync: str = "never"
    ) -> None:
        if rotate_bytes is not None and (rotate_bytes < 1 or keep < 1):
            raise InputError(
                f"files of {rotate_bytes} bytes, {keep} kept, are no rotation", "give 1 or more of both"
            )
        self._stdout = self.is_filter = target == "-"
        self._path = Path("stdout" if self._stdout else target)
        self._rotate_bytes, self._keep = rotate_bytes, keep
        self._fsync_s = parse_fsync(fsync)
        self._synced = time.monotonic()
        self._file: BinaryIO | None = None
        self._lines = 0
        self._made = False
        if self._stdout:
            if rotate_bytes is not None:
                raise InputError("stdout cannot be rotated", "give --jsonl a file")
            return
        with translate_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._made = not self._path.exists()
            kind = stat.S_IFREG if self._made else self._path.stat().st_mode
        if rotate_bytes is not None and not stat.S_ISREG(kind):
            raise InputError(f"{self._path} is no file that can be rotated", "give --jsonl a plain file")
        if not stat.S_ISFIFO(kind):
            self._file = self._open()

    def write(self, judgement: Judgement) -> None:
        """Write one line, whole or not at all."""
        data = to_json(judgement.to_dict(), indent=None).encode()
        try:
            with translate_write_errors(self._path):
                self._append(self._ready_file(len(data)), data)
        except BaseException as error:
            # Opened anew at the next line, which also cuts off what this one may have left.
            self._let_go()
            if self._stdout and isinstance(error.__cause__, BrokenPipeError):
                raise error.__cause__ from None  # Whoever read along went away: that is no fault.
            raise
        self._lines += 1

    def close(self) -> None:
        """Close the file; stdout stays open."""
        try:
            if self._file is not None and self._fsync_s < math.inf and _is_plain(self._file):
                with translate_write_errors(self._path):
                    os.fdatasync(self._file.fileno())
        finally:
            self._let_go()
            if self._made and not self._lines:
                self._made = False
                with contextlib.suppress(OSError):
                    if not self._path.stat().st_size:
                        self._path.unlink()

    def describe(self) -> str:
        """How many lines went into which file."""
        return f"{self._lines} verdicts appended to {self._path}" if self._lines and not self._stdout else ""

    def _ready_file(self, room: int) -> BinaryIO:
        """The file for a line of so many bytes: opened again where it was moved away, rotated where it is full."""
        if self._stdout:
            sys.stdout.flush()
        elif self._file is not None and not _is_at(self._file, self._path):
            self._let_go()
        if self._file is None:
            self._file = self._open()
        if self._rotate_bytes is not None:
            size = os.fstat(self._file.fileno()).st_size
            if size and size + room > self._rotate_bytes:
                self._rotate(self._file)
                self._file = self._open()
        return self._file

    def _open(self) -> BinaryIO:
        # Unbuffered: one write a line, and what failed to be written is not tried again at closing.
        if self._stdout:
            return open(sys.stdout.fileno(), "ab", buffering=0, closefd=False)  # a descriptor, no path
        with translate_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new = not self._path.exists()
            end_with_whole_line(self._path)
            file = self._path.open("ab", buffering=0)
            if new and self._fsync_s < math.inf:
                sync(
                    self._path.parent
                )  # Else a power cut may take the file's name and leave its lines without one.
            return file

    def _append(self, file: BinaryIO, data: bytes) -> None:
        plain = _is_plain(file)
        start = file.seek(0, io.SEEK_END) if plain else 0
        try:
            written = 0
            while written < len(data):
                # A disk with room for a part of the line takes that part, and only the next write fails.
                written += file.write(data[written:]) or 0
        except BaseException:
            if plain:
                os.ftruncate(file.fileno(), start)
            raise
        now = time.monotonic()
        if plain and now - self._synced >= self._fsync_s:
            os.fdatasync(file.fileno())
            self._synced = now

    def _rotate(self, file: BinaryIO) -> None:
        """`FILE` becomes `FILE.1`; each step is one rename, so that a kill between two loses nothing."""
        if self._fsync_s < math.inf:
            os.fdatasync(file.fileno())
        self._let_go()
        numbered = [self._path.with_name(f"{self._path.name}.{i}") for i in range(1, self._keep + 1)]
        # Up to the first number that is free: a rotation that was cut short left a gap.
        last = next((i for i, path in enumerate(numbered) if not path.exists()), len(numbered) - 1)
        for i in range(last, 0, -1):
            numbered[i - 1].replace(numbered[i])
        self._path.replace(numbered[0])

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def end_with_whole_line(path: Path) -> None:
    """Cut off a last line without its end, which a process that was killed left behind; a pipe or a device has none.

    Of a power cut some file systems leave zeros, which go with it. A last line that lacks nothing but its end gets that.

    Raises:
        InputError: the file does not begin with a JSON object on a line of its own.
    """
    if not path.is_file():
        return
    with path.open("r+b") as file:
        size = file.seek(0, io.SEEK_END)
        if size == 0:
            return
        file.seek(0)
        first = file.readline(READ_BYTES)
        whole = first.endswith(b"\n")
        # A line of ours that was cut begins as all of them do; zeros alone are what a power cut leaves of it.
        if not (_is_object(first) if whole else first.startswith(b"{") or not first.strip(b"\0")):
            raise InputError(f"{path} exists and holds no JSON lines", "give --jsonl another file")
        end = _end_of_last_line(file, size)
        file.seek(end)
        if end < size and _is_object(file.read(READ_BYTES)):
            file.write(b"\n")
        elif end < size:
            file.truncate(end)


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    """Where the last line that has an end has it, as an offset behind it; 0 where none has."""
    end = size
    while end:
        start = max(0, end - READ_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_plain(file: BinaryIO) -> bool:
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), there)
