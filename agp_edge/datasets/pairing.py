"""Images and their masks: paired by stem, never by order."""

from __future__ import annotations

from pathlib import Path

from agp_edge.datasets.base import GOOD, Sample
from agp_edge.datasets.images import list_images

MASK_ENDING = "_mask"


def find_samples(folder: Path, root: Path, *, label: str = GOOD, masks: Path | None = None) -> list[Sample]:
    """The images right inside a folder as samples, in order of name.

    Args:
        folder: the images; may be absent.
        root: what the samples' names are relative to.
        label: `good`, or the kind of defect.
        masks: the folder of `STEM_mask.png` or `STEM.png`; only looked at for defects.
    """
    by_stem: dict[str, Path] = {}
    if masks is not None and label != GOOD:
        # Sorted, `7.png` comes before `7_mask.png`: where both are there, the explicit name wins.
        by_stem = {path.stem.removesuffix(MASK_ENDING): path for path in list_images(masks)}
    return [
        Sample(path, path.relative_to(root).as_posix(), label, by_stem.get(path.stem))
        for path in list_images(folder)
    ]


def subfolders(folder: Path) -> list[Path]:
    """The folders right inside a folder, in order of name; hidden ones are none."""
    return sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
