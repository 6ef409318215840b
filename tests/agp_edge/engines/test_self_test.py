"""An engine against what it said where it was built: its own self-test, and the score as its map's maximum."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from agp_edge.bundle import Bundle
from agp_edge.engines import get_backend, open_engine, read_sidecar
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.onnxruntime import open_graph
from agp_edge.engines.self_test import check_engine_self_test, run_self_test
from agp_edge.engines.sidecar import Sidecar, sidecar_path
from agp_edge.errors import ArtefactError
from agp_edge.files import sha256_file
from agp_edge.verdict import score_under

Command = Callable[..., tuple[int, str, str]]


def copy_of(engine: Path, folder: Path) -> Path:
    shutil.copy(sidecar_path(engine), folder)
    return Path(shutil.copy(engine, folder))


def rewrite(engine: Path, sidecar: Sidecar) -> None:
    sidecar_path(engine).write_text(json.dumps(sidecar.to_dict()))


def test_what_a_build_writes_down_is_what_the_engine_says(int8_engine: Path) -> None:
    session, sidecar = open_engine(int8_engine)
    with session:
        assert check_engine_self_test(session, sidecar) == 4
        assert sidecar.self_test is not None
        assert run_self_test(session) == pytest.approx(sidecar.self_test, rel=1e-3)
    assert len(set(sidecar.self_test)) == 4


def test_another_network_under_a_rewritten_hash_is_found_out(
    int8_engine: Path, calibrated_bundle: Path, tmp_path: Path, command: Command
) -> None:
    engine = copy_of(int8_engine, tmp_path)
    code, out, _ = command("verify", engine)
    assert (code, "self-test: 4 reference frames score as where it was built" in out) == (0, True)
    # One bias of the decoder is another: a network that was trained a little longer.
    model = onnx.load(calibrated_bundle / "model.fp32.onnx")
    (bias,) = (t for t in model.graph.initializer if t.name.endswith("decoder.head.bias"))
    bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) + 0.01).astype(np.float32).tobytes()
    onnx.save(model, tmp_path / "other.onnx")
    get_backend("onnxruntime").build(tmp_path / "other.onnx", engine, BuildOptions())
    rewrite(engine, replace(read_sidecar(int8_engine), plan_sha256=sha256_file(engine)))
    session, sidecar = open_engine(engine)
    with session, pytest.raises(ArtefactError, match="fails its self-test: reference frame 0 scores"):
        check_engine_self_test(session, sidecar)
    code, out, err = command("verify", engine)
    assert (code, out) == (4, "")
    assert "fails its self-test" in err


def test_an_engine_without_one_is_good_and_says_so(tiny_engine: Path, command: Command) -> None:
    rewrite(tiny_engine, replace(read_sidecar(tiny_engine), self_test=None))
    session, sidecar = open_engine(tiny_engine)
    with session, pytest.raises(ArtefactError, match="has no self-test") as info:
        check_engine_self_test(session, sidecar)
    assert "agp-edge build-engine" in info.value.hint
    code, _, err = command("verify", tiny_engine)
    assert (code, "no self-test: " in err) == (0, True)


@pytest.mark.parametrize("told", [[0.5], [0.5] * 5])
def test_another_number_of_frames(tiny_engine: Path, told: list[float]) -> None:
    session, sidecar = open_engine(tiny_engine)
    with session, pytest.raises(ArtefactError, match=f"its self-test has {len(told)} frames"):
        check_engine_self_test(session, replace(sidecar, self_test=told))


def test_a_batch_that_the_frames_do_not_fill(tiny_batch_engine: Path) -> None:
    session, sidecar = open_engine(tiny_batch_engine)
    with session:
        assert check_engine_self_test(session, sidecar) == 4


def test_a_score_is_its_maps_maximum_to_the_last_bit(calibrated_bundle: Path, int8_engine: Path) -> None:
    """What a mask's verdicts rest on: over every cell the largest value is the score, whatever counts."""
    bundle = Bundle(calibrated_bundle)
    _, frames = bundle.load_frames("gate")
    for precision in bundle.manifest.precisions:
        with open_graph(bundle, precision) as session:
            said = session.infer(frames)
        every = np.ones(said.anomaly_map.shape[1:], bool)
        assert [score_under(m, every) for m in said.anomaly_map] == said.score.tolist()
    session, _ = open_engine(int8_engine)
    with session:
        said = session.infer(frames)
    assert said.anomaly_map.max(axis=(1, 2)).tolist() == said.score.tolist()
