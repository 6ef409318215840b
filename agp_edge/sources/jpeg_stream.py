"""Whole JPEG pictures out of a stream of bytes, by the format's own marks: ITU-T T.81, annex B.

What stands between pictures does not matter: part headers, boundaries that are not those announced, lengths that are wrong
or missing, garbage.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

LARGEST_PICTURE = 64 << 20
"""Bytes after which a picture without an end is given up."""

_BEGIN = re.compile(rb"\xff\xd8\xff[\xc0-\xcf\xda-\xdd\xe0-\xef\xfe]")
"""A picture's begin, and the mark that follows it: three bytes alone are in garbage sooner."""

_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
"""What ends entropy-coded data: any mark but a stuffed 0xFF and restarts."""

_END, _SCAN = 0xD9, 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Marks of segments that have the picture's size in them."""

_APPLICATION = frozenset(range(0xE0, 0xF0)) | {0xFE}

_KEEP = 3
"""Bytes at the end of garbage that may be the begin of a picture."""


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        data: from its first to its last byte.
        size_wh: (width, height) in pixels.
        arrived_ns: monotonic clock when its first byte came.
        arrived_s: the same, seconds since the epoch.
    """

    data: bytes
    size_wh: tuple[int, int]
    arrived_ns: int
    arrived_s: float


class BrokenPicture(Exception):  # noqa: N818 - a result that is told, not a fault of ours
    """A picture that began and does not go on as one; its text says how."""


class JpegStream:
    """Takes bytes as they come, gives pictures as they are whole.

    Args:
        largest: bytes of a picture.
    """

    def __init__(self, largest: int = LARGEST_PICTURE) -> None:
        self._largest = largest
        self._buffer = bytearray()
        self._arrivals: deque[tuple[int, int, float]] = deque()
        self._scanned = self._resume = 0
        self._begun = False
        self._in_scan = False
        self._size_wh = (0, 0)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes are kept until they are a picture."""
        return len(self._buffer)

    def feed(self, data: bytes, now_ns: int, now_s: float) -> None:
        """Take bytes that came at a time."""
        self._arrivals.append((len(self._buffer), now_ns, now_s))
        self._buffer += data

    def next(self) -> Picture | None:
        """The next picture that is whole; None if more bytes are needed.

        Raises:
            BrokenPicture: one that is not; the next call goes on where it breaks off.
        """
        if not self._begun and not self._find_begin():
            return None
        try:
            end = self._find_end()
        except BrokenPicture:
            self._skip(self._resume)
            raise
        if end is None:
            if len(self._buffer) > self._largest:
                self._skip(len(self._buffer))
                raise BrokenPicture(f"it has no end within {self._largest >> 20} MiB")
            return None
        _, arrived_ns, arrived_s = self._arrivals[0]
        picture = Picture(bytes(self._buffer[:end]), self._size_wh, arrived_ns, arrived_s)
        self._skip(end)
        return picture

    def _find_begin(self) -> bool:
        """Let go of what is before a picture; whether there is one."""
        match = _BEGIN.search(self._buffer)
        self._skip(match.start() if match else max(0, len(self._buffer) - _KEEP))
        self._begun = match is not None
        self._scanned = self._resume = 2
        return self._begun

    def _find_end(self) -> int | None:
        """Go on from mark to mark; where the picture ends, None if that has not come yet."""
        buffer = self._buffer
        while True:
            at = self._scanned
            if self._in_scan:
                match = _AFTER_SCAN.search(buffer, at)
                if match is None:
                    # The last byte may be the first half of a mark.
                    self._scanned = max(at, len(buffer) - 1)
                    return None
                self._scanned = self._resume = at = match.end() - 2
                self._in_scan = False
            if len(buffer) < at + 4:
                return at + 2 if bytes(buffer[at : at + 2]) == bytes((0xFF, _END)) else None
            if buffer[at] != 0xFF:
                raise BrokenPicture("it breaks off")
            mark = buffer[at + 1]
            if mark == _END:
                return at + 2
            if mark == 0xFF:
                self._scanned += 1
                continue
            if mark < 0xC0 or 0xD0 <= mark <= 0xD8:
                raise BrokenPicture("it breaks off")
            length = int.from_bytes(buffer[at + 2 : at + 4], "big")
            if len(buffer) < at + 2 + length:
                return None
            if mark in _FRAMES:
                height, width = (int.from_bytes(buffer[at + i : at + i + 2], "big") for i in (5, 7))
                self._size_wh = (width, height)
            self._in_scan = mark == _SCAN
            self._scanned = at + 2 + max(length, 2)
            if mark in _APPLICATION:
                # There may be a thumbnail in it, whole, which is none of the camera's pictures.
                self._resume = self._scanned
            else:
                self._resume = at + 4
                if _BEGIN.search(buffer, at + 4, self._scanned):
                    # It was cut off, and its length reaches into the next one.
                    raise BrokenPicture("it breaks off")

    def _skip(self, count: int) -> None:
        """Let go of the first bytes, and of when they came."""
        del self._buffer[:count]
        self._begun = self._in_scan = False
        self._scanned = 0
        shifted = [(offset - count, ns, s) for offset, ns, s in self._arrivals]
        # Of what came before the first byte that is left, only the last counts: that byte came with it.
        while len(shifted) > 1 and shifted[1][0] <= 0:
            shifted.pop(0)
        self._arrivals = deque(shifted)
