"""A small tree of every layout, in the exact form in which it is published, and what is to be read of it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agp_edge.datasets.images import write_png
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
