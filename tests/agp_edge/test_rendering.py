from __future__ import annotations

import numpy as np
import pytest

from agp_edge.rendering import annotate, draw_heat, heat
from agp_edge.verdict import Region


def test_the_scale_of_heat_is_the_threshold_not_the_map() -> None:
    even = np.full((2, 2), 0.1, np.float32)
    even[0, 0] = 0.19
    assert heat(even, 0.4).max() == 0, "the hottest place of a good part is cold"
    np.testing.assert_allclose(
        heat(np.array([[0.2, 0.4, 0.6, 9]], np.float32), 0.4), [[0, 0.5, 1, 1]], atol=1e-6
    )


@pytest.mark.parametrize("threshold", [0.0, -1.0, 0.4])
def test_heat_is_finite_for_any_threshold_and_map(threshold: float) -> None:
    wild = np.array([[np.nan, np.inf, -np.inf, 0.4]], np.float32)
    hot = heat(wild, threshold)
    assert ((hot >= 0) & (hot <= 1)).all()


def test_a_cold_part_is_shown_as_it_is() -> None:
    pixels = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)
    np.testing.assert_array_equal(draw_heat(pixels, np.zeros((6, 8), np.float32), 0.4), pixels)


def test_a_good_part_near_the_threshold_keeps_its_colours() -> None:
    pixels = np.full((48, 64, 3), (40, 90, 160), np.uint8)
    usual = draw_heat(pixels, np.full((6, 8), 0.65 * 0.4, np.float32), 0.4).astype(int)
    assert np.abs(usual - pixels).max() <= 5
    hot = draw_heat(pixels, np.full((6, 8), 0.4, np.float32), 0.4).astype(int)
    assert np.abs(hot - pixels).max() > 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(48, 64), (480, 640)])
def test_annotate_shows_where_and_what(channels: int, size: tuple[int, int]) -> None:
    pixels = np.full((*size, channels), 76, np.uint8)
    before = pixels.copy()
    anomaly_map = np.zeros((6, 8), np.float32)
    anomaly_map[2:4, 3:5] = 1
    cell = size[0] // 6
    region = Region(3 * cell, 2 * cell, 2 * cell, 2 * cell, 1.0)
    picture = annotate(pixels, anomaly_map, "NG", 1.0, 0.4, [region])
    np.testing.assert_array_equal(pixels, before)
    assert picture.shape == (*size, 3)
    assert picture.dtype == np.uint8
    changed = (picture != 76).any(axis=2)
    assert changed[3 * cell, 4 * cell], "the defect is hot"
    assert not changed[5 * cell, 7 * cell], "what is cold stays as it was"
    blue, _, red = picture[size[0] - 1, size[1] // 2].astype(int)
    assert red > blue
    blue, _, red = annotate(pixels, anomaly_map * 0, "OK", 0.0, 0.4)[size[0] - 1, size[1] // 2].astype(int)
    assert blue > red
