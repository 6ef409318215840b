"""An engine that is built again: what the one before it wrote down is held against it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agp_edge.bundle import Bundle
from agp_edge.engines import get_backend, read_sidecar
from agp_edge.engines.builder import build_engine
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.errors import GateError
from agp_edge.frame import PRECISIONS

pytest.importorskip("onnxruntime")
# Not `importorskip`: OpenVINO imported by itself sends a message over the network.
if get_backend("openvino").unavailable() is not None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

Command = Callable[..., tuple[int, str, str]]
Reseal = Callable[[Path], None]

EVERYTHING = [
    (b, p) for b in ("onnxruntime", "openvino") for p in PRECISIONS if get_backend(b).refuses(p) is None
]


def spoil_scores(engine: Path, edit: Callable[[list[float]], list[float]]) -> None:
    """Let a sidecar say that its engine scored otherwise."""
    path = sidecar_path(engine)
    value = json.loads(path.read_text())
    value["normal_scores"] = sorted(edit(value["normal_scores"]))
    path.write_text(json.dumps(value))


def test_an_engine_that_is_built_again_and_answers_alike_says_nothing(bundle_copy: Path) -> None:
    for backend, precision in EVERYTHING:
        for _ in range(2):
            made = build_engine(Bundle(bundle_copy), precision, backend)
            assert made.sidecar.rebuilt is None


def test_a_rebuilt_engine_that_answers_otherwise_is_refused(bundle_copy: Path, command: Command) -> None:
    engine = build_engine(Bundle(bundle_copy), "fp32", "onnxruntime").path
    spoil_scores(engine, lambda scores: [score * 0.9 for score in scores])
    before = {p.name: p.read_bytes() for p in bundle_copy.parent.iterdir() if p.is_file()}
    build = ["build-engine", bundle_copy, "--backend", "onnxruntime", "--precision", "fp32"]
    code, out, err = command(*build)
    assert (code, out) == (3, "")
    assert "part.fp32.onnxruntime.engine: it answers otherwise than the engine of onnxruntime" in err
    assert "--accept REASON" in err
    assert {p.name: p.read_bytes() for p in bundle_copy.parent.iterdir() if p.is_file()} == before
    code, out, _ = command(*build, "--accept", "a new runtime")
    assert code == 0
    assert "it answers otherwise" in out
    sidecar = read_sidecar(engine)
    assert sidecar.accepted == "a new runtime"
    assert sidecar.rebuilt is not None
    assert sidecar.rebuilt.drift_max > 1e-3
    assert sidecar.rebuilt.previous == sidecar.plan_sha256
    assert "rebuilt    it answers otherwise" in command("inspect", engine)[1]
    assert read_sidecar(build_engine(Bundle(bundle_copy), "fp32", "onnxruntime").path).rebuilt is None, (
        "as before"
    )


def test_what_moves_less_than_the_allowance_is_said_and_kept(bundle_copy: Path, command: Command) -> None:
    engine = build_engine(Bundle(bundle_copy), "int8", "openvino").path
    report = read_sidecar(engine).gate
    assert report is not None
    # The lowest score alone: neither threshold nor median moves, and so no verdict.
    spoil_scores(engine, lambda scores: [scores[0] - 0.3 * report["gap"], *scores[1:]])
    code, out, _ = command(
        "build-engine", bundle_copy, "--backend", "openvino", "--precision", "int8", "--json", "-"
    )
    assert code == 0
    (told,) = json.loads(out)["engines"]
    assert told["rebuilt"]["drift_max"] == pytest.approx(0.3, abs=0.05)
    assert told["rebuilt"]["flips"] == []
    assert told["accepted"] is None


def test_a_verdict_that_the_rebuild_changes_is_refused_however_small_the_drift(bundle_copy: Path) -> None:
    engine = build_engine(Bundle(bundle_copy), "int8", "onnxruntime").path
    path = sidecar_path(engine)
    value = json.loads(path.read_text())
    value["gate"]["flips"] = [Bundle(bundle_copy).load_frames("gate")[0][0].name]
    path.write_text(json.dumps(value))
    with pytest.raises(GateError, match="1 verdicts changed") as caught:
        build_engine(Bundle(bundle_copy), "int8", "onnxruntime")
    assert "at most 1 gaps and no changed verdict" in caught.value.what


def test_a_graph_that_was_sabotaged_under_the_same_manifest_is_found_by_its_scores(
    answer_otherwise: Callable[..., None], bundle_copy: Path, reseal: Reseal
) -> None:
    """The sabotage is in the graph, and its gate is overridden: the scores that the good engine left still tell."""
    engine = build_engine(Bundle(bundle_copy), "int8", "onnxruntime").path
    answer_otherwise(bundle_copy)
    reseal(bundle_copy)
    bundle = Bundle(bundle_copy)
    path = sidecar_path(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), "bundle_sha256": bundle.sha256}))
    made = build_engine(bundle, "int8", "onnxruntime", accept="a test")
    assert made.sidecar.rebuilt is not None
    assert made.sidecar.rebuilt.drift_max > 1


def test_engines_that_cannot_be_compared_are_not(bundle_copy: Path) -> None:
    engine = build_engine(Bundle(bundle_copy), "fp32", "onnxruntime").path
    path = sidecar_path(engine)
    whole = json.loads(path.read_text())
    scores = [score * 2 for score in whole["normal_scores"]]
    for change in (
        {"bundle_sha256": "0" * 64},
        {"backend": "tensorrt"},
        {"normal_scores": scores[:-1]},
        {"gate": None},
        {"format": "another"},
    ):
        path.write_text(json.dumps({**whole, "normal_scores": scores, **change}))
        assert build_engine(Bundle(bundle_copy), "fp32", "onnxruntime").sidecar.rebuilt is None, change
    assert replace(read_sidecar(engine), build_seconds=0.0) == replace(
        build_engine(Bundle(bundle_copy), "fp32", "onnxruntime").sidecar, build_seconds=0.0
    )
