"""Files with the same content: an image to learn from that is tested on, or one that is there twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agp_edge.datasets.base import Dataset, Sample
from agp_edge.files import sha256_file


@dataclass(frozen=True)
class Copy:
    """An image with the same content as an earlier one.

    Attributes:
        class_name: the class of the later one.
        sample: the later one.
        original: the earlier one; what is to learn from is earlier than what is to test on.
        leak: whether the two are on different sides: to learn from, for validation, to test on.
    """

    class_name: str
    sample: Sample
    original: Sample
    leak: bool


def find_copies(dataset: Dataset, readable: Iterable[Path]) -> list[Copy]:
    """The copies among the readable images of all classes, each held against the first image of its content.

    Only files of equal size are read.
    """
    wanted = set(readable)
    placed = [
        (part, data.name, sample)
        for part in ("train", "validation", "test")
        for data in dataset.classes
        for sample in getattr(data, part)
        if sample.path in wanted
    ]
    by_size: dict[int, list[tuple[str, str, Sample]]] = defaultdict(list)
    for item in placed:
        by_size[item[2].path.stat().st_size].append(item)
    copies = []
    for group in by_size.values():
        first: dict[str, tuple[str, Sample]] = {}
        for part, class_name, sample in group if len(group) > 1 else ():
            original_part, original = first.setdefault(sha256_file(sample.path), (part, sample))
            if original is not sample:
                copies.append(Copy(class_name, sample, original, leak=part != original_part))
    return copies
