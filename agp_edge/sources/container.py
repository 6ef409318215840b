"""What a video file says of its own length in bytes: by that, and not by a count of frames, one is known to be cut off.

The count in a header is no promise: a file that was trimmed by an edit list holds more frames than are shown, one whose sound
is longer than its pictures seems to have more, and one with a varying rate fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"})
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
SLACK_BYTES = 16
"""Some writers count the header of a chunk in, some do not."""

MOST_CHUNKS = 100_000
FURTHEST = 1 << 62
"""Beyond that no file has a byte, whatever its header says."""


def missing_bytes(path: Path) -> int:
    """How many bytes a video file lacks at its end, by its own header; 0 where it does not say.

    MP4 and MOV (ISO/IEC 14496-12, 4.2), Matroska and WebM (RFC 8794, 6 and 9), AVI with OpenDML, and WMV (ASF 1.2, 3.2) do;
    a transport or program stream has no length.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            end = max(_ends(file), default=0)
    except OSError:
        return 0
    return end - size if end - size > SLACK_BYTES else 0


def _ends(file: BinaryIO) -> Iterator[int]:
    """Where the parts of the file end, as their headers say."""
    head = file.read(16)
    if head[4:8] in _BOXES:
        yield from _boxes(file)
    elif head.startswith(_EBML):
        yield from _segment(file)
    elif head.startswith(b"RIFF"):
        yield from _riffs(file)
    elif head == _ASF_HEADER:
        yield from _asf(file)


def _boxes(file: BinaryIO) -> Iterator[int]:
    at = 0
    for _ in range(MOST_CHUNKS):
        if at >= FURTHEST:
            return
        file.seek(at)
        head = file.read(16)
        if len(head) < 8 or not head[4:8].strip().isalnum():
            return  # The end, or what somebody put behind it.
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:
            return  # 0 is up to the end of the file; less than its own header is none.
        at += length
        yield at


def _segment(file: BinaryIO) -> Iterator[int]:
    file.seek(len(_EBML))
    length = _vint(file)
    if length is None:
        return
    file.seek(min(file.tell() + length, FURTHEST))
    if file.read(len(_SEGMENT)) == _SEGMENT and (length := _vint(file)) is not None:
        yield file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """A size in EBML's coding; None where it is unknown, as of a file whose writer had no end."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    data = bytes([first[0] & ((1 << (8 - width)) - 1)]) + file.read(width - 1)
    value = int.from_bytes(data, "big")
    return None if len(data) < width or value == (1 << (7 * width)) - 1 else value


def _riffs(file: BinaryIO) -> Iterator[int]:
    """A file over 1 GiB is several of them, one after another."""
    at = 0
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            return
        at += 8 + int.from_bytes(head[4:], "little")
        yield at
        at += at % 2


def _asf(file: BinaryIO) -> Iterator[int]:
    file.seek(0)
    header = file.read(1 << 16)
    found = header.find(_ASF_FILE)
    # GUID, the object's size, the file's own GUID, and then the file's size.
    if found >= 0 and len(header) >= found + 48:
        yield int.from_bytes(header[found + 40 : found + 48], "little")
