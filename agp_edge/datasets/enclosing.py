"""A folder inside a data set, given as if it were one: whether its images are what that data set tests on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agp_edge.datasets import GOOD, LAYOUTS, load_dataset
from agp_edge.datasets.base import Dataset, Sample
from agp_edge.datasets.findings import count, some
from agp_edge.errors import InputError

ABOVE = 4
"""Folders from an image folder up to its data set, in the deepest tree that is known."""


def refuse_tests_of_enclosing(dataset: Dataset) -> None:
    """Refuse to learn from what an enclosing data set tests on, as in `train brick/test/scratch`.

    Raises:
        InputError: a good image of `dataset` is a test image there.
    """
    found = tests_of_enclosing(dataset, [sample for data in dataset.classes for sample in data.train])
    if found is not None:
        owner, names = found
        raise InputError(
            f"{dataset.root} holds {count(len(names), 'test image')} of the data set {owner}: {some(names)}",
            f"learn from what nothing is tested on, as in: agp-edge train {owner} --out RUN",
        )


def tests_of_enclosing(dataset: Dataset, samples: Sequence[Sample]) -> tuple[Path, list[str]] | None:
    """An enclosing data set, and the names of those samples that it tests on; None where there is no such."""
    if not samples:
        return None
    root, plain = dataset.root.resolve(), None
    for folder in list(root.parents)[:ABOVE]:
        if not _looks_like_a_data_set(folder):
            continue
        try:
            outer = load_dataset(folder)
        except InputError:
            continue
        # Of a plain folder only the defects are certain: which of its good images are kept for the test is our own choice.
        tests = {
            sample.path.resolve()
            for data in outer.classes
            for sample in data.test
            if outer.layout != "folder" or not sample.good
        }
        names = [sample.name for sample in samples if sample.path.resolve() in tests]
        if names and outer.layout != "folder":
            return folder, names
        # `test/` with `good/` in it looks like a plain folder: the tree around it says more.
        plain = plain or ((folder, names) if names else None)
    return plain


def _looks_like_a_data_set(folder: Path) -> bool:
    """Whether a folder is one class of a known tree, as a glance tells: nothing is listed for any other."""
    if any((folder / part).is_dir() for part in (GOOD, "Data/Images", "OK")):
        return True
    return any(module.is_class(folder) for module in LAYOUTS.values() if hasattr(module, "is_class"))
