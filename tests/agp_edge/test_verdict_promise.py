"""What a threshold promises, against draws: the marginal false-reject rate, and the Beta bound of one set of scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.verdict import Judge, choose_threshold, needed_for

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]

DRAWS = 4000
FRESH = 8
"""New good frames for each set of held-out ones."""


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.uniform(size=shape)


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.lognormal(0, 2, shape)


def two_kinds(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """One part in twenty is of a second kind that scores higher."""
    return rng.normal(10, 1, shape) + 50 * (rng.uniform(size=shape) < 0.05)


def rounded(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Ten values: nearly every score is there several times."""
    return np.floor(10 * rng.uniform(size=shape))


def constant(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return np.full(shape, 3.0)


CONTINUOUS: list[Draw] = [uniform, heavy_tailed, two_kinds]
WITH_TIES: list[Draw] = [rounded, constant]
SETTINGS = [(9, 0.1), (16, None), (30, 0.05), (99, None), (120, 0.01), (150, 0.1)]


def rejects(draw: Draw, n: int, rate: float | None) -> tuple[Floats, float]:
    """Share of new good frames that each of many sets of held-out ones rejects, and the rate that was promised."""
    rng = np.random.default_rng([n, 7])
    held_out, fresh = draw(rng, (DRAWS, n)), draw(rng, (DRAWS, FRESH))
    thresholds = [choose_threshold(row, rate) for row in held_out.tolist()]
    values = np.array([t.value for t in thresholds])
    return (fresh > values[:, None]).mean(axis=1), thresholds[0].false_reject_rate


@pytest.mark.parametrize("draw", CONTINUOUS + WITH_TIES)
@pytest.mark.parametrize(("n", "rate"), SETTINGS)
def test_a_good_frame_is_rejected_with_the_promised_probability_at_most(
    draw: Draw, n: int, rate: float | None
) -> None:
    shares, promised = rejects(draw, n, rate)
    # Frames that share a threshold are no independent trials: the spread is that of the sets. 4 sigma: of these 30
    # checks none fails by chance.
    error = 4 * max(float(shares.std()), math.sqrt(promised / FRESH)) / math.sqrt(DRAWS)
    assert shares.mean() <= promised + error
    if draw in CONTINUOUS:
        rank = math.ceil((n + 1) * (1 - promised) - 1e-9)
        assert shares.mean() >= (n + 1 - rank) / (n + 1) - error, "and no more is given away than ranks allow"


@pytest.mark.parametrize("draw", [uniform, rounded])
@pytest.mark.parametrize(("n", "rate"), SETTINGS)
def test_the_bound_of_one_set_holds_for_95_of_100_sets(draw: Draw, n: int, rate: float | None) -> None:
    held_out = draw(np.random.default_rng([n, 8]), (DRAWS, n))
    thresholds = [choose_threshold(row, rate) for row in held_out.tolist()]
    # Of both the true rate is known: what lies above t of a uniform score, and above the digit t of a rounded one.
    true_rates = np.array([1 - t.value if draw is uniform else (9 - t.value) / 10 for t in thresholds])
    held = float((true_rates <= np.array([t.bound_95 for t in thresholds]) + 1e-12).mean())
    error = 4 * math.sqrt(0.95 * 0.05 / DRAWS)
    assert held >= 0.95 - error
    if draw is uniform:
        assert held <= 0.95 + error, "and no looser bound would do"


@pytest.mark.parametrize("draw", CONTINUOUS + WITH_TIES)
def test_a_p_value_is_below_a_with_probability_a_at_most(draw: Draw) -> None:
    rng = np.random.default_rng(9)
    held_out, fresh = draw(rng, (DRAWS, 24)), draw(rng, (DRAWS,))
    p = np.array([Judge(row).p_value(s) for row, s in zip(held_out.tolist(), fresh.tolist(), strict=True)])
    for a in (0.04, 0.2, 0.5, 0.9):
        assert (p <= a + 1e-12).mean() <= a + 4 * math.sqrt(a * (1 - a) / DRAWS)


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.05, 0.01, 0.005, 1 / 3])
def test_so_many_are_needed_and_not_one_less(rate: float) -> None:
    n = needed_for(rate)
    assert 1 / (n + 1) <= rate + 1e-12
    assert 1 / n > rate
    assert choose_threshold(list(range(n)), rate).value == n - 1


def test_the_rate_can_be_set_at_any_time_and_says_when_n_chose_it() -> None:
    scores = [float(i) for i in range(40)]
    default = choose_threshold(scores)
    (note,) = default.notes()
    assert note == "n = 40 promises false rejects of 2.44% at best; 1% needs n = 99"
    asked = choose_threshold(scores, 0.1)
    assert asked.notes() == []
    assert asked.value < default.value
    assert choose_threshold([float(i) for i in range(99)]).notes() == []


def test_provisional_scores_promise_nothing_and_say_so() -> None:
    threshold = choose_threshold([3.0, 1.0, 2.0, 4.0], provisional=True)
    assert (threshold.value, threshold.bound_95, threshold.n, threshold.provisional) == (4, 1, 4, True)
    assert threshold.describe() == "4 from n = 4, PROVISIONAL: nothing is promised"
    (note,) = threshold.notes()
    assert "4 images that the network was trained on" in note
    assert "Calibrate again" in note
    judge = Judge([1.0, 2.0], provisional=True)
    assert judge.provisional
    assert judge.conformal is not None
    assert judge.conformal.provisional
    assert not Judge([1.0, 2.0]).provisional
    assert Judge([1.0, 2.0], threshold=9.0, provisional=True).provisional, "its p-values still are"
    assert not Judge([], threshold=9.0, provisional=True).provisional


@pytest.mark.parametrize("provisional", [False, True])
def test_a_line_fits_a_terminal(provisional: bool) -> None:
    scores = [123456.789 + i for i in range(1234)]
    assert len(f"fp32  threshold {choose_threshold(scores, provisional=provisional).describe()}") <= 80
