"""Whatever a user names is opened: a run, a bundle, an engine, and the bundle that an engine came from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agp_edge.bundle import Bundle
from agp_edge.cli.artefacts import find_bundle, kind_of, open_artefact, trained_hashes
from agp_edge.engines import read_sidecar
from agp_edge.errors import ArtefactError, InputError


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
    with pytest.raises(InputError, match="neither a run, a bundle or an engine"):
        kind_of(tmp_path)
    (bundle_copy / "manifest.json").unlink()
    with pytest.raises(ArtefactError, match="no whole bundle"):
        kind_of(bundle_copy)
    alone = Path(shutil.copy(int8_engine, tmp_path))
    with pytest.raises(ArtefactError, match="sidecar of engine"):
        open_artefact(alone)


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
