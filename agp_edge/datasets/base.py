"""What a data set is: classes, each with good images to learn from and labelled images to test on."""

from __future__ import annotations

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
        mask: a picture of the same size, defect where it is not zero; None for good images and unmasked defects.
    """

    path: Path
    name: str
    label: str
    mask: Path | None = None

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
    """

    name: str
    train: list[Sample]
    validation: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)


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
