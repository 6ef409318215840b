"""The tree of MVTec LOCO AD: a folder of classes, or one class.

<class>/train/good/*.png
<class>/validation/good/*.png
<class>/test/{good,logical_anomalies,structural_anomalies}/NNN.png
<class>/ground_truth/{logical_anomalies,structural_anomalies}/NNN/*.png

But for the masks it is MVTec-AD's tree. An image has a mask for each of its defects, with a grey value that names the
kind; what any of them marks is defect.
"""

from __future__ import annotations

from pathlib import Path

from agp_edge.datasets import mvtec
from agp_edge.datasets.base import ClassData
from agp_edge.datasets.images import list_images
from agp_edge.datasets.pairing import Masks, class_folders, subfolders

LOOKS_FOR = "test/logical_anomalies"
ANOMALIES = ("logical_anomalies", "structural_anomalies")


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout."""
    return [mvtec.read_class(folder, root, _masks) for folder in class_folders(root, is_class)] or None


def is_class(folder: Path) -> bool:
    """Whether a folder is one class of this layout."""
    return any((folder / "test" / kind).is_dir() for kind in ANOMALIES)


def _masks(folder: Path) -> Masks:
    return {image.name: tuple(list_images(image)) for image in subfolders(folder)}
