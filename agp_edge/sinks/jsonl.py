"""Verdicts as JSON lines, each whole in the file before the next frame is judged."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import BinaryIO

from agp_edge.errors import InputError
from agp_edge.files import to_json, translate_write_errors
from agp_edge.sinks.base import Judgement, Sink


class JsonlSink(Sink):
    """A file of JSON lines, or stdout. An existing file is gone on with: a restarted stream loses nothing.

    Args:
        target: the file, or `-` for stdout.

    Raises:
        InputError: it cannot be written, or holds something else than JSON lines.
    """

    name = "--jsonl"

    def __init__(self, target: str) -> None:
        self._path = Path("stdout" if target == "-" else target)
        self._file: BinaryIO | None = None
        self._lines = 0
        if target != "-":
            with translate_write_errors(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._made = not self._path.exists()
                _end_with_whole_line(self._path)
                # Unbuffered: one write a line, and what failed to be written is not tried again at closing.
                self._file = self._path.open("ab", buffering=0)

    def write(self, judgement: Judgement) -> None:
        """Write one line, whole or not at all."""
        line = to_json(judgement.to_dict(), indent=None)
        if self._file is None:
            _print(line)
            return
        data = line.encode()
        with translate_write_errors(self._path):
            start = self._file.seek(0, io.SEEK_END)
            try:
                written = 0
                while written < len(data):
                    # A disk with room for a part of the line takes that part, and only the next write fails.
                    written += self._file.write(data[written:]) or 0
            except BaseException:
                os.ftruncate(self._file.fileno(), start)
                raise
        self._lines += 1

    def close(self) -> None:
        """Close the file; stdout stays open."""
        if self._file is not None and not self._file.closed:
            self._file.close()
            if self._made and not self._lines:
                self._path.unlink(missing_ok=True)

    def describe(self) -> str:
        """How many lines went into which file."""
        return f"{self._lines} verdicts appended to {self._path}" if self._lines else ""


def _print(line: str) -> None:
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # Whoever read along went away: that is no fault.
    except OSError as error:
        with translate_write_errors(Path("stdout")):
            raise error


def _end_with_whole_line(path: Path) -> None:
    """Cut off a last line without its end, which a process that was killed left behind."""
    if not path.is_file():
        return  # A pipe or a device, such as /dev/stderr.
    with path.open("r+b") as file:
        size = file.seek(0, io.SEEK_END)
        if size == 0:
            return
        file.seek(0)
        if file.read(1) != b"{":
            raise InputError(f"{path} exists and holds no JSON lines", "give --jsonl another file")
        tail_start = max(0, size - (1 << 20))
        file.seek(tail_start)
        tail = file.read()
        if not tail.endswith(b"\n"):
            file.truncate(tail_start + tail.rfind(b"\n") + 1)
