"""Data sets: trees of images, recognised by looking at them. One file a layout, one table of layouts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from agp_edge.datasets import (
    btad,
    folder,
    mvtec,
    mvtec_3d,
    mvtec_ad_2,
    mvtec_loco,
    real_iad,
    visa,
    visa_1cls,
)
from agp_edge.datasets.base import GOOD, ClassData, Dataset, Sample
from agp_edge.datasets.check import check_dataset, content_hashes
from agp_edge.datasets.findings import Finding
from agp_edge.datasets.pairing import subfolders
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
]

# MVTec-AD's tree is a part of several others, so those are looked for before it. The plain folder takes any image.
LAYOUTS: dict[str, ModuleType] = {
    "visa": visa,
    "visa-1cls": visa_1cls,
    "mvtec-3d": mvtec_3d,
    "mvtec-ad-2": mvtec_ad_2,
    "mvtec-loco": mvtec_loco,
    "btad": btad,
    "mvtec": mvtec,
    "real-iad": real_iad,
    "folder": folder,
}
"""Layout -> the module whose `read(root)` gives its classes, or None. The first that recognises a tree reads it."""


def load_dataset(path: Path) -> Dataset:
    """Recognise a data set by its tree and list it; no image is decoded.

    Args:
        path: its root, or one class of it.

    Raises:
        InputError: there is no such folder, it holds no image, its tree is not recognised, its classes are of
            several layouts, or a file that lists its images is not as its layout has it.
    """
    if not path.exists():
        raise InputError(f"there is no data set at {path}", "give a folder of images")
    if not path.is_dir():
        raise InputError(f"{path} is a file, not a data set", "give a folder of images")
    try:
        if not any(path.iterdir()):
            raise InputError(f"the folder {path} is empty", "put images of good parts into it")
        # Resolved, because a class is called after its folder, and `.` is no name.
        root = path.resolve()
        for layout, module in LAYOUTS.items():
            classes = module.read(root)
            if classes is None:
                continue
            _refuse_mixture(root, layout, classes)
            if not any(c.train or c.validation or c.test for c in classes):
                raise InputError(
                    f"{path} has the tree of a data set ({layout}) and no image in it",
                    "put images of good parts into it",
                )
            return Dataset(path, layout, classes)
    except OSError as error:
        raise InputError(f"cannot read data set {path}: {error}", "make it readable for this user") from error
    looked_for = "; ".join(f"{layout}: {module.LOOKS_FOR}" for layout, module in LAYOUTS.items())
    raise InputError(
        f"{path} is no data set that is recognised", f"looked in it and in its folders for {looked_for}"
    )


def _refuse_mixture(root: Path, layout: str, classes: list[ClassData]) -> None:
    """Refuse a folder some of whose classes are of another layout: they would be left out, and nobody would know.

    Raises:
        InputError: there are such.
    """
    if not hasattr(LAYOUTS[layout], "is_class") or any(data.folder == root for data in classes):
        return
    read = {data.folder for data in classes}
    for inner in subfolders(root):
        other = next((n for n, m in LAYOUTS.items() if hasattr(m, "is_class") and m.is_class(inner)), None)
        if inner not in read and other is not None:
            raise InputError(
                f"{root} holds classes of several layouts: {classes[0].name} ({layout}), {inner.name} ({other})",
                "give one class, or put each layout into a folder of its own",
            )
