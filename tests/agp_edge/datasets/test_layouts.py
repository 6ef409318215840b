"""Every layout, from a small tree built in its exact form, through `load_dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.datasets import LAYOUTS, ClassData, check_dataset, load_dataset
from agp_edge.datasets.images import read_truth
from tests.agp_edge.datasets.trees import FRAME, TREES, Listed, Tree, build_folder


@pytest.fixture(params=TREES, ids=lambda tree: tree.layout)
def tree(request: pytest.FixtureRequest) -> Tree:
    found: Tree = request.param
    return found


@pytest.fixture
def root(tree: Tree, tmp_path: Path) -> Path:
    root = tmp_path / "data set"
    tree.build(root)
    return root


def listed(data: ClassData, root: Path) -> tuple[list[str], list[str], Listed]:
    return (
        [s.name for s in data.train],
        [s.name for s in data.validation],
        [(s.name, s.label, [m.relative_to(root).as_posix() for m in s.masks]) for s in data.test],
    )


def test_every_layout_has_a_tree_here() -> None:
    assert {tree.layout for tree in TREES} | {"folder"} == set(LAYOUTS)


def test_a_tree_is_recognised_and_listed_from_its_root(tree: Tree, root: Path) -> None:
    dataset = load_dataset(root)
    assert (dataset.layout, [c.name for c in dataset.classes]) == (tree.layout, tree.classes)
    name = tree.one_class.split("/")[-1]
    (data,) = [c for c in dataset.classes if c.name == name]
    assert listed(data, root) == (tree.train, tree.validation, sorted(tree.test))
    assert all(s.path == root / s.name for s in data.samples)
    counts = {(len(c.train), len(c.validation), len(c.test)) for c in dataset.classes}
    assert counts == {(len(tree.train), len(tree.validation), len(tree.test))}


def test_and_from_one_class_with_names_relative_to_that(tree: Tree, root: Path) -> None:
    folder = root / tree.one_class
    dataset = load_dataset(folder)
    (data,) = dataset.classes
    assert (dataset.layout, data.name) == (tree.layout_of_class or tree.layout, folder.name)
    inside = len(tree.one_class) + 1
    assert listed(data, folder) == (
        [name[inside:] for name in tree.train],
        [name[inside:] for name in tree.validation],
        sorted((name[inside:], label, [m[inside:] for m in masks]) for name, label, masks in tree.test),
    )


def test_as_published_it_has_no_findings(tree: Tree, root: Path) -> None:
    """But that so few images are not enough; what its layout does not use is named."""
    check = check_dataset(load_dataset(root))
    assert [f.to_dict() for f in check.findings if f.kind != "few-good"] == []
    aside = check.aside[tree.one_class.split("/")[-1]]
    assert {a.folder: a.images for a in aside} == tree.aside


def test_each_defect_has_its_own_truth(tree: Tree, root: Path) -> None:
    """Masks mark the column that is the number of their image: a swapped pair shows."""
    for sample in (s for c in load_dataset(root).classes for s in c.test):
        truth = read_truth(sample, FRAME)
        assert truth is not None
        assert truth.any() != sample.good
        if tree.layout in ("mvtec", "visa", "visa-1cls", "mvtec-3d", "btad") and not sample.good:
            assert np.flatnonzero(truth[0]).tolist() == [int(sample.path.stem)]
        if tree.layout == "mvtec-loco" and sample.path.stem == "001":
            assert np.flatnonzero(truth[0]).tolist() == [1, 4]


def test_a_plain_folder_with_blanks_and_umlauts(tmp_path: Path) -> None:
    build_folder(tmp_path)
    dataset = load_dataset(tmp_path)
    assert dataset.layout == "folder"
    (data,) = dataset.classes
    assert {s.name for s in data.samples if s.good} == {"good/a b.png", "good/ü.png"}
    assert [(s.name, s.masks[0].name) for s in data.test if not s.good] == [
        ("dent/2.png", "2.png"),
        ("dent/Ä 1.PNG", "Ä 1_mask.png"),
    ]


def test_listing_opens_no_image_and_looks_at_no_file(
    tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's entries say what is a file: looking at each of 10,000 files would take seconds on a network drive."""
    from pathlib import PosixPath

    looked: list[str] = []
    for name in ("stat", "read_bytes", "open"):
        original = getattr(Path, name)

        def watched(self: Path, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            looked.append(self.suffix.lower())
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(PosixPath, name, watched, raising=False)
    load_dataset(root)
    assert looked
    assert not {".png", ".jpg", ".bmp", ".tiff"} & set(looked)
