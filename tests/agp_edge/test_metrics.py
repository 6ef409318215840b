from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from agp_edge.metrics import aupro, average_precision, f1_max, image_auroc, ranking_metrics

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@st.composite
def scored(draw: st.DrawFn) -> tuple[Floats, Bools]:
    """Scores with many ties, and labels of both kinds."""
    n = draw(st.integers(2, 40))
    scores = draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))
    labels = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    labels[0], labels[-1] = True, False
    return (np.array(scores) / 3).astype(np.float32), np.array(labels, np.bool_)


@given(scored())
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_ranking_metrics_agree_with_scikit_learn(data: tuple[Floats, Bools]) -> None:
    scores, labels = data
    assert image_auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores))
    precision, recall, _ = precision_recall_curve(labels, scores)
    best = max(2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(precision, recall, strict=True))
    assert f1_max(scores, labels) == pytest.approx(best)


def test_ranking_metrics_agree_on_many_pixels() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200_000) < 0.02
    # Float32 of few digits: ties across labels, as half precision gives.
    scores = np.round(rng.normal(labels * 1.0, 1), 2).astype(np.float32)
    found = ranking_metrics(scores[labels], scores[~labels])
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores))
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores))


def test_one_kind_of_label_gives_no_number() -> None:
    for labels in ([True, True], [False, False], []):
        scores = [0.5] * len(labels)
        assert image_auroc(scores, labels) is None
        assert average_precision(scores, labels) is None
        assert f1_max(scores, labels) is None


@pytest.mark.parametrize("place", [0, 1])
def test_nan_is_refused(place: int) -> None:
    scores = np.array([0.1, 0.2])
    scores[place] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        image_auroc(scores, [True, False])


def test_labels_and_scores_that_differ_in_number_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        f1_max([1.0], [True, False])


def flood_fill(mask: Bools) -> list[list[tuple[int, int]]]:
    """8-connected regions, in the plainest way."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    regions = []
    while left:
        region, edge = [], [left.pop()]
        while edge:
            y, x = edge.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        regions.append(region)
    return regions


def exhaustive_aupro(maps: list[Floats], masks: list[Bools], limit: float) -> float:
    """AUPRO by its definition: every threshold in turn, a polyline, cut at the limit."""
    regions = [(m, r) for m, t in zip(maps, masks, strict=True) for r in flood_fill(t)]
    normal = np.concatenate([m[~t] for m, t in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        overlap = np.mean([np.mean([m[p] >= threshold for p in r]) for m, r in regions])
        points.append((float(np.mean(normal >= threshold)), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [3, 1000])
def test_aupro_agrees_with_every_threshold_in_turn(limit: float, levels: int) -> None:
    rng = np.random.default_rng(levels)
    for _ in range(20):
        masks = [rng.random((7, 9)) < share for share in (0.0, 0.15, 0.3)]
        maps = [
            (np.floor((rng.random((7, 9)) + 0.5 * mask) * levels) / levels).astype(np.float32)
            for mask in masks
        ]
        assert aupro(maps, masks, limit) == pytest.approx(exhaustive_aupro(maps, masks, limit))


def two_regions() -> Bools:
    """A region of 16 pixels, and one of a single pixel."""
    mask = np.zeros((10, 10), bool)
    mask[0:4, 0:4] = True
    mask[8, 8] = True
    return mask


def test_a_perfect_map_scores_one() -> None:
    mask = two_regions()
    for limit in (0.05, 0.3, 1.0):
        assert aupro([mask.astype(np.float32)], [mask], limit) == pytest.approx(1.0)
        assert (aupro([mask.astype(np.float32)], [mask], limit) or 0) <= 1.0


def test_a_constant_map_scores_half_the_limit() -> None:
    # One threshold: the curve is the straight line from (0, 0) to (1, 1), limit^2 / 2 below it, over limit.
    mask = two_regions()
    assert aupro([np.full(mask.shape, 0.7, np.float32)], [mask], 0.3) == pytest.approx(0.15)


def test_a_map_turned_upside_down_scores_zero() -> None:
    mask = two_regions()
    assert aupro([-mask.astype(np.float32)], [mask], 0.3) == 0.0


def test_regions_count_alike_whatever_their_size() -> None:
    mask = two_regions()
    only_large = mask.astype(np.float32)
    only_large[8, 8] = -1  # below all normal pixels
    assert aupro([only_large], [mask], 0.3) == pytest.approx(0.5)


def test_regions_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0:3, 0:3] = True
    mask[3, 3] = True
    values = mask.astype(np.float32)
    values[3, 3] = -1
    assert aupro([values], [mask], 0.3) == pytest.approx(0.9)


def test_good_images_bring_normal_pixels() -> None:
    mask = np.zeros((4, 5), bool)
    mask[0, 0] = True
    values = np.zeros((4, 5), np.float32)
    values[0, 0] = 1
    good = np.full((4, 5), 2.0, np.float32)  # all above the defect: 20 of 39 normal pixels, past the limit
    assert aupro([values], [mask], 0.3) == pytest.approx(1.0)
    assert aupro([values, good], [mask, np.zeros((4, 5), bool)], 0.3) == 0.0


def test_without_a_region_or_a_normal_pixel_there_is_no_aupro() -> None:
    values = np.zeros((3, 3), np.float32)
    assert aupro([values], [np.zeros((3, 3), bool)]) is None
    assert aupro([values], [np.ones((3, 3), bool)]) is None
    assert aupro([], []) is None


@pytest.mark.parametrize("place", [(0, 0), (5, 5)])
def test_nan_in_a_map_is_refused(place: tuple[int, int]) -> None:
    mask = two_regions()
    values = np.zeros(mask.shape, np.float32)
    values[place] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        aupro([values], [mask])


def test_a_limit_that_is_no_rate_and_shapes_that_differ_are_refused() -> None:
    mask = two_regions()
    for limit in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="limit"):
            aupro([np.zeros(mask.shape, np.float32)], [mask], limit)
    with pytest.raises(ValueError, match="no pair"):
        aupro([np.zeros((3, 3), np.float32)], [mask])
