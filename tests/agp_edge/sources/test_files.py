"""Sources that end: images and video files, read for real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.errors import InputError
from agp_edge.frame import FrameSpec
from agp_edge.sources import Frame, Source, open_source
from agp_edge.sources.conform import conform

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


def read_all(source: Source) -> list[Frame]:
    frames = []
    with source:
        while (frame := source.read()) is not None:
            frames.append(frame)
    return frames


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_a_video_gives_every_frame_in_order(
    tmp_path: Path, part: Part, write_video: WriteVideo, suffix: str
) -> None:
    drawn = [part(i) for i in range(12)]
    source = open_source(str(write_video(tmp_path / f"parts{suffix}", drawn)))
    frames = read_all(source)
    assert [f.number for f in frames] == list(range(12))
    assert source.fps == 10
    for frame, pixels in zip(frames, drawn, strict=True):
        assert frame.pixels.shape == (48, 64, 3)
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.flags.c_contiguous
        # A coder may change a pixel, not the picture.
        assert np.abs(frame.pixels.astype(int) - pixels).mean() < 6
    stamps = [f.captured_ns for f in frames]
    assert stamps == sorted(stamps)
    assert {f.clock for f in frames} == {"arrival"}


def test_a_file_that_is_opened_again_begins_again(
    tmp_path: Path, part: Part, write_video: WriteVideo
) -> None:
    source = open_source(str(write_video(tmp_path / "a.avi", [part(i) for i in range(3)])))
    assert [f.number for f in read_all(source)] == [f.number for f in read_all(source)] == [0, 1, 2]


def test_a_lossless_video_gives_the_very_pixels(tmp_path: Path, part: Part, write_video: WriteVideo) -> None:
    drawn = [part(i, defect=i == 2) for i in range(4)]
    frames = read_all(open_source(str(write_video(tmp_path / "a.mkv", drawn))))
    assert len(frames) == 4
    assert max(np.abs(f.pixels.astype(int) - p).max() for f, p in zip(frames, drawn, strict=True)) <= 2


@pytest.mark.parametrize("content", [None, b"", b"no video at all" * 100])
def test_a_video_that_does_not_open(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mp4"):
        open_source(str(path)).open()


def test_a_folder_gives_its_images_by_name(tmp_path: Path, part: Part) -> None:
    for i in (2, 0, 1):
        write_png(tmp_path / "shots" / f"{i}.png", part(i))
    write_png(tmp_path / "shots" / "sub" / "9.png", part(9))
    write_png(tmp_path / "shots" / ".half" / "3.png", part(3))
    (tmp_path / "shots" / "notes.txt").write_text("no image")
    frames = read_all(open_source(str(tmp_path / "shots")))
    assert [f.number for f in frames] == [0, 1, 2, 3]
    for frame, number in zip(frames, (0, 1, 2, 9), strict=True):
        np.testing.assert_array_equal(frame.pixels, part(number))


def test_a_glob_and_a_single_image(tmp_path: Path, part: Part) -> None:
    for i in range(3):
        write_png(tmp_path / f"{i}.png", part(i))
    assert len(read_all(open_source(str(tmp_path / "[01].png")))) == 2
    assert len(read_all(open_source(str(tmp_path / "2.png")))) == 1


def test_an_unreadable_image_is_one_error_and_the_next_read_goes_on(tmp_path: Path, part: Part) -> None:
    write_png(tmp_path / "0.png", part(0))
    (tmp_path / "1.png").write_bytes(b"no image")
    write_png(tmp_path / "2.png", part(2))
    with open_source(str(tmp_path)) as source:
        first = source.read()
        with pytest.raises(InputError, match=r"1\.png"):
            source.read()
        third = source.read()
        assert first is not None
        assert third is not None
        assert (first.number, third.number) == (0, 2)
        assert source.read() is None


@pytest.mark.parametrize("name", ["", "*.png", "absent.png"])
def test_no_images(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        open_source(str(tmp_path / name)).open()


def test_conform_converts_channels_and_refuses_sizes(part: Part) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = part(0)
    pixels[..., 2] = 200
    grey = conform(pixels, FrameSpec(64, 48, 1), "cam")
    assert grey.shape == (48, 64, 1)
    np.testing.assert_array_equal(grey[..., 0], cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY))
    again = conform(grey, FrameSpec(64, 48, 3), "cam")
    assert again.shape == (48, 64, 3)
    assert (again == grey).all()
    assert conform(pixels, FrameSpec(64, 48, 3), "cam") is pixels
    with pytest.raises(InputError, match=r"64x48.*32x48") as caught:
        conform(pixels, FrameSpec(32, 48, 3), "cam")
    assert "--frame-size 64x48" in caught.value.hint
