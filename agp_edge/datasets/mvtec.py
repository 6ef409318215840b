"""The tree of MVTec-AD, of MPDD, and of VisA as it is commonly re-split: a folder of classes, or one class.

<class>/train/good/*.png
<class>/validation/good/*.png            where there is one
<class>/test/{good,<defect>}/*.png
<class>/ground_truth/<defect>/NNN_mask.png, or NNN.png
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agp_edge.datasets.base import GOOD, ClassData
from agp_edge.datasets.pairing import Masks, class_folders, find_samples, masks_by_stem, subfolders

LOOKS_FOR = "train/good"
MASKS = "ground_truth"


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout."""
    return [read_class(folder, root) for folder in class_folders(root, is_class)] or None


def is_class(folder: Path) -> bool:
    """Whether a folder is one class of this layout."""
    return any((folder / part / GOOD).is_dir() for part in ("train", "test"))


def read_class(folder: Path, root: Path, masks_of: Callable[[Path], Masks] = masks_by_stem) -> ClassData:
    """One class.

    Args:
        folder: its folder.
        root: what its samples are named relative to.
        masks_of: finds the masks in the folder of one kind of defect.
    """
    masks = folder / MASKS
    return ClassData(
        name=folder.name,
        train=find_samples(folder / "train" / GOOD, root),
        validation=find_samples(folder / "validation" / GOOD, root),
        test=[
            sample
            for label in subfolders(folder / "test")
            for sample in find_samples(label, root, label=label.name, masks=masks_of(masks / label.name))
        ],
        folder=folder,
        mask_folders=(masks,),
    )
