from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import list_images, read_image, read_mask, write_png
from agp_edge.errors import InputError


@pytest.fixture
def colour() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.integer[Any] | np.floating[Any]]) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_colour_comes_back_as_bgr(tmp_path: Path, colour: NDArray[np.uint8], suffix: str) -> None:
    read = read_image(save(tmp_path / f"a{suffix}", colour))
    np.testing.assert_array_equal(read, colour)
    assert read.flags.c_contiguous


def test_grey_becomes_three_equal_channels_and_one_unchanged(
    tmp_path: Path, colour: NDArray[np.uint8]
) -> None:
    grey = colour[..., 0]
    path = save(tmp_path / "a.png", grey)
    np.testing.assert_array_equal(read_image(path), np.repeat(grey[..., np.newaxis], 3, axis=2))
    np.testing.assert_array_equal(read_image(path, mono=True), grey[..., np.newaxis])


def test_alpha_is_dropped_not_blended(tmp_path: Path, colour: NDArray[np.uint8]) -> None:
    alpha = np.zeros((*colour.shape[:2], 1), np.uint8)
    path = save(tmp_path / "a.png", np.concatenate([colour, alpha], axis=2))
    np.testing.assert_array_equal(read_image(path), colour)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_scaled_by_the_range_of_the_type(tmp_path: Path, suffix: str) -> None:
    # A dark image: scaled by its content, 2570 would become 255.
    values = np.array([[0, 128, 129, 257, 2570]], np.uint16)
    read = read_image(save(tmp_path / f"a{suffix}", values), mono=True)
    assert read[0, :, 0].tolist() == [0, 0, 1, 1, 10]
    bright = read_image(save(tmp_path / f"b{suffix}", np.array([[65535, 65279]], np.uint16)), mono=True)
    assert bright[0, :, 0].tolist() == [255, 254]


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    picture.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[30, 20, 10], [50, 100, 200]]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff"])
def test_a_cut_off_image_is_refused(tmp_path: Path, colour: NDArray[np.uint8], suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", colour)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match=path.name) as caught:
        read_image(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_no_image_is_refused_with_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_image(tmp_path / "absent.png")


def test_floating_point_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tiff", np.ones((4, 4, 3), np.float32))
    with pytest.raises(InputError, match="float32"):
        read_image(path)


def test_a_mask_is_whatever_is_not_zero(tmp_path: Path) -> None:
    eight = save(tmp_path / "a.png", np.array([[0, 1, 255]], np.uint8))
    sixteen = save(tmp_path / "b.png", np.array([[0, 1, 65535]], np.uint16))
    assert read_mask(eight).tolist() == [[False, True, True]]
    assert read_mask(sixteen).tolist() == [[False, True, True]]


def test_write_png_makes_folders_and_loses_nothing(tmp_path: Path, colour: NDArray[np.uint8]) -> None:
    path = tmp_path / "new" / "a.png"
    write_png(path, colour)
    np.testing.assert_array_equal(read_image(path), colour)
    write_png(path, colour[..., :1])
    np.testing.assert_array_equal(read_image(path, mono=True), colour[..., :1])
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_write_png_takes_no_other_type(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32"):
        write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.float32))  # type: ignore[arg-type,unused-ignore]


def test_list_images_sorts_and_leaves_out_what_is_none(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [p.name for p in list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    assert list_images(tmp_path / "absent") == []
