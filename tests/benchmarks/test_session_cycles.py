"""Each in a process of its own: what this one has in RAM is mostly what other tests have left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.session_cycles import main, slope

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_slope_of_a_process_that_grows_and_of_one_that_does_not() -> None:
    cycles = np.arange(1, 201) * 50.0
    noise = np.random.default_rng(0).normal(0, 1e5, 200)
    for a_cycle in (0.0, 4096.0):
        told = slope(np.column_stack([cycles, 1e8 + a_cycle * cycles + noise]))
        assert told["bytes_a_cycle"] == pytest.approx(a_cycle, abs=3 * told["standard_error"])
        assert 0 < told["standard_error"] < 10


def test_what_is_kept_is_seen() -> None:
    code = """
from benchmarks.session_cycles import grow, slope
kept = []
seen = grow(lambda: kept.append(bytearray(b"x") * (1 << 20)), 100)
assert len(seen) == 100
print(slope(seen)["bytes_a_cycle"])
"""
    assert float(run("-c", code)) == pytest.approx(1 << 20, rel=0.05)


def test_it_runs_on_an_engine(tiny_engine: Path, tmp_path: Path) -> None:
    result = tmp_path / "cycles.json"
    told = run("-m", "benchmarks.session_cycles", tiny_engine, "--cycles", 60, "--json", result)
    report = json.loads(result.read_text())
    assert report["cycles"] == 60
    assert str(tmp_path) not in json.dumps(report)
    assert "bytes a cycle" in told


def test_bad_input_exits_2(tiny_engine: Path, tmp_path: Path) -> None:
    assert main([str(tiny_engine), "--cycles", "3"]) == 2
    assert main([str(tmp_path / "absent.engine")]) == 2
