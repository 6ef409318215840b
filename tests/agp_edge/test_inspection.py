"""What `inspect` says of a bundle: everything that a person asks about, on a terminal of 80 columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.bundle import BundleFrame, FramePart, Manifest, hash_of_hashes, write_bundle
from agp_edge.datasets.images import write_png
from agp_edge.files import sha256_file
from agp_edge.frame import FrameSpec

Command = Callable[..., tuple[int, str, str]]
HASHES = [f"{i:064x}" for i in range(200)]
GATE = {
    "outcome": "passed", "n": 20, "flips": [], "bound_95": 0.139, "drift_max": 0.0123, "map_correlation": 0.9987,
}  # fmt: skip


@pytest.fixture
def manifest(tiny_model: Path) -> Manifest:
    scores = [i / 100 for i in range(1, 100)]
    return Manifest(
        name="brick",
        frame=FrameSpec(64, 48, 3, 4),
        network={
            "backbone": {"kind": "transformer", "source": "facebook/dino-vits16", "layers": [3, 6, 9, 12], "input_size": 256},
            "classes": ["brick"],
            "config": {"steps": 400, "seed": 0, "shots": 0, "setup": "one-class"},
            "trained_frame": {"width": 64, "height": 48},
        },
        producer={"agp_edge": "1.0", "torch": "2.9.1"},
        trained=HASHES[:100],
        held_out=HASHES[100:],
        splits={"gate": HASHES[100:120], "threshold": HASHES[120:], "ranges": HASHES[:10], "search": HASHES[10:20]},
        artefacts={
            "fp32": {"normal_scores": scores},
            "fp16": {"gate": {**GATE, "outcome": "refused", "flips": ["a.png", "b.png"]}},
            "int8": {"normal_scores": scores, "gate": GATE, "accepted": "a trial", "method": "entropy"},
        },
        calibration={
            "model_sha256": sha256_file(tiny_model), "set_sha256": hash_of_hashes(HASHES[:10]),
            "frames": [{"name": f"{i}.png", "sha256": h} for i, h in enumerate(HASHES[:10])],
            "choice": "k-centre", "seed": 7, "method": "entropy", "int8": {"quantised": ["a", "b"], "kept": ["c"]},
        },
    )  # fmt: skip


def write(tmp_path: Path, manifest: Manifest, model: Path) -> Path:
    files: dict[str, Path | bytes] = {"model.fp32.onnx": model, "model.int8.onnx": model}
    frames = []
    parts: tuple[FramePart, ...] = ("reference", "gate", "threshold", "threshold")
    for i, part in enumerate(parts):
        name = f"frames/{i}.png"
        files[name] = tmp_path / name
        write_png(tmp_path / name, np.full((48, 64, 3), i, np.uint8))
        digest = {"reference": HASHES[0], "gate": HASHES[100], "threshold": HASHES[120 + i]}[part]
        frames.append(BundleFrame(name, f"{i}.png", digest, part, part != "threshold", 0.5))
    return write_bundle(tmp_path / "brick.bundle", replace(manifest, frames=frames), files).path


def test_a_calibrated_bundle_tells_everything(
    manifest: Manifest, tiny_model: Path, tmp_path: Path, command: Command
) -> None:
    bundle = write(tmp_path, manifest, tiny_model)
    code, out, err = command("inspect", bundle)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(out.split())
    size = f"{tiny_model.stat().st_size / 1e6:.3g} MB"
    for said in (
        "bundle brick (", "frames 64x48 BGR, batch 4",
        "backbone transformer facebook/dino-vits16: input size 256, layers 3, 6, 9, 12",
        "trained 100 images, 100 held out, of brick; at 64x48; setup one-class; steps 400",
        "made by agp_edge 1.0, torch 2.9.1",
        "trust not signed",
        "fp32 0.99 from n = 99: false rejects <= 1.00%, 95 % bound",
        size,
        f"{size}, 2 operators in INT8, 1 left as they are, ranges by entropy",
        "gate PASSED: 0 flips in n = 20 frames; accepted by hand: a trial",
        "95 % bound 13.9%, drift 0.012, maps 0.999",
        "fp16 left out: gate REFUSED: 2 flips in n = 20 frames",
        "splits ranges 10, search 10, gate 20, threshold 80",
        "frames reference 1, gate 1, threshold 2; 2 of them are the self-test",
        "calibrated INT8 ranges from 10 frames, chosen by k-centre, seed 7",
    ):  # fmt: skip
        assert said in text, said
    told: dict[str, Any] = json.loads(command("inspect", bundle, "--json", "-")[1])
    assert told["calibration"] == json.loads((bundle / "manifest.json").read_text())["calibration"]
    assert told["splits"] == {"ranges": 10, "search": 10, "gate": 20, "threshold": 80}
    assert list(told["precisions"]) == ["fp32", "int8"]
    assert told["precisions"]["int8"]["n_normal_scores"] == 99
    assert told["provisional"] is False


def test_a_bundle_that_is_not_calibrated_says_what_to_do(
    manifest: Manifest, tiny_model: Path, tmp_path: Path, command: Command
) -> None:
    plain = replace(
        manifest, splits={}, artefacts={}, calibration={}, network={"backbone": "filters"}, producer={}
    )
    bundle = write_bundle(tmp_path / "brick.bundle", plain, {"model.fp32.onnx": tiny_model}).path
    code, out, _ = command("inspect", bundle)
    assert code == 0
    text = " ".join(out.split())
    assert "network backbone filters" in text
    assert "fp32 no threshold: no normal scores" in text
    assert "frames none travel with it" in text
    assert "calibrated not yet: agp-edge calibrate BUNDLE DATA" in text
    assert "splits" not in text
    assert "made by" not in text


def test_provisional_scores_are_called_so(
    manifest: Manifest, tiny_model: Path, tmp_path: Path, command: Command
) -> None:
    scores = {"fp32": {"normal_scores": [0.1, 0.2], "provisional": True}}
    provisional = replace(manifest, artefacts=scores, calibration={})
    bundle = write_bundle(tmp_path / "brick.bundle", provisional, {"model.fp32.onnx": tiny_model}).path
    assert "0.2 from n = 2, PROVISIONAL: nothing is promised" in command("inspect", bundle)[1]
    assert json.loads(command("inspect", bundle, "--json", "-")[1])["provisional"] is True


def test_a_folder_of_runs_lists_them_and_an_unfinished_training_says_how_to_go_on(
    tmp_path: Path, command: Command
) -> None:
    for name, steps in (("nut", 600), ("bolt", 20)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        record = {"state": "finished", "step": steps, "trained": ["a", "b"], "classes": [name]}
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(record))
    code, out, _ = command("inspect", tmp_path / "runs")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].endswith("runs: 2 runs, one a class")
    assert lines[1:3] == [
        "  bolt: finished, 20 steps on 2 good images",
        "  nut: finished, 600 steps on 2 good images",
    ]
    assert lines[-1] == f"all of them: agp-edge evaluate {tmp_path / 'runs'} DATA"
    code, out, _ = command("inspect", tmp_path / "runs", "--json", "-")
    assert json.loads(out)["kind"] == "runs"
    (tmp_path / "half" / "training").mkdir(parents=True)
    (tmp_path / "half" / "training" / "step-00000010.json").write_text("{}")
    code, _, err = command("inspect", tmp_path / "half")
    assert code == 2
    assert "a training that is not finished" in err
    assert "--resume" in err


def test_runs_that_have_nothing_to_do_with_each_other_are_no_set(tmp_path: Path, command: Command) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        record = {"state": "finished", "step": 5, "trained": ["a"], "classes": ["brick"]}
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    code, out, _ = command("inspect", tmp_path)
    assert code == 0
    assert out.splitlines()[0] == f"{tmp_path}: 2 runs"
    assert "evaluate" not in out
