from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agp_edge.evaluation import evaluate
from benchmarks.evaluation_memory import DrawnMaps, draw_map, draw_truth, main, make_dataset


def test_it_measures_a_small_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.json"
    assert main([str(out), "--classes", "2", "--images", "10", "--size", "64"]) == 0
    report = json.loads(out.read_text())
    evaluation, pair = report["evaluation"], report["one_class"]
    assert evaluation["pixels"] == 2 * 10 * 64 * 64
    assert len(evaluation["seconds_per_class"]) == 2
    assert 0 < evaluation["rss_before_bytes"] <= evaluation["peak_rss_bytes"] < 1 << 30
    assert (evaluation["mean"]["n_good"], evaluation["mean"]["n_defect"]) == (6, 14)
    assert pair["largest_difference"] < 1e-6
    assert 0.5 < pair["ours"]["auroc"] < 1
    said = capsys.readouterr().out
    assert "2 classes of 10 images at 64x64" in said
    assert "scikit_learn" in said


def test_the_maps_belong_to_their_images(tmp_path: Path) -> None:
    """Were the maps handed out in another order than the masks, they would be at chance."""
    dataset = make_dataset(tmp_path, classes=1, images=8, size=64)
    (data,) = dataset.classes
    assert [sample.good for sample in data.test] == [False] * 6 + [True] * 2
    found = evaluate(DrawnMaps(0, [sample.good for sample in data.test], 64), dataset).mean
    assert (found.values["pixel_auroc"] or 0) > 0.75
    truth = draw_truth(3, 64)
    np.testing.assert_array_equal(draw_map(3, 64, truth), draw_map(3, 64, truth))
    assert draw_map(3, 64, truth)[truth].mean() > draw_map(3, 64, None)[truth].mean() + 0.4


def test_bad_input_exits_2(tmp_path: Path) -> None:
    assert main([str(tmp_path / "x.json"), "--images", "1"]) == 2
