"""A camera's bytes as a frame's pixels: one table of pixel formats, each converted once and in one place.

Names are ours and lower case; what V4L2, GenICam and GStreamer call the same is translated by the modules that talk to
them. How samples lie in memory is told by GenICam's Pixel Format Naming Convention 2.4 (`Mono12p` and its like), by GigE
Vision 2.0 (`Mono12Packed`) and by the kernel's documentation of V4L2 pixel formats (YUV).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from agp_edge.errors import InputError
from agp_edge.extras import import_cv2

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class PixelFormat:
    """How pixels lie in a buffer.

    Attributes:
        channels: of the frame that comes of it: 3 for BGR, 1 for mono.
        step: a width and a height are a multiple of this.
        group: (pixels, bytes) of the smallest run of pixels in a row that fills whole bytes.
        convert: [rows, bytes of a row] uint8 and the width -> [H, W] or [H, W, C] uint8, perhaps a view.
        chroma: where the colours of a 4:2:0 format lie: `none`; `rows` below the luma, as wide as it; `planes` below
            it, half as wide.
    """

    channels: int
    step: tuple[int, int]
    group: tuple[int, int]
    convert: Callable[[Bytes, int], Bytes]
    chroma: str = "none"

    def row_bytes(self, width: int) -> int:
        """Bytes of one row without padding."""
        pixels, size = self.group
        return width // pixels * size


def frame_bytes(pixel_format: str, width: int, height: int, stride_bytes: int | None = None) -> int:
    """The bytes that a buffer has at least; the padding behind the last row need not be there.

    Args:
        pixel_format: a key of `PIXEL_FORMATS`.
        width: in pixels.
        height: in pixels.
        stride_bytes: from one row to the next; None where there is no padding.

    Raises:
        InputError: there is no such format, or none of that size or stride.
    """
    found = _find(pixel_format)
    row = found.row_bytes(width)
    stride = row if stride_bytes is None else stride_bytes
    step_w, step_h = found.step
    if width < 1 or height < 1 or width % step_w or height % step_h:
        raise InputError(
            f"there is no picture of {width}x{height} in {pixel_format}",
            f"take a width that is a multiple of {step_w} and a height of {step_h}, or another pixel format",
        )
    if stride < row or (found.chroma == "planes" and stride % 2):
        raise InputError(
            f"rows of {width} pixels in {pixel_format} cannot be {stride} bytes apart",
            f"a row has {row} bytes"
            + (", and half of them in its colours" if found.chroma == "planes" else ""),
        )
    if found.chroma == "planes":
        return stride * height + stride // 2 * (height - 1) + row // 2
    rows = height * 3 // 2 if found.chroma == "rows" else height
    return stride * (rows - 1) + row


def to_frame_pixels(
    data: Bytes | bytes | bytearray | memoryview,
    pixel_format: str,
    width: int,
    height: int,
    stride_bytes: int | None = None,
) -> Bytes:
    """A frame's pixels of a buffer.

    Deeper samples become 8 bits by their bit depth, `v >> (bits - 8)`, never by what is in the picture. Bayer mosaics
    are demosaiced bilinearly by OpenCV. YUV is taken as ITU-R BT.601 in limited range (luma 16 to 235), JPEG as it says
    itself.

    Args:
        data: flat, C-contiguous; what is behind the picture is ignored.
        pixel_format: a key of `PIXEL_FORMATS`, or `mjpeg`.
        width: in pixels.
        height: in pixels.
        stride_bytes: from one row to the next; None where there is no padding. In `i420` it is the luma's, and the
            colours' is half of it, as V4L2 has it. It does not apply to `mjpeg`.

    Returns:
        [H, W, C] uint8, C-contiguous, never a view of `data`: BGR for C = 3, mono for C = 1.

    Raises:
        InputError: there is no such format, none of that size, or the buffer is too short.
        MissingExtraError: OpenCV is needed, and is not installed.
    """
    flat = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    if pixel_format == MJPEG:
        return _decode_jpeg(flat, width, height)
    needed = frame_bytes(pixel_format, width, height, stride_bytes)
    if flat.size < needed:
        raise InputError(
            f"a frame of {width}x{height} in {pixel_format} has {flat.size} bytes instead of {needed}",
            "see that the connection is fast enough for the camera's size and rate",
        )
    found = PIXEL_FORMATS[pixel_format]
    row = found.row_bytes(width)
    stride = row if stride_bytes is None else stride_bytes
    if found.chroma == "planes":
        rows = _join_planes(flat, width, height, stride)
    else:
        rows = _rows(flat, height * 3 // 2 if found.chroma == "rows" else height, row, stride)
    pixels = found.convert(rows, width).reshape(height, width, found.channels)
    if np.may_share_memory(pixels, flat):
        return np.array(pixels, order="C")
    return np.ascontiguousarray(pixels)


def _find(pixel_format: str) -> PixelFormat:
    if pixel_format not in PIXEL_FORMATS:
        raise InputError(
            f"pixel format {pixel_format!r} cannot be converted",
            f"take one of: {', '.join([*PIXEL_FORMATS, MJPEG])}",
        )
    return PIXEL_FORMATS[pixel_format]


def _rows(flat: Bytes, rows: int, row: int, stride: int) -> Bytes:
    return as_strided(flat, (rows, row), (stride, 1), writeable=False)


def _join_planes(flat: Bytes, width: int, height: int, stride: int) -> Bytes:
    """[H * 3 / 2, W] without padding: luma, then blue, then red, as OpenCV takes I420."""
    joined = np.empty(width * height * 3 // 2, np.uint8)
    luma, blue = width * height, width * height // 4
    joined[:luma].reshape(height, width)[:] = _rows(flat, height, width, stride)
    for number in range(2):
        begin = stride * height + number * (stride // 2) * (height // 2)
        plane = joined[luma + number * blue : luma + (number + 1) * blue].reshape(height // 2, width // 2)
        plane[:] = _rows(flat[begin:], height // 2, width // 2, stride // 2)
    return joined.reshape(height * 3 // 2, width)


def _decode_jpeg(flat: Bytes, width: int, height: int) -> Bytes:
    cv2 = import_cv2("decoding MJPEG")
    # Of half a picture OpenCV makes a whole one, its rest grey. An end has only a picture that came whole.
    whole = flat.size > 4 and bytes(flat[:2]) == b"\xff\xd8" and flat.tobytes().rfind(b"\xff\xd9") > 0
    pixels = cv2.imdecode(flat, cv2.IMREAD_UNCHANGED) if whole else None
    if pixels is None or pixels.dtype != np.uint8:
        raise InputError(
            f"a JPEG picture of {flat.size} bytes is not whole, or is none",
            "see that the connection is fast enough for the camera's size and rate",
        )
    if pixels.shape[:2] != (height, width):
        raise InputError(
            f"a JPEG picture is {pixels.shape[1]}x{pixels.shape[0]} instead of {width}x{height}",
            f"set the camera to {pixels.shape[1]}x{pixels.shape[0]}",
        )
    return np.ascontiguousarray(pixels.reshape(height, width, -1))


def _samples8(rows: Bytes, width: int) -> Bytes:
    return rows


def _samples16(bits: int) -> Callable[[Bytes, int], Bytes]:
    """Samples of two bytes, little endian, in the low bits."""

    def unpack(rows: Bytes, width: int) -> Bytes:
        low, high = rows[:, 0::2], rows[:, 1::2]
        if bits == 16:
            return high
        # In 8 bits throughout: what is shifted out at the top is above the sample's bits, or in `low`.
        samples: Bytes = (low >> np.uint8(bits - 8)) | (high << np.uint8(16 - bits))
        return samples

    return unpack


def _samples10p(rows: Bytes, width: int) -> Bytes:
    """Four samples in five bytes, the lowest bits first."""
    b0, b1, b2, b3, b4 = (rows[:, i::5] for i in range(5))
    samples = np.empty((len(rows), width), np.uint8)
    samples[:, 0::4] = (b0 >> np.uint8(2)) | (b1 << np.uint8(6))
    samples[:, 1::4] = (b1 >> np.uint8(4)) | (b2 << np.uint8(4))
    samples[:, 2::4] = (b2 >> np.uint8(6)) | (b3 << np.uint8(2))
    samples[:, 3::4] = b4
    return samples


def _samples12p(rows: Bytes, width: int) -> Bytes:
    """Two samples in three bytes, the lowest bits first."""
    samples = np.empty((len(rows), width), np.uint8)
    samples[:, 0::2] = (rows[:, 0::3] >> np.uint8(4)) | (rows[:, 1::3] << np.uint8(4))
    samples[:, 1::2] = rows[:, 2::3]
    return samples


def _samples_packed(rows: Bytes, width: int) -> Bytes:
    """Two samples in three bytes as GigE Vision packs 10 and 12 bits: the highest 8 of each, the rest of both between."""
    samples = np.empty((len(rows), width), np.uint8)
    samples[:, 0::2], samples[:, 1::2] = rows[:, 0::3], rows[:, 2::3]
    return samples


_SAMPLES: dict[str, tuple[tuple[int, int], Callable[[Bytes, int], Bytes]]] = {
    "8": ((1, 1), _samples8),
    "10": ((1, 2), _samples16(10)),
    "12": ((1, 2), _samples16(12)),
    "14": ((1, 2), _samples16(14)),
    "16": ((1, 2), _samples16(16)),
    "10p": ((4, 5), _samples10p),
    "12p": ((2, 3), _samples12p),
    "10packed": ((2, 3), _samples_packed),
    "12packed": ((2, 3), _samples_packed),
}
"""How samples of one colour are packed -> (pixels, bytes) of a group, and what makes 8 bits of each."""

_BAYER = {"rg": "RGGB", "gr": "GRBG", "gb": "GBRG", "bg": "BGGR"}
"""A sensor's first two pixels -> its first four as OpenCV's newer constants have them.

Its older ones are named by other pixels: `COLOR_BayerBG2BGR` is for a sensor that begins with red.
"""


def _bayer(pattern: str, unpack: Callable[[Bytes, int], Bytes]) -> Callable[[Bytes, int], Bytes]:
    def demosaic(rows: Bytes, width: int) -> Bytes:
        return _convert_color(unpack(rows, width), f"COLOR_Bayer{pattern}2BGR")

    return demosaic


def _interleaved(size: int, code: str | None) -> Callable[[Bytes, int], Bytes]:
    """Pixels of `size` bytes side by side, converted by OpenCV's constant of that name."""

    def convert(rows: Bytes, width: int) -> Bytes:
        pixels = rows.reshape(len(rows), width, size)
        return pixels if code is None else _convert_color(pixels, code)

    return convert


def _planar(code: str) -> Callable[[Bytes, int], Bytes]:
    def convert(rows: Bytes, width: int) -> Bytes:
        return _convert_color(rows, code)

    return convert


def _convert_color(pixels: Bytes, code: str) -> Bytes:
    cv2: Any = import_cv2("converting colours")
    converted: Bytes = cv2.cvtColor(pixels, getattr(cv2, code))
    return converted


PIXEL_FORMATS: dict[str, PixelFormat] = {
    **{
        f"mono{how}": PixelFormat(1, (group[0], 1), group, unpack)
        for how, (group, unpack) in _SAMPLES.items()
    },
    **{
        f"bayer{first}{how}": PixelFormat(3, (group[0], 1), group, _bayer(pattern, unpack))
        for first, pattern in _BAYER.items()
        for how, (group, unpack) in _SAMPLES.items()
    },
    "yuyv": PixelFormat(3, (2, 1), (1, 2), _interleaved(2, "COLOR_YUV2BGR_YUY2")),
    "uyvy": PixelFormat(3, (2, 1), (1, 2), _interleaved(2, "COLOR_YUV2BGR_UYVY")),
    "nv12": PixelFormat(3, (2, 2), (1, 1), _planar("COLOR_YUV2BGR_NV12"), "rows"),
    "i420": PixelFormat(3, (2, 2), (1, 1), _planar("COLOR_YUV2BGR_I420"), "planes"),
    "bgr": PixelFormat(3, (1, 1), (1, 3), _interleaved(3, None)),
    "rgb": PixelFormat(3, (1, 1), (1, 3), _interleaved(3, "COLOR_RGB2BGR")),
    **{name: PixelFormat(3, (1, 1), (1, 4), _interleaved(4, "COLOR_BGRA2BGR")) for name in ("bgrx", "bgra")},
    **{name: PixelFormat(3, (1, 1), (1, 4), _interleaved(4, "COLOR_RGBA2BGR")) for name in ("rgbx", "rgba")},
}
"""Name -> how its pixels lie, of every format whose rows have a fixed size; `mjpeg` is beside them."""

MJPEG = "mjpeg"
"""A JPEG picture in each buffer; a grey one becomes a mono frame."""
