"""The tree of MVTec-3D AD, of which the colour images are read: a folder of classes, or one class.

<class>/{train,validation}/good/{rgb/*.png,xyz/*.tiff}
<class>/test/{good,<defect>}/{rgb/*.png,xyz/*.tiff,gt/*.png}

Good test images have masks too, which are black.
"""

from __future__ import annotations

from pathlib import Path

from agp_edge.datasets.base import GOOD, ClassData
from agp_edge.datasets.pairing import class_folders, find_samples, masks_by_stem, subfolders

LOOKS_FOR = "train/good/rgb"
RGB, DEPTH, MASKS = "rgb", "xyz", "gt"


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout."""
    return [_read_class(folder, root) for folder in class_folders(root, is_class)] or None


def is_class(folder: Path) -> bool:
    """Whether a folder is one class of this layout."""
    return any((folder / part / GOOD / RGB).is_dir() for part in ("train", "test"))


def _read_class(folder: Path, root: Path) -> ClassData:
    learnt = [folder / part / GOOD for part in ("train", "validation")]
    labels = subfolders(folder / "test")
    return ClassData(
        name=folder.name,
        train=find_samples(learnt[0] / RGB, root),
        validation=find_samples(learnt[1] / RGB, root),
        test=[
            sample
            for label in labels
            for sample in find_samples(
                label / RGB, root, label=label.name, masks=masks_by_stem(label / MASKS)
            )
        ],
        folder=folder,
        mask_folders=tuple(label / MASKS for label in labels),
        aside={label / DEPTH: "depth maps, which nothing here uses" for label in (*learnt, *labels)},
    )
