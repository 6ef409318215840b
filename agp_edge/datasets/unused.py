"""Pictures in a data set's folder that are in none of its lists: lost masks, images without a label, ignored folders."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from agp_edge.datasets.base import ClassData, Dataset
from agp_edge.datasets.findings import Finding, FindingKind, count, some
from agp_edge.datasets.images import is_image_name

FOREIGN_SUFFIXES = frozenset(
    {".avif", ".dng", ".exr", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".npy", ".raw"}
)
"""Pictures that are not read here: they look like a part of the data set, and are none."""


@dataclass(frozen=True)
class Aside:
    """A folder that the layout knows of and no list uses.

    Attributes:
        folder: relative to the data set's root.
        images: how many are in it.
        why: it is not used.
    """

    folder: str
    images: int
    why: str

    def to_dict(self) -> dict[str, object]:
        """As `--json` gives it."""
        return asdict(self)


def find_unused(dataset: Dataset) -> tuple[list[Finding], dict[str, list[Aside]]]:
    """Walk through a data set's folder; no file is opened.

    Returns:
        What is wrong, and class -> what its layout puts aside.
    """
    root = dataset.root.resolve()
    used = {
        str(path)
        for data in dataset.classes
        for sample in data.samples
        for path in (sample.path, *sample.masks)
    }
    owners = {data.folder: data for data in dataset.classes if data.folder is not None}
    lost: dict[tuple[str, FindingKind], list[str]] = defaultdict(list)
    aside: dict[tuple[str, Path], int] = defaultdict(int)
    for place, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        left = [name for name in sorted(files) if _is_picture(name) and f"{place}/{name}" not in used]
        if not left:
            continue
        here = Path(place)
        around = {here, *here.parents}
        data = next((owners[folder] for folder in (here, *here.parents) if folder in owners), None)
        known = around & data.aside.keys() if data else set()
        if data and known:
            aside[data.name, known.pop()] += len(left)
        else:
            names = [(here / name).relative_to(root).as_posix() for name in left]
            lost[data.name if data else "", _kind(data, around, here)] += names
    findings = [_finding(kind, name, names) for (name, kind), names in lost.items()]
    by_class: dict[str, list[Aside]] = {data.name: [] for data in dataset.classes}
    for data in dataset.classes:
        for folder, why in data.aside.items():
            n = aside.get((data.name, folder), 0)
            if n:
                by_class[data.name].append(Aside(folder.relative_to(root).as_posix(), n, why))
    return findings, by_class


def _is_picture(name: str) -> bool:
    return is_image_name(name) or _is_foreign(name)


def _is_foreign(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in FOREIGN_SUFFIXES


def _kind(data: ClassData | None, around: set[Path], here: Path) -> FindingKind:
    if data and around & set(data.mask_folders):
        return "mask-unpaired"
    # A folder of tests that is flat says of its images neither good nor bad.
    return "unlabelled" if here.name.startswith("test") else "unlisted"


def _finding(kind: FindingKind, class_name: str, names: list[str]) -> Finding:
    n = len(names)
    if kind == "mask-unpaired":
        text = f"{count(n, 'mask belongs', 'masks belong')} to no image"
    elif kind == "unlabelled":
        text = f"{count(n, 'test image has', 'test images have')} no label, and {'is' if n == 1 else 'are'} left out"
    else:
        foreign = sum(map(_is_foreign, names))
        text = f"{count(n, 'picture is', 'pictures are')} not a part of the data set"
        text += f" ({foreign} in a format that is not read)" if foreign else ""
    return Finding(kind, class_name, f"{text}: {some(names)}", n, names)
