"""Whatever a user names is opened: a run, a bundle, an engine, and the bundle that an engine came from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agp_edge.bundle import Bundle
from agp_edge.cli.artefacts import find_bundle, kind_of, open_artefact, trained_hashes
from agp_edge.engines import read_sidecar
from agp_edge.errors import ArtefactError, InputError

Command = Callable[..., tuple[int, str, str]]


def test_each_kind_is_known_and_opened(trained_run: Path, calibrated_bundle: Path, int8_engine: Path) -> None:
    frames = Bundle(calibrated_bundle).load_frames("gate")[1]
    scores = {}
    for path, kind, n in (
        (trained_run, "run", 0),
        (calibrated_bundle, "bundle", 16),
        (int8_engine, "engine", 16),
    ):
        assert kind_of(path) == kind
        session, normal, name = open_artefact(path)
        assert (len(normal), name.split()[:2]) == (n, [kind, path.name])
        with session:
            scores[kind] = session.infer(frames).score
    assert scores["run"] == pytest.approx(scores["bundle"], rel=1e-3)
    assert scores["engine"] == pytest.approx(scores["bundle"], rel=0.05)
    assert (scores["engine"] != scores["bundle"]).any()


def test_what_is_neither_is_refused(tmp_path: Path, bundle_copy: Path, int8_engine: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        kind_of(tmp_path / "nothing")
    with pytest.raises(InputError, match="neither a run, a bundle nor an engine"):
        kind_of(tmp_path)
    (bundle_copy / "manifest.json").unlink()
    with pytest.raises(ArtefactError, match="no whole bundle"):
        kind_of(bundle_copy)
    alone = Path(shutil.copy(int8_engine, tmp_path))
    with pytest.raises(
        ArtefactError, match=r"sidecar of engine.* is missing[^\n]*\n.* must travel beside the engine"
    ):
        open_artefact(alone)


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (("predict", "{bundle}", "."), "is a bundle, not an engine", "agp-edge build-engine {bundle}"),
        (("predict", "{run}", "."), "is a run, not an engine", "agp-edge export {run}"),
        (("predict", "{engine}.json", "."), "is the sidecar of an engine, not an engine", "give the engine beside it: {engine}"),
        (("predict", "{bundle}/model.fp32.onnx", "."), "is an ONNX graph, not an engine", "build-engine BUNDLE"),
        (("verify", "{engine}.json"), "is the sidecar of an engine, not an engine", "give the engine beside it: {engine}"),
        (("inspect", "{bundle}/model.fp32.onnx"), "is an ONNX graph, not an engine", "build-engine BUNDLE"),
        (("export", "{bundle}", "--out", "{run}.new"), "is a bundle, not a run", "give the run that it was exported from"),
        (("export", "{engine}", "--out", "{run}.new"), "is an engine, not a run", "give a run"),
        (("calibrate", "{run}", "{data}"), "is a run, not a bundle", "agp-edge export {run}"),
        (("build-engine", "{engine}"), "is an engine, not a bundle", "give a bundle"),
        (("build-engine", "{run}"), "is a run, not a bundle", "agp-edge export {run}"),
    ],
)  # fmt: skip
def test_another_kind_is_called_by_its_name(
    arguments: tuple[str, ...], what: str, hint: str,
    trained_run: Path, calibrated_bundle: Path, int8_engine: Path, sample_data: Path, command: Command,
) -> None:  # fmt: skip
    paths = {"run": trained_run, "bundle": calibrated_bundle, "engine": int8_engine, "data": sample_data}
    code, out, err = command(*(argument.format(**paths) for argument in arguments))
    assert (code, out) == (2, ""), err
    assert what in err.splitlines()[-2]
    assert hint.format(**paths) in err.splitlines()[-1]


def test_an_interrupted_run_is_told_of(trained_run: Path, tmp_path: Path, command: Command) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    assert "interrupted" not in command("verify", run)[2]
    (run / "run.json").write_text(json.dumps({**record, "state": "interrupted", "step": 3}))
    for arguments in (("verify", run), ("export", run, "--out", tmp_path / "x.bundle")):
        code, _, err = command(*arguments)
        assert code == 0
        assert f"warning: the training of {run} was interrupted after step 3" in err


def test_an_engines_bundle_is_found_beside_it_by_its_hash(
    int8_engine: Path, calibrated_bundle: Path, trained_run: Path, tmp_path: Path
) -> None:
    found = find_bundle([trained_run, int8_engine])
    assert found.sha256 == read_sidecar(int8_engine).bundle_sha256
    assert trained_hashes([int8_engine]) == set(Bundle(calibrated_bundle).manifest.trained)
    assert trained_hashes([trained_run]) == trained_hashes([int8_engine])
    for file in (int8_engine, int8_engine.with_name(int8_engine.name + ".json")):
        shutil.copy(file, tmp_path)
    with pytest.raises(InputError, match="neither carries held-out frames"):
        find_bundle([trained_run, tmp_path / int8_engine.name])


def test_a_bundle_that_is_not_calibrated_carries_no_frames(exported_bundle: Path) -> None:
    with pytest.raises(InputError, match="calibrated bundle"):
        find_bundle([exported_bundle])
