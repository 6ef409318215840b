"""Pixels that never count: which cells of a map they take with them, and what is no mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.errors import InputError
from agp_edge.masks import Mask
from agp_edge.verdict import find_regions

pytest.importorskip("cv2")


def masked(width: int, height: int, *boxes: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """[height, width] bool, true in boxes of (x, y, w, h)."""
    pixels = np.zeros((height, width), bool)
    for x, y, w, h in boxes:
        pixels[y : y + h, x : x + w] = True
    return pixels


def picture(path: Path, pixels: NDArray[np.bool_]) -> Path:
    write_png(path, pixels.astype(np.uint8) * 255)
    return path


def test_white_never_counts(tmp_path: Path) -> None:
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    write_png(tmp_path / "mask.png", levels)
    mask = Mask.read(tmp_path / "mask.png", (4, 1))
    assert mask.cells((1, 4)).tolist() == [[True, True, False, False]]
    assert (mask.size_wh, mask.share, mask.warning) == ((4, 1), 0.5, None)


def test_a_colour_picture_counts_by_its_grey(tmp_path: Path) -> None:
    blue_and_white = np.array([[[255, 0, 0], [255, 255, 255]]], np.uint8)
    write_png(tmp_path / "mask.png", blue_and_white)
    assert Mask.read(tmp_path / "mask.png").cells((1, 2)).tolist() == [[True, False]]


def test_one_masked_pixel_takes_every_cell_that_it_touches() -> None:
    # Cells of 2.5 pixels: pixel 2 lies in the first and in the second.
    assert Mask(masked(10, 10, (2, 0, 1, 1)), "m").cells((4, 4))[0].tolist() == [False, False, True, True]
    assert Mask(masked(10, 10, (2, 0, 1, 1)), "m").cells((4, 4))[1:].all()
    # A map finer than the frame: all the cells of that pixel.
    cells = Mask(masked(3, 3, (1, 1, 1, 1)), "m").cells((6, 6))
    np.testing.assert_array_equal(np.argwhere(~cells), [[2, 2], [2, 3], [3, 2], [3, 3]])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 24), st.integers(1, 24), st.data())
def test_a_region_never_covers_a_masked_pixel_alone(
    width: int, height: int, columns: int, rows: int, data: st.DataObject
) -> None:
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    pixels = masked(width, height, (x, y, 1, 1))
    try:
        counts = Mask(pixels, "m").cells((rows, columns))
    except InputError:
        return  # One pixel, or one that touches every cell.
    for row, column in np.argwhere(counts):
        anomaly_map = np.zeros((rows, columns), np.float32)
        anomaly_map[row, column] = 1
        (region,) = find_regions(anomaly_map, 0.5, (width, height), counts)
        inside = pixels[region.y : region.y + region.height, region.x : region.x + region.width]
        assert not inside.any()
    # And no cell is taken without reason.
    for row, column in np.argwhere(~counts):
        anomaly_map = np.zeros((rows, columns), np.float32)
        anomaly_map[row, column] = 1
        (region,) = find_regions(anomaly_map, 0.5, (width, height))
        assert pixels[region.y : region.y + region.height, region.x : region.x + region.width].any()


def test_cells_are_worked_out_once_and_cannot_be_spoilt() -> None:
    mask = Mask(masked(8, 8, (0, 0, 2, 2)), "m")
    cells = mask.cells((4, 4))
    assert mask.cells((4, 4)) is cells
    with pytest.raises(ValueError):
        cells[0, 0] = True


def test_the_mask_of_a_region_of_interest() -> None:
    mask = Mask(masked(8, 6, (0, 0, 4, 6)), "mask m.png")
    assert mask.crop(2, 1, 4, 4).cells((4, 4))[0].tolist() == [False, False, True, True]
    with pytest.raises(InputError, match=r"region 5,0,4,6 reaches beyond mask m\.png, which is 8x6"):
        mask.crop(5, 0, 4, 6)
    with pytest.raises(InputError, match=r"mask m\.png in region 0,0,4,6 masks every pixel"):
        mask.crop(0, 0, 4, 6)


def test_what_is_no_mask(tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.png", masked(8, 6, (0, 0, 8, 6)))
    with pytest.raises(InputError, match="masks every pixel"):
        Mask.read(whole)
    part = picture(tmp_path / "part.png", masked(8, 6, (0, 0, 4, 6)))
    with pytest.raises(InputError, match=r"part\.png is 8x6, the frame 6x8") as info:
        Mask.read(part, (6, 8))
    assert "6x8" in info.value.hint
    with pytest.raises(InputError, match="cannot read image"):
        Mask.read(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="no image that can be read"):
        Mask.read(tmp_path / "text.png")
    # Not every pixel, but something in every cell.
    stripes = np.zeros((8, 8), bool)
    stripes[:, ::2] = True
    with pytest.raises(InputError, match="touches every one of the map's 4x4 cells"):
        Mask(stripes, "m").cells((4, 4))


def test_a_mask_that_masks_nothing_is_odd(tmp_path: Path) -> None:
    # As a mask of 0 and 1, which looks right in the program that drew it.
    write_png(tmp_path / "mask.png", masked(8, 6, (0, 0, 4, 6)).astype(np.uint8))
    mask = Mask.read(tmp_path / "mask.png", (8, 6))
    assert mask.warning is not None
    assert "masks nothing" in mask.warning
    assert mask.cells((3, 4)).all()
