"""The default engine: a link that everything takes for the engine that it leads to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agp_edge.bundle import Bundle
from agp_edge.engines import default as defaults
from agp_edge.engines import get_backend, open_engine, read_sidecar
from agp_edge.engines.builder import build_engine
from agp_edge.engines.choice import choose_engine
from agp_edge.engines.default import default_path, set_default
from agp_edge.engines.sidecar import pair_of, sidecar_path
from agp_edge.errors import ArtefactError, InputError

pytest.importorskip("onnxruntime")
# Not `importorskip`: OpenVINO imported by itself sends a message over the network.
if get_backend("openvino").unavailable() is not None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def chosen(bundle_copy: Path) -> Path:
    """A default engine beside `bundle_copy`."""
    bundle = Bundle(bundle_copy)
    default = default_path(bundle)
    set_default(default, build_engine(bundle, "int8", "onnxruntime").path)
    return default


def test_whatever_takes_an_engine_takes_the_default(
    chosen: Path, bundle_copy: Path, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    good = sample_data / "brick" / "test" / "good"
    uses: list[list[Any]] = [
        ["inspect", chosen],
        ["verify", chosen],
        ["compare", bundle_copy, chosen],
        ["compare", chosen, pair_of(chosen)],
        ["predict", chosen, good],
        ["stream", "--source", good, "--engine", chosen, "--jsonl", tmp_path / "v.jsonl"],
        ["benchmark", chosen, "--duration-s", "0.1"],
        ["evaluate", chosen, sample_data],
    ]
    for use in uses:
        code, out, err = command(*use)
        assert code == 0, (use, err)
        if use[0] == "inspect":
            assert f"leads to   {pair_of(chosen).name}" in out
    said = json.loads((tmp_path / "v.jsonl").read_text().splitlines()[0])["engine"]
    assert said == read_sidecar(pair_of(chosen)).plan_sha256[:12]


def test_an_output_never_replaces_what_the_default_leads_to(
    chosen: Path, sample_data: Path, command: Command
) -> None:
    before = pair_of(chosen).read_bytes()
    good = sample_data / "brick" / "test" / "good"
    code, _, err = command("stream", "--source", good, "--engine", chosen, "--jsonl", pair_of(chosen))
    assert code == 2
    assert "is the engine" in err
    assert pair_of(chosen).read_bytes() == before


def test_the_default_moves_from_one_to_the_other(chosen: Path, bundle_copy: Path) -> None:
    other = build_engine(Bundle(bundle_copy), "fp32", "openvino").path
    set_default(chosen, other)
    assert pair_of(chosen) == other
    assert read_sidecar(chosen) == read_sidecar(other)
    assert json.loads(sidecar_path(chosen).read_text()) == json.loads(sidecar_path(other).read_text())
    assert not [p for p in bundle_copy.parent.iterdir() if p.name.startswith(".")]


def test_a_moment_between_the_two_links_is_none_for_who_reads(chosen: Path, bundle_copy: Path) -> None:
    """Killed between them, the engine's link is the new one and the sidecar's the old one: that pair opens all the same."""
    other = build_engine(Bundle(bundle_copy), "fp32", "openvino").path
    chosen.unlink()
    chosen.symlink_to(other.name)
    assert pair_of(sidecar_path(chosen)) != sidecar_path(other)
    session, sidecar = open_engine(chosen)
    session.close()
    assert sidecar == read_sidecar(other)


def test_where_there_are_no_links_copies_are_made(
    chosen: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "_can_link", lambda folder: False)
    other = build_engine(Bundle(bundle_copy), "fp32", "onnxruntime").path
    for _ in range(2):
        set_default(chosen, other)
        assert not chosen.is_symlink()
        assert not sidecar_path(chosen).is_symlink()
        assert chosen.read_bytes() == other.read_bytes()
        assert read_sidecar(chosen) == read_sidecar(other)
    monkeypatch.undo()
    set_default(chosen, other)
    assert chosen.is_symlink()


def test_a_name_that_something_else_has_is_left_alone(bundle_copy: Path) -> None:
    taken = bundle_copy.parent / "part.default.engine"
    taken.write_bytes(b"a letter")
    with pytest.raises(InputError, match="is no engine: it would be lost"):
        choose_engine(Bundle(bundle_copy))
    assert sorted(p.name for p in bundle_copy.parent.iterdir()) == ["part.bundle", taken.name]
    assert taken.read_bytes() == b"a letter"


def test_a_default_that_leads_to_a_changed_engine_is_refused(chosen: Path) -> None:
    plan = pair_of(chosen)
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with pytest.raises(ArtefactError, match="was changed"):
        open_engine(chosen)
    plan.unlink()
    with pytest.raises(InputError, match="no engine at"):
        open_engine(chosen)


def test_an_engine_saved_over_a_default_replaces_the_links_and_not_the_engine(
    chosen: Path, bundle_copy: Path
) -> None:
    engine = pair_of(chosen)
    before = engine.read_bytes(), read_sidecar(engine)
    build_engine(Bundle(bundle_copy), "fp32", "openvino", save_engine=chosen)
    assert not chosen.is_symlink()
    assert read_sidecar(chosen).precision == "fp32"
    assert (engine.read_bytes(), read_sidecar(engine)) == before


def test_an_engine_and_its_default_travel_as_files(chosen: Path, tmp_path: Path) -> None:
    """`cp -L`, `scp` and archives that follow links leave a plain pair."""
    for path in (chosen, sidecar_path(chosen)):
        shutil.copyfile(path, tmp_path / path.name)
    assert read_sidecar(tmp_path / chosen.name) == read_sidecar(chosen)
