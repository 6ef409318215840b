"""Layouts that list their images in files of their own: VisA in a CSV, Real-IAD in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agp_edge.datasets import check_dataset, load_dataset
from agp_edge.errors import InputError
from tests.agp_edge.datasets.trees import build_real_iad, build_visa, images, mask


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
