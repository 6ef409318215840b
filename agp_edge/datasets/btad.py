"""The tree of BTAD: a folder of classes, or one class.

<class>/train/ok/*.bmp
<class>/test/{ok,ko}/*.bmp
<class>/ground_truth/ko/*.png

Images are .bmp in some classes and .png in others.
"""

from __future__ import annotations

from pathlib import Path

from agp_edge.datasets.base import GOOD, ClassData
from agp_edge.datasets.pairing import class_folders, find_samples, masks_by_stem, subfolders

LOOKS_FOR = "train/ok"
OK = "ok"
MASKS = "ground_truth"


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout."""
    return [_read_class(folder, root) for folder in class_folders(root, is_class)] or None


def is_class(folder: Path) -> bool:
    """Whether a folder is one class of this layout."""
    return any((folder / part / OK).is_dir() for part in ("train", "test"))


def _read_class(folder: Path, root: Path) -> ClassData:
    masks = folder / MASKS
    return ClassData(
        name=folder.name,
        train=find_samples(folder / "train" / OK, root),
        test=[
            sample
            for label in subfolders(folder / "test")
            for sample in find_samples(
                label,
                root,
                label=GOOD if label.name == OK else label.name,
                masks=masks_by_stem(masks / label.name),
            )
        ],
        folder=folder,
        mask_folders=(masks,),
    )
