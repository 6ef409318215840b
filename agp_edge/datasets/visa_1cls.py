"""VisA as its own script re-splits it, given by the folder that holds the split.

1cls/<class>/{train/good,test/{good,bad},ground_truth/bad}

From `1cls/` on, and for one class, it is MVTec-AD's tree, and is read as that.
"""

from __future__ import annotations

from pathlib import Path

from agp_edge.datasets import mvtec
from agp_edge.datasets.base import ClassData
from agp_edge.datasets.pairing import subfolders

LOOKS_FOR = "1cls/CLASS/train/good"
SPLIT = "1cls"


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout."""
    folders = [folder for folder in subfolders(root / SPLIT) if mvtec.is_class(folder)]
    return [mvtec.read_class(folder, root) for folder in folders] or None
