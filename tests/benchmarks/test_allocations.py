from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.allocations import describe, main


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make a counter with")


def test_it_counts_in_a_process_of_its_own(
    tiny_engine: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "allocations.json"
    assert main([str(tiny_engine), "--frames", "200", "--json", str(result)]) == 0
    report = json.loads(result.read_text())
    ours, bare = report["per_frame"]["ours"], report["per_frame"]["bare"]
    assert 1 <= ours["allocations"] <= bare["allocations"]
    assert ours["largest_bytes"] > 0
    assert str(tmp_path) not in json.dumps(report)
    assert capfd.readouterr().out.splitlines() == describe(report).splitlines()


def test_bad_input_exits_2(tiny_engine: Path, tmp_path: Path) -> None:
    assert main([str(tiny_engine), "--frames", "3"]) == 2
    assert main([str(tmp_path / "absent.engine")]) == 2
