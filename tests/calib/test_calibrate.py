"""Calibration: the splits keep apart what must be apart, and the INT8 graph has the form that TensorRT takes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from agp_edge.bundle import Bundle, Part
from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.datasets.base import Dataset
from agp_edge.datasets.images import read_image, write_png
from agp_edge.engines.measure import measure
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import ArtefactError, GateError, InputError
from agp_edge.files import sha256_bytes, sha256_file
from agp_edge.verdict import choose_threshold
from calib import calibrate as calibrate_module
from calib.calibrate import calibrate
from calib.calibration import Calibration
from calib.quantise import METHODS, Method, check_scales, quantise

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fresh(exported_bundle: Path, tmp_path: Path) -> Path:
    """An uncalibrated bundle. Yours to spoil."""
    return Path(shutil.copytree(exported_bundle, tmp_path / "part.bundle"))


def good_images(data: Path) -> list[Path]:
    return sorted(data.glob("*/train/good/*.png"))


def folder_of(place: Path, files: list[Path]) -> Path:
    place.mkdir(parents=True)
    for i, file in enumerate(files):
        shutil.copy(file, place / f"{i:03}.png")
    return place


def of_bundle(bundle: Path, data: Path, which: str) -> list[Path]:
    """Images of a data set that the bundle's network was trained on, or that were held out."""
    hashes = set(getattr(Bundle(bundle).manifest, which))
    return [file for file in good_images(data) if sha256_file(file) in hashes]


def test_parts_are_disjoint_and_gate_and_threshold_never_trained_on(calibrated_bundle: Path) -> None:
    manifest = Bundle(calibrated_bundle).manifest
    parts = {name: set(hashes) for name, hashes in manifest.splits.items()}
    assert {name: len(part) for name, part in parts.items()} == {
        "ranges": 26, "search": 26, "gate": 16, "threshold": 16
    }  # fmt: skip
    assert len(set.union(*parts.values())) == 84, "no image is in two parts"
    assert parts["ranges"] | parts["search"] == set(manifest.trained)
    assert parts["gate"] | parts["threshold"] == set(manifest.held_out)


def test_what_is_recorded_can_be_repeated(calibrated_bundle: Path, sample_data: Path) -> None:
    bundle = Bundle(calibrated_bundle)
    manifest = bundle.manifest
    by_hash = {
        sha256_file(file): file.relative_to(sample_data).as_posix() for file in good_images(sample_data)
    }
    held_out = [frame for frame in manifest.frames if frame.part != "reference"]
    for frame in held_out:
        assert by_hash[frame.sha256] == frame.name
        assert frame.sha256 in manifest.splits[frame.part]
    assert [frame.part for frame in held_out if frame.self_test] == ["gate"] * 4
    report = manifest.artefacts["int8"]["gate"]
    for part in ("gate", "threshold"):
        assert report["splits"][part] == sha256_bytes("\n".join(sorted(manifest.splits[part])).encode())
    for precision in manifest.precisions:
        with OnnxRuntimeSession(bundle.model_path(precision), manifest.frame) as session:
            scores = session.infer(bundle.load_frames("threshold")[1]).score.tolist()
        assert sorted(scores) == manifest.normal_scores(precision)
    parts: tuple[Part, ...] = ("gate", "threshold")
    for part in parts:
        entries, frames = bundle.load_frames(part)
        with OnnxRuntimeSession(bundle.model_path("fp32"), manifest.frame) as session:
            assert session.infer(frames).score.tolist() == [entry.score for entry in entries]


@pytest.mark.parametrize("method", METHODS)
def test_int8_has_the_form_that_tensorrt_takes(
    method: Method, exported_bundle: Path, calibrated_bundle: Path, tmp_path: Path
) -> None:
    _, frames = Bundle(calibrated_bundle).load_frames("threshold")
    out = tmp_path / "model.int8.onnx"
    told: list[int] = []
    n = quantise(
        exported_bundle / "model.fp32.onnx", out, frames, batch=1, method=method,
        progress=lambda done, total, note="": told.append(done),
    )  # fmt: skip
    assert told == list(range(1, 17))
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    operators = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    quantised = [
        o for o in operators if all(producer.get(i, o).op_type == "DequantizeLinear" for i in o.input[:2])
    ]
    assert len(quantised) == n == 10, "2 blocks of 4, and a linear layer on either side"
    for node in quantised:
        weight = producer[node.input[1]]
        scale = constants[weight.input[1]]
        assert scale.ndim == 1, "a scale for every channel"
        assert scale.size > 1
        assert constants[weight.input[0]].dtype == np.int8
        if len(node.input) > 2:
            assert producer.get(node.input[2]) is None, "the bias is not quantised"
            assert constants[node.input[2]].dtype == np.float32
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert (constants[node.input[1]] > 0).all()
    assert not {n.op_type for n in model.graph.node} & {"QLinearMatMul", "MatMulInteger", "ConvInteger"}
    check_scales(out)


def test_methods_give_other_ranges(
    exported_bundle: Path, calibrated_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, frames = Bundle(calibrated_bundle).load_frames("gate")
    methods: tuple[Method, ...] = ("max", "entropy")
    for method in methods:
        quantise(exported_bundle / "model.fp32.onnx", tmp_path / method, frames, batch=1, method=method)
    assert sha256_file(tmp_path / "max") != sha256_file(tmp_path / "entropy")
    assert capsys.readouterr().out == "", "the quantiser's own prints would mix with results"
    quantise(exported_bundle / "model.fp32.onnx", tmp_path / "again", frames, batch=1)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "max").read_bytes()


def test_a_scale_that_is_none_is_found(calibrated_bundle: Path, tmp_path: Path) -> None:
    for value in (0.0, np.inf, np.nan):
        model = onnx.load(calibrated_bundle / "model.int8.onnx")
        first = next(n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear")
        (scale,) = (t for t in model.graph.initializer if t.name == first)
        values = onnx.numpy_helper.to_array(scale).copy()
        values[...] = value
        scale.CopyFrom(onnx.numpy_helper.from_array(values, scale.name))
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(ArtefactError, match="is no scale"):
            check_scales(tmp_path / "model.onnx")


def test_a_graph_without_trained_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    frames = np.zeros((2, 48, 64, 3), np.uint8)
    with pytest.raises(ArtefactError, match="no operator with trained weights"):
        quantise(tiny_model, tmp_path / "out.onnx", frames, batch=1)
    with pytest.raises(InputError, match="fewer than one batch of 3"):
        quantise(tiny_model, tmp_path / "out.onnx", frames, batch=3)


def test_the_same_input_gives_the_same_bundle(
    fresh: Path, calibrated_bundle: Path, sample_data: Path
) -> None:
    calibrate(fresh, load_dataset(sample_data))
    for file in (p for p in calibrated_bundle.rglob("*") if p.is_file()):
        same = fresh / file.relative_to(calibrated_bundle)
        assert same.read_bytes() == file.read_bytes(), file.name


def test_few_frames_are_warned_of_and_counted(fresh: Path, sample_data: Path, command: Command) -> None:
    code, out, err = command("calibrate", fresh, sample_data, "--frames", 10, "--json", "-")
    assert code == 0
    told = json.loads(out)
    assert told["splits"] == {"ranges": 10, "search": 10, "gate": 16, "threshold": 16}
    assert told["warnings"] == ["INT8 ranges come from 10 frames; 100 or more are advised"]
    assert "warning: INT8 ranges come from 10 frames" in err
    assert set(told["gates"]) == {"fp16", "int8"}
    assert told["thresholds"]["fp32"]["n"] == 16


def test_new_good_images_alone_will_do(fresh: Path, sample_data: Path, tmp_path: Path) -> None:
    files = good_images(sample_data)
    new = tmp_path / "new"
    new.mkdir()
    for i, file in enumerate(files[:64]):
        write_png(new / f"{i:03}.png", read_image(file)[:, ::-1].copy())
    result = calibrate(fresh, load_dataset(new))
    assert result.splits == {"ranges": 16, "search": 16, "gate": 16, "threshold": 16}
    parts = Bundle(fresh).manifest.splits
    assert len(set().union(*parts.values())) == 64


def test_too_few_new_images_are_inconclusive_and_fp32_works_all_the_same(
    fresh: Path, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    held_out = of_bundle(fresh, sample_data, "held_out")
    some = folder_of(tmp_path / "some", [*of_bundle(fresh, sample_data, "trained")[:20], *held_out[:20]])
    code, out, err = command("calibrate", fresh, some)
    assert code == 3
    assert "INCONCLUSIVE: 10 gate frames" in err.splitlines()[-2]
    assert "fp32  threshold" in out
    manifest = Bundle(fresh).manifest
    assert manifest.calibrated
    assert len(manifest.normal_scores("fp32")) == 10


def pictures(place: Path, *sizes: int) -> Path:
    """Even pictures, each of another grey."""
    for i, size in enumerate(sizes):
        write_png(place / f"{i}.png", np.full((size, size, 3), i, np.uint8))
    return place


def spoilt(place: Path, files: list[Path]) -> Path:
    (folder_of(place, files) / "000.png").write_bytes(b"\x89PNG")
    return place


def empty(place: Path) -> Path:
    place.mkdir()
    return place


MakeData = Callable[[Path, Path, Path], Path]
BAD: dict[str, tuple[MakeData, list[str], str]] = {
    "only trained images": (lambda b, data, place: folder_of(place, of_bundle(b, data, "trained")), [], "not trained on"),
    "another size": (lambda b, data, place: pictures(place, 64, 64), [], "64x64"),
    "one image": (lambda b, data, place: pictures(place, 256), [], "too few"),
    "an unreadable image": (lambda b, data, place: spoilt(place, good_images(data)[:4]), [], "000.png"),
    "an empty folder": (lambda b, data, place: empty(place), [], "is empty"),
    "no data": (lambda b, data, place: place, [], "there is no data set"),
    "no frames": (lambda b, data, place: data, ["--frames", "0"], "0 frames cannot be chosen"),
    "an unknown choice": (lambda b, data, place: data, ["--choice", "best"], "no choice 'best' of frames"),
    "an empty reason": (lambda b, data, place: data, ["--accept", " "], "no reason"),
    "test images": (lambda b, data, place: data / "brick" / "test" / "good", [], "of the data set"),
    "an unknown method": (lambda b, data, place: data, ["--method", "best"], "no calibration method 'best'"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "options", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_ends_in_two_and_leaves_the_bundle_alone(
    fresh: Path, sample_data: Path, tmp_path: Path, command: Command,
    make: MakeData, options: list[str], message: str,
) -> None:  # fmt: skip
    data = make(fresh, sample_data, tmp_path / "place")
    before = {p: p.read_bytes() for p in fresh.rglob("*") if p.is_file()}
    code, out, err = command("calibrate", fresh, data, *options)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-2]
    assert {p: p.read_bytes() for p in fresh.rglob("*") if p.is_file()} == before


def fail_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every precision but the reference measure one gate frame as far above."""

    def measured(session: Any, *arguments: Any) -> Any:
        scores = measure(session, *arguments)
        if session.precision == "fp32":
            return scores
        return replace(scores, gate=[1e6, *scores.gate[1:]])

    monkeypatch.setattr(calibrate_module, "measure", measured)


def test_a_graph_that_its_gate_refuses_is_left_out(
    fresh: Path, sample_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_the_gate(monkeypatch)
    result = calibrate(fresh, load_dataset(sample_data))
    with pytest.raises(GateError, match=r"flipped on 1 of 16 frames"):
        result.check()
    bundle = Bundle(fresh)
    assert bundle.manifest.precisions == ["fp32"]
    assert bundle.manifest.calibrated
    assert bundle.manifest.artefacts["int8"]["gate"]["outcome"] == "refused", "and it is written down"
    with pytest.raises(InputError):
        bundle.model_path("int8")


def test_an_earlier_calibration_survives_a_gate_that_does_not_pass(
    bundle_copy: Path, sample_data: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p: p.read_bytes() for p in bundle_copy.rglob("*") if p.is_file()}
    held_out = of_bundle(bundle_copy, sample_data, "held_out")
    some = folder_of(tmp_path / "some", [*of_bundle(bundle_copy, sample_data, "trained")[:4], *held_out[:4]])
    code, out, err = command("calibrate", bundle_copy, some)
    assert code == 3
    assert "the bundle keeps its earlier calibration" in out
    assert f"{bundle_copy} keeps its earlier calibration" in err.splitlines()[-1]
    assert "next:" not in err
    with monkeypatch.context() as patch:
        fail_the_gate(patch)
        assert command("calibrate", bundle_copy, sample_data, "--json", "-")[0] == 3
    assert {p: p.read_bytes() for p in bundle_copy.rglob("*") if p.is_file()} == before
    code, _, err = command("calibrate", bundle_copy, some, "--accept", "trial on line 3")
    assert code == 0
    assert "next: agp-edge build-engine" in err
    shown = command("inspect", bundle_copy)[1]
    assert shown.count("gate INCONCLUSIVE: 0 flips in n = 2 frames; accepted by hand: trial on line 3") == 2


def test_inspect_shows_what_a_gate_left_out(
    fresh: Path, sample_data: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    fail_the_gate(monkeypatch)
    code, _, err = command("calibrate", fresh, sample_data)
    assert code == 3
    assert "next:" not in err
    _, out, _ = command("inspect", fresh, "--json", "-")
    told = json.loads(out)
    assert list(told["precisions"]) == ["fp32"]
    assert {p: gate["outcome"] for p, gate in told["gates"].items()} == {"fp16": "refused", "int8": "refused"}
    assert "int8  left out: gate REFUSED: 1 flips in n = 16" in command("inspect", fresh)[1]


def test_images_that_the_training_may_have_known_otherwise_are_warned_of(
    fresh: Path, sample_data: Path, tmp_path: Path
) -> None:
    assert Bundle(fresh).manifest.network["trained_frame"] == {"width": 256, "height": 256}
    new = tmp_path / "new"
    for i, file in enumerate(good_images(sample_data)[:64]):
        write_png(new / f"{i:03}.png", np.ascontiguousarray(read_image(file)[:, ::-1]))
    other = calibrate(Path(shutil.copytree(fresh, tmp_path / "a.bundle")), load_dataset(new))
    assert "none of these 64 images was among those of the training: is this the same part?" in other.warnings
    manifest = json.loads((fresh / "manifest.json").read_text())
    manifest["network"]["trained_frame"] = {"width": 512, "height": 384}
    (fresh / "manifest.json").write_text(json.dumps(manifest))
    resized = calibrate(fresh, load_dataset(sample_data))
    assert resized.warnings[0].startswith("trained on frames of 512x384, this bundle takes 256x256: ")


def test_another_size_is_sent_to_the_camera_and_not_in_a_circle(
    fresh: Path, tmp_path: Path, command: Command
) -> None:
    code, _, err = command("calibrate", fresh, pictures(tmp_path / "place", 64, 64))
    assert code == 2
    assert "agp-edge capture" in err.splitlines()[-1]
    assert "export" not in err.splitlines()[-1]


def test_an_accepted_graph_stays_with_its_reason(
    fresh: Path, sample_data: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    fail_the_gate(monkeypatch)
    code, _, _ = command("calibrate", fresh, sample_data, "--accept", "trial on line 3")
    assert code == 0
    manifest = Bundle(fresh).manifest
    assert manifest.precisions == ["fp32", "fp16", "int8"]
    assert manifest.artefacts["int8"]["accepted"] == "trial on line 3"


def test_a_calibration_describes_itself(fresh: Path, sample_data: Path) -> None:
    dataset: Dataset = load_dataset(sample_data)
    assert len(content_hashes(dataset.classes[0].train)) == 42
    result: Calibration = calibrate(fresh, dataset)
    text = result.describe()
    for precision, threshold in result.thresholds.items():
        assert re.search(rf"^{precision}  threshold {threshold.value:.6g} from n = 16", text, re.MULTILINE)
        assert threshold == choose_threshold(Bundle(fresh).manifest.normal_scores(precision))
    assert len(result.quantised) + len(result.kept) == 10
    assert f"{len(result.quantised)} layers in INT8" in text


def test_what_only_proves_too_little_loses_no_graph(fresh: Path, sample_data: Path, command: Command) -> None:
    code, _, err = command("calibrate", fresh, sample_data, "--prove", "0.5%")
    assert code == 3
    assert "not below 0.500%" in err
    manifest = Bundle(fresh).manifest
    assert (manifest.graphs, manifest.precisions) == (["fp32", "fp16"], ["fp32"])
    shown = command("inspect", fresh)[1]
    assert "0.500% was to be proved" in shown
    code, _, err = command("build-engine", fresh, "--precision", "fp16", "--backend", "onnxruntime")
    assert code == 2
    assert "a fp16 graph that the gate refused" in err
    assert command("calibrate", fresh, sample_data)[0] == 0
    manifest = Bundle(fresh).manifest
    assert manifest.precisions == ["fp32", "fp16", "int8"]
    casts = [n for n in onnx.load(fresh / "model.int8.onnx").graph.node if n.op_type == "Cast"]
    half = {a.i for n in casts for a in n.attribute if a.name == "to"}
    assert onnx.TensorProto.FLOAT16 in half, "and what INT8 leaves is FP16, as the first time"


@pytest.mark.parametrize("seed", [-1, 2**32, 10**23])
def test_a_seed_that_is_none_is_refused_before_the_work(
    fresh: Path, sample_data: Path, seed: int, command: Command
) -> None:
    code, _, err = command("calibrate", fresh, sample_data, "--seed", seed)
    assert code == 2
    assert f"{seed} is no seed" in err


def test_a_link_to_a_bundle_stays_a_link(
    fresh: Path, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    link = tmp_path / "link.bundle"
    link.symlink_to(fresh)
    assert command("calibrate", link, sample_data)[0] == 0
    assert link.is_symlink()
    assert Bundle(fresh).manifest.calibrated


def test_a_record_of_the_calibration_cannot_be_taken_out(bundle_copy: Path, command: Command) -> None:
    path = bundle_copy / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": {}}))
    for verb in ("verify", "inspect", "build-engine"):
        code, _, err = command(verb, bundle_copy)
        assert code == 4
        assert "no record of the calibration that made it" in err
