"""The tree of MVTec LOCO AD: a folder of classes, or one class.

<class>/train/good/*.png
<class>/validation/good/*.png
<class>/test/{good,logical_anomalies,structural_anomalies}/NNN.png
<class>/ground_truth/{logical_anomalies,structural_anomalies}/NNN/*.png

An image has a mask for each of its defects, with a grey value that names the kind; what any of them marks is defect.
"""

from __future__ import annotations

from pathlib import Path

from agp_edge.datasets.base import GOOD, ClassData
from agp_edge.datasets.images import list_images
from agp_edge.datasets.pairing import Masks, class_folders, find_samples, subfolders

LOOKS_FOR = "test/logical_anomalies"
ANOMALIES = ("logical_anomalies", "structural_anomalies")
MASKS = "ground_truth"


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout."""
    return [_read_class(folder, root) for folder in class_folders(root, is_class)] or None


def is_class(folder: Path) -> bool:
    """Whether a folder is one class of this layout."""
    return any((folder / "test" / kind).is_dir() for kind in ANOMALIES)


def _read_class(folder: Path, root: Path) -> ClassData:
    masks = folder / MASKS
    return ClassData(
        name=folder.name,
        train=find_samples(folder / "train" / GOOD, root),
        validation=find_samples(folder / "validation" / GOOD, root),
        test=[
            sample
            for label in subfolders(folder / "test")
            for sample in find_samples(label, root, label=label.name, masks=_masks(masks / label.name))
        ],
        folder=folder,
        mask_folders=(masks,),
    )


def _masks(folder: Path) -> Masks:
    return {image.name: tuple(list_images(image)) for image in subfolders(folder)}
