"""Regions of interest: how they are written, what they cut out, where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from agp_edge.errors import InputError
from agp_edge.roi import Roi, parse_roi, parse_rois


def test_how_a_region_is_written() -> None:
    assert parse_roi("10,20,64,48") == Roi("10,20,64,48", 10, 20, 64, 48)
    assert parse_roi(" left.cap-1=0,0,64,48 ") == Roi("left.cap-1", 0, 0, 64, 48)
    assert parse_roi("cap=10,20", (64, 48)) == Roi("cap", 10, 20, 64, 48)
    # A size that was given is taken, whatever is known.
    assert parse_roi("10,20,8,9", (64, 48)).box == (10, 20, 8, 9)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no region"),
        ("10", "no region"),
        ("10,20,30", "no region"),
        ("-1,0,64,48", "no region"),
        ("1.5,0,64,48", "no region"),
        ("10,20,64,48,1", "no region"),
        ("a/b=10,20,64,48", "no region"),
        ("=10,20,64,48", "no region"),
        ("x" * 41 + "=10,20,64,48", "no region"),
        ("10,20", "has no size"),
        ("10,20,0,48", "is empty"),
        ("10,20,64,0", "is empty"),
        ("٣,20,64,48", "no region"),
    ],
)
def test_what_is_no_region(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_roi(text)


def test_names_tell_regions_apart() -> None:
    assert [roi.name for roi in parse_rois(["a=0,0,8,8", "8,0,8,8"])] == ["a", "8,0,8,8"]
    for twice in (["a=0,0,8,8", "a=8,0,8,8"], ["0,0,8,8", "0,0,8,8"]):
        with pytest.raises(InputError, match="given twice"):
            parse_rois(twice)


def test_what_it_cuts_out_is_a_copy() -> None:
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    cut = parse_roi("2,1,3,4").crop(pixels, "camera")
    np.testing.assert_array_equal(cut, pixels[1:5, 2:5])
    assert cut.flags.c_contiguous
    assert not np.shares_memory(cut, pixels)
    whole = parse_roi("0,0,8,6").crop(pixels, "camera")
    assert not np.shares_memory(whole, pixels)


@pytest.mark.parametrize("text", ["0,0,9,6", "0,0,8,7", "1,0,8,6", "0,1,8,6", "8,0,1,1", "0,6,1,1"])
def test_a_frame_that_it_does_not_lie_in(text: str) -> None:
    with pytest.raises(
        InputError, match=rf"--roi {text} reaches beyond a frame of camera, which is 8x6"
    ) as info:
        parse_roi(text).crop(np.zeros((6, 8, 3), np.uint8), "camera")
    assert "0,0,8,6" in info.value.hint
