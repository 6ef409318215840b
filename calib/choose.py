"""Which good frames serve for what: the four parts, and the few frames that INT8 ranges are taken from.

Frames are chosen by content and seed, never by name or order of files: whoever has the same images gets the same set.
Images with the same content have the same hash, and count once.

`k-centre` is the greedy algorithm of Gonzalez (1985), as Sener and Savarese (2018) use it for core sets: start with one
frame, then take again and again the frame that is farthest from all that were taken. Every candidate then lies at most
twice as far from the set as in the best set of that size. The distance is Euclidean over the numbers of `calib.features`,
each divided by its spread over the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from agp_edge.bundle import split_held_out, split_trained
from agp_edge.datasets.check import MIN_UNSEEN
from agp_edge.errors import InputError
from agp_edge.files import sha256_bytes
from calib.features import Features

Choice = Literal["k-centre", "random", "first"]
CHOICES: tuple[Choice, ...] = get_args(Choice)

MAX_CANDIDATES = 512
"""So many frames are looked at, or as many as are wanted: each costs one inference."""


def choose_splits(hashes: Sequence[str], trained: set[str]) -> dict[str, list[str]]:
    """The four disjoint parts, whole: of `ranges` and `search` fewer frames may then be chosen.

    Images the network was trained on serve ranges and search. Half of what it never saw joins them where there are none
    (new images on the device), or only a few shots and enough others for gate and threshold.

    Args:
        hashes: content hashes of good images, each once.
        trained: those of the images that the network was trained on.
    """
    known = [h for h in hashes if h in trained]
    unseen = [h for h in hashes if h not in trained]
    halves = split_held_out(unseen)
    if not known or (len(known) < MIN_UNSEEN <= len(halves["threshold"])):
        known, unseen = known + halves["gate"], halves["threshold"]
    return {**split_trained(known, at_most=len(known)), **split_held_out(unseen)}


def choose_frames(
    hashes: Sequence[str],
    n: int,
    choice: Choice,
    seed: int,
    measure: Callable[[list[str]], Features],
) -> list[str]:
    """At most n of the frames with these content hashes, for INT8 ranges.

    Args:
        hashes: of the frames to choose from.
        n: how many to choose.
        choice: `k-centre`; `random`; or `first`, the first in order of hash.
        seed: of the random choice, and of the frame that k-centre starts with.
        measure: gives the features of frames by their hashes; asked once, and only by k-centre where there is a choice.

    Returns:
        Their hashes, sorted. Fewer than n where there are fewer, or where k-centre finds that all others are like
        those chosen.

    Raises:
        InputError: an unknown choice, or no frame is wanted.
    """
    if choice not in CHOICES:
        raise InputError(f"there is no choice {choice!r} of frames", f"take one of: {', '.join(CHOICES)}")
    if n < 1:
        raise InputError(f"{n} frames cannot be chosen", "give --frames 100 or more")
    ordered = sorted(set(hashes))
    if len(ordered) <= n or choice == "first":
        return ordered[:n]
    drawn = sorted(ordered, key=lambda digest: sha256_bytes(f"{seed}:{digest}".encode()))
    if choice == "random":
        return sorted(drawn[:n])
    candidates = drawn[: max(MAX_CANDIDATES, n)]
    return sorted(candidates[i] for i in k_centre(standardise(measure(candidates)), n))


def standardise(features: Features) -> Features:
    """Each column over its spread; one that never changes becomes 0."""
    spread = features.std(axis=0)
    standard: Features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return standard


def k_centre(points: Features, n: int) -> list[int]:
    """Rows chosen greedily, each the farthest from those before it; the first is row 0.

    Args:
        points: [M, F].
        n: how many at most; ends early where every row is in the place of a chosen one.

    Returns:
        Numbers of rows, in the order in which they were chosen.
    """
    if not len(points) or n < 1:
        return []
    chosen = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < n:
        farthest = int(distance.argmax())
        if distance[farthest] <= 0:
            break
        chosen.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(points - points[farthest], axis=1))
    return chosen
