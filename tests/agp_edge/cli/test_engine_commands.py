"""`build-engine`, `verify` and `compare` as a user runs them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.bundle import Bundle
from agp_edge.datasets.images import read_image, write_png
from agp_edge.engines import read_sidecar

Command = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], code: int, message: str) -> None:
    """Hold what a command did against an error of two lines."""
    got, out, err = result
    assert (got, out) == (code, ""), err
    what, hint = err.splitlines()[-2:]
    assert what.startswith("error: ")
    assert message in what
    assert hint.startswith("  ")
    assert "Traceback" not in err


def test_build_engine_builds_all_and_tells(bundle_copy: Path, command: Command) -> None:
    options: list[Any] = ["--backend", "onnxruntime"]
    code, out, _ = command("build-engine", bundle_copy, *options, "--all-precisions", "--json", "-")
    assert code == 0
    told = json.loads(out)["engines"]
    assert [e["precision"] for e in told] == ["fp32", "fp16", "int8"]
    for engine in told:
        path = Path(engine["engine"])
        assert path.name == f"part.{engine['precision']}.onnxruntime.engine"
        assert engine["size_bytes"] == path.stat().st_size
        assert engine["plan_sha256"] == read_sidecar(path).plan_sha256
        assert engine["gate"]["outcome"] == "passed"
    options += ["--precision", "fp32", "--save-engine", bundle_copy.parent / "x.engine"]
    code, out, _ = command("build-engine", bundle_copy, *options)
    assert code == 0
    assert out.splitlines()[0] == str(bundle_copy.parent / "x.engine")
    assert "gate: PASSED: 0 flips in n = 16" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "fp8"], "there is no precision 'fp8'"),
        (["--backend", "gpu"], "there is no backend 'gpu'"),
        (["--accept", "  "], "--accept was given no reason"),
        (["--prove", "half"], "'half' is no rate"),
        (["--all-precisions", "--save-engine", "x.engine"], "--save-engine names one file"),
        (["--all-precisions", "--precision", "int8"], "--precision int8 is one"),
        (["--backend", "onnxruntime", "--precision", "bf16"], "does not build bf16"),
        (["--backend", "onnxruntime", "--compute-capability", "8.6"], "takes no --compute-capability"),
    ],
)
def test_build_engine_with_bad_options(
    calibrated_bundle: Path, command: Command, options: list[str], message: str
) -> None:
    refused(command("build-engine", calibrated_bundle, *options), 2, message)


def test_build_engine_of_no_bundle_and_of_a_changed_one(
    tmp_path: Path, bundle_copy: Path, command: Command
) -> None:
    refused(command("build-engine", tmp_path / "x"), 2, "there is no bundle")
    (bundle_copy / "model.fp32.onnx").write_bytes(b"")
    refused(command("build-engine", bundle_copy), 4, "was changed")
    (bundle_copy / "model.fp32.onnx").unlink()
    refused(command("build-engine", bundle_copy), 4, "is missing")


def test_build_engine_proves_or_says_how_many_are_missing(
    calibrated_bundle: Path, tmp_path: Path, command: Command
) -> None:
    options = [
        "--backend",
        "onnxruntime",
        "--precision",
        "fp32",
        "--save-engine",
        tmp_path / "x.engine",
        "--prove",
    ]
    refused(command("build-engine", calibrated_bundle, *options, "0.5%"), 3, "not below 0.500%")
    assert command("build-engine", calibrated_bundle, *options, "0.2")[0] == 0
    every = ["--backend", "onnxruntime", "--all-precisions", "--prove", "0.5%", "--json", "-"]
    code, out, err = command("build-engine", calibrated_bundle, *every)
    assert code == 3
    told = json.loads(out)
    assert (told["engines"], told["default"]) == ([], None)
    assert [c["outcome"] for c in told["candidates"]] == ["refused"] * 3
    assert "no engine passes: onnxruntime fp32: " in err.splitlines()[-2]
    assert "582 more gate frames" in err.splitlines()[-1]


def test_verify_says_what_was_checked(
    trained_run: Path, exported_bundle: Path, calibrated_bundle: Path, int8_engine: Path, command: Command
) -> None:
    for path, kind, checks in (
        (trained_run, "run", 2),
        (exported_bundle, "bundle", 4),
        (calibrated_bundle, "bundle", 5),
        (int8_engine, "engine", 4),
    ):
        code, out, err = command("verify", path, "--json", "-")
        assert code == 0, err
        told = json.loads(out)
        assert (told["kind"], told["good"], len(told["checks"])) == (kind, True, checks)
        assert ": good" in err
        assert ("self-test: 4" in err or "self-test: 8" in err) == (kind != "run")


def test_verify_finds_a_changed_engine(int8_engine: Path, tmp_path: Path, command: Command) -> None:
    for file in (int8_engine, int8_engine.with_name(int8_engine.name + ".json")):
        shutil.copy(file, tmp_path)
    engine = tmp_path / int8_engine.name
    assert command("verify", engine)[0] == 0
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)
    refused(command("verify", engine), 4, "was changed")
    (tmp_path / (engine.name + ".json")).unlink()
    refused(command("verify", engine), 4, "missing")
    refused(command("verify", tmp_path), 2, "is neither")


def compared(result: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = result
    assert code == 0, err
    value: dict[str, Any] = json.loads(out)
    return value


def test_compare_any_two_on_the_bundles_own_frames(
    trained_run: Path, calibrated_bundle: Path, int8_engine: Path, command: Command
) -> None:
    for a, b in ((calibrated_bundle, int8_engine), (trained_run, int8_engine), (int8_engine, int8_engine)):
        told = compared(command("compare", a, b, "--json", "-"))
        assert (told["outcome"], told["n"], told["flips"]) == ("passed", 16, [])
        assert told["splits"]["gate"] == Bundle(calibrated_bundle).manifest.split_hashes()["gate"]
    same = compared(command("compare", int8_engine, int8_engine, "--json", "-"))
    assert (same["drift_max"], same["map_correlation"]) == (0, pytest.approx(1))


def test_compare_on_data_leaves_out_what_was_trained_on(
    trained_run: Path, exported_bundle: Path, sample_data: Path, calibrated_bundle: Path, command: Command
) -> None:
    told = compared(command("compare", trained_run, exported_bundle, sample_data, "--json", "-"))
    assert told["n"] == 16, "84 images, 52 of them trained on"
    assert told["splits"]["gate"] == Bundle(calibrated_bundle).manifest.split_hashes()["gate"]


def test_data_with_labels_tells_of_auroc(
    calibrated_bundle: Path, int8_engine: Path, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    told = compared(command("compare", calibrated_bundle, int8_engine, sample_data, "--json", "-"))
    for metric in ("image_auroc", "aupro"):
        values = told[metric]
        assert 0 < values["candidate"] <= 1
        assert values["change"] == pytest.approx(values["candidate"] - values["reference"])
    assert told["auroc_step"] == 1 / (4 * 4 * 2), "4 good and 4 defect images of each of 2 classes"
    own = compared(command("compare", calibrated_bundle, int8_engine, "--json", "-"))
    assert own["image_auroc"] is None
    tests_alone = tmp_path / "tests"
    for part in ("test", "ground_truth"):
        shutil.copytree(sample_data / "brick" / part, tests_alone / "brick" / part)
    options = ["--precision", "int8", "--backend", "onnxruntime", "--save-engine", tmp_path / "x.engine"]
    options += ["--data", tests_alone]
    code, out, _ = command("build-engine", calibrated_bundle, *options)
    assert code == 0
    assert "image AUROC" in out
    gate = read_sidecar(tmp_path / "x.engine").gate
    assert gate is not None
    assert gate["splits"] == told["splits"], "test images are neither gate nor threshold"
    assert read_sidecar(tmp_path / "x.engine").normal_scores == read_sidecar(int8_engine).normal_scores


def test_build_engine_on_other_good_images(
    calibrated_bundle: Path, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    manifest = Bundle(calibrated_bundle).manifest
    options = ["--backend", "onnxruntime", "--precision", "fp32", "--save-engine", tmp_path / "x.engine"]
    assert command("build-engine", calibrated_bundle, *options, "--data", sample_data)[0] == 0
    sidecar = read_sidecar(tmp_path / "x.engine")
    assert sidecar.gate is not None
    assert sidecar.gate["splits"]["gate"] == manifest.split_hashes()["gate"], (
        "what was trained on is left out"
    )
    new = tmp_path / "new"
    for i, file in enumerate(sorted((sample_data / "brick" / "train" / "good").iterdir())[:40]):
        write_png(new / f"{i:02}.png", np.ascontiguousarray(read_image(file)[:, ::-1]))
    assert command("build-engine", calibrated_bundle, *options, "--data", new)[0] == 0
    sidecar = read_sidecar(tmp_path / "x.engine")
    assert sidecar.gate is not None
    assert (sidecar.gate["n"], len(sidecar.normal_scores)) == (20, 20)
    assert sidecar.gate["splits"]["gate"] != manifest.split_hashes()["gate"]


def test_compare_refuses_what_flips(
    exported_bundle: Path, calibrated_bundle: Path, int8_engine: Path, tiny_engine: Path, command: Command
) -> None:
    code, out, err = command("compare", calibrated_bundle, int8_engine, "--prove", "1%")
    assert (code, out.split(":")[0]) == (3, "REFUSED"), "what was measured is a result all the same"
    assert "not below 1.000%" in err.splitlines()[-2]
    assert "283 more gate frames" in err.splitlines()[-1]
    refused(command("compare", exported_bundle, exported_bundle), 2, "neither carries held-out frames")
    # A camera's other size is bad input, not a verdict.
    refused(command("compare", calibrated_bundle, tiny_engine), 2, "takes frames of 256x256 BGR, engine tiny")


def test_compare_says_inconclusive(
    trained_run: Path, exported_bundle: Path, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    for i, file in enumerate(sorted((sample_data / "brick" / "train" / "good").iterdir())[:20]):
        write_png(tmp_path / "few" / f"{i}.png", np.ascontiguousarray(read_image(file)[::-1]))
    code, out, err = command("compare", trained_run, exported_bundle, tmp_path / "few", "--json", "-")
    assert code == 3
    assert json.loads(out)["outcome"] == "inconclusive"
    assert "INCONCLUSIVE: 10 gate frames" in err
    assert "--accept" not in err


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_verify_runs_every_graph_and_holds_it_against_the_manifest(
    bundle_copy: Path, reseal: Callable[[Path], None], precision: str, command: Command
) -> None:
    code, _, err = command("verify", bundle_copy)
    assert code == 0, err
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["artefacts"][precision]["normal_scores"] = [1000.0] * 16
    path.write_text(json.dumps(manifest))
    refused(
        command("verify", bundle_copy), 4, f"its {precision} graph scores the threshold's frames otherwise"
    )
    shutil.copy(bundle_copy / "frames" / "reference-0.png", bundle_copy / "frames" / "reference-1.png")
    reseal(bundle_copy)
    refused(command("verify", bundle_copy), 4, "scores")


def test_thresholds_are_taken_from_no_test_image(
    bundle_copy: Path, int8_engine: Path, sample_data: Path, command: Command
) -> None:
    brick = sample_data / "brick" / "test"
    scratch = next(path for path in sorted(brick.iterdir()) if path.name != "good")
    for data in (scratch, brick / "good"):
        for options in (("build-engine", bundle_copy, "--precision", "int8", "--backend", "onnxruntime", "--data", data),
                        ("compare", bundle_copy, int8_engine, data)):  # fmt: skip
            refused(command(*options), 2, "of the data set")


def test_images_of_another_part_are_told_of(bundle_copy: Path, tmp_path: Path, command: Command) -> None:
    rng = np.random.default_rng(0)
    for i in range(2):
        write_png(tmp_path / "new" / f"{i}.png", rng.integers(0, 255, (256, 256, 3), np.uint8))
    code, _, err = command(
        "build-engine", bundle_copy, "--precision", "fp32", "--backend", "onnxruntime", "--data", tmp_path / "new"
    )  # fmt: skip
    assert code == 3, "two frames are too few"
    assert "none of these 2 images was among those of the training: is this the same part?" in err


OUTPUTS = [
    ("inspect", "BUNDLE", "--json"),
    ("build-engine", "BUNDLE", "--save-engine"),
    ("build-engine", "BUNDLE", "--flips"),
    ("compare", "BUNDLE", "BUNDLE", "--json"),
    ("predict", "ENGINE", "DATA", "--out"),
    ("evaluate", "BUNDLE", "DATA", "--report"),
    ("stream", "--source", "DATA", "--engine", "ENGINE", "--jsonl"),
    ("stream", "--source", "DATA", "--engine", "ENGINE", "--rejects"),
    ("stream", "--source", "DATA", "--engine", "ENGINE", "--video"),
    ("train", "DATA", "--out"),
    ("export", "RUN", "--out"),
    ("calibrate", "BUNDLE", "DATA", "--flips"),
    ("calibrate", "BUNDLE", "DATA", "--json"),
]


@pytest.mark.parametrize("words", OUTPUTS, ids=" ".join)
def test_nothing_is_written_into_a_bundle(
    words: tuple[str, ...],
    bundle_copy: Path,
    int8_engine: Path,
    trained_run: Path,
    sample_data: Path,
    command: Command,
) -> None:
    before = sorted(bundle_copy.rglob("*"))
    places = {"BUNDLE": bundle_copy, "ENGINE": int8_engine, "DATA": sample_data / "brick", "RUN": trained_run}
    target = bundle_copy / (
        "x.engine" if "--save-engine" in words else "x.webm" if "--video" in words else "x.json"
    )
    said = command(*(places.get(word, word) for word in words), target)
    refused(said, 2, "lies in the bundle part.bundle")
    assert sorted(bundle_copy.rglob("*")) == before
