"""Test images among those that thresholds are taken from: refused where it is certain, warned of where a folder only sounds like it.

A threshold that was taken from test images, or from defects, promises nothing. Certain is: an image that DATA itself has
on both sides of its split, and an image that an enclosing data set of a known tree has among its test images, as in
`calibrate BUNDLE brick/test/scratch`. What was copied elsewhere and renamed cannot be told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from agp_edge.datasets.base import Dataset, Sample
from agp_edge.datasets.duplicates import find_copies
from agp_edge.datasets.enclosing import tests_of_enclosing
from agp_edge.errors import InputError

SUSPECT_NAMES = frozenset({
    "anomalies", "anomaly", "bad", "broken", "defect", "defective", "defects", "faulty", "ko", "ng", "reject", "rejects",
    "ground_truth", "masks", "scrap", "test", "test_private", "test_private_mixed", "test_public", "testing",
})  # fmt: skip
SHOWN = 4


def refuse_test_images(dataset: Dataset, by_hash: Mapping[str, Sample], known: Collection[str]) -> list[str]:
    """Refuse images that are certainly test images.

    Args:
        dataset: what was given.
        by_hash: content hash -> good image that would be used.
        known: hashes of images that the training took for good ones; an enclosing tree does not change that.

    Returns:
        Warnings, where a folder's name alone is suspect.

    Raises:
        InputError: an image to learn from is a test image of the data set, or of one that it lies in.
    """
    leaks = _copies_of_test_images(dataset)
    if leaks:
        raise InputError(
            f"{dataset.root} has {_count(len(leaks))} among its good ones: {_some(leaks)}",
            "remove them from one side: agp-edge inspect DATA lists them all",
        )
    found = tests_of_enclosing(dataset, [sample for h, sample in by_hash.items() if h not in known])
    if found is not None:
        owner, names = found
        raise InputError(
            f"{dataset.root} holds {_count(len(names))} of the data set {owner}: {_some(names)}",
            f"give good images that nothing is tested on, as in {owner}",
        )
    return _suspect_names(dataset.root) if not set(by_hash) <= set(known) else []


def warn_of_another_part(hashes: Collection[str], known: Collection[str]) -> list[str]:
    """A warning where none of some images was among those of the training, by content hash."""
    if set(hashes) & set(known):
        return []
    return [
        f"none of these {len(set(hashes))} images was among those of the training: is this the same part?"
    ]


def _copies_of_test_images(dataset: Dataset) -> list[str]:
    """`train/good/3.png = test/scratch/1.png` for each test image whose content is on the other side, too."""
    tests = {sample.path for data in dataset.classes for sample in data.test}
    if not tests:
        return []
    # A list may name test images that are not there: nothing can be a copy of them.
    present = [s.path for data in dataset.classes for s in data.samples if s.path.is_file()]
    return [
        f"{copy.original.name} = {copy.sample.name}"
        for copy in find_copies(dataset, present)
        if copy.leak and copy.sample.path in tests
    ]


def _suspect_names(root: Path) -> list[str]:
    parts = root.resolve().parts[-2:]
    suspect = next((part for part in parts if part.lower() in SUSPECT_NAMES), None)
    if suspect is None:
        return []
    return [
        f"{root} lies in a folder that is called {suspect!r}: only good images that nothing is tested on may be used here"
    ]


def _count(n: int) -> str:
    return "1 test image" if n == 1 else f"{n} test images"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
