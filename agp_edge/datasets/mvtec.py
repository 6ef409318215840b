"""The tree of MVTec-AD (and MPDD): a folder of classes, or one class.

<class>/train/good/*.png
<class>/validation/good/*.png            where there is one
<class>/test/{good,<defect>}/*.png
<class>/ground_truth/<defect>/NNN_mask.png
"""

from __future__ import annotations

from pathlib import Path

from agp_edge.datasets.base import GOOD, ClassData, Sample
from agp_edge.datasets.pairing import find_samples, subfolders

LOOKS_FOR = "train/good or test/good, in the folder or in each of its classes"


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout."""
    if _is_class(root):
        return [_read_class(root, root)]
    classes = [_read_class(folder, root) for folder in subfolders(root) if _is_class(folder)]
    return classes or None


def _is_class(folder: Path) -> bool:
    return any((folder / part / GOOD).is_dir() for part in ("train", "test"))


def _read_class(folder: Path, root: Path) -> ClassData:
    test: list[Sample] = []
    if (folder / "test").is_dir():
        for label in subfolders(folder / "test"):
            masks = folder / "ground_truth" / label.name
            test += find_samples(label, root, label=label.name, masks=masks)
    return ClassData(
        name=folder.name,
        train=find_samples(folder / "train" / GOOD, root),
        validation=find_samples(folder / "validation" / GOOD, root),
        test=test,
    )
