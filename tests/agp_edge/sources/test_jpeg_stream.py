"""Pictures out of a stream of bytes, whole or not at all."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agp_edge.sources.jpeg_stream import BrokenPicture, JpegStream, Picture


def jpeg(
    value: int, size: tuple[int, int] = (64, 48), *, progressive: bool = False, grey: bool = False
) -> bytes:
    """Noise around a grey, so that there are many stuffed bytes; with restart marks where it is not progressive."""
    shape = (size[1], size[0]) if grey else (size[1], size[0], 3)
    noise = np.random.default_rng(value).integers(0, 60, shape)
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if progressive else [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    return bytes(
        cv2.imencode(".jpg", (value + noise).astype(np.uint8), [*flags, cv2.IMWRITE_JPEG_QUALITY, 98])[1]
    )


def with_thumbnail(data: bytes, thumbnail: bytes) -> bytes:
    """The same picture with another one in its application segment, as cameras have it."""
    segment = b"Exif\0\0" + thumbnail
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


def feed(stream: JpegStream, data: bytes, sizes: list[int]) -> tuple[list[Picture], int]:
    """All pictures of some bytes in pieces of those sizes, over and over; and how many broken ones."""
    pictures, broken, at, turn = [], 0, 0, 0
    while at < len(data):
        piece = data[at : at + sizes[turn % len(sizes)]]
        stream.feed(piece, at, float(at))
        at += len(piece)
        turn += 1
        while True:
            try:
                picture = stream.next()
            except BrokenPicture:
                broken += 1
                continue
            if picture is None:
                break
            pictures.append(picture)
    return pictures, broken


PICTURES = [
    jpeg(10),
    jpeg(40, (80, 32), progressive=True),
    jpeg(70, grey=True),
    with_thumbnail(jpeg(100, (128, 96)), jpeg(200, (16, 16))),
]
SIZES = [(64, 48), (80, 32), (64, 48), (128, 96)]


def test_the_pictures_are_what_they_are_meant_to_be() -> None:
    for data in PICTURES:
        assert data.count(b"\xff\x00") >= 3
    assert b"\xff\xd0" in PICTURES[0]
    assert PICTURES[1].count(b"\xff\xda") > 1


@given(
    pieces=st.lists(st.integers(1, 3000), min_size=1, max_size=5),
    order=st.lists(st.integers(0, len(PICTURES) - 1), min_size=1, max_size=5),
    garbage=st.lists(st.binary(max_size=60).filter(lambda b: b"\xff" not in b), min_size=6, max_size=6),
)
def test_pictures_come_whole_whatever_is_between_them(
    pieces: list[int], order: list[int], garbage: list[bytes]
) -> None:
    data = b"".join(garbage[i] + PICTURES[which] for i, which in enumerate(order)) + garbage[-1]
    pictures, broken = feed(JpegStream(), data, pieces)
    assert broken == 0
    assert [picture.data for picture in pictures] == [PICTURES[which] for which in order]
    assert [picture.size_wh for picture in pictures] == [SIZES[which] for which in order]


def test_a_picture_carries_the_time_of_its_first_byte() -> None:
    data = b"--frame\r\n\r\n" + PICTURES[0] + b"\r\n--frame\r\n\r\n" + PICTURES[1]
    pictures, _ = feed(JpegStream(), data, [100])
    for picture in pictures:
        begin = data.index(picture.data)
        assert picture.arrived_ns == begin // 100 * 100
        assert picture.arrived_s == float(picture.arrived_ns)


@pytest.mark.parametrize("which", range(len(PICTURES)))
def test_one_that_is_cut_off_is_one_failure_and_nothing_beside_it(which: int) -> None:
    picks = random.Random(which)
    for _ in range(40):
        cut = picks.randrange(8, len(PICTURES[which]) - 2)
        data = (
            PICTURES[0]
            + PICTURES[which][:cut]
            + b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 2000\r\n\r\n"
        )
        # Where the cut is in an application's segment, its length reaches into the next ones, and they are lost with it.
        pictures, broken = feed(JpegStream(), data + PICTURES[2] * 8, [700])
        assert broken in (1, 2)
        assert [picture.data for picture in pictures[:1]] == [PICTURES[0]]
        assert len(pictures) >= (6 if which == 3 else 9)
        assert {picture.data for picture in pictures[1:]} == {PICTURES[2]}


def test_a_thumbnail_in_one_that_is_cut_off_is_no_picture() -> None:
    thumbnail = jpeg(200, (16, 16))
    data = with_thumbnail(jpeg(100, (128, 96)), thumbnail)
    cut = data[: data.index(thumbnail) + len(thumbnail)] + b"\r\n--frame\r\n\r\n"
    pictures, broken = feed(JpegStream(), cut + PICTURES[0], [500])
    assert [picture.data for picture in pictures] == [PICTURES[0]]
    assert broken == 1


def test_one_without_an_end_takes_a_bounded_room() -> None:
    stream = JpegStream(largest=100_000)
    stream.feed(PICTURES[0][:-2], 0, 0.0)
    kept = 0
    broken = False
    for _ in range(1000):
        stream.feed(bytes(1000), 0, 0.0)
        kept = max(kept, stream.waiting_bytes)
        try:
            assert stream.next() is None
        except BrokenPicture as error:
            broken = str(error).startswith("it has no end")
            break
    assert broken
    assert kept < 102_000
    assert feed(stream, PICTURES[1], [500])[0]


def test_garbage_takes_no_room() -> None:
    stream = JpegStream()
    for i in range(1000):
        stream.feed(random.Random(i).randbytes(1000).replace(b"\xff", b""), i, float(i))
        assert stream.next() is None
    assert stream.waiting_bytes < 10
    stream.feed(PICTURES[0], 5000, 5000.0)
    picture = stream.next()
    assert picture is not None
    assert picture.arrived_ns == 5000


@given(st.binary(max_size=400))
def test_no_bytes_bring_it_down(data: bytes) -> None:
    pictures, _ = feed(JpegStream(), b"\xff\xd8\xff\xe0" + data + PICTURES[0] * 3, [90])
    assert {picture.data for picture in pictures[-1:]} <= {PICTURES[0]}
