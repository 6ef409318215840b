"""Images and their masks: paired by stem, never by order; and the folders that layouts are made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from agp_edge.datasets.base import GOOD, Sample
from agp_edge.datasets.images import list_images
from agp_edge.errors import InputError

MASK_ENDING = "_mask"

Masks = Mapping[str, tuple[Path, ...]]
"""Stem of an image -> its masks."""


def find_samples(folder: Path, root: Path, *, label: str = GOOD, masks: Masks | None = None) -> list[Sample]:
    """The images right inside a folder as samples, in order of name.

    Args:
        folder: the images; may be absent.
        root: what the samples' names are relative to.
        label: `good`, or the kind of defect.
        masks: their masks, as `masks_by_stem` finds them.
    """
    found = masks or {}
    prefix = PurePosixPath(folder.relative_to(root).as_posix())
    return [
        Sample(path, str(prefix / path.name), label, found.get(path.stem, ())) for path in list_images(folder)
    ]


def masks_by_stem(folder: Path) -> Masks:
    """The masks right inside a folder, each `STEM_mask.png` or `STEM.png`; none where there is no folder."""
    # Sorted, `7.png` comes before `7_mask.png`: where both are there, the explicit name wins.
    return {path.stem.removesuffix(MASK_ENDING): (path,) for path in list_images(folder)}


def subfolders(folder: Path) -> list[Path]:
    """The folders right inside a folder, in order of name; hidden ones are none. Empty where there is no folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(folder / e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def class_folders(root: Path, is_class: Callable[[Path], bool]) -> list[Path]:
    """`root` alone if it is one class of a layout, else those of its subfolders that are."""
    return [root] if is_class(root) else [folder for folder in subfolders(root) if is_class(folder)]


def listed_path(folder: Path, text: str, listing: str) -> Path:
    """A file that a listing names, relative to `folder`. It is not looked for.

    Args:
        folder: what the listing's paths are relative to.
        text: the path as the listing has it.
        listing: the listing and the place in it, for the error.

    Raises:
        InputError: the path leads out of the folder, or is none.
    """
    relative = PurePosixPath(text)
    if not text.strip() or relative.is_absolute() or ".." in relative.parts:
        raise InputError(
            f"{listing} names the file {text!r}, which is not inside the data set",
            "mend or remove that entry",
        )
    return folder / relative


def name_in(root: Path, path: Path, listing: str) -> str:
    """The name of a listed file: its path relative to `root`, with forward slashes.

    Raises:
        InputError: it is not under `root`.
    """
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        raise InputError(
            f"{listing} names the file {path}, which is not inside {root}", "give the data set's root instead"
        ) from None
