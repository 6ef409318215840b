"""No crash, no mystery: thousands of spoilt engines, each of which opens and scores, or is refused in two lines with exit 4.

The cases are made and tried by `benchmarks.fuzz_engines`, in processes of their own: a crash or a hang is put down to its case.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from agp_edge.engines import get_backend, open_engine, read_sidecar
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.errors import ArtefactError
from agp_edge.files import parse_json, sha256_file, write_json
from benchmarks.engine_mutations import name_plan
from benchmarks.fuzz_engines import OPENED, REFUSED, Report, fuzz
from tests.agp_edge.engines.graphs import write_conv_model
from tests.conftest import TINY, TINY_NORMAL_SCORES, build_engine, write_brightness_model

pytest.importorskip("onnxruntime")

MUTATIONS = 3000


def hold(report: Report, mutations: int) -> Counter[str]:
    assert not report.bad, report.describe()
    assert [outcome.number for outcome in report.outcomes] == list(range(mutations))
    return Counter(outcome.result for outcome in report.outcomes)


def test_a_small_engine(tiny_engine: Path) -> None:
    report = fuzz(tiny_engine, MUTATIONS, seed=11, jobs=2)
    results = hold(report, MUTATIONS)
    # Some change nothing that matters; a mutation that is always refused would never reach ONNX Runtime's kernels.
    assert results[OPENED] > MUTATIONS / 20
    assert results[REFUSED] > MUTATIONS / 2
    kinds = {outcome.kind.split(":")[0] for outcome in report.outcomes}
    assert kinds == {"sidecar", "plan", "graph"}
    reasons = {outcome.detail for outcome in report.outcomes}
    assert len(reasons) > 10, "one check refuses everything"


def test_an_int8_engine_with_a_convolution(tmp_path: Path) -> None:
    model = write_conv_model(tmp_path / "model.onnx", "int8")
    engine = build_engine(model, TINY, TINY_NORMAL_SCORES)
    assert hold(fuzz(engine, 1000, seed=12, jobs=2), 1000)[OPENED] > 50


def test_the_same_seed_gives_the_same_cases(tiny_engine: Path) -> None:
    first, again, other = (fuzz(tiny_engine, 40, seed) for seed in (1, 1, 2))
    assert first.outcomes == again.outcomes
    assert first.outcomes != other.outcomes


# --- what cannot be read, beside what is spoilt ------------------------------------------------------


def test_a_sidecar_with_a_million_fields_is_refused_in_one_pass() -> None:
    data = "{" + ",".join(f'"k{i}":0' for i in range(200_000)) + ',"z":0,"z":1}'
    with pytest.raises(ArtefactError, match="key 'z' is there twice"):
        parse_json(data.encode(), "it")


def test_a_name_so_long_that_no_sidecar_fits_beside_it(tiny_engine: Path) -> None:
    engine = tiny_engine.rename(tiny_engine.with_name("x" * (255 - len(".engine")) + ".engine"))
    with pytest.raises(Exception, match="File name too long") as info:
        open_engine(engine)
    assert getattr(info.value, "exit_code", None) == 2


def test_a_plan_larger_than_memory(tiny_engine: Path) -> None:
    """A file of holes, larger than any address space that the process may have."""
    os.truncate(tiny_engine, 1 << 40)
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom agp_edge.engines import open_engine\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "try:\n    open_engine(Path(sys.argv[1]))\nexcept Exception as error:\n    print(error.exit_code, error.what)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_engine)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"4 there is too little memory here to load {tiny_engine}\n"
    assert done.stderr == ""


def test_onnx_runtime_prints_nothing_of_its_own(tiny_engine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It falls back from one provider to the same one, and would say so on stdout."""
    plan = tiny_engine.read_bytes().replace(b"anomaly_map", b"anomaly_m\xff\xfe")
    tiny_engine.write_bytes(plan)
    path = sidecar_path(tiny_engine)
    path.write_bytes(name_plan(plan, path.read_bytes()))
    with pytest.raises(ArtefactError) as info:
        open_engine(tiny_engine)
    assert info.value.what.isprintable()
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_gives_another_shape_than_ours_is_refused(tiny_engine: Path) -> None:
    import onnx

    graph = onnx.load(str(tiny_engine))
    for value in graph.graph.output:
        if value.name == "anomaly_map":
            del value.type.tensor_type.shape.dim[0]
    del graph.graph.value_info[:]
    plan = graph.SerializeToString()
    tiny_engine.write_bytes(plan)
    path = sidecar_path(tiny_engine)
    path.write_bytes(name_plan(plan, path.read_bytes()))
    with pytest.raises(ArtefactError) as info:
        open_engine(tiny_engine)
    assert info.value.exit_code == 4


def test_an_engine_of_openvino(tmp_path: Path) -> None:
    """Where it does not crash on a graph that is made to, it is because the graph is looked at before."""
    pytest.importorskip("openvino", reason="needs openvino: pip install 'agp-edge[openvino]'")
    model = write_brightness_model(tmp_path / "model.onnx", TINY)
    engine = build_engine(model, TINY, TINY_NORMAL_SCORES)
    plan = tmp_path / "tiny.fp32.openvino.engine"
    result = get_backend("openvino").build(model, plan, BuildOptions())
    sidecar = replace(
        read_sidecar(engine), backend="openvino", backend_version=result.backend_version,
        device=result.device, plan_sha256=sha256_file(plan), layers=result.layers,
    )  # fmt: skip
    write_json(sidecar_path(plan), sidecar.to_dict())
    assert hold(fuzz(plan, 300, seed=5, jobs=2), 300)[OPENED] > 10
