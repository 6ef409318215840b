"""Which images are taken: by content and seed, whatever they are called and however they lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agp_edge.bundle import Bundle
from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.errors import InputError
from agpnet.config import Config, make_config
from agpnet.run import load_run
from agpnet.selection import choose_shots, select

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tiny_settings: dict[str, Any]) -> Config:
    return replace(make_config(**tiny_settings), shots=2)


def test_content_and_seed_choose_the_shots() -> None:
    hashes = [f"{i * 7919 % 10007:05}" for i in range(50)]
    chosen = choose_shots(hashes, 4, 0)
    assert chosen == choose_shots(hashes[::-1] + hashes, 4, 0)
    assert len(set(chosen)) == 4
    assert chosen[:2] == choose_shots(hashes, 2, 0), "two of four are the two"
    assert {tuple(choose_shots(hashes, 1, seed)) for seed in range(40)} > {(chosen[0],)}


def test_names_do_not_choose(sample_data: Path, tmp_path: Path, config: Config) -> None:
    files = sorted((sample_data / "brick" / "train" / "good").iterdir())[:8]
    for folder, names in (("a", range(8)), ("b", range(7, -1, -1))):
        (tmp_path / folder).mkdir()
        for file, name in zip(files, names, strict=True):
            shutil.copy(file, tmp_path / folder / f"{name}.png")
    one, other = (select(load_dataset(tmp_path / f), config) for f in "ab")
    assert one.hashes == other.hashes == content_hashes(one.samples)
    assert [s.name for s in one.samples] != [s.name for s in other.samples]


def test_few_shot_takes_so_many_of_each_class_and_holds_none_out(sample_data: Path, config: Config) -> None:
    selection = select(load_dataset(sample_data), config)
    assert selection.classes == ["brick", "brick", "gravel", "gravel"]
    assert (selection.held_out, selection.held_out_hashes) == ([], [])
    assert {name: len(names) for name, names in selection.shots.items()} == {"brick": 2, "gravel": 2}


def test_more_shots_than_images(sample_data: Path, config: Config) -> None:
    with pytest.raises(InputError, match="shots = 60: class brick has 42 different good images") as caught:
        select(load_dataset(sample_data), replace(config, shots=60))
    assert caught.value.hint == "take --shots 42"


def test_a_few_shot_run_from_the_command_line(
    sample_data: Path, tmp_path: Path, command: Command, tiny_settings: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    settings = [
        f"--set={k}={json.dumps(v)}" for k, v in tiny_settings.items() if k not in ("backbone", "steps")
    ]
    code, out, err = command(
        "train", sample_data / "brick", "--out", run, "--backbone", "filterbank", *settings, "--shots", 1,
        "--epochs", 3, "--json", "-",
    )  # fmt: skip
    assert code == 0, err
    assert "warning" not in err, "nothing is held out, and that is meant"
    told = json.loads(out)
    assert (told["step"], told["trained"], told["held_out"], told["config"]["augment"]) == (3, 1, 0, "jitter")
    record = load_run(run)[1]
    assert record.shots == told["shots"]
    (name,) = record.shots["brick"]
    assert content_hashes(s for s in load_dataset(sample_data / "brick").classes[0].train if s.name == name) == record.trained  # fmt: skip


def test_calibration_says_what_a_few_shot_run_lacks(
    sample_data: Path, exported_bundle: Path, tmp_path: Path, command: Command
) -> None:
    bundle = Path(shutil.copytree(exported_bundle, tmp_path / "few.bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    shot = next(
        s for s in load_dataset(sample_data).classes[0].train if content_hashes([s])[0] in manifest["trained"]
    )
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "held_out": []}))
    (tmp_path / "alone").mkdir()
    shutil.copy(shot.path, tmp_path / "alone")
    code, out, err = command("calibrate", bundle, tmp_path / "alone")
    assert code == 3
    assert "PROVISIONAL" in out
    assert "the gate of part fp16 is INCONCLUSIVE: 0 gate frames, at least 16 are needed" in err
    assert Bundle(bundle).manifest.provisional
