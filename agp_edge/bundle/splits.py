"""How good frames are divided into disjoint parts: by content hash, so that the same images fall the same way anywhere."""

from __future__ import annotations

from collections.abc import Iterable

SELF_TEST_FRAMES = 4
"""So many of the gate's frames are the quick self-test."""


def split_held_out(hashes: Iterable[str]) -> dict[str, list[str]]:
    """Divide the hashes of held-out good frames between gate and threshold: in order of hash, in turn.

    The first goes to the threshold, so that with an odd number it has one more.
    """
    ordered = sorted(set(hashes))
    return {"threshold": ordered[0::2], "gate": ordered[1::2]}


def split_trained(hashes: Iterable[str], *, at_most: int) -> dict[str, list[str]]:
    """Choose frames for INT8 ranges and for the precision search among those trained on: in order of hash, in turn."""
    ordered = sorted(set(hashes))
    return {"ranges": ordered[0::2][:at_most], "search": ordered[1::2][:at_most]}
