from __future__ import annotations

import json
from pathlib import Path

import pytest

from agp_edge.engines import get_backend
from agp_edge.errors import ArtefactError
from benchmarks.cpu_backends import ROWS, describe, main, read_report
from benchmarks.tables import KINDS

# Not `importorskip`: OpenVINO imported by itself sends a message over the network.
if get_backend("openvino").unavailable() is not None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)


def test_a_bundle_is_measured(
    calibrated_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cpu.json"
    assert main([str(out), "--bundle", str(calibrated_bundle), "--rounds", "10"]) == 0
    report = json.loads(out.read_text())
    here = [" ".join(row) for row in ROWS if get_backend(row[0]).refuses(row[1]) is None]
    assert list(report["gates"]) == sorted(here)
    assert set(report["not_measured"]) == {" ".join(row) for row in ROWS} - set(here)
    for threads in ("1", "2"):
        latency = report["latency"][threads]
        assert set(latency) == set(here)
        assert latency["onnxruntime fp32"]["over_first"] == {"ratio": 1.0, "low_95": 1.0, "high_95": 1.0}
        ratio = latency["openvino int8"]["over_first"]
        assert 0 < ratio["low_95"] <= ratio["ratio"] <= ratio["high_95"]
        assert latency["openvino int8"]["ms"]["n"] == 10
    assert all(gate["outcome"] == "passed" for gate in report["gates"].values())
    assert report["gates"]["onnxruntime fp32"]["drift_max"] == 0
    assert 0 < report["gates"]["openvino fp32"]["drift_max"] < 1e-4
    assert report["libraries"]["openvino"].startswith("openvino 20")
    assert report["machine"]
    told = capsys.readouterr().out
    assert told.strip() == KINDS["cpu-backends"](out).strip()
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith(("| ONNX", "| OpenVINO"))]
    assert rows[0][:2] == ["| ONNX Runtime", "fp32"]
    assert rows[0][2].endswith(" ms")
    assert len(rows) == len(here)


def test_bad_input_exits_2(
    calibrated_bundle: Path, exported_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cpu.json"
    assert main([str(out), "--bundle", str(calibrated_bundle), "--rounds", "3"]) == 2
    assert main([str(out), "--bundle", str(exported_bundle)]) == 2
    assert "has no int8 graph" in capsys.readouterr().err
    out.write_text("{}")
    with pytest.raises(ArtefactError, match="no result of benchmarks"):
        read_report(out)


def test_the_first_row_is_absolute_whatever_the_order_of_a_file(
    calibrated_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cpu.json"
    assert main([str(out), "--bundle", str(calibrated_bundle), "--rounds", "10"]) == 0
    report = json.loads(out.read_text())
    report["gates"] = dict(reversed(report["gates"].items()))
    table = [line for line in describe(report).splitlines() if line.startswith(("| ONNX", "| Open"))]
    assert table[0].startswith("| ONNX Runtime | fp32 |")
