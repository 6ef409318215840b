"""Real-IAD, whose lists are in a JSON file a class, while the tree says nothing of them.

[realiad_<size>/]<class>/OK/S####/*.jpg
[realiad_<size>/]<class>/NG/<defect>/S####/*.{jpg,png}
[realiad_jsons/[realiad_jsons/]]<class>.json

Given by its root, by the images of one size (`realiad_256/`, the JSON files beside them or beside that folder), or
by one class. Of the published splits the plain one (`realiad_jsons`) is read; another is used by putting its files
beside the classes, where they are looked for first.

Read are, of the JSON, `meta.prefix` (before each path), `meta.normal_class` (what a good image is called), and the
lists `train` and `test`; of their entries `image_path`, `mask_path` and `anomaly_class`. As in the publisher's own
loader a test image without a mask is good: of a bad part's five views, those do not show the defect.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agp_edge.datasets.base import GOOD, ClassData, Sample
from agp_edge.datasets.pairing import class_folders, listed_path, name_in, subfolders
from agp_edge.errors import InputError

LOOKS_FOR = "OK/ or NG/ with a CLASS.json"
JSONS = "realiad_jsons"
HINT = "take the JSON files as they are published"


def read(root: Path) -> list[ClassData] | None:
    """Read the tree under `root`; None if it is not of this layout.

    Raises:
        InputError: the images are there in several sizes, or a JSON file is not of the published form.
    """
    images = _image_folder(root)
    found = [(folder, _find_json(folder)) for folder in class_folders(images, _is_class)]
    return [_read_class(folder, root, listing) for folder, listing in found if listing is not None] or None


def _is_class(folder: Path) -> bool:
    return (folder / "OK").is_dir() or (folder / "NG").is_dir()


def _image_folder(root: Path) -> Path:
    """The folder of the classes: `root`, or the one below it where the images of some size are."""
    if class_folders(root, _is_class):
        return root
    sizes = [
        folder
        for folder in subfolders(root)
        if folder.name.startswith("realiad") and class_folders(folder, _is_class)
    ]
    if len(sizes) > 1:
        raise InputError(
            f"{root} has the same images in several sizes: {', '.join(folder.name for folder in sizes)}",
            f"give one of them, as in {sizes[0]}",
        )
    return sizes[0] if sizes else root


def _find_json(folder: Path) -> Path | None:
    """The list of a class: beside it, or in `realiad_jsons/` on its level or the next one up."""
    homes = [folder.parent]
    for level in folder.parents[:2]:
        homes += [level / JSONS, level / JSONS / JSONS]
    paths = (home / f"{folder.name}.json" for home in homes)
    return next((path for path in paths if path.is_file()), None)


def _read_class(folder: Path, root: Path, listing: Path) -> ClassData:
    lists = _load(listing)
    meta = lists["meta"]
    home = listed_path(folder.parent, meta["prefix"] or ".", f"{listing}: meta.prefix")
    parts: dict[str, list[Sample]] = {"train": [], "test": []}
    for part, samples in parts.items():
        for i, entry in enumerate(lists[part]):
            place = f"{listing}: {part}[{i}]"
            image, mask, label = _fields(entry, place)
            good = label == meta["normal_class"] or (part == "test" and mask is None)
            if part == "train" and not good:
                raise InputError(
                    f"{place} gives an image of {label!r} to learn from",
                    "take a split that learns from good images",
                )
            path = listed_path(home, image, place)
            masks = (listed_path(home, mask, place),) if mask is not None else ()
            samples.append(Sample(path, name_in(root, path, place), GOOD if good else label, masks))
        samples.sort(key=lambda sample: sample.name)
    return ClassData(folder.name, train=parts["train"], test=parts["test"], folder=folder)


def _load(path: Path) -> dict[str, Any]:
    """A class's JSON, with its outer form checked."""
    try:
        lists = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}", HINT) from error
    meta = lists.get("meta") if isinstance(lists, dict) else None
    known = (
        isinstance(meta, dict)
        and all(isinstance(meta.get(key), str) for key in ("prefix", "normal_class"))
        and all(isinstance(lists.get(part), list) for part in ("train", "test"))
    )
    if not known:
        raise InputError(f"{path} lacks meta.prefix, meta.normal_class, train or test", HINT)
    result: dict[str, Any] = lists
    return result


def _fields(entry: Any, place: str) -> tuple[str, str | None, str]:
    """`image_path`, `mask_path` and `anomaly_class` of an entry."""
    if isinstance(entry, dict):
        image, mask, label = (entry.get(key) for key in ("image_path", "mask_path", "anomaly_class"))
        if isinstance(image, str) and isinstance(label, str) and (mask is None or isinstance(mask, str)):
            return image, mask or None, label
    raise InputError(f"{place} lacks image_path, mask_path or anomaly_class", HINT)
