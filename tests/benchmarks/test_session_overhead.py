from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.session_overhead import main, ratio_of_medians, time_pairs


def test_both_run_on_the_same_frames_in_an_order_that_changes() -> None:
    asked: list[tuple[str, int]] = []
    queries = [np.full(1, number, np.uint8) for number in range(3)]
    times = time_pairs(
        lambda frames: asked.append(("ours", int(frames[0]))),
        lambda frames: asked.append(("bare", int(frames[0]))),
        queries, 60, np.random.default_rng(0),
    )  # fmt: skip

    assert times.shape == (60, 2)
    assert (times > 0).all()
    pairs = [asked[start : start + 2] for start in range(0, 120, 2)]
    assert all({name for name, _ in pair} == {"ours", "bare"} and pair[0][1] == pair[1][1] for pair in pairs)
    assert {pair[0][0] for pair in pairs} == {"ours", "bare"}


def test_the_ratio_and_its_interval() -> None:
    rng = np.random.default_rng(0)
    bare = rng.lognormal(0, 0.2, 2000)
    ratio = ratio_of_medians(np.column_stack([bare * 1.5, bare]), rng, draws=200)

    assert ratio == pytest.approx({"ratio": 1.5, "low_95": 1.5, "high_95": 1.5})
    noisy = ratio_of_medians(np.column_stack([rng.permutation(bare) * 1.5, bare]), rng, draws=200)
    assert noisy["low_95"] < 1.5 < noisy["high_95"]
    assert noisy["high_95"] - noisy["low_95"] < 0.1


def test_it_runs_on_an_engine(tiny_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "overhead.json"

    assert main([str(tiny_engine), "--pairs", "20", "--json", str(result)]) == 0
    report = json.loads(result.read_text())
    assert report["ours_ms"]["n"] == report["bare_ms"]["n"] == 20
    ratio = report["ours_over_bare"]
    assert 0 < ratio["low_95"] <= ratio["high_95"]
    assert "ratio of medians" in capsys.readouterr().out


def test_bad_input_exits_2(tiny_engine: Path, tmp_path: Path) -> None:
    assert main([str(tiny_engine), "--pairs", "3"]) == 2
    assert main([str(tmp_path / "absent.engine")]) == 2
