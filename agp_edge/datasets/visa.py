"""VisA as it is published; `split_csv/1cls.csv` says what is to learn from and what to test on.

<class>/Data/Images/{Normal,Anomaly}/*.JPG
<class>/Data/Masks/Anomaly/*.png
split_csv/1cls.csv                       object,split,label,image,mask; paths relative to the root

Given by its root, or by one class beside `split_csv/`. Classes that the CSV has and the folder has not are left
out, so that a part of the data set can be unpacked alone.
"""

from __future__ import annotations

import csv
from pathlib import Path

from agp_edge.datasets.base import GOOD, ClassData, Sample
from agp_edge.datasets.pairing import listed_path, name_in
from agp_edge.errors import InputError

LOOKS_FOR = "split_csv/1cls.csv"
CSV = Path("split_csv", "1cls.csv")
COLUMNS = ("object", "split", "label", "image", "mask")
NORMAL = "normal"
HINT = "take split_csv/1cls.csv as it is published"


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout.

    Raises:
        InputError: the CSV is none, or names a split or a file that cannot be.
    """
    if (root / CSV).is_file():
        return _read_classes(root, root)
    if (root / "Data" / "Images").is_dir() and (root.parent / CSV).is_file():
        return [data for data in _read_classes(root.parent, root) if data.name == root.name] or None
    return None


def _read_classes(home: Path, root: Path) -> list[ClassData]:
    """The classes that the CSV in `home` lists and that are under `root`, named relative to it."""
    parts: dict[str, dict[str, list[Sample]]] = {}
    present: dict[str, bool] = {}
    for place, row in _rows(home / CSV):
        name = row["object"]
        if name not in present:
            folder = listed_path(home, name, place)
            present[name] = folder.is_dir() and root in (home, folder)
        if not present[name]:
            continue
        label = GOOD if row["label"] == NORMAL else row["label"]
        if row["split"] not in ("train", "test") or not label or (row["split"] == "train" and label != GOOD):
            raise InputError(
                f"{place} has split {row['split']!r} with label {row['label']!r}: neither a test image nor a good one",
                HINT,
            )
        image = listed_path(home, row["image"], place)
        masks = (listed_path(home, row["mask"], place),) if row["mask"] else ()
        part = parts.setdefault(name, {"train": [], "test": []})[row["split"]]
        part.append(Sample(image, name_in(root, image, place), label, masks))
    return [
        ClassData(
            name,
            train=sorted(part["train"], key=lambda sample: sample.name),
            test=sorted(part["test"], key=lambda sample: sample.name),
            folder=home / name,
            mask_folders=(home / name / "Data" / "Masks",),
        )
        for name, part in sorted(parts.items())
    ]


def _rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Each row with its place, for errors."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise InputError(f"{path} has no column {', '.join(sorted(missing))}", HINT)
            return [
                (f"{path}:{reader.line_num}", {column: (row[column] or "").strip() for column in COLUMNS})
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV: {error}", HINT) from error
