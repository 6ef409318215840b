"""The images of a training: several sizes, and what nothing can be learned from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from agp_edge.datasets import load_dataset
from agp_edge.datasets.images import read_image, write_png
from agp_edge.errors import InputError
from agp_edge.frame import ANY_SIZE, FrameSpec
from agpnet.config import make_config
from agpnet.front import FrameFront
from agpnet.inputs import check_inputs, frames_by_class, read_inputs
from agpnet.run import load_run, open_run
from agpnet.training import train

Command = Callable[..., tuple[int, str, str]]
Pixels = NDArray[np.uint8]


def noise(number: int, size: tuple[int, int] = (64, 64)) -> Pixels:
    return np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)


def flat(value: int) -> Pixels:
    return np.full((64, 64, 3), value, np.uint8)


def write(folder: Path, pictures: list[Pixels]) -> Path:
    for i, pixels in enumerate(pictures):
        write_png(folder / f"{i}.png", pixels)
    return folder


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([flat(0)] * 4, "are black (0.png, 1.png, 2.png"),
        ([flat(v) for v in (10, 20, 30, 40)], "are of one flat colour each (0.png, 1.png, 2.png"),
        ([noise(1)] * 5, "all 5 good images are the same picture (0.png, 1.png, 2.png and 2 more)"),
    ],
)
def test_what_teaches_nothing_stops(
    tmp_path: Path, command: Command, pictures: list[Pixels], message: str
) -> None:
    write(tmp_path / "data", pictures)
    code, out, err = command(
        "train", tmp_path / "data", "--out", tmp_path / "run", "--backbone", "filterbank", "--set", "input_size=64",
        "--set", "hold_out=0",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-2]
    assert not (tmp_path / "run").exists()


def test_the_only_image_black(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "data", [flat(0)]))
    with pytest.raises(InputError, match=r"the only good image is black \(0.png\)"):
        train(data, make_config(backbone="filterbank", input_size=64, shots=1), tmp_path / "run")


def test_what_is_odd_is_told(tmp_path: Path) -> None:
    pictures = [*(noise(i) for i in range(3)), *[noise(0)] * 4, flat(7)]
    samples = load_dataset(write(tmp_path / "data", pictures)).classes[0].train
    warnings = check_inputs(read_inputs(samples, 64).images, samples)
    assert warnings == ["1 of 8 good images show one flat colour and nothing else: 7.png"]
    pictures += [noise(0)] * 4
    samples = load_dataset(write(tmp_path / "data", pictures)).classes[0].train
    assert any(
        w.startswith("only 4 of 12 good images differ")
        for w in check_inputs(read_inputs(samples, 64).images, samples)
    )


def test_every_image_through_the_front_of_its_own_size(tmp_path: Path) -> None:
    sizes = [(64, 64), (96, 64), (200, 130), (64, 64)]
    samples = (
        load_dataset(write(tmp_path / "data", [noise(i, s) for i, s in enumerate(sizes)])).classes[0].train
    )
    read = read_inputs(samples, 64)
    assert read.sizes == sizes
    for image, sample, (width, height) in zip(read.images, samples, sizes, strict=True):
        frame = torch.from_numpy(read_image(sample.path)[None])
        assert torch.equal(image, FrameFront(FrameSpec(width, height, 3), 64)(frame)[0])
    assert frames_by_class(["a", "a", "b", "a"], sizes) == {
        "a": [FrameSpec(64, 64, 3), FrameSpec(96, 64, 3)],
        "b": [FrameSpec(200, 130, 3)],
    }


@pytest.fixture
def two_sizes(tmp_path: Path) -> Path:
    """Two classes in MVTec-AD's layout, 64x64 and 96x80, with a defect each, and one larger image in the second."""
    root = tmp_path / "data"
    for name, size in (("nut", (64, 64)), ("screw", (96, 80))):
        write(root / name / "train" / "good", [noise(i, size) // 4 + 90 for i in range(6)])
        write(root / name / "test" / "good", [noise(i, size) // 4 + 90 for i in range(6, 9)])
        defect = noise(9, size) // 4 + 90
        defect[20:40, 20:40] = 255
        write(root / name / "test" / "hole", [defect])
        mask = np.zeros((size[1], size[0], 1), np.uint8)
        mask[20:40, 20:40] = 255
        write_png(root / name / "ground_truth" / "hole" / "0_mask.png", mask)
    write_png(root / "screw" / "train" / "good" / "9.png", noise(20, (128, 100)) // 4 + 90)
    return root


def options(settings: dict[str, Any]) -> list[str]:
    chosen = {**settings, "hold_out": 0.0}
    return [
        "--backbone",
        "filterbank",
        *(f"--set={k}={json.dumps(v)}" for k, v in chosen.items() if k != "backbone"),
    ]


def test_one_model_for_classes_of_different_sizes(
    two_sizes: Path, tmp_path: Path, command: Command, tiny_settings: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    code, _, err = command("train", two_sizes, "--out", run, *options(tiny_settings))
    assert code == 0, err
    assert "images of 3 sizes, each brought to 64x64: to export, give --frame-size" in err
    record = load_run(run)[1]
    assert record.frame == ANY_SIZE
    assert record.frames == {
        "nut": [FrameSpec(64, 64, 3)],
        "screw": [FrameSpec(96, 80, 3), FrameSpec(128, 100, 3)],
    }
    assert json.loads((run / "run.json").read_text())["frame"] is None
    with open_run(run) as session:
        small, large = (
            session.infer(noise(3, size)[None]).anomaly_map.shape for size in ((64, 64), (96, 80))
        )
        assert small == large == (1, 64, 64)
    code, out, err = command("evaluate", run, two_sizes, "--json", "-", "--report", tmp_path / "report")
    assert code == 0, err
    classes = json.loads(out)["classes"]
    assert {name: (c["n_good"], c["n_defect"], c["n_unmasked"]) for name, c in classes.items()} == {
        "nut": (3, 1, 0),
        "screw": (3, 1, 0),
    }
    code, _, err = command("export", run, "--out", tmp_path / "x.bundle")
    assert code == 2
    assert "was trained on images of several sizes: 128x100, 64x64, 96x80" in err
    assert "--frame-size" in err.splitlines()[-1]


def test_a_model_for_each_class(
    two_sizes: Path, tmp_path: Path, command: Command, tiny_settings: dict[str, Any]
) -> None:
    runs = tmp_path / "runs"
    (two_sizes / "nut" / "train" / "good" / "3.png").write_bytes(b"no image")
    train = ("train", two_sizes, "--out", runs, "--setup", "one-class", *options(tiny_settings))
    code, out, err = command(*train, "--json", "-")
    assert code == 2
    assert "1 of 2 classes failed; nut: " in err.splitlines()[-2]
    assert "--resume" in err.splitlines()[-1]
    told = json.loads(out)
    assert (list(told["runs"]), list(told["failed"])) == (["screw"], ["nut"])
    assert told["runs"]["screw"]["config"]["setup"] == "one-class"
    code, _, err = command("evaluate", runs, two_sizes)
    assert code == 2
    assert "has runs of screw, and none of nut" in err

    write_png(two_sizes / "nut" / "train" / "good" / "3.png", noise(3) // 4 + 90)
    before = (runs / "screw" / "run.json").stat().st_mtime_ns
    code, out, err = command(*train, "--resume")
    assert code == 0, err
    assert "screw: " + str(runs / "screw") + " is finished already" in err
    assert (runs / "screw" / "run.json").stat().st_mtime_ns == before
    assert {p.name for p in runs.iterdir()} == {"nut", "screw"}
    assert load_run(runs / "nut")[1].frame == FrameSpec(64, 64, 3)

    code, out, err = command("evaluate", runs, two_sizes, "--json", "-")
    assert code == 0, err
    result = json.loads(out)
    assert list(result["classes"]) == ["nut", "screw"]
    aurocs = [c["image_auroc"] for c in result["classes"].values()]
    assert result["mean"]["image_auroc"] == pytest.approx(sum(aurocs) / 2)
    alone = json.loads(command("evaluate", runs / "nut", two_sizes / "nut", "--json", "-")[1])
    assert alone["classes"]["nut"] == result["classes"]["nut"]

    code, _, err = command("verify", runs)
    assert code == 2
    assert f"{runs} is a folder of runs, one a class: nut, screw" in err
    code, _, err = command("train", two_sizes, "--out", runs, *options(tiny_settings))
    assert code == 2, "one model for all does not replace a folder of them"
