"""The plain folder: what someone has who photographed good parts, and perhaps some bad ones.

    *.png                                    good images; or
    good/*.png, <defect>/*.png               good images beside folders of defects
    ground_truth/<defect>/NNN_mask.png       masks of those defects, where there are any

Good images are all there to learn from, unless there are defects to test on: then a fifth of the good ones is
kept for the test. Which ones is decided by each image's content alone, so that adding images moves none
from one side to the other, and copies of one image stay on one side.
"""

from __future__ import annotations

from pathlib import Path

from agp_edge.datasets.base import GOOD, ClassData, Sample
from agp_edge.datasets.images import list_images
from agp_edge.datasets.pairing import find_samples, masks_by_stem, subfolders
from agp_edge.files import sha256_bytes, sha256_file

LOOKS_FOR = "images, or good/ beside folders of defects"
MASKS = "ground_truth"
TEST_SHARE = 5
"""One in this many good images is kept for the test."""


def read(root: Path) -> list[ClassData] | None:
    """Read the folder; None if it is not of this layout."""
    name = root.name
    if not (root / GOOD).is_dir():
        return [ClassData(name, train=find_samples(root, root), folder=root)] if list_images(root) else None
    good = find_samples(root / GOOD, root)
    defects: list[Sample] = []
    for folder in subfolders(root):
        if folder.name not in (GOOD, MASKS):
            masks = masks_by_stem(root / MASKS / folder.name)
            defects += find_samples(folder, root, label=folder.name, masks=masks)
    mask_folders = (root / MASKS,)
    if not defects:
        return [ClassData(name, train=good, folder=root, mask_folders=mask_folders)]
    for_test = {sample.name for sample in good if _is_for_test(sample)}
    return [
        ClassData(
            name,
            train=[s for s in good if s.name not in for_test],
            test=[s for s in good if s.name in for_test] + defects,
            folder=root,
            mask_folders=mask_folders,
        )
    ]


def _is_for_test(sample: Sample) -> bool:
    # Hashed once more, so that this choice tells nothing about any other that is made by content hash.
    return int(sha256_bytes(b"test:" + sha256_file(sample.path).encode())[:8], 16) % TEST_SHARE == 0
