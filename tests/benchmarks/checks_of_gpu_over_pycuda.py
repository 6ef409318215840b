"""The benchmark of a GPU over the binding that has no CUDA graphs, on stand-ins; run by test_gpu.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.checks_of_gpu import OURS, Measure, driver, measure, write_engine

__all__ = ["driver", "measure"]


@pytest.mark.usefixtures("driver")
def test_without_graphs(measure: Measure, tmp_path: Path) -> None:
    code, report = measure("--engines", write_engine(tmp_path, 2))
    assert code == 0
    assert report["binding"] == "pycuda"
    assert report["bindings"]["pycuda"]["works"]
    assert report["bindings"]["pycuda"]["checks"]["graph"] == "not offered: this binding has no graphs"
    (engine,) = report["engines"]
    assert set(engine["figures"]) == OURS | {"bare_queued"}
    assert engine["not_measured"]["bare_graph"] == "this binding of CUDA has no graphs"
    assert engine["runtime"]["cuda_graphs"] is False
