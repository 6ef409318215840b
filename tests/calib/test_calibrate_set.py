"""The set that INT8 ranges come from: chosen, written down, and bound to the graph; and bundles without frames."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.bundle import Bundle
from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.datasets.images import read_image, write_png
from agp_edge.engines.builder import build_engine
from agp_edge.engines.measure import frames_of_bundle, frames_of_dataset, measure
from agp_edge.engines.onnxruntime import open_graph
from agp_edge.errors import ArtefactError, GateError, InputError
from agp_edge.files import sha256_bytes, sha256_file
from calib import calibrate as calibrate_module
from calib.calibrate import calibrate
from calib.choose import choose_frames, choose_splits
from calib.features import Features, measure_features

Command = Callable[..., tuple[int, str, str]]
Reseal = Callable[[Path], None]


@pytest.fixture
def fresh(exported_bundle: Path, tmp_path: Path) -> Path:
    """An uncalibrated bundle. Yours to spoil."""
    return Path(shutil.copytree(exported_bundle, tmp_path / "part.bundle"))


def by_hash(data: Path) -> dict[str, Path]:
    return {sha256_file(file): file for file in sorted(data.glob("*/train/good/*.png"))}


def test_the_set_is_what_k_centre_chooses_over_the_graphs_own_activations(
    fresh: Path, sample_data: Path
) -> None:
    result = calibrate(fresh, load_dataset(sample_data), frames=9, choice="k-centre", seed=4)
    manifest = Bundle(fresh).manifest
    files = by_hash(sample_data)

    def measure_them(hashes: list[str]) -> Features:
        frames = (read_image(files[h]) for h in hashes)
        return measure_features(fresh / "model.fp32.onnx", manifest.frame, frames, len(hashes))

    pool = choose_splits(list(files), set(manifest.trained))["ranges"]
    expected = choose_frames(pool, 9, "k-centre", 4, measure_them)
    assert manifest.splits["ranges"] == expected
    assert len(expected) == 9
    assert len(manifest.splits["search"]) == 9
    calibration = manifest.calibration
    assert calibration == result.calibration
    assert calibration["frames"] == [
        {"name": files[h].relative_to(sample_data).as_posix(), "sha256": h} for h in expected
    ]
    assert calibration["model_sha256"] == sha256_file(fresh / "model.fp32.onnx")
    assert calibration["set_sha256"] == sha256_bytes("\n".join(expected).encode())
    assert [calibration[key] for key in ("choice", "seed", "method")] == ["k-centre", 4, "max"]
    assert len(calibration["int8"]["quantised"]) == 10
    assert calibration["int8"]["kept"] == []


def test_other_choices_are_other_sets(fresh: Path, sample_data: Path, command: Command) -> None:
    sets = []
    for options in (["--choice", "random", "--seed", 1], ["--choice", "first"]):
        arguments = ["--frames", 9, "--accept", "a test", "--json", "-", *options]
        code, out, _ = command("calibrate", fresh, sample_data, *arguments)
        assert code == 0
        told = json.loads(out)
        assert told["calibration"] == Bundle(fresh).manifest.calibration
        sets.append(told["calibration"]["set_sha256"])
    assert sets[0] != sets[1]
    pool = choose_splits(list(by_hash(sample_data)), set(Bundle(fresh).manifest.trained))["ranges"]
    assert Bundle(fresh).manifest.splits["ranges"] == sorted(pool)[:9]


def test_operators_that_are_kept_are_written_down(bundle_copy: Path, sample_data: Path) -> None:
    dataset = load_dataset(sample_data)
    nodes = calibrate(bundle_copy, dataset, quantise="all", accept="a test").quantised
    size = (bundle_copy / "model.int8.onnx").stat().st_size
    result = calibrate(bundle_copy, dataset, quantise="all", keep=nodes[:3], accept="a test")
    assert Bundle(bundle_copy).manifest.calibration["int8"] == {"quantised": nodes[3:], "kept": nodes[:3]}
    assert "7 layers in INT8, 3 left as they are" in result.describe()
    assert (bundle_copy / "model.int8.onnx").stat().st_size > size


def test_a_signature_that_goes_is_missed_aloud(bundle_copy: Path, sample_data: Path) -> None:
    (bundle_copy / "model.sig").write_text("{}")
    result = calibrate(bundle_copy, load_dataset(sample_data), quantise="all", accept="a test")
    assert f"agp-edge sign {bundle_copy} --key FILE" in result.warnings[-1]
    assert not (bundle_copy / "model.sig").exists()
    again = calibrate(bundle_copy, load_dataset(sample_data), quantise="all", accept="a test")
    assert not any("sign" in warning for warning in again.warnings)


def test_copies_count_once(fresh: Path, sample_data: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice"
    twice.mkdir()
    for i, file in enumerate([*by_hash(sample_data).values()] * 2):
        shutil.copy(file, twice / f"{i:03}.png")
    result = calibrate(fresh, load_dataset(twice))
    assert result.splits == {"ranges": 26, "search": 26, "gate": 16, "threshold": 16}
    assert result.warnings[0] == "84 of 168 images are copies of others, and count once"


def test_nothing_is_taken_from_test_images(
    fresh: Path, calibrated_bundle: Path, sample_data: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(sample_data, tmp_path / "data", ignore=shutil.ignore_patterns("test")))
    without = calibrate(fresh, load_dataset(data)).bundle.manifest
    with_them = Bundle(calibrated_bundle).manifest
    assert without.splits == with_them.splits
    assert without.calibration == with_them.calibration
    assert without.files == with_them.files
    for precision in with_them.precisions:
        assert without.normal_scores(precision) == with_them.normal_scores(precision)
    tests = {sha256_file(file) for file in sample_data.glob("*/test/*/*.png")}
    assert not tests & set().union(*with_them.splits.values())


def test_test_images_among_the_good_ones_are_refused(
    fresh: Path, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    data = Path(shutil.copytree(sample_data, tmp_path / "data"))
    defect = next((data / "brick" / "test").glob("[!g]*/*.png"))
    shutil.copy(defect, data / "brick" / "train" / "good" / "zzz.png")
    code, _, err = command("calibrate", fresh, data)
    assert code == 2
    assert f"brick/train/good/zzz.png = {defect.relative_to(data).as_posix()}" in err
    code, _, err = command("calibrate", fresh, data / "gravel" / "test" / defect.parent.name)
    assert code == 2
    assert "of the data set" in err
    assert not Bundle(fresh).manifest.calibrated


@pytest.fixture
def stale(bundle_copy: Path, reseal: Reseal) -> Path:
    """A calibrated bundle whose FP32 graph is another one, with a manifest that names its hash."""
    model = bundle_copy / "model.fp32.onnx"
    # Another name of the producer: the same arithmetic, and still not the graph that was calibrated.
    changed = model.read_bytes().replace(b"pytorch", b"pytorcH")
    assert changed != model.read_bytes()
    model.write_bytes(changed)
    reseal(bundle_copy)
    return bundle_copy


USES: dict[str, list[Any]] = {
    "build int8": ["build-engine", "BUNDLE", "--precision", "int8", "--backend", "onnxruntime"],
    "build fp32": ["build-engine", "BUNDLE", "--precision", "fp32", "--backend", "onnxruntime"],
    "build all": ["build-engine", "BUNDLE", "--all-precisions", "--backend", "onnxruntime"],
    "build with other frames": ["build-engine", "BUNDLE", "--precision", "int8", "--data", "DATA"],
    "compare": ["compare", "BUNDLE", "BUNDLE"],
    "evaluate": ["evaluate", "BUNDLE", "DATA"],
    "verify": ["verify", "BUNDLE"],
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_stale_calibration_is_refused_wherever_it_would_be_used(
    use: list[Any], stale: Path, sample_data: Path, command: Command
) -> None:
    places = {"BUNDLE": stale, "DATA": sample_data}
    code, out, err = command(*(places.get(item, item) for item in use))
    assert (code, out) == (4, "")
    assert "its calibration is of another FP32 graph" in err.splitlines()[-2]
    assert f"agp-edge calibrate {stale} DATA" in err.splitlines()[-1]
    assert not list(stale.parent.glob("*.engine*"))


def test_a_set_that_was_edited_is_refused(bundle_copy: Path) -> None:
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["ranges"].pop()
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="its calibration is of another set of frames"):
        build_engine(Bundle(bundle_copy), "int8", "onnxruntime")


def test_calibrating_again_mends_it_and_takes_nothing_over(stale: Path, sample_data: Path) -> None:
    old = Bundle(stale).manifest
    assert old.find_stale() is not None
    result = calibrate(stale, load_dataset(sample_data), frames=12, accept="a test")
    manifest = result.bundle.manifest
    assert manifest.find_stale() is None
    assert manifest.calibration["model_sha256"] == sha256_file(stale / "model.fp32.onnx")
    assert manifest.files["model.int8.onnx"] != old.files["model.int8.onnx"]
    build_engine(Bundle(stale), "int8", "onnxruntime", accept="a test")


def test_a_stale_calibration_is_not_kept_because_a_gate_did_not_pass(
    stale: Path, sample_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(session: Any, *arguments: Any) -> Any:
        scores = measure(session, *arguments)
        if session.precision == "int8":
            scores.gate[0] = 1e6  # type: ignore[index]
        return scores

    monkeypatch.setattr(calibrate_module, "measure", measured)
    result = calibrate(stale, load_dataset(sample_data))
    with pytest.raises(GateError, match="flipped on 1 of 16"):
        result.check()
    assert result.written
    manifest = Bundle(stale).manifest
    assert manifest.find_stale() is None
    assert manifest.precisions == ["fp32", "fp16"]


def test_an_export_over_a_calibrated_bundle_leaves_nothing_of_it(
    bundle_copy: Path, trained_run: Path
) -> None:
    from export.onnx_export import export_run

    manifest = export_run(trained_run, bundle_copy).manifest
    assert manifest.precisions == ["fp32", "fp16"]
    assert (manifest.calibration, manifest.artefacts, manifest.splits) == ({}, {}, {})
    with pytest.raises(InputError, match="not calibrated"):
        build_engine(Bundle(bundle_copy), "fp32", "onnxruntime")


def test_calibrating_again_measures_everything_anew(bundle_copy: Path, sample_data: Path) -> None:
    before = Bundle(bundle_copy).manifest
    calibrate(bundle_copy, load_dataset(sample_data), frames=8, method="entropy", accept="a test")
    after = Bundle(bundle_copy).manifest
    assert after.calibration["set_sha256"] != before.calibration["set_sha256"]
    assert after.files["model.int8.onnx"] != before.files["model.int8.onnx"]
    assert after.artefacts["int8"]["normal_scores"] != before.artefacts["int8"]["normal_scores"]
    assert after.artefacts["fp32"] == before.artefacts["fp32"]


def test_without_frames_a_bundle_has_hashes_and_a_build_asks_for_data(
    fresh: Path, sample_data: Path, command: Command
) -> None:
    code, _, err = command("calibrate", fresh, sample_data, "--frames-outside")
    assert code == 0
    assert f"next: agp-edge build-engine {fresh} --precision int8 --data DATA" in err
    assert "are outside: a build asks for" in " ".join(command("inspect", fresh)[1].split())
    bundle = Bundle(fresh)
    manifest = bundle.manifest
    assert {frame.part for frame in manifest.frames} == {"reference"}
    assert len(manifest.splits["gate"]) == len(manifest.splits["threshold"]) == 16
    assert len(manifest.normal_scores("int8")) == 16
    assert command("verify", fresh)[0] == 0, "the reference frames of the export stay"
    code, out, err = command("build-engine", fresh, "--precision", "int8", "--backend", "onnxruntime")
    assert (code, out) == (2, "")
    assert "carries no frames" in err
    assert "--data DATA" in err
    seen = {*manifest.trained, *manifest.splits["ranges"], *manifest.splits["search"]}
    frames = frames_of_dataset(load_dataset(sample_data), manifest.frame, seen)
    assert frames.splits == {part: manifest.split_hashes()[part] for part in ("gate", "threshold")}
    built = build_engine(bundle, "int8", "onnxruntime", frames=frames)
    assert built.sidecar.normal_scores == pytest.approx(manifest.normal_scores("int8"), rel=1e-3)

    calibrate(fresh, load_dataset(sample_data))
    assert len(frames_of_bundle(Bundle(fresh)).gate) == 16, "the next calibration brings them back"


def test_reference_frames_stay_as_the_export_left_them(
    exported_bundle: Path, calibrated_bundle: Path
) -> None:
    before = Bundle(exported_bundle).manifest.frames_of("reference")
    after = Bundle(calibrated_bundle).manifest
    assert after.frames_of("reference") == before != []
    assert not {frame.sha256 for frame in before} & set().union(*after.splits.values())


def test_every_precision_has_normal_scores_of_its_own(calibrated_bundle: Path) -> None:
    bundle = Bundle(calibrated_bundle)
    _, frames = bundle.load_frames("threshold")
    scores = {}
    for precision in bundle.manifest.precisions:
        with open_graph(bundle, precision) as session:
            scores[precision] = sorted(session.infer(frames).score.tolist())
        assert bundle.manifest.normal_scores(precision) == scores[precision]
    assert len({tuple(values) for values in scores.values()}) == len(scores) == 3


def test_what_a_gate_refused_is_shown_and_goes_once_it_passes(
    fresh: Path, sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def measured(session: Any, *arguments: Any) -> Any:
        scores = measure(session, *arguments)
        if session.precision == "int8":
            scores.gate[3] = 1e6  # type: ignore[index]
        return scores

    with monkeypatch.context() as patch:
        patch.setattr(calibrate_module, "measure", measured)
        code, _, err = command("calibrate", fresh, sample_data, "--flips", tmp_path / "flips")
    assert code == 3
    folder = tmp_path / "flips" / "part.bundle.int8.refused"
    assert str(folder) in err
    assert [entry["flipped"] for entry in json.loads((folder / "gate.json").read_text())["frames"]] == [True]
    assert not (tmp_path / "flips" / "part.bundle.fp16.refused").exists()
    assert command("calibrate", fresh, sample_data, "--flips", tmp_path / "flips")[0] == 0
    assert not folder.exists()


def test_a_folder_that_sounds_like_a_test_is_warned_of(
    fresh: Path, sample_data: Path, tmp_path: Path
) -> None:
    new = tmp_path / "photos" / "test"
    for i, file in enumerate(list(by_hash(sample_data).values())[:64]):
        write_png(new / f"{i:03}.png", np.ascontiguousarray(read_image(file)[:, ::-1]))
    dataset = load_dataset(new)
    assert len(set(content_hashes(dataset.classes[0].train))) == 64
    assert "called 'test'" in calibrate(fresh, dataset).warnings[0]
