"""The tree of MVTec AD 2: a folder of classes, or one class.

<class>/train/good/*.png
<class>/validation/good/*.png
<class>/test_public/{good,bad}/*.png
<class>/test_public/ground_truth/bad/*_mask.png
<class>/test_private*/*.png              without labels, for the publisher's server: not listed
"""

from __future__ import annotations

from pathlib import Path

from agp_edge.datasets.base import GOOD, ClassData
from agp_edge.datasets.pairing import class_folders, find_samples, masks_by_stem, subfolders

LOOKS_FOR = "test_public/"
TEST = "test_public"
PRIVATE = "test_private"
MASKS = "ground_truth"


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout."""
    return [_read_class(folder, root) for folder in class_folders(root, is_class)] or None


def is_class(folder: Path) -> bool:
    """Whether a folder is one class of this layout."""
    return (folder / TEST).is_dir()


def _read_class(folder: Path, root: Path) -> ClassData:
    masks = folder / TEST / MASKS
    return ClassData(
        name=folder.name,
        train=find_samples(folder / "train" / GOOD, root),
        validation=find_samples(folder / "validation" / GOOD, root),
        test=[
            sample
            for label in subfolders(folder / TEST)
            if label != masks
            for sample in find_samples(label, root, label=label.name, masks=masks_by_stem(masks / label.name))
        ],
        folder=folder,
        mask_folders=(masks,),
        aside={
            private: "no labels are published of them"
            for private in subfolders(folder)
            if private.name.startswith(PRIVATE)
        },
    )
