"""Which frames are chosen: by content and seed, far from each other, each content once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agp_edge.errors import InputError
from calib import choose
from calib.choose import CHOICES, choose_frames, choose_splits, k_centre, standardise
from calib.features import Features

HASHES = [f"{i:02}" * 32 for i in range(40)]


def never(hashes: list[str]) -> Features:
    raise AssertionError("nothing to measure")


def on_a_line(hashes: list[str]) -> Features:
    """The frame `07…` stands at 7."""
    return np.array([[float(h[:2])] for h in hashes])


def test_k_centre_by_hand() -> None:
    points = np.array([[0.0], [1.0], [10.0], [4.0], [10.0]])
    assert k_centre(points, 1) == [0]
    assert k_centre(points, 3) == [0, 2, 3], "the farthest, then the one in the middle"
    assert k_centre(points, 5) == [0, 2, 3, 1], "the last stands where another one does"
    assert k_centre(np.zeros((3, 2)), 3) == [0]
    assert k_centre(np.zeros((0, 2)), 3) == []


@given(
    points=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=9),
    n=st.integers(1, 3),
)
def test_every_point_is_at_most_twice_as_far_as_in_the_best_set(
    points: list[tuple[int, int]], n: int
) -> None:
    places = np.array(points, float)
    apart = np.linalg.norm(places[:, None] - places, axis=2)

    def radius(centres: list[int]) -> float:
        return float(apart[:, centres].min(axis=1).max())

    best = min(radius(list(c)) for c in combinations(range(len(points)), min(n, len(points))))
    assert radius(k_centre(places, n)) <= 2 * best + 1e-9


def test_every_number_counts_alike() -> None:
    features = standardise(np.array([[0.0, 1000.0, 5.0], [2.0, 3000.0, 5.0]]))
    assert np.allclose(features, [[-1, -1, 0], [1, 1, 0]])


@pytest.mark.parametrize("choice", CHOICES)
def test_content_and_seed_decide_and_not_the_order(choice: choose.Choice) -> None:
    chosen = choose_frames(HASHES, 6, choice, 3, on_a_line)
    assert len(chosen) == len(set(chosen)) == 6
    assert chosen == sorted(chosen)
    assert chosen == choose_frames(HASHES[::-1] + HASHES[:5], 6, choice, 3, on_a_line)
    others = {tuple(choose_frames(HASHES, 6, choice, seed, on_a_line)) for seed in range(5)}
    assert len(others) == (1 if choice == "first" else 5)
    assert choose_frames(HASHES, 99, choice, 0, never) == HASHES, "nothing is measured where all are taken"


def test_k_centre_covers_what_a_random_set_may_miss() -> None:
    def gap(hashes: list[str]) -> float:
        chosen = on_a_line(hashes)[:, 0]
        return float(np.abs(np.arange(40)[:, None] - chosen).min(axis=1).max())

    centred = [gap(choose_frames(HASHES, 5, "k-centre", seed, on_a_line)) for seed in range(20)]
    drawn = [gap(choose_frames(HASHES, 5, "random", seed, never)) for seed in range(20)]
    assert max(centred) <= 9
    assert np.mean(centred) < np.mean(drawn)


def test_frames_that_teach_nothing_new_are_not_taken() -> None:
    def two_kinds(hashes: list[str]) -> Features:
        return np.array([[float(int(h[:2]) % 2)] for h in hashes])

    assert len(choose_frames(HASHES, 10, "k-centre", 0, two_kinds)) == 2


def test_at_most_so_many_candidates_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(hashes: list[str]) -> Features:
        asked.append(len(hashes))
        return on_a_line(hashes)

    monkeypatch.setattr(choose, "MAX_CANDIDATES", 12)
    assert len(choose_frames(HASHES, 4, "k-centre", 0, measure)) == 4
    assert len(choose_frames(HASHES, 20, "k-centre", 0, measure)) == 20
    assert asked == [12, 20]


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="there is no choice 'best'"):
        choose_frames(HASHES, 4, "best", 0, never)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 frames cannot be chosen"):
        choose_frames(HASHES, 0, "first", 0, never)


def test_choose_splits_by_hand() -> None:
    hashes = [f"{i:02}" for i in range(12)]
    assert choose_splits(hashes, set(hashes[:6])) == {
        "ranges": ["00", "02", "04"],
        "search": ["01", "03", "05"],
        "threshold": ["06", "08", "10"],
        "gate": ["07", "09", "11"],
    }
    # None was trained on: half serves the ranges and the search, and is kept out of the rest.
    fresh = choose_splits(hashes, set())
    assert not {*fresh["ranges"], *fresh["search"]} & {*fresh["gate"], *fresh["threshold"]}
    assert sorted(h for part in fresh.values() for h in part) == hashes
    assert choose_splits(hashes, set(hashes))["threshold"] == []


def test_few_shots_are_joined_by_new_images_once_there_are_enough_for_the_gate() -> None:
    hashes = [f"{i:03}" for i in range(80)]
    shots = set(hashes[:4])
    few = choose_splits(hashes[:60], shots)
    assert {part: len(chosen) for part, chosen in few.items()} == {
        "ranges": 2, "search": 2, "threshold": 28, "gate": 28
    }  # fmt: skip
    enough = choose_splits(hashes, shots)
    assert {part: len(chosen) for part, chosen in enough.items()} == {
        "ranges": 21, "search": 21, "threshold": 19, "gate": 19
    }  # fmt: skip
    assert not shots & {*enough["gate"], *enough["threshold"]}
    assert len(set().union(*enough.values())) == 80
