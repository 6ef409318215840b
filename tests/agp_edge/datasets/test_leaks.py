"""Test images among those to calibrate with: each way to tell them, and what must not be mistaken for one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.datasets.images import write_png
from agp_edge.datasets.leaks import refuse_test_images
from agp_edge.errors import InputError


def paint(folder: Path, *values: int) -> Path:
    """Even pictures, each of another grey."""
    for value in values:
        write_png(folder / f"{value:03}.png", np.full((16, 16, 3), value, np.uint8))
    return folder


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """One class in MVTec-AD's tree: good 0 to 3, test good 10 and 11, scratched 20 and 21."""
    root = tmp_path / "data" / "part"
    paint(root / "train" / "good", 0, 1, 2, 3)
    paint(root / "test" / "good", 10, 11)
    paint(root / "test" / "scratch", 20, 21)
    return root


def look(data: Path, known: list[Path] | None = None) -> list[str]:
    """`refuse_test_images` as `calibrate` calls it; `known` are images of the training."""
    dataset = load_dataset(data)
    samples = [s for c in dataset.classes for s in (*c.train, *c.validation)]
    by_hash = dict(zip(content_hashes(samples), samples, strict=True))
    every = dict(zip(by_hash.values(), by_hash, strict=True))
    hashes = {h for s, h in every.items() if known and s.path.resolve() in {p.resolve() for p in known}}
    return refuse_test_images(dataset, by_hash, hashes)


def test_a_data_set_with_test_images_of_its_own_is_what_one_gives(part: Path) -> None:
    assert look(part) == look(part.parent) == []
    assert look(part / "train" / "good") == [], "new images beside those trained on"


def test_a_copy_of_a_test_image_is_refused_and_named(part: Path) -> None:
    shutil.copy(part / "test" / "scratch" / "020.png", part / "train" / "good" / "020.png")
    shutil.copy(part / "test" / "good" / "010.png", part / "train" / "good" / "new.png")
    with pytest.raises(InputError, match="2 test images among its good ones") as caught:
        look(part)
    assert "train/good/020.png = test/scratch/020.png" in caught.value.what
    assert "train/good/new.png = test/good/010.png" in caught.value.what
    assert "agp-edge inspect" in caught.value.hint


def test_copies_on_one_side_are_none_of_it(part: Path) -> None:
    shutil.copy(part / "train" / "good" / "001.png", part / "train" / "good" / "copy.png")
    shutil.copy(part / "test" / "good" / "010.png", part / "test" / "good" / "copy.png")
    assert look(part) == []


@pytest.mark.parametrize("inside", ["test", "test/good", "test/scratch"])
def test_a_part_of_a_known_tree_that_is_tested_on_is_refused(part: Path, inside: str) -> None:
    with pytest.raises(InputError, match=r"test images? of the data set .*part: ") as caught:
        look(part / inside)
    assert str(part) in caught.value.hint


@pytest.mark.parametrize(
    ("train", "test"),
    [("train/good/rgb", "test/crack/rgb"), ("train/ok", "test/ko"), ("train/good", "test_public/bad")],
    ids=["mvtec-3d", "btad", "mvtec-ad-2"],
)
def test_other_trees_are_known_as_well(tmp_path: Path, train: str, test: str) -> None:
    root = tmp_path / "data" / "part"
    paint(root / train, 0, 1)
    paint(root / test, 20, 21)
    with pytest.raises(InputError, match="2 test images of the data set"):
        look(root / test)
    assert look(root / train) == []


def test_visa_as_published_is_known_by_its_list(tmp_path: Path) -> None:
    root = tmp_path / "visa"
    paint(root / "candle" / "Data" / "Images" / "Normal", 0, 1)
    paint(root / "candle" / "Data" / "Images" / "Anomaly", 20, 21)
    lines = ["object,split,label,image,mask"]
    for kind, split, label, numbers in (("Normal", "train", "normal", (0, 1)), ("Anomaly", "test", "anomaly", (20, 21))):  # fmt: skip
        lines += [f"candle,{split},{label},candle/Data/Images/{kind}/{n:03}.png," for n in numbers]
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"2 test images of the data set .*candle"):
        look(root / "candle" / "Data" / "Images" / "Anomaly")
    assert look(root / "candle" / "Data" / "Images" / "Normal") == []


def test_of_a_plain_folder_only_the_defects_are_certain(tmp_path: Path) -> None:
    root = tmp_path / "shots"
    paint(root / "good", *range(30))
    paint(root / "dented", 200, 201)
    assert look(root / "good") == [], "which of them are kept for a test is a choice of ours"
    with pytest.raises(InputError, match=r"2 test images of the data set .*shots: 200\.png, 201\.png"):
        look(root / "dented")


def test_what_the_training_took_for_good_stays_good(part: Path) -> None:
    images = sorted((part / "test" / "good").iterdir())
    assert look(part / "test" / "good", known=images) == []


@pytest.mark.parametrize("name", ["test", "NG", "test_private", "rejects"])
def test_a_folder_that_only_sounds_like_it_is_warned_of(tmp_path: Path, name: str) -> None:
    (warning,) = look(paint(tmp_path / "photos" / name, 1, 2))
    assert f"called '{name}'" in warning
    assert look(paint(tmp_path / "photos" / "monday", 1, 2)) == []


def test_a_listed_test_image_that_is_missing_is_no_leak(part: Path) -> None:
    dataset = load_dataset(part)
    (part / "test" / "good" / "010.png").unlink()
    samples = dataset.classes[0].train
    assert refuse_test_images(dataset, dict(zip("abcd", samples, strict=True)), ()) == []
