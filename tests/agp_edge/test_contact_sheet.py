from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agp_edge.contact_sheet import (
    NG_COLOUR,
    OK_COLOUR,
    Row,
    choose_rows,
    draw_contact_sheet,
    load_rows,
    render_contact_sheet,
)
from agp_edge.datasets.base import Sample
from agp_edge.datasets.images import read_image, write_png
from agp_edge.evaluation import JudgedImage
from agp_edge.frame import FrameSpec


def judged(label: str, score: float, class_name: str = "nut") -> JudgedImage:
    name = f"{class_name}/test/{label}/{score:g}.png"
    return JudgedImage(class_name, Sample(Path(name), name, label), score)


def row(score: float, label: str = "good") -> Row:
    anomaly_map = np.full((8, 8), 0.1, np.float32)
    anomaly_map[2:4, 2:4] = score
    truth = np.zeros((40, 40), bool)
    truth[10:20, 10:20] = label != "good"
    return Row("nut", label, f"{label}.png", np.full((40, 40, 3), 128, np.uint8), anomaly_map, truth, score)


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour, np.uint8)).all(axis=2).sum())


def test_rows_are_spread_over_the_scores_of_each_kind() -> None:
    images = [judged("good", s) for s in (0.5, 0.1, 0.3, 0.2, 0.4)]
    images += [judged("dent", s) for s in (2.0, 1.0, 3.0)] + [judged("scratch", 9.0)]
    images += [judged("dent", 7.0, "bolt")]
    chosen = choose_rows(images, good=3, each_defect=2)
    assert [(i.class_name, i.sample.label, i.score) for i in chosen] == [
        ("bolt", "dent", 7.0),
        ("nut", "good", 0.1), ("nut", "good", 0.3), ("nut", "good", 0.5),
        ("nut", "dent", 1.0), ("nut", "dent", 3.0),
        ("nut", "scratch", 9.0),
    ]  # fmt: skip


def test_no_rows_can_be_asked_for_and_one_is_the_lowest() -> None:
    images = [judged("good", s) for s in (0.5, 0.1)]
    assert choose_rows(images, good=0) == []
    assert [i.score for i in choose_rows(images, good=1)] == [0.1]


def test_verdicts_differ_in_colour_and_in_fill() -> None:
    rejected = render_contact_sheet([row(0.9)], threshold=0.5, title="t")
    accepted = render_contact_sheet([row(0.4)], threshold=0.5, title="t")
    assert count(rejected, NG_COLOUR) > 1000  # a filled chip
    assert 0 < count(accepted, OK_COLOUR) < count(rejected, NG_COLOUR)  # an outline
    assert count(accepted, NG_COLOUR) == 0


def test_a_wrong_verdict_says_so_in_ink_of_its_own() -> None:
    missed = render_contact_sheet([row(0.4, "dent")], threshold=0.5, title="t")
    right = render_contact_sheet([row(0.4, "good")], threshold=0.5, title="t")
    assert count(missed, NG_COLOUR) > count(right, NG_COLOUR) == 0


def test_without_a_threshold_there_are_no_verdicts() -> None:
    picture = render_contact_sheet([row(0.9)], threshold=None, title="t")
    assert count(picture, NG_COLOUR) == count(picture, OK_COLOUR) == 0


def test_a_score_that_is_no_number_is_never_ok() -> None:
    picture = render_contact_sheet([replace(row(0.4), score=float("nan"))], threshold=0.5, title="t")
    assert count(picture, OK_COLOUR) == 0


def test_all_maps_share_one_scale() -> None:
    """The same value has the same colour, whatever else its own map holds."""
    cold, hot = row(0.1), row(5.0)
    sheet = render_contact_sheet([cold, hot], threshold=None, title="t")
    alone = render_contact_sheet([cold], threshold=None, title="t")
    y, x = 130, 24 + 220 + 12 + 200  # a corner of the first row's map, away from the spot
    other_row = y + 220 + 12
    np.testing.assert_array_equal(sheet[y, x], sheet[other_row, x])
    assert alone.shape[0] < sheet.shape[0]


def test_the_scale_reaches_the_threshold() -> None:
    """Far below a high threshold nothing may glow, however much it stands out in its own map."""
    y, x = 104 + round(2.5 / 8 * 220), 24 + 220 + 12 + round(2.5 / 8 * 220)
    glowing = render_contact_sheet([row(0.4)], threshold=None, title="t")[y, x]
    dark = render_contact_sheet([row(0.4)], threshold=10.0, title="t")[y, x]
    assert int(glowing.sum()) > 4 * int(dark.sum())


@pytest.mark.parametrize("size_wh", [(640, 480), (480, 640), (1000, 60), (20, 900)])
@pytest.mark.parametrize("channels", [1, 3])
def test_frames_of_any_shape_fit(tmp_path: Path, size_wh: tuple[int, int], channels: int) -> None:
    width, height = size_wh
    frame = np.zeros((height, width, channels), np.uint8)
    rows = [
        replace(row(0.9, "dent"), frame=frame, truth=None, name="ü" * 90),
        replace(row(0.2), frame=frame, truth=np.zeros((height, width), bool)),
    ]
    path = tmp_path / "new" / "sheet.png"
    draw_contact_sheet(rows, path, threshold=0.5, title="a title that is far too long " * 5)
    assert read_image(path).shape[1] <= 1100


def test_constant_maps_are_no_trouble() -> None:
    flat = replace(row(0.1), anomaly_map=np.zeros((4, 4), np.float32), score=0.0)
    assert render_contact_sheet([flat], threshold=0.0, title="t").any()
    with pytest.raises(ValueError, match="at least one row"):
        render_contact_sheet([], threshold=None, title="t")


def test_rows_are_loaded_where_a_map_was_kept(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.full((6, 8, 3), 7, np.uint8))
    sample = Sample(tmp_path / "a.png", "a.png", "dent")
    kept = JudgedImage("nut", sample, 0.5, np.zeros((3, 4), np.float32))
    (loaded,) = load_rows([replace(kept, anomaly_map=None), kept], FrameSpec(8, 6, 3))
    assert loaded.frame.shape == (6, 8, 3)
    assert (loaded.label, loaded.truth, loaded.score) == ("dent", None, 0.5)
