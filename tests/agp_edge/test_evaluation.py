from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets import load_dataset
from agp_edge.datasets.base import Dataset
from agp_edge.datasets.images import write_png
from agp_edge.engines import Session, open_engine
from agp_edge.engines.base import Inference
from agp_edge.errors import ArtefactError, InputError
from agp_edge.evaluation import METRICS, Evaluation, JudgedImage, count_verdicts, evaluate, merge
from agp_edge.frame import FrameSpec
from agp_edge.verdict import Judge

WIDTH, HEIGHT = 64, 48  # what `tiny_engine` takes; its map is the brightness of cells of 8x8 pixels


def part(path: Path, level: int, bright: int = 0) -> None:
    """A picture of one grey level, with one cell of 8x8 pixels that is brighter by `bright`."""
    pixels = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
    pixels[16:24, 24:32] += np.uint8(bright)
    write_png(path, pixels)


def cell_mask(path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    pixels[16:24, 24:32] = 255
    write_png(path, pixels)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Class a: a defect of two is not brighter than a good part; class b: all defects are."""
    root = tmp_path / "data"
    for name, bright in (("a", (100, 0)), ("b", (100, 100))):
        for i, level in enumerate((60, 70, 80)):
            part(root / name / "train/good" / f"{i}.png", level)
        for i, level in enumerate((60, 75)):
            part(root / name / "test/good" / f"{i}.png", level)
        for i, extra in enumerate(bright):
            part(root / name / "test/spot" / f"{i}.png", 50, extra)
            cell_mask(root / name / "ground_truth/spot" / f"{i}_mask.png")
    return root


@pytest.fixture
def session(tiny_engine: Path) -> Iterator[Session]:
    with open_engine(tiny_engine)[0] as opened:
        yield opened


def test_metrics_are_per_class_and_their_plain_mean(session: Session, data: Path) -> None:
    found = evaluate(session, load_dataset(data))
    a, b = found.classes["a"].values, found.classes["b"].values
    # Image scores of a: good 60, 75; defects 150, 50. Two of four pairs are in order.
    assert a["image_auroc"] == pytest.approx(0.5)
    assert a["image_ap"] == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    assert a["image_f1_max"] == pytest.approx(2 / 3)
    assert b["image_auroc"] == b["image_ap"] == b["image_f1_max"] == 1
    assert b["pixel_auroc"] == b["aupro"] == 1
    for key in METRICS:
        assert found.mean.values[key] == pytest.approx(((a[key] or 0) + (b[key] or 0)) / 2)
    assert (found.mean.n_good, found.mean.n_defect, found.mean.n_unmasked) == (4, 4, 0)


def test_the_json_has_the_agreed_shape(session: Session, data: Path) -> None:
    found = json.loads(json.dumps(evaluate(session, load_dataset(data), aupro_limit=0.05).to_dict()))
    assert set(found) == {"classes", "mean", "aupro_limit"}
    assert found["aupro_limit"] == 0.05
    assert set(found["classes"]) == {"a", "b"}
    for metrics in (*found["classes"].values(), found["mean"]):
        assert set(metrics) == {
            "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro",
            "n_good", "n_defect", "n_unmasked",
        }  # fmt: skip


def test_a_defect_without_a_mask_stays_out_of_pixel_metrics_alone(session: Session, data: Path) -> None:
    (data / "a/ground_truth/spot/1_mask.png").unlink()
    a = evaluate(session, load_dataset(data)).classes["a"]
    assert (a.n_defect, a.n_unmasked) == (2, 1)
    assert a.values["image_auroc"] == pytest.approx(0.5)
    # What is left is the bright spot: brighter than all else.
    assert a.values["pixel_auroc"] == a.values["aupro"] == 1


def test_a_mask_too_small_for_the_map_counts_as_no_mask(session: Session, data: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    pixels[0, 0] = 255
    write_png(data / "b/ground_truth/spot/0_mask.png", pixels)
    b = evaluate(session, load_dataset(data)).classes["b"]
    assert b.n_unmasked == 1
    assert b.values["aupro"] == 1


def test_only_good_images_allow_no_number(session: Session, data: Path) -> None:
    for file in (data / "a/test/spot").iterdir():
        file.unlink()
    found = evaluate(session, load_dataset(data))
    assert set(found.classes["a"].values.values()) == {None}
    assert found.mean.values["image_auroc"] == 1
    assert "-" in found.describe().splitlines()[2].split()
    assert "allow no number" in found.describe()


def test_the_table_fits_80_columns(session: Session, data: Path) -> None:
    (data / "a").rename(data / "a_class_with_a_very_long_name")
    (data / "b/ground_truth/spot/1_mask.png").unlink()
    text = evaluate(session, load_dataset(data)).describe()
    assert max(map(len, text.splitlines())) <= 80
    head, _, first, _, mean, *_ = text.splitlines()
    assert head.split() == ["class", "good", "defect", *METRICS.values()]
    assert first.startswith("a_class_with…  ")
    assert mean.split()[:3] == ["mean", "4", "4"]
    assert "1 defect images without a mask" in text


def test_only_chosen_maps_are_kept(session: Session, data: Path) -> None:
    dataset = load_dataset(data)
    assert all(image.anomaly_map is None for image in evaluate(session, dataset).images)

    def worst(images: object) -> list[JudgedImage]:
        assert isinstance(images, list)
        return [max(images, key=lambda image: image.score)]

    kept = [i for i in evaluate(session, dataset, keep=worst).images if i.anomaly_map is not None]
    assert [i.class_name for i in kept] == ["a", "b"]
    for image in kept:
        assert image.anomaly_map is not None
        assert image.anomaly_map.max() == pytest.approx(image.score)


def test_progress_counts_the_images_of_all_classes(session: Session, data: Path) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(session, load_dataset(data), progress=lambda done, total, note="": seen.append((done, total)))
    assert seen == [(i, 8) for i in range(1, 9)]


def test_verdicts_are_counted_at_the_threshold(session: Session, data: Path) -> None:
    found = evaluate(session, load_dataset(data))
    # The threshold, 0.27 of white, is 69 grey levels: the good ones at 75 are rejected, the defect at 50 missed.
    counts = count_verdicts(found.images, Judge([0.27]))
    assert (counts.false_rejects, counts.n_good, counts.misses, counts.n_defect) == (2, 4, 1, 4)
    assert "2 of 4 good images rejected, 1 of 4 defects missed" in counts.describe()


def test_a_frame_of_another_size_is_refused_with_both_sizes(session: Session, data: Path) -> None:
    write_png(data / "a/test/good/0.png", np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(InputError, match=r"0\.png is 40x30, the artefact takes 64x48") as caught:
        evaluate(session, load_dataset(data))
    assert caught.value.exit_code == 2
    assert "--frame-size 40x30" in caught.value.hint


def test_a_mask_of_another_size_is_refused(session: Session, data: Path) -> None:
    write_png(data / "a/ground_truth/spot/0_mask.png", np.ones((WIDTH, HEIGHT, 1), np.uint8))
    with pytest.raises(InputError, match=r"0_mask\.png is 48x64, its image 64x48"):
        evaluate(session, load_dataset(data))


def test_without_test_images_there_is_nothing_to_evaluate(session: Session, data: Path) -> None:
    with pytest.raises(InputError, match="no test images"):
        evaluate(session, load_dataset(data / "a/train/good"))


def test_a_limit_that_is_no_rate_is_refused(session: Session, data: Path) -> None:
    with pytest.raises(InputError, match=r"1\.5"):
        evaluate(session, load_dataset(data), aupro_limit=1.5)


class Broken(Session):
    """A session whose arithmetic overflowed."""

    frame = FrameSpec(WIDTH, HEIGHT, 3, batch=3)

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        return Inference(np.full(3, np.nan, np.float32), np.zeros((3, 6, 8), np.float32))

    def close(self) -> None:
        pass


def test_a_score_that_is_no_number_ends_it_with_the_image(data: Path) -> None:
    with pytest.raises(ArtefactError, match=r"not finite for a/test/good/0\.png"):
        evaluate(Broken(), load_dataset(data))


class Brightness(Session):
    """Mono, three frames a call, from one buffer that it writes again, at the frame's own resolution."""

    frame = FrameSpec(WIDTH, HEIGHT, 1, batch=3)

    def __init__(self) -> None:
        self._buffer = np.zeros((3, HEIGHT, WIDTH), np.float32)

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        self._buffer[:] = frames[..., 0] / 255
        return Inference(self._buffer.max(axis=(1, 2)), self._buffer)

    def close(self) -> None:
        pass


def test_batches_of_a_mono_session_give_the_same(session: Session, data: Path) -> None:
    found: Evaluation = evaluate(Brightness(), load_dataset(data))
    expected = evaluate(session, load_dataset(data))
    for key in METRICS:
        assert found.mean.values[key] == pytest.approx(expected.mean.values[key])


def test_the_curves_have_the_areas(session: Session, data: Path) -> None:
    found = evaluate(session, load_dataset(data))
    assert list(found.curves) == ["a", "b"]
    for name, curves in found.curves.items():
        values = found.classes[name].values
        assert curves.image_roc is not None
        assert curves.pixel_roc is not None
        assert curves.pro is not None
        # Few pixels: nothing was thinned.
        assert curves.image_roc.area() == pytest.approx(values["image_auroc"])
        assert curves.pixel_roc.area() == pytest.approx(values["pixel_auroc"])
        assert curves.pro.area(found.aupro_limit) == pytest.approx(values["aupro"])


def test_without_defects_there_are_no_curves(session: Session, data: Path) -> None:
    for file in (data / "a/test/spot").iterdir():
        file.unlink()
    curves = evaluate(session, load_dataset(data)).curves["a"]
    assert (curves.image_roc, curves.pixel_roc, curves.pro) == (None, None, None)


def test_classes_evaluated_apart_merge_to_the_whole(session: Session, data: Path) -> None:
    dataset = load_dataset(data)
    a, b = (evaluate(session, Dataset(dataset.root, dataset.layout, [d])) for d in dataset.classes)
    whole = evaluate(session, dataset)
    merged = merge([a, b])
    assert merged.to_dict() == whole.to_dict()
    assert merged.images == whole.images
    assert list(merged.curves) == list(whole.curves)
    assert list(merge([b, a]).classes) == ["b", "a"]
    assert (len(a.images), list(a.classes)) == (4, ["a"])  # what was merged is as it was


def test_what_has_no_common_mean_does_not_merge(session: Session, data: Path) -> None:
    dataset = load_dataset(data)
    found = evaluate(session, dataset)
    with pytest.raises(InputError, match="class a was evaluated twice"):
        merge([found, found])
    with pytest.raises(InputError, match=r"limits 0\.05, 0\.3"):
        merge([found, evaluate(session, dataset, aupro_limit=0.05)])
    with pytest.raises(ValueError, match="no evaluation"):
        merge([])
