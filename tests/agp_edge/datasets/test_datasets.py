from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from agp_edge.datasets import Finding, check_dataset, content_hashes, load_dataset
from agp_edge.datasets.check import one_size, read_sizes
from agp_edge.datasets.images import read_truth, write_png
from agp_edge.errors import InputError
from agp_edge.files import sha256_file
from agp_edge.frame import FrameSpec


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


def findings(root: Path) -> list[Finding]:
    """All but that so few images are not enough, which every small tree has."""
    return [found for found in check_dataset(load_dataset(root)).findings if found.kind != "few-good"]


def kinds(root: Path) -> list[tuple[str, str]]:
    return [(finding.class_name, finding.kind) for finding in findings(root)]


def test_mvtec_classes_are_read_in_order_of_name(mvtec: Path) -> None:
    dataset = load_dataset(mvtec)
    assert dataset.layout == "mvtec"
    assert [c.name for c in dataset.classes] == ["bolt", "nut"]
    bolt = dataset.classes[0]
    assert [s.name for s in bolt.train] == [f"bolt/train/good/{i:03d}.png" for i in range(3)]
    assert [(s.label, [mask.name for mask in s.masks]) for s in bolt.test] == [
        ("good", []), ("good", []), ("scratch", ["000_mask.png"]), ("scratch", ["001_mask.png"]),
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
    assert [[mask.name for mask in s.masks] for s in nut.test if not s.good] == [[], ["001.png"]]
    assert kinds(mvtec) == [("nut", "mask-missing")]


def test_a_sound_data_set_has_no_findings_and_its_sizes_are_counted(mvtec: Path) -> None:
    seen: list[tuple[int, int]] = []
    check = check_dataset(load_dataset(mvtec), lambda done, total, note="": seen.append((done, total)))
    assert [(f.class_name, f.kind) for f in check.findings] == [("bolt", "few-good"), ("nut", "few-good")]
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
        (lambda c: mask(c / "ground_truth/dent/000_mask.png"), "mask-unpaired"),
        (lambda c: mask(c / "ground_truth/good/000_mask.png"), "mask-on-good"),
        (lambda c: mask(c / "ground_truth/scratch/000.png"), "mask-unpaired"),
        (lambda c: shutil.copy(c / "train/good/000.png", c / "test/good/new.png"), "leak"),
        (lambda c: shutil.copy(c / "train/good/000.png", c / "train/good/new.png"), "duplicate"),
        (lambda c: shutil.copy(c / "test/good/000.png", c / "test/scratch/000.png"), "duplicate"),
        (lambda c: shutil.copy(c / "train/good/000.png", c / "../bolt/test/good/000.png"), "leak"),
        (lambda c: image(c / "test/017.png", 900), "unlabelled"),
        (lambda c: image(c / "train/bad/000.png", 900), "unlisted"),
        (lambda c: image(c / "new/000.png", 900), "unlisted"),
        (lambda c: (c / "train/good/7.heic").touch(), "unlisted"),
        (lambda c: shutil.rmtree(c / "train"), "empty-class"),
    ],
)
def test_each_fault_is_found_once_and_alone(mvtec: Path, spoil: object, kind: str) -> None:
    assert callable(spoil)
    spoil(mvtec / "nut")
    (found,) = findings(mvtec)
    assert found.kind == kind
    assert found.count == 1 or kind == "several-sizes"


def test_a_black_mask_of_a_good_image_is_no_fault(mvtec: Path) -> None:
    mask(mvtec / "nut/ground_truth/good/000_mask.png", value=0)
    assert findings(mvtec) == []


def test_a_finding_names_the_file(mvtec: Path) -> None:
    image(mvtec / "nut/test/good/000.png", 5, (20, 12))
    (finding,) = findings(mvtec)
    assert "6 of 16x12" in finding.message
    assert "1 of 20x12 (nut/test/good/000.png)" in finding.message


def test_a_finding_is_one_line_with_a_count_and_a_few_names_and_has_all_of_them(mvtec: Path) -> None:
    for i in range(5):
        mask(mvtec / f"nut/ground_truth/scratch/90{i}_mask.png")
        image(mvtec / f"nut/test/scratch/80{i}.png", 800 + i)
    missing, unpaired = findings(mvtec)
    assert missing.describe() == (
        "nut: mask-missing: 5 images show a defect and have no mask: nut/test/scratch/800.png, "
        "nut/test/scratch/801.png, nut/test/scratch/802.png and 2 more"
    )
    assert unpaired.message.startswith("5 masks belong to no image: nut/ground_truth/scratch/900_mask.png, ")
    assert unpaired.to_dict()["names"] == [f"nut/ground_truth/scratch/90{i}_mask.png" for i in range(5)]
    assert (missing.count, unpaired.count) == (5, 5)


def test_a_copy_is_held_against_the_first_of_its_content(mvtec: Path) -> None:
    for name in ("nut/test/good/new.png", "bolt/train/good/zzz.png", "nut/test/scratch/000.png"):
        shutil.copy(mvtec / "bolt/train/good/001.png", mvtec / name)
    assert [(f.kind, f.message.split(": ")[1]) for f in findings(mvtec)] == [
        ("duplicate", "bolt/train/good/zzz.png = bolt/train/good/001.png"),
        ("leak", "nut/test/good/new.png = bolt/train/good/001.png, "
                 "nut/test/scratch/000.png = bolt/train/good/001.png"),
    ]  # fmt: skip


def test_a_validation_image_that_is_learnt_from_is_a_leak(mvtec: Path) -> None:
    (mvtec / "nut/validation/good").mkdir(parents=True)
    shutil.copy(mvtec / "nut/train/good/000.png", mvtec / "nut/validation/good/000.png")
    assert kinds(mvtec) == [("nut", "leak")]


def test_a_folder_that_no_list_uses_is_found(mvtec: Path) -> None:
    for i in range(2):
        image(mvtec / "01/photos" / f"{i}.png", 900 + i)
    (found,) = findings(mvtec)
    assert (found.kind, found.class_name, found.count) == ("unlisted", "", 2)
    assert found.names == ["01/photos/0.png", "01/photos/1.png"]
    assert found.describe().startswith("unlisted: 2 pictures are not a part of the data set")


@pytest.mark.parametrize(("name", "good"), [("aaa", "ok"), ("zzz", "good/rgb")])
def test_classes_of_several_layouts_are_refused(mvtec: Path, name: str, good: str) -> None:
    """One of them would be read, and the others left out."""
    image(mvtec / name / "train" / good / "0.png", 900)
    with pytest.raises(InputError, match="classes of several layouts") as caught:
        load_dataset(mvtec)
    assert f"{name} (" in caught.value.what
    assert "(mvtec)" in caught.value.what


def test_pictures_of_a_format_that_is_not_read_are_counted(mvtec: Path) -> None:
    for name in ("a.heic", "b.GIF", ".hidden.heic", "notes.txt"):
        (mvtec / "nut/train/good" / name).touch()
    (found,) = findings(mvtec)
    assert "2 pictures are not a part of the data set (2 in a format that is not read)" in found.message


def test_too_few_good_images_to_hold_out_are_counted(tmp_path: Path) -> None:
    """With 80 to learn from 32 can be held out; a data set's own validation images add to them."""

    def found(root: Path) -> list[str]:
        return [f.message for f in check_dataset(load_dataset(root)).findings]

    for i in range(79):
        image(tmp_path / "nut/train/good" / f"{i}.png", i, (4, 4))
    assert found(tmp_path) == [
        "79 good images to learn from leave 31 that a network never saw: gate and threshold need 32"
    ]
    image(tmp_path / "nut/validation/good/0.png", 100, (4, 4))
    assert found(tmp_path) == []
    shutil.move(tmp_path / "nut/validation/good/0.png", tmp_path / "nut/train/good/79.png")
    assert found(tmp_path) == []


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
    assert (dent.label, [mask.name for mask in dent.masks]) == ("dent", ["000_mask.png"])

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
        (
            lambda p: (p / "a/b").mkdir(parents=True),
            "looked in it .*visa: split_csv.*mvtec: train/good.*folder: images",
        ),
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
    names = [sample.name for sample in samples]
    assert one_size(read_sizes(samples), names) == (16, 12)
    image(samples[1].path, 1, (10, 10))
    assert read_sizes(samples) == [(16, 12), (10, 10), (16, 12)]
    with pytest.raises(InputError, match=r"2 of 16x12 .*000.png\), 1 of 10x10 .*001.png"):
        one_size(read_sizes(samples), names)
    with pytest.raises(InputError, match="no images"):
        one_size([], [])
    samples[1].path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"001\.png"):
        read_sizes(samples)


def test_content_hashes_are_those_of_the_files(mvtec: Path) -> None:
    samples = load_dataset(mvtec).classes[0].train
    assert content_hashes(samples) == [sha256_file(s.path) for s in samples]
    samples[0].path.unlink()
    with pytest.raises(InputError, match=r"000\.png"):
        content_hashes(samples)


def test_an_image_with_several_masks_is_checked_for_each(tmp_path: Path) -> None:
    """MVTec LOCO: one mask a defect; a black one among others is fine, all black is not."""
    root = tmp_path / "pushpins"
    image(root / "train/good/000.png", 0)
    for i in range(2):
        image(root / f"test/logical_anomalies/{i:03d}.png", 10 + i)
        mask(root / f"ground_truth/logical_anomalies/{i:03d}/000.png", value=0)
    mask(root / "ground_truth/logical_anomalies/000/001.png", value=3)
    (found,) = findings(root)
    assert (found.kind, found.names) == ("mask-empty", ["test/logical_anomalies/001.png"])

    mask(root / "ground_truth/logical_anomalies/001/001.png", (12, 16))
    (found,) = findings(root)
    assert found.message == (
        "1 mask has another size than its image: test/logical_anomalies/001.png (12x16 for 16x12)"
    )


def test_a_defect_whose_masks_mark_nothing_has_no_truth(mvtec: Path) -> None:
    """As nowhere anomalous it would count against every pixel metric; without a truth it is left out and counted."""
    mask(mvtec / "nut/ground_truth/scratch/000_mask.png", value=0)
    good, _, empty, marked = load_dataset(mvtec).classes[1].test
    frame = FrameSpec(16, 12, 3)
    assert read_truth(empty, frame) is None
    truths = [read_truth(sample, frame) for sample in (good, marked)]
    assert [truth is not None and truth.any() for truth in truths] == [False, True]
    mask(mvtec / "nut/ground_truth/scratch/001_mask.png", (12, 16))
    with pytest.raises(InputError, match=r"001_mask\.png is 12x16, its image 16x12"):
        read_truth(marked, frame)
