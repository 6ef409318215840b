"""A network that left nothing out: its threshold works, promises nothing, says so everywhere, and gives way to a real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agp_edge.bundle import Bundle
from agp_edge.datasets import load_dataset
from agp_edge.engines.onnxruntime import open_graph
from agp_edge.engines.sidecar import read_sidecar
from agp_edge.errors import GateError
from agp_edge.files import sha256_file
from calib.calibrate import calibrate

Command = Callable[..., tuple[int, str, str]]

SHOTS = 3


def good_images(data: Path) -> list[Path]:
    return sorted(data.glob("*/train/good/*.png"), key=sha256_file)


def folder_of(place: Path, files: list[Path]) -> Path:
    place.mkdir(parents=True)
    for file in files:
        shutil.copy(file, place / f"{file.parts[-4]}-{file.name}")
    return place


@pytest.fixture
def few(exported_bundle: Path, sample_data: Path, tmp_path: Path) -> Path:
    """A bundle as `train --shots` and `export` leave it: trained on 3 images, none held out. Yours to spoil."""
    path = Path(shutil.copytree(exported_bundle, tmp_path / "few.bundle"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["trained"] = sorted(sha256_file(f) for f in good_images(sample_data)[:SHOTS])
    manifest["held_out"] = []
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture
def shots(sample_data: Path, tmp_path: Path) -> Path:
    """The images that `few` was trained on."""
    return folder_of(tmp_path / "shots", good_images(sample_data)[:SHOTS])


def test_one_altered_copy_of_each_shot_stands_for_it(few: Path, shots: Path) -> None:
    result = calibrate(few, load_dataset(shots))
    bundle = Bundle(few)
    manifest = bundle.manifest
    assert manifest.provisional
    assert result.splits == {"ranges": 2, "search": 1, "gate": 0, "threshold": SHOTS}
    entries, frames = bundle.load_frames("threshold")
    assert manifest.splits["threshold"] == sorted(sha256_file(few / entry.file) for entry in entries)
    assert {entry.name.split(",")[0] for entry in entries} == {f.name for f in shots.iterdir()}
    assert all(", altered copy " in entry.name for entry in entries)
    for precision in manifest.precisions:
        assert manifest.artefacts[precision]["provisional"] is True
        with open_graph(bundle, precision) as session:
            assert manifest.normal_scores(precision) == sorted(session.infer(frames).score.tolist())
    with pytest.raises(GateError, match="INCONCLUSIVE: 0 gate frames"):
        result.check()


def test_a_threshold_that_promises_nothing_says_so(
    few: Path, shots: Path, sample_data: Path, command: Command
) -> None:
    code, out, _ = command("calibrate", few, shots, "--json", "-")
    assert code == 3
    told = json.loads(out)
    assert told["provisional"] is True
    assert {t["provisional"] for t in told["thresholds"].values()} == {True}
    assert {t["bound_95"] for t in told["thresholds"].values()} == {1.0}
    built = few.with_name("part.fp32.onnxruntime.engine")
    fp32 = ["--backend", "onnxruntime", "--precision", "fp32"]
    code, out, _ = command("build-engine", few, *fp32, "--accept", "first week")
    assert code == 0
    assert read_sidecar(built).provisional
    for path in (few, built):
        assert "PROVISIONAL: nothing is promised" in command("inspect", path)[1]
        assert json.loads(command("inspect", path, "--json", "-")[1])["provisional"] is True
    code, out, err = command("predict", built, shots, "--json", "-")
    assert code == 0
    assert json.loads(out)["provisional"] is True
    assert "warning: provisional: from altered copies of 3 images" in err
    code, out, err = command("stream", "--source", shots, "--engine", built, "--json", "-")
    assert json.loads(out)["provisional"] is True
    assert "warning: provisional" in err
    assert (
        "PROVISIONAL: the threshold promises nothing"
        in command("stream", "--source", shots, "--engine", built)[1]
    )
    code, out, err = command("evaluate", built, sample_data / "brick", "--json", "-")
    assert json.loads(out)["provisional"] is True
    assert "provisional threshold" in err
    # A rate that so few cannot promise is refused as ever.
    code, _, err = command("predict", built, shots, "--false-reject-rate", "1%")
    assert code == 2
    assert "3 good frames cannot promise" in err


def test_it_gives_way_to_enough_new_images(
    few: Path, shots: Path, sample_data: Path, command: Command
) -> None:
    calibrate(few, load_dataset(shots))
    result = calibrate(few, load_dataset(sample_data))
    result.check()
    manifest = Bundle(few).manifest
    assert not manifest.provisional
    assert "provisional" not in json.dumps(manifest.artefacts)
    assert result.splits["gate"] >= 16
    assert not set(manifest.trained) & {*manifest.splits["gate"], *manifest.splits["threshold"]}
    assert command("build-engine", few, "--backend", "onnxruntime", "--precision", "fp32")[0] == 0
    assert not read_sidecar(few.with_name("part.fp32.onnxruntime.engine")).provisional


def test_a_few_new_images_are_better_than_none(
    few: Path, shots: Path, sample_data: Path, tmp_path: Path
) -> None:
    calibrate(few, load_dataset(shots))
    some = folder_of(tmp_path / "some", good_images(sample_data)[SHOTS : SHOTS + 8])
    result = calibrate(few, load_dataset(some))
    assert result.written, "no gate passed the provisional one either"
    assert not Bundle(few).manifest.provisional
    assert result.thresholds["fp32"].n == 2


def test_it_does_not_take_the_place_of_a_real_one(few: Path, shots: Path, sample_data: Path) -> None:
    calibrate(few, load_dataset(sample_data)).check()
    result = calibrate(few, load_dataset(shots))
    assert not result.written
    assert not Bundle(few).manifest.provisional


def test_copies_have_no_place_outside_the_bundle(few: Path, shots: Path, command: Command) -> None:
    code, _, err = command("calibrate", few, shots, "--frames-outside")
    assert code == 2
    assert "only the bundle has" in err
    assert "leave out --frames-outside" in err


def test_who_held_images_out_is_asked_for_them(
    exported_bundle: Path, shots: Path, tmp_path: Path, command: Command
) -> None:
    path = Path(shutil.copytree(exported_bundle, tmp_path / "part.bundle"))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["trained"] = sorted({*manifest["trained"], *map(sha256_file, shots.iterdir())})
    manifest["held_out"] = sorted(set(manifest["held_out"]) - set(manifest["trained"]))
    (path / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = command("calibrate", path, shots)
    assert code == 2
    assert "give the folder that it was trained on" in err
