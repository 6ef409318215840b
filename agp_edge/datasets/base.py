"""What a data set is: classes, each with good images to learn from and labelled images to test on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        path: the image file.
        name: its path relative to the data set's root, with forward slashes.
        label: `good`, or the kind of defect.
        masks: pictures of the same size; a pixel is defect where any of them is not zero. Empty for a defect
            without a mask. Some data sets give masks of good images too: they must be black, and only
            `check_dataset` looks at them.
    """

    path: Path
    name: str
    label: str
    masks: tuple[Path, ...] = ()

    @property
    def good(self) -> bool:
        """Whether it shows a good part."""
        return self.label == GOOD


@dataclass(frozen=True)
class ClassData:
    """One class (one product) of a data set; every list is in order of name.

    Attributes:
        name: the class.
        train: good images to learn from.
        validation: good images kept aside by the data set itself; often empty.
        test: labelled images; may be empty.
        folder: where its files are; None if they are in no folder of their own.
        mask_folders: folders that hold masks alone, at any depth: a picture there that no image uses is a lost mask.
        aside: folder -> why the pictures there are in none of the lists, although the layout knows of them.
    """

    name: str
    train: list[Sample]
    validation: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    folder: Path | None = None
    mask_folders: tuple[Path, ...] = ()
    aside: Mapping[Path, str] = field(default_factory=dict)

    @property
    def samples(self) -> list[Sample]:
        """All of them: to learn from, for validation, to test on."""
        return [*self.train, *self.validation, *self.test]


@dataclass(frozen=True)
class Dataset:
    """A data set that was recognised.

    Attributes:
        root: its folder.
        layout: how it was recognised, as in `mvtec` or `folder`.
        classes: in order of name.
    """

    root: Path
    layout: str
    classes: list[ClassData]
