from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

import agp_edge.metrics as metrics
from agp_edge.metrics import (
    Curve,
    PixelScores,
    aupro,
    average_precision,
    f1_max,
    image_auroc,
    ranking_metrics,
    roc_curve,
)

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
    assert f1_max(scores, labels) == pytest.approx(reference_f1_max(scores, labels))
    curve = roc_curve(scores[labels], scores[~labels])
    assert curve is not None
    assert curve.area() == pytest.approx(roc_auc_score(labels, scores))


def reference_f1_max(scores: Floats, labels: Bools) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    both = precision + recall
    return float(np.max(2 * precision * recall / np.where(both > 0, both, 1)))


def test_ranking_metrics_agree_on_many_pixels() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200_000) < 0.02
    # Float32 of few digits: ties across labels, as half precision gives.
    scores = np.round(rng.normal(labels * 1.0, 1), 2).astype(np.float32)
    found = ranking_metrics(scores[labels], scores[~labels])
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores))
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores))
    assert found.f1_max == pytest.approx(reference_f1_max(scores, labels))


def test_values_that_float32_cannot_tell_apart_are_ties() -> None:
    near = np.float32(1e8)
    assert near == near + np.float32(1)
    scores = np.array([near, near + np.float32(1), 0, 2e8], np.float32)
    labels = np.array([True, False, False, True])
    assert image_auroc(scores, labels) == roc_auc_score(labels, scores) == 0.875
    # 0.0 and -0.0 are one score too, and infinity is one like any other.
    assert image_auroc([0.0, -0.0], [True, False]) == 0.5
    assert image_auroc([np.inf, np.inf, -np.inf], [True, False, False]) == 0.75


def test_the_roc_curve_passes_through_the_points_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(300) < 0.3
    scores = np.round(rng.normal(labels, 1), 1).astype(np.float32)
    found = roc_curve(scores[labels], scores[~labels])
    assert found is not None
    fpr, tpr, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    assert (np.diff(found.x) >= 0).all()
    assert (np.diff(found.y) >= 0).all()
    for x, y in zip(fpr, tpr, strict=True):
        low, high = y_range(found, x)
        assert low - 1e-9 <= y <= high + 1e-9
    assert roc_curve([], [1.0]) is None


def y_range(curve: Curve, x: float) -> tuple[float, float]:
    """Between which heights a curve runs at x: more than one height where it rises upright."""
    at = np.abs(curve.x - x) < 1e-9
    if at.any():
        return float(curve.y[at].min()), float(curve.y[at].max())
    height = float(np.interp(x, curve.x, curve.y))
    return height, height


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


def exhaustive_aupro(maps: list[Floats], masks: list[Bools], limit: float) -> float | None:
    """AUPRO by its definition: every threshold in turn, a polyline, cut at the limit."""
    regions = []
    for values, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [values[labels == i] for i in range(1, count + 1)]
    normal = np.concatenate([m[~t] for m, t in zip(maps, masks, strict=True)])
    if not regions or not len(normal):
        return None
    points = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        overlap = np.mean([np.mean(region >= threshold) for region in regions])
        points.append((float(np.mean(normal >= threshold)), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@st.composite
def small_maps(draw: st.DrawFn) -> tuple[list[Floats], list[Bools]]:
    """One to three maps of up to 5x6 pixels with many ties, and masks of any form, empty and full ones too."""
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    n = draw(st.integers(1, 3))
    levels = draw(
        st.lists(st.integers(-3, 3), min_size=n * shape[0] * shape[1], max_size=n * shape[0] * shape[1])
    )
    marks = draw(st.lists(st.booleans(), min_size=len(levels), max_size=len(levels)))
    maps = (np.array(levels) / 7).astype(np.float32).reshape(n, *shape)
    return list(maps), list(np.array(marks, np.bool_).reshape(n, *shape))


@given(small_maps(), st.sampled_from([0.05, 0.3, 1.0]))
@settings(max_examples=200)
def test_aupro_of_any_small_maps_is_that_of_the_definition(
    data: tuple[list[Floats], list[Bools]], limit: float
) -> None:
    maps, masks = data
    found, expected = aupro(maps, masks, limit), exhaustive_aupro(maps, masks, limit)
    assert found is None if expected is None else found == pytest.approx(expected, abs=1e-12)
    assert found is None or 0 <= found <= 1


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


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_a_constant_map_scores_half_the_limit(limit: float) -> None:
    # One threshold: the curve is the straight line from (0, 0) to (1, 1), limit^2 / 2 below it, over limit.
    mask = two_regions()
    assert aupro([np.full(mask.shape, 0.7, np.float32)], [mask], limit) == pytest.approx(limit / 2)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_a_map_turned_upside_down_scores_zero(limit: float) -> None:
    mask = two_regions()
    assert aupro([-mask.astype(np.float32)], [mask], limit) == 0.0


def test_one_region_found_in_part() -> None:
    # Three of four pixels above everything, the fourth below a tenth of the normal ones.
    mask = np.zeros((1, 24), bool)
    mask[0, :4] = True
    values = np.array([[9, 9, 9, 5, 6, 6] + [1] * 18], np.float32)
    # 0.75 up to a rate of 0.1, then 1.
    assert aupro([values], [mask], 0.1) == pytest.approx(0.75)
    assert aupro([values], [mask], 0.3) == pytest.approx((0.1 * 0.75 + 0.2 * 1) / 0.3)
    assert aupro([values], [mask], 1.0) == pytest.approx(0.1 * 0.75 + 0.9 * 1)


def test_the_limit_is_interpolated_within_a_tie() -> None:
    # Normal pixels and the region share one value: a slope from (0, 0) to (0.5, 1), cut at 0.1.
    mask = np.array([[True, False, False]])
    assert aupro([np.array([[1, 1, 0]], np.float32)], [mask], 0.1) == pytest.approx(0.1)


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
    with pytest.raises(ValueError, match="limit"):
        Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0])).area(1.5)


def drawn_images(n: int, size: int) -> tuple[list[Floats], list[Bools]]:
    """Maps of few digits, so with ties; every third one good."""
    rng = np.random.default_rng(size)
    masks = [np.zeros((size, size), bool) for _ in range(n)]
    for mask in masks[1::3] + masks[2::3]:
        y, x = rng.integers(0, size - 5, 2)
        mask[y : y + 5, x : x + 4] = True
    return [np.round(rng.normal(m * 1.0, 1), 2).astype(np.float32) for m in masks], masks


@pytest.mark.parametrize("piece", [100, 256, 1 << 20])
def test_pixels_in_pieces_are_what_they_are_at_once(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = drawn_images(9, 16)
    before = [m.copy() for m in maps]
    monkeypatch.setattr(metrics, "PIECE", piece)
    pixels = PixelScores()
    for values, mask in zip(maps, masks, strict=True):
        pixels.add(values, mask)
    scores, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    found = pixels.ranking()
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores))
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores))
    assert found.f1_max == pytest.approx(reference_f1_max(scores, labels))
    roc, pro = pixels.roc_curve(), pixels.pro_curve()
    assert roc is not None
    assert pro is not None
    assert roc.area() == pytest.approx(found.auroc)
    assert pro.area(0.3) == aupro(maps, masks, 0.3) == pytest.approx(exhaustive_aupro(maps, masks, 0.3))
    for values, same in zip(maps, before, strict=True):
        np.testing.assert_array_equal(values, same)


def test_an_image_added_later_counts_too() -> None:
    maps, masks = drawn_images(6, 12)
    pixels = PixelScores()
    for i, (values, mask) in enumerate(zip(maps, masks, strict=True), start=1):
        pixels.add(values, mask)
        found = pixels.pro_curve()
        assert (found.area(0.3) if found else None) == aupro(maps[:i], masks[:i], 0.3)
        assert pixels.ranking() == ranking_metrics(
            np.concatenate([m[t] for m, t in zip(maps[:i], masks, strict=False)]),
            np.concatenate([m[~t] for m, t in zip(maps[:i], masks, strict=False)]),
        )


def test_pixels_are_not_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, masks = drawn_images(60, 128)
    all_bytes = sum(m.nbytes for m in maps)
    monkeypatch.setattr(metrics, "PIECE", 1 << 14)
    pixels = PixelScores()
    tracemalloc.start()
    for values, mask in zip(maps, masks, strict=True):
        pixels.add(values, mask)
    pixels.ranking()
    pixels.pro_curve()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < all_bytes / 4


def test_a_thinned_curve_looks_the_same() -> None:
    rng = np.random.default_rng(3)
    full = roc_curve(rng.normal(1.5, 1, 20_000), rng.normal(0, 1, 20_000))
    assert full is not None
    thin = full.thinned(200, upto=0.1)
    assert len(thin.x) < 1300 < len(full.x)
    assert (thin.x[0], thin.y[0], thin.x[-1], thin.y[-1]) == (0, 0, 1, 1)
    # Never further away than a step of either axis.
    for x, y in zip(full.x[::50], full.y[::50], strict=True):
        assert np.min(np.maximum(abs(thin.x - x), abs(thin.y - y))) <= 1 / 199
    assert thin.area() == pytest.approx(full.area(), abs=1e-4)
    assert thin.area(0.1) == pytest.approx(full.area(0.1), abs=1e-3)
    corner = Curve(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]))
    assert corner.thinned(200) is corner
