"""Thresholds and p-values against what the theory promises; regions against maps drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from agp_edge.errors import InputError
from agp_edge.verdict import Judge, beta_quantile, choose_threshold, decide, find_regions, upper_bound_95

SCORES = st.lists(
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 3.0]) | st.floats(0, 10), min_size=1, max_size=120
)


@pytest.mark.parametrize(
    ("p", "a", "b"),
    [(0.95, 1, 1), (0.95, 1, 599), (0.95, 17, 3), (0.05, 17, 3), (0.5, 400, 2), (0.95, 100, 9900), (0.99, 1, 1)],
)  # fmt: skip
def test_beta_quantile_is_scipys(p: float, a: int, b: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert beta_quantile(p, a, b) == pytest.approx(float(stats.beta.ppf(p, a, b)), rel=1e-9)


@pytest.mark.parametrize(("p", "a", "b"), [(0, 1, 1), (1, 1, 1), (0.5, 0, 1), (0.5, 1, 0)])
def test_beta_quantile_refuses_what_it_is_not_for(p: float, a: int, b: int) -> None:
    with pytest.raises(ValueError, match="beta_quantile"):
        beta_quantile(p, a, b)


def test_the_bound_of_a_rate() -> None:
    # The rule of three, exactly: no event in n trials.
    assert upper_bound_95(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))
    stats = pytest.importorskip("scipy.stats")
    assert upper_bound_95(3, 40) == pytest.approx(stats.binomtest(3, 40).proportion_ci(0.90, "exact").high)
    assert upper_bound_95(0, 0) == upper_bound_95(5, 5) == 1


@pytest.mark.parametrize(
    ("n", "rate", "rank"),
    [(99, 0.01, 99), (100, 0.01, 100), (199, 0.01, 198), (1000, 0.01, 991), (9, 0.1, 9), (19, 0.1, 18), (4, 0.5, 3), (3, 0.999, 1)],
)  # fmt: skip
def test_the_threshold_is_the_rank_that_theory_says(n: int, rate: float, rank: int) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert choose_threshold(scores.tolist(), rate).value == rank


def test_the_default_is_one_percent_or_what_n_can_promise() -> None:
    few = choose_threshold([float(i) for i in range(16)])
    assert (few.value, few.false_reject_rate, few.chosen_by_n) == (15, 1 / 17, True)
    assert few.describe() == "15 from n = 16: false rejects <= 5.88%, 95 % bound 17.07%"
    enough = choose_threshold([float(i) for i in range(99)])
    assert (enough.false_reject_rate, enough.chosen_by_n) == (0.01, False)
    # The design's own example: with n = 99 at 1 % there is a 13 % chance that the true rate is above 2 %.
    stats = pytest.importorskip("scipy.stats")
    assert 1 - stats.beta.cdf(0.02, 1, 99) == pytest.approx(0.135, abs=1e-3)
    assert enough.bound_95 == pytest.approx(float(stats.beta.ppf(0.95, 1, 99)))


def test_a_rate_that_cannot_be_promised_is_refused_with_the_number_needed() -> None:
    with pytest.raises(InputError, match="50 good frames cannot promise") as caught:
        choose_threshold([0.0] * 50, 0.01)
    assert "at least 99" in caught.value.hint
    choose_threshold([0.0] * 99, 0.01)
    with pytest.raises(InputError, match="cannot promise"):
        choose_threshold([0.0] * 98, 0.01)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, math.nan])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="is no rate"):
        choose_threshold([1.0, 2.0], rate)


def test_no_scores_no_threshold() -> None:
    with pytest.raises(InputError, match="no scores"):
        choose_threshold([])
    with pytest.raises(InputError, match="no scores"):
        Judge([])


@pytest.mark.parametrize(("n", "rate"), [(19, 0.1), (99, 0.01), (60, 0.05)])
def test_both_promises_hold_in_a_simulation(n: int, rate: float) -> None:
    # Scores uniform in 0..1: the true false-reject rate of a threshold t is 1 - t, with no further sampling.
    draws = np.random.default_rng(1).uniform(size=(4000, n))
    thresholds = [choose_threshold(row, rate) for row in draws.tolist()]
    true_rates = np.array([1 - threshold.value for threshold in thresholds])
    error = 4 * true_rates.std() / math.sqrt(len(true_rates))
    rank = math.ceil((n + 1) * (1 - rate) - 1e-9)
    assert true_rates.mean() <= rate + error
    assert true_rates.mean() == pytest.approx((n + 1 - rank) / (n + 1), abs=error), "and wastes nothing"
    bounds = np.array([threshold.bound_95 for threshold in thresholds])
    assert (true_rates <= bounds).mean() == pytest.approx(0.95, abs=0.014)


@given(scores=SCORES, share=st.floats(0.0, 1.0), score=st.floats(-1, 11), pick=st.integers(0, 200))
def test_a_p_value_is_at_most_the_rate_exactly_when_the_verdict_is_ng(
    scores: list[float], share: float, score: float, pick: int
) -> None:
    n = len(scores)
    least = 1 / (n + 1)
    rate = min(least + share * (1 - least), 0.999)
    if not least <= rate < 1:
        return
    judge = Judge(scores, rate)
    for value in (score, scores[pick % n]):
        ng = judge.verdict(value) == "NG"
        p = judge.p_value(value)
        # On a rank exactly, rounding may say either: (n + 1) a is then a whole number but for the last bit.
        if abs(p - rate) > 1e-9 * (n + 1):
            assert ng == (p <= rate)


def test_a_p_value_by_hand() -> None:
    judge = Judge([1.0, 2.0, 2.0, 4.0], 0.5)
    assert [judge.p_value(s) for s in (0, 1, 2, 3, 4, 5)] == [1, 1, 0.8, 0.4, 0.4, 0.2]


def test_a_score_that_is_no_number_is_ng_and_its_p_value_says_so() -> None:
    judge = Judge([1.0, 2.0, 3.0])
    assert judge.verdict(math.nan) == judge.verdict(math.inf) == "NG"
    assert judge.p_value(math.nan) == judge.p_value(math.inf) == 0.25


def test_a_threshold_by_hand_replaces_the_conformal_one_and_keeps_p_values() -> None:
    judge = Judge([1.0, 2.0, 3.0], threshold=10)
    assert (judge.threshold, judge.verdict(9), judge.p_value(9)) == (10, "OK", 0.25)
    bare = Judge([], threshold=1)
    assert (bare.conformal, bare.verdict(2), bare.p_value(2)) == (None, "NG", 1)


def draw(*cells: tuple[int, int, float], shape: tuple[int, int] = (6, 8)) -> NDArray[np.float32]:
    anomaly_map = np.zeros(shape, np.float32)
    for y, x, value in cells:
        anomaly_map[y, x] = value
    return anomaly_map


def test_regions_are_scaled_to_the_frame_and_the_strongest_is_first() -> None:
    regions = find_regions(draw((0, 0, 2), (4, 5, 3), (4, 6, 2.5)), 1.0, (80, 120))
    assert [r.as_list() for r in regions] == [[50, 80, 20, 20, 3.0], [0, 0, 10, 20, 2.0]]
    # Where the frame is smaller than the map a box is rounded outwards, and stays inside.
    (region,) = find_regions(draw((5, 7, 2), (4, 7, 2)), 1.0, (5, 4))
    assert region.as_list() == [4, 2, 1, 2, 2.0]


def test_corners_touch() -> None:
    assert len(find_regions(draw((1, 1, 2), (2, 2, 2), (3, 1, 2)), 1.0, (8, 6))) == 1
    assert len(find_regions(draw((1, 1, 2), (1, 3, 2)), 1.0, (8, 6))) == 2


def test_a_peak_is_that_of_its_own_region_and_not_of_its_box() -> None:
    # An L around a stronger cell, which it does not touch.
    arm = [(y, 0, 2.0) for y in range(6)] + [(5, x, 2.0) for x in range(8)]
    regions = find_regions(draw(*arm, (1, 4, 9.0)), 1.0, (8, 6))
    assert [r.peak for r in regions] == [9, 2]


def test_the_threshold_itself_is_not_above_it() -> None:
    assert find_regions(draw((1, 1, 1.0)), 1.0, (8, 6)) == []


def test_cells_that_do_not_count_are_no_region() -> None:
    anomaly_map = draw((1, 1, 3), (1, 2, 2), (1, 3, 4), (4, 4, 2))
    counts = np.ones((6, 8), bool)
    counts[1, 2] = False
    # What they would have joined is two regions.
    assert [r.peak for r in find_regions(anomaly_map, 1.0, (8, 6), counts)] == [4, 3, 2]
    counts[1, 1:4] = False
    assert [r.peak for r in find_regions(anomaly_map, 1.0, (8, 6), counts)] == [2]


def test_small_regions_are_left_out() -> None:
    anomaly_map = draw((1, 1, 3), (4, 4, 2), (4, 5, 2))
    # A cell is 10 x 20 pixels.
    sizes = {0: 2, 200: 2, 201: 1, 400: 1, 401: 0}
    assert {n: len(find_regions(anomaly_map, 1.0, (80, 120), min_area=n)) for n in sizes} == sizes


def test_what_a_frame_is_decided_by() -> None:
    anomaly_map = draw((1, 1, 3), (4, 4, 2), (4, 5, 2))
    counts = np.ones((6, 8), bool)
    counts[1, 1] = False
    nothing = np.zeros((6, 8), bool)
    nothing[0, 0] = True
    size = (80, 120)
    assert decide(anomaly_map, 1.0, size)[:2] == ("NG", 3)
    assert decide(anomaly_map, 3.0, size) == ("OK", 3, [])
    assert decide(anomaly_map, 1.0, size, counts)[:2] == ("NG", 2)
    assert decide(anomaly_map, 2.0, size, counts) == ("OK", 2, [])
    assert decide(anomaly_map, 1.0, size, nothing) == ("OK", 0, [])
    # The score stays what it is, above the threshold, and the frame is OK: nothing of a size that counts is left.
    assert decide(anomaly_map, 1.0, size, counts, 401) == ("OK", 2, [])
    assert decide(anomaly_map, 1.0, size, counts, 400)[0] == "NG"


def test_a_map_with_what_is_no_number_is_ng_if_that_counts() -> None:
    anomaly_map = draw((1, 1, math.nan))
    verdict, score, regions = decide(anomaly_map, 1.0, (8, 6))
    assert (verdict, math.isnan(score), regions) == ("NG", True, [])
    assert decide(anomaly_map, 1.0, (8, 6), min_area=100)[0] == "NG"
    counts = np.ones((6, 8), bool)
    counts[1, 1] = False
    assert decide(anomaly_map, 1.0, (8, 6), counts) == ("OK", 0, [])


@given(
    st.lists(st.floats(0, 4, width=32), min_size=48, max_size=48),
    st.lists(st.booleans(), min_size=48, max_size=48).filter(any),
    st.integers(0, 12),
)
def test_a_mask_and_a_least_area_never_turn_ok_into_ng(
    values: list[float], counting: list[bool], min_area: int
) -> None:
    anomaly_map = np.array(values, np.float32).reshape(6, 8)
    counts = np.array(counting).reshape(6, 8)
    for threshold in (1.0, 2.0, 3.5):
        verdict, score, regions = decide(anomaly_map, threshold, (8, 6), counts, min_area)
        assert score <= anomaly_map.max()
        assert (verdict == "NG") == bool(regions)
        if verdict == "NG":
            assert score > threshold
            assert max(region.peak for region in regions) <= score
        if min_area == 0:
            assert (verdict == "NG") == (score > threshold)
