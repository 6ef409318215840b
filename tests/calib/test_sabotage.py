"""The gate bites: graphs of a network that was really trained, spoilt in the ways that exports and quantisers get wrong.

`python -m benchmarks.sabotage BUNDLE` prints the same for any bundle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from agp_edge.bundle import Bundle
from agp_edge.datasets import load_dataset
from agp_edge.engines.measure import HeldOut, frames_of_bundle, measure
from agp_edge.frame import FrameSpec, Precision
from agp_edge.gate import ALLOWANCES
from agpnet.run import TorchSession, load_run
from benchmarks.sabotage import (
    HEAD,
    Judged,
    Sabotage,
    Saboteur,
    scale_by,
    scales,
    swap_channels,
    weight_scales,
)
from calib.calibrate import calibrate
from calib.quantise import Quantiser
from export.onnx_export import export_network

Command = Callable[..., tuple[int, str, str]]
Reseal = Callable[[Path], None]


@pytest.fixture(scope="module")
def saboteur(trained_run: Path, calibrated_bundle: Path) -> Saboteur:
    """Spoils the graphs of a bundle; what is true is what torch says of the run."""
    bundle = Bundle(calibrated_bundle)
    network, _ = load_run(trained_run)
    with TorchSession(network, bundle.manifest.frame) as session:
        reference = measure(session, frames_of_bundle(bundle))
    return Saboteur.of_bundle(bundle, reference)


@pytest.fixture(scope="module")
def resizing(
    trained_run: Path, calibrated_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Saboteur:
    """The same network for frames that pooling alone does not bring to its size: 200x160, a resize to 64x64."""
    network, _ = load_run(trained_run)
    frame = FrameSpec(200, 160, 3)
    path = tmp_path_factory.mktemp("resizing") / "model.fp32.onnx"
    export_network(network, frame, path)
    whole = frames_of_bundle(Bundle(calibrated_bundle))
    cut = (slice(None), slice(0, frame.height), slice(0, frame.width))
    frames = HeldOut(whole.threshold[cut].copy(), whole.gate[cut].copy(), whole.names, whole.splits)
    with TorchSession(network, frame) as session:
        return Saboteur({"fp32": onnx.load(path)}, frame, frames, measure(session, frames))


def named(saboteur: Saboteur, name: str, precision: str = "fp32") -> Sabotage:
    (found,) = (s for s in saboteur.sabotages() if s.name == name and s.precision == precision)
    return found


def test_graphs_that_are_as_they_should_be_pass(saboteur: Saboteur, resizing: Saboteur) -> None:
    for precision in ("fp32", "int8"):
        report = saboteur.judge(named(saboteur, "nothing", precision))
        assert (report.outcome, report.precision) == ("passed", precision)
        # Well within the allowance: the gate does not refuse by accident.
        assert report.drift_max < ALLOWANCES[report.precision].drift / 3
    assert resizing.judge(named(resizing, "nothing")).outcome == "passed"


OF_FP32 = [
    "front: divides by 256, not 255",
    "front: divides by 1, not 255",
    "channel_mean: one channel by a tenth of its spread",
    "channels: RGB for BGR",
    "blur: dropped",
    "blur: dropped for the score alone",
]


@pytest.mark.parametrize("name", OF_FP32)
def test_a_spoilt_fp32_graph_is_refused(saboteur: Saboteur, name: str) -> None:
    report = saboteur.judge(named(saboteur, name))
    assert report.outcome == "refused"
    assert report.drift_max > 5 * ALLOWANCES["fp32"].drift


@pytest.mark.parametrize("way", ["nearest for linear", "corners for centres", "aligned corners"])
def test_another_resize_is_refused(resizing: Saboteur, way: str) -> None:
    report = resizing.judge(named(resizing, f"front's resize: {way}"))
    assert report.outcome == "refused"
    assert report.drift_max > 5 * ALLOWANCES["fp32"].drift


def test_a_graph_without_a_resize_in_front_has_none_to_spoil(saboteur: Saboteur) -> None:
    assert not [s for s in saboteur.sabotages() if s.name.startswith("front's resize")]


@pytest.mark.parametrize(
    "kind",
    ["weight scale x4", "activation scale x4, dequantised", "weight scale /1000", "activation scale /1000"],
)
def test_a_wrong_scale_is_refused_wherever_it_is(saboteur: Saboteur, kind: str) -> None:
    every = [s for s in saboteur.sabotages() if s.name.startswith(f"{kind}:")]
    # Every second of the activations': a second less.
    chosen = every if kind.startswith("weight") else every[::2]
    passed = {s.name: r.describe() for s in chosen if (r := saboteur.judge(s)).outcome != "refused"}
    assert len(chosen) >= 5
    assert not passed


def test_an_activation_scale_that_is_too_wide_only_coarsens(saboteur: Saboteur) -> None:
    """Quantised and dequantised alike by 4 times the scale, 6 of 8 bits are left: less is wrong than what the gate allows."""
    every = [s for s in saboteur.sabotages() if s.name.startswith("activation scale x4:")]
    assert every
    for sabotage in every[::3]:
        report = saboteur.judge(sabotage)
        assert report.drift_max < 0.5
        assert report.map_correlation > ALLOWANCES["int8"].map_correlation


def test_the_table_of_the_study_has_a_row_a_sabotage(saboteur: Saboteur) -> None:
    sabotage = named(saboteur, "channels: RGB for BGR")
    row = Judged(sabotage, saboteur.judge(sabotage)).row()
    assert len(row) == len(HEAD)
    assert row[:3] == ("fp32", "channels: RGB for BGR", "refused")


def spoil_file(path: Path, spoil: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    spoil(model)
    onnx.save(model, path)


def test_compare_refuses_a_run_and_a_spoilt_bundle(
    trained_run: Path,
    exported_bundle: Path,
    sample_data: Path,
    tmp_path: Path,
    reseal: Reseal,
    command: Command,
) -> None:
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "part.bundle"))
    code, out, _ = command("compare", trained_run, bundle, sample_data, "--json", "-")
    assert code == 0
    told = json.loads(out)
    assert told["drift_max"] < 1e-3
    assert told["image_auroc"]["change"] == pytest.approx(0, abs=1e-6)
    assert 0 < told["aupro"]["candidate"] <= 1
    spoil_file(bundle / "model.fp32.onnx", swap_channels)
    reseal(bundle)
    code, out, err = command("compare", trained_run, bundle, sample_data)
    assert (code, out.split(":")[0]) == (3, "REFUSED")
    folder = tmp_path / "part.bundle.refused"
    assert f"see both maps in {folder}" in err.splitlines()[-1]
    flips = json.loads((folder / "gate.json").read_text())["gate"]["flips"]
    assert flips
    assert len(list(folder.glob("*.png"))) == len(flips)


def zero_a_layer(model: onnx.ModelProto) -> None:
    """The scale of one layer's weights, so small that nothing is left of them."""
    weights = weight_scales(model)
    scale_by(model, next(name for name in scales(model) if name in weights), 1e-3)


def test_build_engine_refuses_a_spoilt_scale_and_keeps_what_was_there(
    bundle_copy: Path, reseal: Reseal, command: Command
) -> None:
    engine = bundle_copy.parent / "part.int8.onnxruntime.engine"
    int8 = ["--backend", "onnxruntime", "--precision", "int8"]
    assert command("build-engine", bundle_copy, *int8)[0] == 0
    before = {p.name: p.read_bytes() for p in bundle_copy.parent.iterdir() if p.is_file()}
    spoil_file(bundle_copy / "model.int8.onnx", zero_a_layer)
    reseal(bundle_copy)
    flips = bundle_copy.parent / "flips"
    code, out, err = command("build-engine", bundle_copy, *int8, "--flips", flips)
    assert (code, out) == (3, "")
    assert str(flips / f"{engine.name}.refused") in err.splitlines()[-1]
    assert list((flips / f"{engine.name}.refused").glob("*.png"))
    assert {p.name: p.read_bytes() for p in bundle_copy.parent.iterdir() if p.is_file()} == before


def test_calibrate_leaves_a_spoilt_graph_out(
    exported_bundle: Path,
    sample_data: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Quantiser.write

    def spoilt(self: Any, out: Path, *arguments: Any) -> Any:
        made = write(self, out, *arguments)
        spoil_file(out, zero_a_layer)
        return made

    monkeypatch.setattr(Quantiser, "write", spoilt)
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "part.bundle"))
    code, _, err = command("calibrate", bundle, sample_data, "--quantise", "all")
    assert code == 3
    assert "the gate refuses part int8" in err
    assert Bundle(bundle).manifest.precisions == ["fp32", "fp16"]
    (folder,) = tmp_path.glob("*.refused")
    assert str(folder) in err
    assert list(folder.glob("*.png"))
    monkeypatch.undo()
    assert command("calibrate", bundle, sample_data)[0] == 0
    assert not list(tmp_path.glob("*.refused")), "a pass leaves no refusal behind"
    manifest = (bundle / "manifest.json").read_bytes()
    code, _, err = command("calibrate", bundle, sample_data, "--prove", "0.5%")
    assert code == 3
    assert "582 more gate frames without a flip are needed" in err.splitlines()[-1]
    assert (bundle / "manifest.json").read_bytes() == manifest, "what was there stays"


def test_the_search_leaves_out_what_it_cannot_trust(
    exported_bundle: Path, sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Quantiser.write

    def spoilt(self: Any, out: Path, *arguments: Any) -> Any:
        made = write(self, out, *arguments)
        spoil_file(out, zero_a_layer)
        return made

    monkeypatch.setattr(Quantiser, "write", spoilt)
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "part.bundle"))
    result = calibrate(bundle, load_dataset(sample_data))
    result.check()
    assert result.quantised == []
    assert result.warnings[-1] == "no layer may be in INT8: the bundle has no INT8 graph"
    assert Bundle(bundle).manifest.precisions == ["fp32", "fp16"]
    assert Bundle(bundle).manifest.calibration["int8"]["quantised"] == []


def test_grey_frames_do_not_tell_channels_apart(saboteur: Saboteur, calibrated_bundle: Path) -> None:
    """A limit, and documented as such: on parts without colour the gate cannot see that red and blue are swapped."""
    bundle = Bundle(calibrated_bundle)
    frames = frames_of_bundle(bundle)
    threshold, gate = (
        np.repeat(part.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
        for part in (frames.threshold, frames.gate)
    )
    graphs: dict[Precision, onnx.ModelProto] = {"fp32": onnx.load(bundle.model_path("fp32"))}
    grey = Saboteur(graphs, bundle.manifest.frame, replace(frames, threshold=threshold, gate=gate))
    report = grey.judge(named(saboteur, "channels: RGB for BGR"))
    assert report.outcome == "passed"
