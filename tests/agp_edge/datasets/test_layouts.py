"""Every layout, from a small tree built in its exact form, through `load_dataset`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.datasets import LAYOUTS, ClassData, check_dataset, load_dataset
from agp_edge.datasets.images import read_truth, write_png
from agp_edge.errors import InputError
from agp_edge.frame import FrameSpec

WIDTH, HEIGHT = 8, 6
FRAME = FrameSpec(WIDTH, HEIGHT, 3)

Listed = list[tuple[str, str, list[str]]]
"""Name, label and masks of samples, all relative to the data set's root."""


def images(root: Path, *names: str) -> None:
    """Write different images; the suffix is the format."""
    import cv2

    for name in names:
        seed = zlib.crc32(str((root / name).parts[-6:]).encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), pixels)


def mask(root: Path, name: str, *columns: int, value: int = 255) -> None:
    """Write a mask that marks whole columns; none of a black one."""
    pixels = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    pixels[:, columns] = value
    write_png(root / name, pixels)


@dataclass
class Tree:
    """How a published data set looks, and what is to be read of it.

    Attributes:
        layout: its name.
        build: writes it to a folder.
        one_class: the folder of one class, relative to the root; its name is the class's.
        train, validation, test: of the class `one_class`, names relative to the root.
        classes: all of them.
        layout_of_class: of `one_class` alone, where it is another.
        aside: folder -> pictures in it that the layout does not use.
    """

    layout: str
    build: Callable[[Path], None]
    one_class: str
    train: list[str]
    test: Listed
    classes: list[str]
    validation: list[str] = field(default_factory=list)
    layout_of_class: str | None = None
    aside: dict[str, int] = field(default_factory=dict)


def build_mvtec(root: Path) -> None:
    for c in ("bottle", "cable"):
        images(root / c, "train/good/000.png", "train/good/001.png", "test/good/000.png")
        images(root / c, "test/broken_large/000.png", "test/broken_large/001.png")
        # Pairing by order would swap these: 001's mask comes before that of 000.
        mask(root / c, "ground_truth/broken_large/000_mask.png", 0)
        mask(root / c, "ground_truth/broken_large/001_mask.png", 1)
    (root / "license.txt").write_text("CC BY-NC-SA")


def build_visa(root: Path) -> None:
    rows = ["object,split,label,image,mask"]
    for c in ("candle", "pcb1"):
        data = f"{c}/Data"
        images(root / data / "Images/Normal", "0000.JPG", "0001.JPG", "0002.JPG")
        images(root / data / "Images/Anomaly", "000.JPG", "001.JPG")
        for i in range(2):
            mask(root / data, f"Masks/Anomaly/{i:03d}.png", i, value=i + 1)
        (root / c / "image_anno.csv").write_text("image,label,mask\n")
        rows += [f"{c},train,normal,{data}/Images/Normal/{i:04d}.JPG," for i in (2, 0)]
        rows += [f"{c},test,normal,{data}/Images/Normal/0001.JPG,"]
        rows += [
            f"{c},test,anomaly,{data}/Images/Anomaly/{i:03d}.JPG,{data}/Masks/Anomaly/{i:03d}.png"
            for i in (1, 0)
        ]
    rows += ["fryum,train,normal,fryum/Data/Images/Normal/0000.JPG,"]
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\r\n".join(rows) + "\r\n")
    (root / "split_csv/2cls_fewshot.csv").write_text(rows[0])


def build_visa_1cls(root: Path) -> None:
    for c in ("candle", "pcb1"):
        home = root / "1cls" / c
        images(home, "train/good/0000.JPG", "test/good/0001.JPG", "test/bad/000.JPG", "test/bad/001.JPG")
        for i in range(2):
            mask(home, f"ground_truth/bad/{i:03d}.png", i, value=1)


def build_mvtec_3d(root: Path) -> None:
    for c in ("bagel", "rope"):
        for part, labels in (
            ("train", ["good"]),
            ("validation", ["good"]),
            ("test", ["crack", "good"]),
        ):
            for label in labels:
                home = root / c / part / label
                images(home, "rgb/000.png", "rgb/001.png")
                for i in range(2):
                    (home / "xyz").mkdir(exist_ok=True)
                    (home / f"xyz/{i:03d}.tiff").write_bytes(b"II*\0 depth, never opened")
                    if part == "test":
                        mask(home, f"gt/{i:03d}.png", *([i] if label == "crack" else []))
        (root / c / "calibration").mkdir()


def build_btad(root: Path) -> None:
    for c, suffix in (("01", ".bmp"), ("02", ".png"), ("03", ".bmp")):
        images(root / c, f"train/ok/0000{suffix}", f"test/ok/0000{suffix}")
        images(root / c, f"test/ko/0000{suffix}", f"test/ko/0001{suffix}")
        for i in range(2):
            mask(root / c, f"ground_truth/ko/{i:04d}.png", i)


def build_mvtec_ad_2(root: Path) -> None:
    for c in ("can", "rice"):
        images(root / c, "train/good/000_regular.png", "validation/good/000_regular.png")
        images(
            root / c / "test_public", "good/000_regular.png", "bad/000_regular.png", "bad/000_overexposed.png"
        )
        mask(root / c, "test_public/ground_truth/bad/000_regular_mask.png", 0)
        mask(root / c, "test_public/ground_truth/bad/000_overexposed_mask.png", 1)
        images(root / c, "test_private/000.png", "test_private/001.png", "test_private_mixed/000.png")


def build_mvtec_loco(root: Path) -> None:
    for c in ("juice_bottle", "pushpins"):
        images(root / c, "train/good/000.png", "validation/good/000.png", "test/good/000.png")
        for kind in ("logical_anomalies", "structural_anomalies"):
            images(root / c / "test" / kind, "000.png", "001.png")
            mask(root / c / "ground_truth" / kind, "000/000.png", 0, value=201)
            mask(root / c / "ground_truth" / kind, "001/000.png", 1, value=7)
            mask(root / c / "ground_truth" / kind, "001/001.png", 4, value=9)
        (root / c / "defects_config.json").write_text("[]")


def real_iad_entry(c: str, image: str, kind: str, mask_path: str | None = None) -> dict[str, Any]:
    return {"category": c, "anomaly_class": kind, "image_path": image, "mask_path": mask_path}


def build_real_iad(root: Path) -> None:
    for c in ("audiojack", "zipper"):
        home = root / "realiad_256" / c
        good = [f"OK/S000{i}/{c}_000{i}_OK_C1_2023.jpg" for i in range(3)]
        bad = [f"NG/BX/S0009/{c}_0009_NG_BX_C{i}_2023.jpg" for i in (1, 2)]
        images(home, *good, *bad)
        shape = bad[0].replace(".jpg", ".png")
        mask(home, shape, 2)
        lists = {
            "meta": {"prefix": f"{c}/", "normal_class": "OK", "pre_transform": None},
            "train": [real_iad_entry(c, name, "OK") for name in (good[2], good[0])],
            # The second view of the bad part does not show its defect, and has no mask.
            "test": [
                real_iad_entry(c, good[1], "OK"),
                real_iad_entry(c, bad[0], "BX", shape),
                real_iad_entry(c, bad[1], "BX"),
            ],
        }
        for split in ("realiad_jsons", "realiad_jsons_sv"):
            path = root / "realiad_jsons" / split / f"{c}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(lists if split == "realiad_jsons" else {"meta": "another split"}))


def build_folder(root: Path) -> None:
    images(root, "good/a b.png", "good/ü.png", "dent/Ä 1.PNG", "dent/2.png")
    mask(root, "ground_truth/dent/Ä 1_mask.png", 0)
    mask(root, "ground_truth/dent/2.png", 1)


TREES = [
    Tree(
        "mvtec", build_mvtec, "bottle", ["bottle/train/good/000.png", "bottle/train/good/001.png"],
        [
            ("bottle/test/broken_large/000.png", "broken_large", ["bottle/ground_truth/broken_large/000_mask.png"]),
            ("bottle/test/broken_large/001.png", "broken_large", ["bottle/ground_truth/broken_large/001_mask.png"]),
            ("bottle/test/good/000.png", "good", []),
        ],
        ["bottle", "cable"],
    ),
    Tree(
        "visa", build_visa, "candle",
        ["candle/Data/Images/Normal/0000.JPG", "candle/Data/Images/Normal/0002.JPG"],
        [
            ("candle/Data/Images/Anomaly/000.JPG", "anomaly", ["candle/Data/Masks/Anomaly/000.png"]),
            ("candle/Data/Images/Anomaly/001.JPG", "anomaly", ["candle/Data/Masks/Anomaly/001.png"]),
            ("candle/Data/Images/Normal/0001.JPG", "good", []),
        ],
        ["candle", "pcb1"],
    ),
    Tree(
        "visa-1cls", build_visa_1cls, "1cls/candle", ["1cls/candle/train/good/0000.JPG"],
        [
            ("1cls/candle/test/bad/000.JPG", "bad", ["1cls/candle/ground_truth/bad/000.png"]),
            ("1cls/candle/test/bad/001.JPG", "bad", ["1cls/candle/ground_truth/bad/001.png"]),
            ("1cls/candle/test/good/0001.JPG", "good", []),
        ],
        ["candle", "pcb1"],
        layout_of_class="mvtec",
    ),
    Tree(
        "mvtec-3d", build_mvtec_3d, "bagel",
        ["bagel/train/good/rgb/000.png", "bagel/train/good/rgb/001.png"],
        [
            ("bagel/test/crack/rgb/000.png", "crack", ["bagel/test/crack/gt/000.png"]),
            ("bagel/test/crack/rgb/001.png", "crack", ["bagel/test/crack/gt/001.png"]),
            ("bagel/test/good/rgb/000.png", "good", ["bagel/test/good/gt/000.png"]),
            ("bagel/test/good/rgb/001.png", "good", ["bagel/test/good/gt/001.png"]),
        ],
        ["bagel", "rope"],
        validation=["bagel/validation/good/rgb/000.png", "bagel/validation/good/rgb/001.png"],
        aside={
            "bagel/test/crack/xyz": 2, "bagel/test/good/xyz": 2, "bagel/train/good/xyz": 2,
            "bagel/validation/good/xyz": 2,
        },
    ),
    Tree(
        "btad", build_btad, "01", ["01/train/ok/0000.bmp"],
        [
            ("01/test/ko/0000.bmp", "ko", ["01/ground_truth/ko/0000.png"]),
            ("01/test/ko/0001.bmp", "ko", ["01/ground_truth/ko/0001.png"]),
            ("01/test/ok/0000.bmp", "good", []),
        ],
        ["01", "02", "03"],
    ),
    Tree(
        "mvtec-ad-2", build_mvtec_ad_2, "can", ["can/train/good/000_regular.png"],
        [
            (
                "can/test_public/bad/000_overexposed.png", "bad",
                ["can/test_public/ground_truth/bad/000_overexposed_mask.png"],
            ),
            ("can/test_public/bad/000_regular.png", "bad", ["can/test_public/ground_truth/bad/000_regular_mask.png"]),
            ("can/test_public/good/000_regular.png", "good", []),
        ],
        ["can", "rice"],
        validation=["can/validation/good/000_regular.png"],
        aside={"can/test_private": 2, "can/test_private_mixed": 1},
    ),
    Tree(
        "mvtec-loco", build_mvtec_loco, "pushpins", ["pushpins/train/good/000.png"],
        [
            ("pushpins/test/good/000.png", "good", []),
            *(
                (f"pushpins/test/{kind}/{i:03d}.png", kind, [
                    f"pushpins/ground_truth/{kind}/{i:03d}/{j:03d}.png" for j in range(i + 1)
                ])
                for kind in ("logical_anomalies", "structural_anomalies") for i in range(2)
            ),
        ],
        ["juice_bottle", "pushpins"],
        validation=["pushpins/validation/good/000.png"],
    ),
    Tree(
        "real-iad", build_real_iad, "realiad_256/audiojack",
        [f"realiad_256/audiojack/OK/S000{i}/audiojack_000{i}_OK_C1_2023.jpg" for i in (0, 2)],
        [
            (
                "realiad_256/audiojack/NG/BX/S0009/audiojack_0009_NG_BX_C1_2023.jpg", "BX",
                ["realiad_256/audiojack/NG/BX/S0009/audiojack_0009_NG_BX_C1_2023.png"],
            ),
            ("realiad_256/audiojack/NG/BX/S0009/audiojack_0009_NG_BX_C2_2023.jpg", "good", []),
            ("realiad_256/audiojack/OK/S0001/audiojack_0001_OK_C1_2023.jpg", "good", []),
        ],
        ["audiojack", "zipper"],
    ),
]  # fmt: skip


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


def test_only_the_unpacked_classes_of_visa_are_listed(tmp_path: Path) -> None:
    build_visa(tmp_path)
    assert "fryum" in (tmp_path / "split_csv/1cls.csv").read_text()
    (tmp_path / "fryum").mkdir()
    assert [c.name for c in load_dataset(tmp_path).classes] == ["candle", "fryum", "pcb1"]


def test_a_listed_image_that_is_not_there_is_found(tmp_path: Path) -> None:
    build_visa(tmp_path)
    (tmp_path / "pcb1/Data/Images/Anomaly/001.JPG").unlink()
    found = [f for f in check_dataset(load_dataset(tmp_path)).findings if f.kind != "few-good"]
    assert [(f.class_name, f.kind, f.names) for f in found] == [
        ("pcb1", "unreadable", ["pcb1/Data/Images/Anomaly/001.JPG"])
    ]


def test_a_view_that_no_list_of_visa_has_is_found(tmp_path: Path) -> None:
    build_visa(tmp_path)
    images(tmp_path, "pcb1/Data/Images/Normal/0099.JPG")
    mask(tmp_path, "pcb1/Data/Masks/Anomaly/099.png", 0)
    found = [f for f in check_dataset(load_dataset(tmp_path)).findings if f.kind != "few-good"]
    assert [(f.class_name, f.kind) for f in found] == [("pcb1", "mask-unpaired"), ("pcb1", "unlisted")]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("candle,test,anomaly,../candle/0.JPG,", "'../candle/0.JPG', which is not inside"),
        ("candle,test,anomaly,/etc/0.JPG,", "'/etc/0.JPG', which is not inside"),
        ("candle,test,normal,,", "'', which is not inside"),
        ("candle,test,,candle/0.JPG,", "1cls.csv:12 has split 'test' with label ''"),
        ("candle,valid,normal,candle/0.JPG,", "split 'valid'"),
        ("candle,train,anomaly,candle/0.JPG,", "split 'train' with label 'anomaly'"),
    ],
)
def test_a_wrong_row_of_visa_is_refused_with_its_place(tmp_path: Path, row: str, says: str) -> None:
    build_visa(tmp_path)
    path = tmp_path / "split_csv/1cls.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:11], row]) + "\n")
    with pytest.raises(InputError) as caught:
        load_dataset(tmp_path)
    assert says in caught.value.what


def test_what_is_no_csv_of_visa_is_refused(tmp_path: Path) -> None:
    build_visa(tmp_path)
    path = tmp_path / "split_csv/1cls.csv"
    path.write_text("object,split,label\n")
    with pytest.raises(InputError, match="no column image, mask"):
        load_dataset(tmp_path)
    path.write_bytes(b"\xff\xfe\x00object")
    with pytest.raises(InputError, match="is no CSV"):
        load_dataset(tmp_path)


def real_iad_json(root: Path) -> Path:
    return root / "realiad_jsons/realiad_jsons/zipper.json"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda j: j["test"][0].update(image_path="../../x.jpg"), "test[0] names the file '../../x.jpg'"),
        (lambda j: j["test"][0].update(mask_path=3), "test[0] lacks image_path, mask_path or anomaly_class"),
        (lambda j: j["train"].append("x"), "train[2] lacks"),
        (lambda j: j["train"][1].update(anomaly_class="BX"), "train[1] gives an image of 'BX' to learn from"),
        (lambda j: j["meta"].pop("normal_class"), "lacks meta.prefix, meta.normal_class"),
        (lambda j: j.pop("test"), "train or test"),
        (lambda j: j["meta"].update(prefix="/"), "meta.prefix names the file '/'"),
    ],
)
def test_a_wrong_json_of_real_iad_is_refused(
    tmp_path: Path, spoil: Callable[[Any], object], says: str
) -> None:
    build_real_iad(tmp_path)
    path = real_iad_json(tmp_path)
    lists = json.loads(path.read_text())
    spoil(lists)
    path.write_text(json.dumps(lists))
    with pytest.raises(InputError) as caught:
        load_dataset(tmp_path)
    assert says in caught.value.what
    path.write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        load_dataset(tmp_path)


def test_real_iad_in_two_sizes_is_refused_and_one_of_them_is_read(tmp_path: Path) -> None:
    build_real_iad(tmp_path)
    images(tmp_path, "realiad_1024/zipper/OK/S0000/a.jpg")
    with pytest.raises(InputError, match="realiad_1024, realiad_256"):
        load_dataset(tmp_path)
    dataset = load_dataset(tmp_path / "realiad_256")
    assert [c.name for c in dataset.classes] == ["audiojack", "zipper"]
    assert dataset.classes[0].train[0].name.startswith("audiojack/OK/S0000/")


def test_a_split_beside_the_classes_of_real_iad_comes_first(tmp_path: Path) -> None:
    build_real_iad(tmp_path)
    lists = json.loads(real_iad_json(tmp_path).read_text())
    lists["train"].pop()
    (tmp_path / "realiad_256/zipper.json").write_text(json.dumps(lists))
    assert [len(c.train) for c in load_dataset(tmp_path).classes] == [2, 1]


def test_folders_called_ok_and_ng_alone_are_not_real_iad(tmp_path: Path) -> None:
    images(tmp_path, "part/OK/0.png", "part/NG/0.png")
    with pytest.raises(InputError, match="recognised"):
        load_dataset(tmp_path)
