"""Which good images a training takes, and which it leaves for the gate and the threshold: by content, never by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agp_edge.datasets import content_hashes
from agp_edge.datasets.base import Dataset, Sample
from agp_edge.datasets.check import MAX_HELD_OUT_SHARE, MIN_UNSEEN
from agp_edge.errors import InputError
from agp_edge.files import sha256_bytes
from agpnet.config import Config

MIN_TRAINED = 2


@dataclass(frozen=True)
class Selection:
    """The good images of a data set, divided.

    Attributes:
        samples: to learn from, in the order that a training numbers them.
        hashes: content of each.
        classes: class of each.
        held_out: samples that are left for gate and threshold, with their class.
        held_out_hashes: their contents, each once, in order.
        shots: class -> names of the few images that few-shot took; empty otherwise.
    """

    samples: list[Sample]
    hashes: list[str]
    classes: list[str]
    held_out: list[tuple[str, Sample]]
    held_out_hashes: list[str]
    shots: dict[str, list[str]]


def select(dataset: Dataset, config: Config) -> Selection:
    """Divide the good images of all classes into those to learn from and those to leave out.

    Few-shot leaves none out: what it does not take was not seen either, if there is more.

    Raises:
        InputError: too few images, or one cannot be read.
    """
    if config.shots:
        return _select_shots(dataset, config)
    pairs = [(data.name, sample) for data in dataset.classes for sample in data.train]
    hashes = content_hashes([sample for _, sample in pairs])
    left_out = choose_held_out(hashes, config.hold_out)
    taken = [(name, s, h) for (name, s), h in zip(pairs, hashes, strict=True) if h not in left_out]
    if len(taken) < MIN_TRAINED:
        raise InputError(
            f"{dataset.root} has {len(taken)} good images to train on, at least {MIN_TRAINED} are needed",
            "collect more: agp-edge capture --camera 0 --out DATA; or learn from a single one: --shots 1",
        )
    return Selection(
        samples=[s for _, s, _ in taken],
        hashes=[h for *_, h in taken],
        classes=[name for name, *_ in taken],
        held_out=[pair for pair, h in zip(pairs, hashes, strict=True) if h in left_out],
        held_out_hashes=sorted(left_out),
        shots={},
    )


def _select_shots(dataset: Dataset, config: Config) -> Selection:
    samples: list[Sample] = []
    hashes: list[str] = []
    classes: list[str] = []
    shots: dict[str, list[str]] = {}
    for data in dataset.classes:
        by_hash: dict[str, Sample] = {}
        for digest, sample in zip(content_hashes(data.train), data.train, strict=True):
            by_hash.setdefault(digest, sample)
        chosen = choose_shots(list(by_hash), config.shots, config.seed)
        if len(chosen) < config.shots:
            raise InputError(
                f"shots = {config.shots}: class {data.name} has {len(chosen)} different good images",
                f"take --shots {len(chosen)}" if chosen else "give good images, or leave the class out",
            )
        samples += [by_hash[digest] for digest in chosen]
        hashes += chosen
        classes += [data.name] * len(chosen)
        shots[data.name] = [by_hash[digest].name for digest in chosen]
    return Selection(samples, hashes, classes, [], [], shots)


def choose_held_out(hashes: Sequence[str], share: float) -> set[str]:
    """The hashes of good images that training leaves out: the smallest ones, so that the choice follows the content.

    At least `MIN_UNSEEN`, since gate and threshold need them, but never more than 40 % of a small set.
    """
    ordered = sorted(set(hashes))
    if share == 0:
        return set()
    wanted = max(math.ceil(share * len(ordered)), MIN_UNSEEN)
    return set(ordered[: min(wanted, int(MAX_HELD_OUT_SHARE * len(ordered)))])


def choose_shots(hashes: Sequence[str], shots: int, seed: int) -> list[str]:
    """The hashes of the few good images that a few-shot training takes, in an order of their own.

    Content and seed decide, not names nor the order of files: whoever has the same images gets the same shots.

    Returns:
        At most `shots` different hashes.
    """

    def rank(digest: str) -> str:
        return sha256_bytes(f"{seed}:{digest}".encode())

    return sorted(set(hashes), key=rank)[:shots]


def describe_too_few(n: int, share: float, shots: int = 0) -> str | None:
    """Why so many good images are too few for a gate, in words; None where they are enough.

    Args:
        n: good images.
        share: of them that training leaves out; with 0 they come from elsewhere.
        shots: images that a few-shot training takes; it leaves none out, and the others are there for the gate.
    """
    enough = math.ceil(MIN_UNSEEN / MAX_HELD_OUT_SHARE)
    if shots or share == 0 or n >= enough:
        return None
    held_out = int(MAX_HELD_OUT_SHARE * n)
    threshold = (held_out + 1) // 2
    promise = f"its threshold can promise a false-reject rate of {1 / (threshold + 1):.1%} at best"
    return f"with {n} good images {held_out} are held out, and the gate will be INCONCLUSIVE: {enough} are needed; {promise}"
