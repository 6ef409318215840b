"""`evaluate` and `inspect` as a user calls them: what they print, write, and end with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer

import agp_edge.cli.data as commands
from agp_edge.bundle import Manifest, write_bundle
from agp_edge.cli.artefacts import warn_of_unknown_classes
from agp_edge.cli.console import run_command
from agp_edge.datasets import ClassData, Dataset, load_dataset
from agp_edge.datasets.images import read_image, write_png
from agp_edge.files import write_json
from agp_edge.frame import FrameSpec

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call a command as the entry point does; gives the exit code."""
    app = typer.Typer(add_completion=False)
    app.command("evaluate")(commands.evaluate)
    app.command("inspect")(commands.inspect)

    def call(*args: object) -> int:
        monkeypatch.setattr("sys.argv", ["agp-edge", *map(str, args)])
        return run_command(app)

    return call


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Frames of `tiny_engine`: good at 0.2 and one at 0.5 of white, a bright spot (0.8) and a faint one (0.3)."""
    root = tmp_path / "nut"

    def save(name: str, spot: float) -> None:
        pixels = np.full((48, 64, 3), 51, np.uint8)
        pixels[16:24, 24:32] = round(spot * 255)
        write_png(root / name, pixels)

    save("train/good/0.png", 0.21)
    save("test/good/0.png", 0.2)
    save("test/good/1.png", 0.5)
    for i, spot in enumerate((0.8, 0.3)):
        save(f"test/spot/{i}.png", spot)
        mask = np.zeros((48, 64, 1), np.uint8)
        mask[16:24, 24:32] = 255
        write_png(root / f"ground_truth/spot/{i}_mask.png", mask)
    return root


@pytest.fixture
def bundle(tiny_model: Path, tmp_path: Path) -> Path:
    manifest = Manifest(
        name="nut",
        frame=FrameSpec(64, 48, 3),
        network={"backbone": "filterbank", "grid": [16, 16], "classes": ["nut"]},
        producer={"agp-edge": "0"},
        trained=["a" * 64],
        held_out=["b" * 64],
        artefacts={"fp32": {"normal_scores": [i / 100 for i in range(1, 100)]}},
        splits={"gate": ["c" * 64], "threshold": ["d" * 64, "e" * 64]},
    )
    return write_bundle(tmp_path / "nut.bundle", manifest, {"model.fp32.onnx": tiny_model}).path


def test_evaluate_prints_a_table_and_the_verdicts(
    run: Run, tiny_engine: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", tiny_engine, tree) == 0
    out = capsys.readouterr().out
    assert "I-AUROC" in out
    assert "nut" in out
    # The threshold of the engine is 0.4.
    assert "1 of 2 good images rejected, 1 of 2 defects missed" in out


def test_evaluate_json_on_stdout_is_json_alone(
    run: Run, tiny_engine: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", tiny_engine, tree, "--json", "-", "--aupro-limit", "0.05") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["aupro_limit"] == 0.05
    assert found["classes"]["nut"]["image_auroc"] == found["mean"]["image_auroc"] == 0.75
    assert found["verdicts"]["false_rejects"] == found["verdicts"]["misses"] == 1


def test_evaluate_writes_a_report(run: Run, tiny_engine: Path, tree: Path, tmp_path: Path) -> None:
    report = tmp_path / "deep" / "report"
    assert run("evaluate", tiny_engine, tree, "--report", report, "--json", tmp_path / "m.json") == 0
    assert (report / "metrics.json").read_bytes() == (tmp_path / "m.json").read_bytes()
    assert read_image(report / "contact_sheet.png").shape[0] > 4 * 132
    page = (report / "report.html").read_text(encoding="utf-8")
    # The engine's own threshold, 0.4, is in it.
    assert "Worst misses: 1 of 2 defects" in page
    assert page.count("<img ") == 4 * 3
    assert sorted(path.name for path in report.iterdir()) == [
        "contact_sheet.png",
        "metrics.json",
        "report.html",
    ]


def test_a_report_does_not_go_into_the_data(
    run: Run, tiny_engine: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tree.rglob("*"))
    assert run("evaluate", tiny_engine, tree, "--report", tree / "report") == 2
    assert "lies in the data set" in capsys.readouterr().err
    assert sorted(tree.rglob("*")) == before


def test_classes_that_were_not_learned_are_named(
    tmp_path: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"classes": ["brick"]}))
    test = load_dataset(tree).classes[0].test
    both = Dataset(tmp_path, "mvtec", [ClassData(name, [], test=test) for name in ("brick", "grass")])
    warn_of_unknown_classes(tmp_path / "run", both)
    assert "learned brick; it never saw grass, which count all the same" in capsys.readouterr().err
    warn_of_unknown_classes(tmp_path / "run", Dataset(tmp_path, "mvtec", both.classes[:1]))
    warn_of_unknown_classes(tmp_path / "run", Dataset(tmp_path, "folder", both.classes[1:]))
    assert capsys.readouterr().err == "", "another name alone says nothing"


def test_evaluate_refuses_bad_input(
    run: Run, tiny_engine: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run("evaluate", tiny_engine, tmp_path / "empty") == 2
    assert "is empty" in capsys.readouterr().err
    assert run("evaluate", tiny_engine, tree / "train/good") == 2
    assert "no test images" in capsys.readouterr().err
    assert run("evaluate", tiny_engine, tree, "--aupro-limit", "2") == 2
    assert "limit of 2" in capsys.readouterr().err
    assert run("evaluate", tmp_path / "absent.engine", tree) == 2
    assert "absent.engine" in capsys.readouterr().err
    (tree / "test/good/1.png").write_bytes(b"broken")
    assert run("evaluate", tiny_engine, tree) == 2
    assert "1.png" in capsys.readouterr().err
    write_png(tree / "test/good/1.png", np.zeros((10, 20, 3), np.uint8))
    assert run("evaluate", tiny_engine, tree) == 2
    err = capsys.readouterr().err
    assert "20x10, the artefact takes 64x48" in err
    assert "--frame-size 20x10" in err


def test_evaluate_refuses_a_changed_engine(run: Run, tiny_engine: Path, tree: Path) -> None:
    tiny_engine.write_bytes(tiny_engine.read_bytes() + b"x")
    assert run("evaluate", tiny_engine, tree) == 4


def test_inspect_says_what_a_data_set_is_and_finds_faults(
    run: Run, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", tree) == 0
    out = capsys.readouterr().out
    assert "layout mvtec, 1 class" in out
    assert "2 good, 2 spot; 2 masks" in out
    assert "64x48 (5)" in out
    assert "1 finding:\n  nut: few-good: 1 good image to learn from leaves 0 that a network never saw" in out

    (tree / "ground_truth/spot/0_mask.png").unlink()
    shutil.copy(tree / "train/good/0.png", tree / "test/good/9.png")
    assert run("inspect", tree, "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["layout"]) == ("data set", "mvtec")
    assert found["classes"]["nut"]["test"] == {"good": 3, "spot": 2}
    assert sorted(f["kind"] for f in found["findings"]) == ["few-good", "leak", "mask-missing"]
    assert all({"kind", "class_name", "message", "count", "names"} == set(f) for f in found["findings"])
    assert found["classes"]["nut"]["aside"] == []


def test_inspect_says_which_pictures_a_layout_leaves_out(
    run: Run, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MVTec AD 2: what is for the publisher's server has no labels, and is no fault."""
    (tree / "test").rename(tree / "test_public")
    (tree / "ground_truth").rename(tree / "test_public/ground_truth")
    for name in ("test_private/0.png", "test_private/1.png", "test_private_mixed/0.png"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"never opened")
    assert run("inspect", tree, "--json", "-") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["layout"] == "mvtec-ad-2"
    assert [(a["folder"], a["images"]) for a in found["classes"]["nut"]["aside"]] == [
        ("test_private", 2),
        ("test_private_mixed", 1),
    ]
    assert [f["kind"] for f in found["findings"]] == ["few-good"]
    assert "put aside      3 images: no labels are published of them" in err


def test_inspect_says_what_an_engine_is(
    run: Run, tiny_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", tiny_engine, "--json", "-") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["kind"], found["precision"], found["backend"]) == ("engine", "fp32", "onnxruntime")
    assert (found["threshold"], found["n_normal_scores"]) == (pytest.approx(0.4), 99)
    assert "64x48 BGR" in captured.err
    assert "from n = 99: false rejects <= 1.00%" in captured.err


def test_inspect_says_what_a_bundle_is(run: Run, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", bundle) == 0
    out = capsys.readouterr().out
    assert "bundle nut" in out
    assert "calibrated" in out
    assert "gate 1, threshold 2" in out
    assert "backbone" in out
    assert run("inspect", bundle, "--json", "-") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["calibrated"] is True
    assert found["precisions"]["fp32"]["threshold"] == 0.99
    assert found["splits"] == {"gate": 1, "threshold": 2}


def test_inspect_refuses_a_bundle_with_a_changed_byte(run: Run, bundle: Path) -> None:
    model = bundle / "model.fp32.onnx"
    model.write_bytes(model.read_bytes() + b"x")
    assert run("inspect", bundle) == 4
    model.unlink()
    assert run("inspect", bundle) == 4


def test_inspect_reads_a_run_whatever_its_keys(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        "backbone": "filterbank", "classes": ["nut"], "steps": 400, "frame": {"width": 64, "height": 48},
        "trained": [f"{i:064d}" for i in range(9)], "counts": {"train": 9, "held_out": 2}, "new": [{"x": 1}],
        "format": "agp-edge-run", "version": 1, "backbone_sha256": {}, "suspects": [], "shots": {"nut": ["1.png", "2.png"]},
    }  # fmt: skip
    write_json(tmp_path / "run" / "run.json", record)
    assert run("inspect", tmp_path / "run") == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:]]
    assert dict(lines) == {
        "backbone": "filterbank", "classes": "nut", "steps": "400", "frame": "64x48",
        "trained": "9 images", "counts": "held_out 2, train 9", "new": "1 entry", "suspects": "none", "shots": "nut 2",
    }  # fmt: skip
    write_json(
        tmp_path / "run" / "run.json", {"step": 5, "config": {"steps": 20, "augment": "none", "layers": []}}
    )
    assert run("inspect", tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert "hyper-parameters: augment none, layers none, steps 20" in out
    (tmp_path / "run" / "run.json").write_text("[")
    assert run("inspect", tmp_path / "run") == 4


def test_inspect_refuses_what_it_does_not_know(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "a" / "b").mkdir(parents=True)
    for path in ("absent", "file.txt", "a"):
        assert run("inspect", tmp_path / path) == 2
        assert path in capsys.readouterr().err
