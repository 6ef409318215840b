"""Data sets: trees of images, recognised by looking at them. One file a layout, one table of layouts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from agp_edge.datasets import folder, mvtec
from agp_edge.datasets.base import GOOD, ClassData, Dataset, Sample
from agp_edge.datasets.check import Finding, check_dataset, content_hashes, require_one_size
from agp_edge.errors import InputError

__all__ = [
    "GOOD",
    "LAYOUTS",
    "ClassData",
    "Dataset",
    "Finding",
    "Sample",
    "check_dataset",
    "content_hashes",
    "load_dataset",
    "require_one_size",
]

LAYOUTS: dict[str, ModuleType] = {"mvtec": mvtec, "folder": folder}
"""Layout -> the module whose `read(root)` gives its classes, or None. The first that recognises a tree reads it."""


def load_dataset(path: Path) -> Dataset:
    """Recognise a data set by its tree and list it; no image is decoded.

    Args:
        path: its root, or in MVTec-AD's layout one class of it.

    Raises:
        InputError: there is no such folder, it holds no image, or its tree is not recognised.
    """
    if not path.exists():
        raise InputError(f"there is no data set at {path}", "give a folder of images")
    if not path.is_dir():
        raise InputError(f"{path} is a file, not a data set", "give a folder of images")
    try:
        if not any(path.iterdir()):
            raise InputError(f"the folder {path} is empty", "put images of good parts into it")
        for layout, module in LAYOUTS.items():
            # Resolved, because a class is called after its folder, and `.` is no name.
            classes = module.read(path.resolve())
            if classes is None:
                continue
            if not any(c.train or c.validation or c.test for c in classes):
                raise InputError(
                    f"{path} has the tree of a data set ({layout}) and no image in it",
                    "put images of good parts into it",
                )
            return Dataset(path, layout, classes)
    except OSError as error:
        raise InputError(f"cannot read data set {path}: {error}", "make it readable for this user") from error
    looked_for = "; ".join(f"{layout}: {module.LOOKS_FOR}" for layout, module in LAYOUTS.items())
    raise InputError(f"{path} is no data set that is recognised", f"looked for {looked_for}")
