from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from agp_edge.datasets import check_dataset, content_hashes, load_dataset, require_one_size
from agp_edge.datasets.images import write_png
from agp_edge.errors import InputError
from agp_edge.files import sha256_file


def image(path: Path, seed: int, size_wh: tuple[int, int] = (16, 12)) -> None:
    width, height = size_wh
    write_png(path, np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask(path: Path, size_wh: tuple[int, int] = (16, 12), value: int = 255) -> None:
    pixels = np.zeros((size_wh[1], size_wh[0], 1), np.uint8)
    pixels[2:5, 3:6] = value
    write_png(path, pixels)


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """Two classes: 3 good to learn from, 2 good and 2 scratched to test on, masks of the scratched."""
    root = tmp_path / "data"
    for c, name in enumerate(("nut", "bolt")):
        for i in range(3):
            image(root / name / "train/good" / f"{i:03d}.png", 100 * c + i)
        for i in range(2):
            image(root / name / "test/good" / f"{i:03d}.png", 100 * c + 10 + i)
            image(root / name / "test/scratch" / f"{i:03d}.png", 100 * c + 20 + i)
            mask(root / name / "ground_truth/scratch" / f"{i:03d}_mask.png")
    return root


def kinds(root: Path) -> list[tuple[str, str]]:
    return [(finding.class_name, finding.kind) for finding in check_dataset(load_dataset(root)).findings]


def test_mvtec_classes_are_read_in_order_of_name(mvtec: Path) -> None:
    dataset = load_dataset(mvtec)
    assert dataset.layout == "mvtec"
    assert [c.name for c in dataset.classes] == ["bolt", "nut"]
    bolt = dataset.classes[0]
    assert [s.name for s in bolt.train] == [f"bolt/train/good/{i:03d}.png" for i in range(3)]
    assert [(s.label, s.mask and s.mask.name) for s in bolt.test] == [
        ("good", None), ("good", None), ("scratch", "000_mask.png"), ("scratch", "001_mask.png"),
    ]  # fmt: skip
    assert bolt.validation == []


def test_one_class_folder_is_a_data_set(mvtec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(mvtec / "nut/validation/good/000.png", 7)
    monkeypatch.chdir(mvtec / "nut")
    dataset = load_dataset(Path())
    assert [(c.name, len(c.train), len(c.validation), len(c.test)) for c in dataset.classes] == [
        ("nut", 3, 1, 4)
    ]


def test_masks_are_paired_by_stem_not_by_order(mvtec: Path) -> None:
    truth = mvtec / "nut/ground_truth/scratch"
    (truth / "000_mask.png").unlink()
    (truth / "001_mask.png").rename(truth / "001.png")
    nut = load_dataset(mvtec).classes[1]
    assert [s.mask and s.mask.name for s in nut.test if not s.good] == [None, "001.png"]
    assert kinds(mvtec) == [("nut", "mask-missing")]


def test_a_sound_data_set_has_no_findings_and_its_sizes_are_counted(mvtec: Path) -> None:
    seen: list[tuple[int, int]] = []
    check = check_dataset(load_dataset(mvtec), lambda done, total, note="": seen.append((done, total)))
    assert check.findings == []
    assert check.sizes == {"bolt": {(16, 12): 7}, "nut": {(16, 12): 7}}
    assert seen == [(i, 14) for i in range(1, 15)]


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda c: (c / "train/good/001.png").write_bytes(b"broken"), "unreadable"),
        (lambda c: (c / "ground_truth/scratch/001_mask.png").write_bytes(b"broken"), "unreadable"),
        (lambda c: image(c / "test/good/000.png", 5, (20, 12)), "several-sizes"),
        (lambda c: (c / "ground_truth/scratch/001_mask.png").unlink(), "mask-missing"),
        (lambda c: mask(c / "ground_truth/scratch/777_mask.png"), "mask-unpaired"),
        (lambda c: mask(c / "ground_truth/scratch/000_mask.png", (12, 16)), "mask-size"),
        (lambda c: mask(c / "ground_truth/scratch/000_mask.png", value=0), "mask-empty"),
        (lambda c: shutil.copy(c / "train/good/000.png", c / "test/good/new.png"), "leak"),
        (lambda c: shutil.rmtree(c / "train"), "empty-class"),
    ],
)
def test_each_fault_is_found_once_and_alone(mvtec: Path, spoil: object, kind: str) -> None:
    assert callable(spoil)
    spoil(mvtec / "nut")
    assert kinds(mvtec) == [("nut", kind)]


def test_a_finding_names_the_file(mvtec: Path) -> None:
    image(mvtec / "nut/test/good/000.png", 5, (20, 12))
    (finding,) = check_dataset(load_dataset(mvtec)).findings
    assert "6 of 16x12" in finding.message
    assert "1 of 20x12 (nut/test/good/000.png)" in finding.message


def test_a_folder_of_images_is_good_images_to_learn_from(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        image(tmp_path / "parts" / f"{i}.png", i)
    dataset = load_dataset(tmp_path / "parts")
    assert dataset.layout == "folder"
    (parts,) = dataset.classes
    assert (parts.name, [s.name for s in parts.train], parts.test) == (
        "parts",
        ["0.png", "1.png", "2.png"],
        [],
    )


def test_beside_defects_a_fixed_share_of_the_good_is_for_the_test(tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for i in range(100):
        image(root / "good" / f"{i:03d}.png", i, (4, 4))
    assert len(load_dataset(root).classes[0].train) == 100

    image(root / "dent/000.png", 500)
    mask(root / "ground_truth/dent/000_mask.png")
    (parts,) = load_dataset(root).classes
    kept = {s.name for s in parts.test if s.good}
    assert 10 <= len(kept) <= 30
    assert len(parts.train) == 100 - len(kept)
    assert not kept & {s.name for s in parts.train}
    (dent,) = [s for s in parts.test if not s.good]
    assert (dent.label, dent.mask and dent.mask.name) == ("dent", "000_mask.png")

    for i in range(100, 120):
        image(root / "good" / f"{i:03d}.png", i, (4, 4))
    (grown,) = load_dataset(root).classes
    assert kept <= {s.name for s in grown.test}
    assert {s.name for s in parts.train} <= {s.name for s in grown.train}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "there is no data set"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: p.mkdir(), "is empty"),
        (lambda p: (p / "train/good").mkdir(parents=True), "no image in it"),
        (lambda p: (p / "a/b").mkdir(parents=True), "looked for mvtec: train/good.*folder: "),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, make: object, says: str) -> None:
    assert callable(make)
    make(tmp_path / "x")
    with pytest.raises(InputError, match=says) as caught:
        load_dataset(tmp_path / "x")
    assert caught.value.exit_code == 2


def test_one_size_is_required_and_the_others_are_counted(mvtec: Path) -> None:
    samples = load_dataset(mvtec).classes[0].train
    assert require_one_size(samples) == (16, 12)
    image(samples[1].path, 1, (10, 10))
    with pytest.raises(InputError, match=r"2 of 16x12 .*000.png\), 1 of 10x10 .*001.png"):
        require_one_size(samples)
    with pytest.raises(InputError, match="no images"):
        require_one_size([])


def test_content_hashes_are_those_of_the_files(mvtec: Path) -> None:
    samples = load_dataset(mvtec).classes[0].train
    assert content_hashes(samples) == [sha256_file(s.path) for s in samples]
    samples[0].path.unlink()
    with pytest.raises(InputError, match=r"000\.png"):
        content_hashes(samples)
