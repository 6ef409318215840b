from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks import web_viewers
from benchmarks.web_viewers import Viewers, compare, describe, interval, main, read_report


def test_an_interval_holds_the_median_and_is_narrow_where_all_agree() -> None:
    rng = random.Random(0)
    assert interval([1.2] * 5, rng) == {"median": 1.2, "low": 1.2, "high": 1.2}
    found = interval([0.9, 1.0, 1.1, 1.0, 1.0, 0.95, 1.05], rng)
    assert 0.9 <= found["low"] <= found["median"] <= found["high"] <= 1.1
    assert found["low"] < found["high"]


def test_each_round_is_held_against_the_one_without_viewers_of_its_turn() -> None:
    turns = []
    for base, factor in [(10.0, 2.0), (40.0, 2.0), (20.0, 2.0)]:
        rounds = {0: base, 1: base, 50: base * factor}
        turns.append({n: {"p50_ms": ms, "p99_ms": 2 * ms, "frames_per_s": 30.0} for n, ms in rounds.items()})
    ratios = compare(turns)
    assert ratios["50"]["p50_ms"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert ratios["1"]["frames_per_s"]["median"] == 1.0


def test_it_runs_on_an_engine(tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_viewers, "VIEWERS", (0, 2))
    monkeypatch.setattr(web_viewers, "SETTLE_S", 0.2)
    seen = []
    close = Viewers.close

    def closing(self: Viewers) -> dict[str, float]:
        seen.append(close(self))
        return seen[-1]

    monkeypatch.setattr(Viewers, "close", closing)
    result = tmp_path / "viewers.json"
    assert main([str(tiny_engine), "--rounds", "3", "--seconds", "1", "--json", str(result)]) == 0
    report = read_report(result)
    assert [sorted(each["viewers"] for each in turn) for turn in report["turns"]] == [[0, 2]] * 3
    assert all(each["n"] > 0 for turn in report["turns"] for each in turn)
    assert sum(each["pictures"] for each in seen) > 0, "they looked"
    counts = report["stream"]
    assert counts["captured"] == counts["judged"] + counts["dropped"] + counts["failed"]
    assert str(tmp_path) not in json.dumps(report)
    assert describe(report).count("\n| ") == 3


def test_bad_input_exits_2(tiny_engine: Path, tmp_path: Path) -> None:
    assert main([str(tiny_engine), "--rounds", "1"]) == 2
    assert main([str(tmp_path / "absent.engine")]) == 2
    assert main([]) == 2
