"""What is wrong with a data set: found before a training or an evaluation stumbles over it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from agp_edge.datasets.base import ClassData, Dataset, Sample
from agp_edge.datasets.duplicates import find_copies
from agp_edge.datasets.findings import Finding, FindingKind, count, some
from agp_edge.datasets.images import read_image, read_mask
from agp_edge.datasets.orientation import UPRIGHT, exif_orientation
from agp_edge.datasets.unused import Aside, find_unused
from agp_edge.errors import InputError, MissingExtraError
from agp_edge.files import sha256_file
from agp_edge.progress import Progress, silent

SizeWH = tuple[int, int]

MIN_UNSEEN = 32
"""Good images that a network never saw: sixteen for the gate, which can say nothing of fewer, sixteen for the threshold."""
MAX_HELD_OUT_SHARE = 0.4
"""Of the images to learn from no more are held out for that."""


@dataclass(frozen=True)
class DatasetCheck:
    """What `check_dataset` saw.

    Attributes:
        findings: in the order of the classes, and in each of the kinds; what is in no class comes last.
        sizes: class -> (width, height) -> how many images.
        aside: class -> folders that the layout knows of and no list uses.
    """

    findings: list[Finding]
    sizes: dict[str, dict[SizeWH, int]]
    aside: dict[str, list[Aside]]


def check_dataset(dataset: Dataset, progress: Progress = silent) -> DatasetCheck:
    """Decode every image and mask of a data set, and list what is wrong with them. Nothing wrong is raised.

    Found are: files that cannot be read; several sizes within a class; defects without a mask where the class
    has masks; masks without an image, of another size, turned otherwise than their image, without a defect, or
    with one on a good image; the same content twice, on one side or across; classes without images to learn from,
    or with too few to hold some out; test images without a label; pictures in the folder that no list uses.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    total = sum(len(data.samples) for data in dataset.classes)
    checks = {data.name: _ClassCheck(data, masked=dataset.layout != "folder") for data in dataset.classes}
    done = 0
    for data in dataset.classes:
        for sample in data.samples:
            checks[data.name].look_at(sample)
            done += 1
            progress(done, total)
    for copy in find_copies(dataset, (path for check in checks.values() for path in check.readable)):
        checks[copy.class_name].add(
            "leak" if copy.leak else "duplicate",
            f"{copy.sample.name} = {copy.original.name}",
            copy.sample.name,
        )
    unused, aside = find_unused(dataset)
    findings = [finding for check in checks.values() for finding in check.conclude()] + unused
    classes = [*checks, ""]
    kinds: list[FindingKind] = list(get_args(FindingKind))
    findings.sort(key=lambda found: (classes.index(found.class_name), kinds.index(found.kind)))
    return DatasetCheck(findings, {name: dict(check.sizes) for name, check in checks.items()}, aside)


TEXTS: dict[FindingKind, tuple[str, str]] = {
    "unreadable": ("file cannot be read", "files cannot be read"),
    "mask-missing": ("image shows a defect and has no mask", "images show a defect and have no mask"),
    "mask-size": ("mask has another size than its image", "masks have another size than their images"),
    "mask-empty": ("image shows a defect that its mask does not mark", "images show a defect that their masks do not mark"),
    "mask-on-good": ("good image has a mask that marks a defect", "good images have masks that mark a defect"),
    "mask-orientation": (
        "mask is not turned by EXIF as its image is: save both upright, without EXIF",
        "masks are not turned by EXIF as their images are: save both upright, without EXIF",
    ),
    "leak": (
        "image has the same content as one on the other side of the split",
        "images have the same content as one on the other side of the split",
    ),
    "duplicate": ("image has the same content as another", "images have the same content as another"),
}  # fmt: skip
"""Kind -> what is said of one and of several."""


class _ClassCheck:
    """Collects what is found in one class."""

    def __init__(self, data: ClassData, *, masked: bool) -> None:
        self.data = data
        self.sizes: Counter[SizeWH] = Counter()
        self.readable: list[Path] = []
        self._example: dict[SizeWH, str] = {}
        self._found: dict[FindingKind, list[tuple[str, str]]] = defaultdict(list)
        self._wants_masks = masked or any(sample.masks for sample in data.test)

    def add(self, kind: FindingKind, text: str, name: str) -> None:
        """Note a finding about a file; `text` is what the message says of it."""
        self._found[kind].append((text, name))

    def look_at(self, sample: Sample) -> None:
        """Decode an image and its masks."""
        try:
            height, width = read_image(sample.path).shape[:2]
        except MissingExtraError:
            raise  # This machine cannot read any image: that says nothing of the file.
        except InputError as error:
            self.add("unreadable", error.what, sample.name)
            return
        self.readable.append(sample.path)
        self.sizes[width, height] += 1
        self._example.setdefault((width, height), sample.name)
        if sample.masks:
            self._look_at_masks(sample, (width, height))
        elif self._wants_masks and not sample.good:
            self.add("mask-missing", sample.name, sample.name)

    def _look_at_masks(self, sample: Sample, size: SizeWH) -> None:
        """Of several masks each is held against the image; together they are to mark a defect."""
        marks = False
        for path in sample.masks:
            try:
                mask = read_mask(path)
            except InputError as error:
                self.add("unreadable", error.what, sample.name)
                return
            mask_size = (mask.shape[1], mask.shape[0])
            if mask_size != size:
                sizes = f"{mask_size[0]}x{mask_size[1]} for {size[0]}x{size[1]}"
                if mask_size == size[::-1] and len(set(_turns(sample.path, path))) > 1:
                    sizes += ", since EXIF turns one of the two"
                self.add("mask-size", f"{sample.name} ({sizes})", sample.name)
                return
            if _fit_unknown(sample.path, path, size):
                self.add("mask-orientation", sample.name, sample.name)
            marks |= bool(mask.any())
        if sample.good and marks:
            self.add("mask-on-good", sample.name, sample.name)
        if not sample.good and not marks:
            self.add("mask-empty", sample.name, sample.name)

    def conclude(self) -> list[Finding]:
        """Every finding about the class that its images and masks give."""
        name, n = self.data.name, len(self.data.train)
        findings = [
            Finding(
                kind,
                name,
                f"{count(len(items), *TEXTS[kind])}: {some([text for text, _ in items])}",
                len(items),
                [file for _, file in items],
            )
            for kind, items in self._found.items()
        ]
        if not n:
            findings.append(Finding("empty-class", name, "there are no good images to learn from"))
        elif too_few := _describe_too_few(n, len(self.data.validation)):
            findings.append(Finding("few-good", name, too_few, n))
        if len(self.sizes) > 1:
            text = f"images differ in size: {_describe_sizes(self.sizes, self._example)}"
            findings.append(Finding("several-sizes", name, text, len(self.sizes)))
        return findings


def _turns(image: Path, mask: Path) -> tuple[int, int]:
    """How EXIF turns an image and its mask."""
    return exif_orientation(image.read_bytes()), exif_orientation(mask.read_bytes())


def _fit_unknown(image: Path, mask: Path, size: SizeWH) -> bool:
    """Whether EXIF turns an image and a mask of its size differently, so that the size does not prove their fit.

    A mask as large as an oblong image is after a quarter turn was drawn on what viewers show.
    """
    of_image, of_mask = _turns(image, mask)
    drawn_on_view = of_image >= 5 and of_mask == UPRIGHT and size[0] != size[1]
    return of_image != of_mask and not drawn_on_view


def _describe_too_few(train: int, validation: int) -> str | None:
    """Why so many good images are too few for gate and threshold, in words; None where they are enough."""
    unseen = int(MAX_HELD_OUT_SHARE * train) + validation
    if unseen >= MIN_UNSEEN:
        return None
    return (
        f"{count(train, 'good image to learn from leaves', 'good images to learn from leave')} {unseen} "
        "that a network never saw: "
        f"gate and threshold need {MIN_UNSEEN}"
    )


def content_hashes(samples: Iterable[Sample]) -> list[str]:
    """SHA-256 of each sample's file, as 64 hex digits: what splits are made of.

    Raises:
        InputError: a file cannot be read.
    """
    hashes = []
    for sample in samples:
        try:
            hashes.append(sha256_file(sample.path))
        except OSError as error:
            raise InputError(
                f"cannot read {sample.path}: {error.strerror or error}", "replace or remove it"
            ) from error
    return hashes


def read_sizes(samples: Iterable[Sample]) -> list[SizeWH]:
    """The (width, height) of each sample. It decodes them all, so that each is known to be readable.

    Raises:
        InputError: one cannot be read.
        MissingExtraError: OpenCV is not installed.
    """
    shapes = [read_image(sample.path).shape for sample in samples]
    return [(width, height) for height, width, _ in shapes]


def one_size(sizes: Sequence[SizeWH], names: Sequence[str]) -> SizeWH:
    """The one (width, height) among `sizes`; `names` are those of the images, for the error.

    Raises:
        InputError: there are none, or they differ.
    """
    counts = Counter(sizes)
    if not counts:
        raise InputError("there are no images", "give a data set with images of good parts")
    if len(counts) > 1:
        example: dict[SizeWH, str] = {}
        for size, name in zip(sizes, names, strict=True):
            example.setdefault(size, name)
        raise InputError(
            f"images differ in size: {_describe_sizes(counts, example)}",
            "bring them to one size: a network takes one frame size",
        )
    return next(iter(counts))


def _describe_sizes(counts: Counter[SizeWH], example: dict[SizeWH, str]) -> str:
    """`38 of 640x480 (a.png), 2 of 320x240 (b.png)`, the most frequent first."""
    return ", ".join(f"{n} of {w}x{h} ({example[w, h]})" for (w, h), n in counts.most_common())
