"""What is wrong with a data set: found before a training or an evaluation stumbles over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from agp_edge.datasets.base import ClassData, Dataset, Sample
from agp_edge.datasets.images import list_images, read_image, read_mask
from agp_edge.errors import InputError, MissingExtraError
from agp_edge.files import sha256_file
from agp_edge.progress import Progress, silent

SizeWH = tuple[int, int]

FindingKind = Literal[
    "unreadable", "several-sizes", "mask-missing", "mask-unpaired", "mask-size", "mask-empty", "leak", "empty-class"
]  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: what sort of thing.
        class_name: the class it was found in.
        message: what it is, with the file or the counts; one line.
    """

    kind: FindingKind
    class_name: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """As `--json` gives it."""
        return asdict(self)


@dataclass(frozen=True)
class DatasetCheck:
    """What `check_dataset` saw.

    Attributes:
        findings: in the order of the classes.
        sizes: class -> (width, height) -> how many images.
    """

    findings: list[Finding]
    sizes: dict[str, dict[SizeWH, int]]


def check_dataset(dataset: Dataset, progress: Progress = silent) -> DatasetCheck:
    """Decode every image and mask of a data set, and list what is wrong with them. Nothing wrong is raised.

    Found are: files that cannot be read, several sizes within a class, defects without a mask where the class
    has masks, masks without an image, masks of another size or without a defect, the same content among the images
    to learn from and to test on, and classes without images to learn from.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    total = sum(len(_samples(data)) for data in dataset.classes)
    findings: list[Finding] = []
    sizes: dict[str, dict[SizeWH, int]] = {}
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    for data in dataset.classes:
        check = _ClassCheck(data, layout_has_masks=dataset.layout == "mvtec")
        for sample in _samples(data):
            check.look_at(sample)
            step()
        findings += check.conclude()
        sizes[data.name] = dict(check.sizes)
    return DatasetCheck(findings, sizes)


def _samples(data: ClassData) -> list[Sample]:
    return [*data.train, *data.validation, *data.test]


class _ClassCheck:
    """Collects what is found in one class."""

    def __init__(self, data: ClassData, *, layout_has_masks: bool) -> None:
        self.data = data
        self.findings: list[Finding] = []
        self.sizes: Counter[SizeWH] = Counter()
        self._example: dict[SizeWH, str] = {}
        self._readable: set[str] = set()
        self._wants_masks = layout_has_masks or any(s.mask for s in data.test)

    def _found(self, kind: FindingKind, message: str) -> None:
        self.findings.append(Finding(kind, self.data.name, message))

    def look_at(self, sample: Sample) -> None:
        try:
            height, width = read_image(sample.path).shape[:2]
        except MissingExtraError:
            raise  # This machine cannot read any image: that says nothing of the file.
        except InputError as error:
            self._found("unreadable", error.what)
            return
        self._readable.add(sample.name)
        self.sizes[width, height] += 1
        self._example.setdefault((width, height), sample.name)
        if sample.good:
            return
        if sample.mask is None:
            if self._wants_masks:
                self._found("mask-missing", f"{sample.name} shows a defect and has no mask")
            return
        try:
            mask = read_mask(sample.mask)
        except InputError as error:
            self._found("unreadable", error.what)
            return
        if mask.shape != (height, width):
            self._found(
                "mask-size",
                f"the mask of {sample.name} is {mask.shape[1]}x{mask.shape[0]}, the image {width}x{height}",
            )
        elif not mask.any():
            self._found("mask-empty", f"the mask of {sample.name} marks no defect")

    def conclude(self) -> list[Finding]:
        if not self.data.train:
            self._found("empty-class", "there are no good images to learn from")
        if len(self.sizes) > 1:
            self._found(
                "several-sizes", f"images differ in size: {_describe_sizes(self.sizes, self._example)}"
            )
        self._find_unpaired_masks()
        self._find_leaks()
        return self.findings

    def _find_unpaired_masks(self) -> None:
        used = {sample.mask for sample in self.data.test if sample.mask}
        for folder in sorted({mask.parent for mask in used}):
            for mask in list_images(folder):
                if mask not in used:
                    self._found("mask-unpaired", f"mask {mask} belongs to no image")

    def _find_leaks(self) -> None:
        train, test = (
            [s for s in part if s.name in self._readable] for part in (self.data.train, self.data.test)
        )
        learnt = dict(zip(content_hashes(train), train, strict=True))
        for digest, sample in zip(content_hashes(test), test, strict=True):
            if digest in learnt:
                self._found("leak", f"{sample.name} has the same content as {learnt[digest].name}")


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


def require_one_size(samples: Sequence[Sample], progress: Progress = silent) -> SizeWH:
    """The (width, height) that all samples have.

    It decodes them all: who decodes them anyway calls `one_size` with what was seen.

    Raises:
        InputError: there are none, one cannot be read, or they differ.
    """
    sizes = []
    for i, sample in enumerate(samples):
        height, width = read_image(sample.path).shape[:2]
        sizes.append((width, height))
        progress(i + 1, len(samples))
    return one_size(sizes, [sample.name for sample in samples])


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
