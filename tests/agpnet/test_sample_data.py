"""The sample data: real photographs, drawn defects, no test pixel trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agp_edge.datasets import check_dataset, load_dataset
from agp_edge.datasets.images import read_image, read_mask
from agp_edge.errors import InputError
from agpnet.sample_data import DEFECTS, FRAME_SIZE, SURFACES, SampleCounts, make_sample_data

COUNTS = SampleCounts(train=4, test_good=2, test_defect=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_sample_data(root, counts=COUNTS)
    return root


def test_it_is_a_data_set_without_findings(data: Path) -> None:
    dataset = load_dataset(data)
    assert dataset.layout == "mvtec"
    assert [c.name for c in dataset.classes] == sorted(SURFACES)
    for surface in dataset.classes:
        assert len(surface.train) == 4
        labels = [s.label for s in surface.test]
        assert {label: labels.count(label) for label in set(labels)} == {
            "good": 2,
            **dict.fromkeys(DEFECTS, 2),
        }
        assert all(len(s.masks) == 1 for s in surface.test if not s.good)
    found = check_dataset(dataset)
    assert {f.kind for f in found.findings} == {"few-good"}, "four images are few; nothing else is amiss"
    assert {size for sizes in found.sizes.values() for size in sizes} == {(FRAME_SIZE, FRAME_SIZE)}


def test_a_defect_is_where_its_mask_is(data: Path) -> None:
    for sample in (s for c in load_dataset(data).classes for s in c.test if s.masks):
        (path,) = sample.masks
        mask = read_mask(path)
        share = mask.mean()
        assert 0.0005 < share < 0.2, sample.name
        image = read_image(sample.path).astype(float)
        assert image.std() > 5, "a photograph, not a plane"
    with_colour = sum(
        np.ptp(read_image(s.path), axis=2).max() > 20 for c in load_dataset(data).classes for s in c.test
    )
    assert with_colour


def test_the_same_seed_gives_the_same_files(data: Path, tmp_path: Path) -> None:
    make_sample_data(tmp_path / "again", counts=COUNTS)
    make_sample_data(tmp_path / "other", counts=COUNTS, seed=1)

    def contents(root: Path) -> dict[str, bytes]:
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.png")}

    assert contents(tmp_path / "again") == contents(data)
    other = contents(tmp_path / "other")
    assert set(other) == set(contents(data))
    assert all(
        other[name] != content for name, content in contents(data).items() if "ground_truth" not in name
    )


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        make_sample_data(tmp_path, counts=COUNTS)
