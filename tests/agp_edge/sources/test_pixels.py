"""Pixel formats against bits laid one by one, and colours computed by the standards' own formulas."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import InputError
from agp_edge.sources.pixels import MJPEG, PIXEL_FORMATS, frame_bytes, to_frame_pixels

Samples = NDArray[np.int64]


def pack(samples: Samples, how: str) -> list[bytes]:
    """Each row of [H, W] samples as bytes, laid bit by bit."""
    bits = int("".join(filter(str.isdigit, how)))
    rows = []
    for row in samples.tolist():
        if how.endswith("packed"):
            # GigE Vision 2.0, 10 and 12 bits: high byte, rest of both (the first one's in the low half), high byte.
            low = bits - 8
            pairs = zip(row[0::2], row[1::2], strict=True)
            rows.append(
                b"".join(bytes([a >> low, (b % 2**low) << 4 | a % 2**low, b >> low]) for a, b in pairs)
            )
        elif how.endswith("p") or bits == 8:
            stream = "".join(f"{value:0{bits}b}"[::-1] for value in row)
            rows.append(bytes(int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8)))
        else:
            rows.append(b"".join(value.to_bytes(2, "little") for value in row))
    return rows


def padded(rows: list[bytes], padding: int) -> bytes:
    """Rows with bytes between them that are no pixels, and none behind the last."""
    return (b"\xa5" * padding).join(rows)


def random_samples(bits: int, height: int = 6, width: int = 8) -> Samples:
    return np.random.default_rng(bits).integers(0, 2**bits, (height, width))


MONO = [name for name in PIXEL_FORMATS if name.startswith("mono")]


@pytest.mark.parametrize("padding", [0, 1, 7])
@pytest.mark.parametrize("name", MONO)
def test_mono_is_scaled_by_its_bit_depth(name: str, padding: int) -> None:
    how = name.removeprefix("mono")
    bits = int("".join(filter(str.isdigit, how)))
    samples = random_samples(bits)
    rows = pack(samples, how)
    data = padded(rows, padding)
    assert frame_bytes(name, 8, 6, len(rows[0]) + padding) == len(data)

    pixels = to_frame_pixels(data, name, 8, 6, len(rows[0]) + padding)

    assert pixels.dtype == np.uint8
    assert pixels.shape == (6, 8, 1)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels[..., 0], samples // 2 ** (bits - 8))


@pytest.mark.parametrize("name", MONO)
def test_a_dark_frame_stays_dark(name: str) -> None:
    how = name.removeprefix("mono")
    bits = int("".join(filter(str.isdigit, how)))
    samples = np.full((2, 4), 3 * 2 ** (bits - 8), np.int64)
    assert (to_frame_pixels(padded(pack(samples, how), 0), name, 4, 2) == 3).all()


@pytest.mark.parametrize("how", sorted({name[7:] for name in PIXEL_FORMATS if name.startswith("bayer")}))
@pytest.mark.parametrize("pattern", ["RGGB", "GRBG", "GBRG", "BGGR"])
def test_a_mosaic_of_one_colour_is_that_colour(pattern: str, how: str) -> None:
    bits = int("".join(filter(str.isdigit, how)))
    colour = {"R": 200, "G": 90, "B": 30}
    tile = np.array([colour[c] for c in pattern]).reshape(2, 2)
    samples = np.tile(tile, (8, 8)) * 2 ** (bits - 8) + 2 ** (bits - 8) - 1
    name = f"bayer{pattern[:2].lower()}{how}"

    pixels = to_frame_pixels(padded(pack(samples, how), 5), name, 16, 16, frame_bytes(name, 16, 1) + 5)

    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.full((16, 16, 3), [30, 90, 200]))


def to_yuv(red: int, green: int, blue: int) -> tuple[int, int, int]:
    """ITU-R BT.601 in limited range, by its definition."""
    r, g, b = red / 255, green / 255, blue / 255
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return (
        round(16 + 219 * luma),
        round(128 + 224 * (b - luma) / (2 * (1 - 0.114))),
        round(128 + 224 * (r - luma) / (2 * (1 - 0.299))),
    )


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 90, 30)]


def lay_yuv(
    name: str, left: tuple[int, int, int], right: tuple[int, int, int], padding: int
) -> tuple[bytes, int]:
    """8x4 pixels, the left half of one colour and the right half of another: (buffer, stride)."""
    halves = [to_yuv(*left)] * 2 + [to_yuv(*right)] * 2
    if name in ("yuyv", "uyvy"):
        order = "yuyv" if name == "yuyv" else "uyvy"
        pairs = [{"y": y, "u": u, "v": v} for y, u, v in halves]
        row = bytes(pair[letter] for pair in pairs for letter in order)
        return padded([row] * 4, padding), 16 + padding
    luma = bytes(y for y, _, _ in halves for _ in range(2))
    if name == "nv12":
        return padded([luma] * 4 + [bytes(c for _, u, v in halves for c in (u, v))] * 2, padding), 8 + padding
    blue, red = bytes(u for _, u, _ in halves), bytes(v for _, _, v in halves)
    half = b"\xa5" * (padding // 2)
    return padded([luma] * 4, padding) + b"\xa5" * padding + half.join([blue] * 2 + [red] * 2), 8 + padding


@pytest.mark.parametrize("padding", [0, 2, 6])
@pytest.mark.parametrize("name", ["yuyv", "uyvy", "nv12", "i420"])
@pytest.mark.parametrize("colour", COLOURS)
def test_yuv_is_bt601_in_limited_range(name: str, colour: tuple[int, int, int], padding: int) -> None:
    other = (20, 160, 220)
    data, stride = lay_yuv(name, colour, other, padding)
    assert frame_bytes(name, 8, 4, stride) == len(data)

    pixels = to_frame_pixels(data, name, 8, 4, stride)

    assert pixels.shape == (4, 8, 3)
    assert pixels.flags.c_contiguous
    # Rounding of three numbers to 8 bits, and of OpenCV's arithmetic in whole numbers.
    assert np.abs(pixels[:, :4].astype(int) - colour[::-1]).max() <= 3
    assert np.abs(pixels[:, 4:].astype(int) - other[::-1]).max() <= 3


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("name", ["bgr", "rgb", "bgrx", "bgra", "rgbx", "rgba"])
def test_colours_side_by_side(name: str, padding: int) -> None:
    size = len(name)
    values = np.random.default_rng(1).integers(0, 256, (3, 5, size), np.uint8)
    data = padded([row.tobytes() for row in values], padding)

    pixels = to_frame_pixels(data, name, 5, 3, 5 * size + padding)

    assert pixels.flags.c_contiguous
    order = [name.index(letter) for letter in "bgr"]
    np.testing.assert_array_equal(pixels, values[..., order])


@pytest.mark.parametrize(
    "name", ["mono8", "mono16", "mono12packed", "bayerrg8", "bgr", "bgrx", "nv12", "i420"]
)
def test_the_frame_outlives_the_buffer_that_the_driver_takes_back(name: str) -> None:
    buffer = np.full(frame_bytes(name, 8, 4), 120, np.uint8)
    pixels = to_frame_pixels(buffer, name, 8, 4)
    before = pixels.copy()
    buffer[:] = 7
    np.testing.assert_array_equal(pixels, before)
    assert pixels.flags.writeable


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_a_buffer_may_be_longer_and_not_shorter(name: str) -> None:
    needed = frame_bytes(name, 16, 8)
    buffer = bytes(range(256)) * math.ceil((needed + 100) / 256)
    np.testing.assert_array_equal(
        to_frame_pixels(memoryview(buffer), name, 16, 8),
        to_frame_pixels(bytearray(buffer[:needed]), name, 16, 8),
    )
    for size in (needed - 1, 0):
        with pytest.raises(InputError, match=f"{size} bytes instead of {needed}"):
            to_frame_pixels(buffer[:size], name, 16, 8)


@pytest.mark.parametrize(
    ("name", "width", "height"),
    [
        ("mono10p", 6, 4),
        ("mono12packed", 7, 4),
        ("yuyv", 7, 4),
        ("nv12", 8, 3),
        ("i420", 7, 4),
        ("mono8", 0, 4),
    ],
)
def test_a_size_that_a_format_does_not_have(name: str, width: int, height: int) -> None:
    with pytest.raises(InputError, match=f"no picture of {width}x{height} in {name}"):
        to_frame_pixels(bytes(1000), name, width, height)


@pytest.mark.parametrize(("name", "stride"), [("mono8", 7), ("mono16", 15), ("yuyv", 15), ("i420", 9)])
def test_a_stride_that_cannot_be(name: str, stride: int) -> None:
    with pytest.raises(InputError, match=f"cannot be {stride} bytes apart"):
        to_frame_pixels(bytes(1000), name, 8, 4, stride)


def test_an_unknown_format_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="'Mono8' cannot be converted") as refused:
        to_frame_pixels(bytes(64), "Mono8", 8, 8)
    for name in [*PIXEL_FORMATS, MJPEG]:
        assert name in refused.value.hint


@pytest.mark.parametrize("channels", [1, 3])
def test_mjpeg(channels: int) -> None:
    picture = np.empty((48, 64, channels), np.uint8)
    picture[:] = [30, 90, 200][:channels]
    data = cv2.imencode(".jpg", picture)[1].tobytes()

    # Cameras fill their buffers up.
    pixels = to_frame_pixels(data + bytes(100), MJPEG, 64, 48)

    assert pixels.shape == picture.shape
    assert np.abs(pixels.astype(int) - picture).max() <= 3


def test_half_a_jpeg_is_no_picture_with_a_grey_rest() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (48, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    for broken in (data[: len(data) // 2], data[100:], b"", b"\xff\xd8" + bytes(1000) + b"\xff\xd9"):
        with pytest.raises(InputError, match=f"{len(broken)} bytes is not whole"):
            to_frame_pixels(broken, MJPEG, 64, 48)
    with pytest.raises(InputError, match="64x48 instead of 32x48"):
        to_frame_pixels(data, MJPEG, 32, 48)
