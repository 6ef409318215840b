from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.session_cycles import grow, main, slope


def test_the_slope_of_a_process_that_grows_and_of_one_that_does_not() -> None:
    cycles = np.arange(1, 201) * 50.0
    noise = np.random.default_rng(0).normal(0, 1e5, 200)
    for a_cycle in (0.0, 4096.0):
        told = slope(np.column_stack([cycles, 1e8 + a_cycle * cycles + noise]))
        assert told["bytes_a_cycle"] == pytest.approx(a_cycle, abs=3 * told["standard_error"])
        assert 0 < told["standard_error"] < 10


def test_what_is_kept_is_seen() -> None:
    kept = []
    seen = grow(lambda: kept.append(bytearray(1 << 20)), 100)
    assert len(seen) == 100
    assert slope(seen)["bytes_a_cycle"] == pytest.approx(1 << 20, rel=0.2)


def test_it_runs_on_an_engine(tiny_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_engine), "--cycles", "60", "--json", str(tmp_path / "cycles.json")]) == 0
    report = json.loads((tmp_path / "cycles.json").read_text())
    assert report["cycles"] == 60
    assert str(tmp_path) not in json.dumps(report)
    assert "bytes a cycle" in capsys.readouterr().out


def test_bad_input_exits_2(tiny_engine: Path, tmp_path: Path) -> None:
    assert main([str(tiny_engine), "--cycles", "3"]) == 2
    assert main([str(tmp_path / "absent.engine")]) == 2
