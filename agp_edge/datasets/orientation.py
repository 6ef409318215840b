"""Which way up a picture is: the orientation that EXIF names, and turning by it.

A camera that was held upright stores its rows lying, with a note on how to turn them. Here that note is read the
same way for every format and version of OpenCV, so that an image and its mask are never turned differently by
accident, and `check_dataset` can say where one of the two has a note and the other has none.
"""

from __future__ import annotations

import struct
from typing import Any

from numpy.typing import NDArray

UPRIGHT = 1
ORIENTATION_TAG = 0x0112
SAMPLES_TAG = 0x0115
EXIF_HEADER = b"Exif\0\0"
TIFF_HEADERS = {b"II*\0": "<", b"MM\0*": ">"}
"""First bytes of a TIFF -> its byte order."""


def is_tiff(data: bytes) -> bool:
    """Whether a file's bytes are a TIFF."""
    return data[:4] in TIFF_HEADERS


def exif_orientation(data: bytes) -> int:
    """How the rows of an encoded image are to be turned to be upright.

    Args:
        data: the bytes of a JPEG, PNG, WebP or TIFF file; of anything else nothing is known.

    Returns:
        EXIF's orientation, 1 to 8; 1, upright, where there is none or it is not readable.
    """
    try:
        block = _exif_block(data)
        orientation = _tag(block, ORIENTATION_TAG)
    except (struct.error, IndexError):
        return UPRIGHT
    return orientation if orientation is not None and 1 <= orientation <= 8 else UPRIGHT


def tiff_samples(data: bytes) -> int:
    """How many numbers a pixel of a TIFF has, alpha among them; 1 where it does not say."""
    try:
        return _tag(data, SAMPLES_TAG) or 1
    except struct.error:
        return 1


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an image's rows and columns as EXIF's orientation asks; a view.

    Args:
        pixels: [H, W, ...] as stored.
        orientation: 1 to 8; from 5 on width and height change places.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _exif_block(data: bytes) -> bytes:
    """The TIFF structure that holds EXIF's tags; empty where there is none."""
    if is_tiff(data):
        return data
    if data[:2] == b"\xff\xd8":
        return _in_jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _in_chunks(data, b"eXIf", start=8, order=">", trailer=4)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _in_chunks(data, b"EXIF", start=12, order="<", trailer=0)
    return b""


def _in_jpeg(data: bytes) -> bytes:
    """The first APP1 segment that is EXIF, without its header."""
    at = 2
    while data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:  # A fill byte.
            at += 1
            continue
        if kind == 0xDA:  # The picture itself.
            break
        (size,) = struct.unpack_from(">H", data, at + 2)
        body = data[at + 4 : at + 2 + size]
        if kind == 0xE1 and body.startswith(EXIF_HEADER):
            return body[len(EXIF_HEADER) :]
        at += 2 + size
    return b""


def _in_chunks(data: bytes, wanted: bytes, *, start: int, order: str, trailer: int) -> bytes:
    """The chunk called `wanted`: PNG's have size, name, body and a checksum, WebP's name, size and a padded body."""
    at = start
    while at + 8 <= len(data):
        if order == ">":
            size, name = struct.unpack_from(">I4s", data, at)
        else:
            name, size = struct.unpack_from("<4sI", data, at)
            size += size % 2
        if name == wanted:
            return data[at + 8 : at + 8 + size].removeprefix(EXIF_HEADER)
        at += 8 + size + trailer
    return b""


def _tag(block: bytes, wanted: int) -> int | None:
    """A tag of one short number in the first directory of a TIFF structure; None where it is not there."""
    order = TIFF_HEADERS.get(block[:4])
    if order is None:
        return None
    (directory,) = struct.unpack_from(f"{order}I", block, 4)
    (n,) = struct.unpack_from(f"{order}H", block, directory)
    for i in range(n):
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", block, directory + 2 + 12 * i)
        if (tag, kind, count) == (wanted, 3, 1):
            return int(value)
    return None
