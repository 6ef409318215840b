"""`train` and its options as a user runs them; `export` and `calibrate` have their tests beside their packages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agp_edge.cli.network import describe_setup, parse_settings
from agp_edge.errors import InputError
from agpnet.run import load_run
from agpnet.selection import choose_held_out, describe_too_few

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def few(sample_data: Path, tmp_path: Path) -> Path:
    """Six images of one surface."""
    (tmp_path / "few").mkdir()
    for file in sorted((sample_data / "gravel" / "train" / "good").iterdir())[:6]:
        shutil.copy(file, tmp_path / "few")
    return tmp_path / "few"


def small(settings: dict[str, Any]) -> list[str]:
    return [f"--set={k}={json.dumps(v)}" for k, v in settings.items() if k not in ("backbone", "steps")]


def test_train_tells_what_it_did(
    few: Path, tmp_path: Path, command: Command, tiny_settings: dict[str, Any]
) -> None:
    toml = tmp_path / "settings.toml"
    toml.write_text("steps = 9\nalpha_max = 3.0\nseed = 5\n")
    run = tmp_path / "run"
    code, out, err = command(
        "train", few, "--out", run, "--backbone", "filterbank", "--config", toml, "--setup", "one-class",
        *small(tiny_settings), "--set", "seed=6", "--set", "steps=4", "--steps", "3", "--noise", "random", "--json", "-",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert {k: told[k] for k in ("run", "step", "classes", "trained", "held_out")} == {
        "run": str(run), "step": 3, "classes": ["few"], "trained": 4, "held_out": 2,
    }  # fmt: skip
    config = told["config"]
    assert (config["steps"], config["alpha_max"], config["seed"], config["noise"]) == (3, 3.0, 6, "random")
    assert "one-class: few" in err
    assert "train: 3/3 loss" in err
    _, record = load_run(run)
    assert record.config.to_dict() == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "alpha_max"], "is no NAME=VALUE"),
        (["--set", "alpha=1"], "no hyper-parameter 'alpha'"),
        (["--set", "file=x"], "no hyper-parameter 'file'"),
        (["--set", "steps=many"], "is not a whole number"),
        (["--steps", "0"], "steps = 0 is out of range"),
        (["--noise", "loud"], "noise = 'loud'"),
        (["--setup", "two-class"], "setup = 'two-class' is not"),
        (["--set", "input_size=100"], "do not divide"),
        (["--set", "decoder_width=25"], "no multiple of decoder_heads"),
        (["--config", "nothing.toml"], "cannot read the configuration nothing.toml"),
    ],
)
def test_train_with_bad_options(
    few: Path, tmp_path: Path, command: Command, options: list[str], message: str
) -> None:
    code, out, err = command("train", few, "--out", tmp_path / "run", "--backbone", "filterbank", *options)
    assert (code, out) == (2, ""), err
    assert message in err.splitlines()[-2]
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_train_with_a_backbone_that_is_not_there(
    few: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    code, out, err = command("train", few, "--out", tmp_path / "run", "--backbone", "nobody/nothing")
    assert (code, out) == (2, "")
    assert "cannot load the backbone 'nobody/nothing'" in err.splitlines()[-2]
    assert "--backbone DIR" in err.splitlines()[-1]


def test_a_slip_in_filterbank_is_seen_without_asking_the_hub(
    few: Path, tmp_path: Path, command: Command
) -> None:
    code, out, err = command("train", few, "--out", tmp_path / "run", "--backbone", "filterbnk")
    assert (code, out) == (2, "")
    assert err.splitlines()[-2:] == [
        "error: there is no backbone 'filterbnk'",
        "  did you mean --backbone filterbank?",
    ]


def test_what_is_replaced_is_told(
    few: Path, tmp_path: Path, command: Command, tiny_settings: dict[str, Any], bundle_copy: Path
) -> None:
    run = tmp_path / "run"
    train = ("train", few, "--out", run, "--backbone", "filterbank", *small(tiny_settings), "--steps", 2)
    assert "replaced" not in command(*train)[2]
    assert f"replaced the run that was in {run}" in command(*train)[2]
    for told in ("replaces the calibrated bundle that was there: calibrate it again", "replaces the bundle"):
        code, _, err = command("export", run, "--out", bundle_copy)
        assert code == 0
        assert told in err


def test_too_few_images_for_a_gate_are_said_before_the_training(
    few: Path, tmp_path: Path, command: Command, tiny_settings: dict[str, Any]
) -> None:
    train = (
        "train",
        few,
        "--out",
        tmp_path / "run",
        "--backbone",
        "filterbank",
        *small(tiny_settings),
        "--steps",
        2,
    )
    assert (
        "warning: with 6 good images 2 are held out, and the gate will be INCONCLUSIVE: 80 are needed; "
        "its threshold can promise a false-reject rate of 50.0% at best"
    ) in command(*train)[2]
    assert describe_too_few(79, 0.1) is not None
    assert len(choose_held_out([str(i) for i in range(80)], 0.1)) == 32, "sixteen for each part"
    assert describe_too_few(80, 0.1) is describe_too_few(6, 0) is None


def test_train_that_diverges_ends_in_five(
    few: Path, tmp_path: Path, command: Command, tiny_settings: dict[str, Any]
) -> None:
    code, out, err = command(
        "train", few, "--out", tmp_path / "run", "--backbone", "filterbank", *small(tiny_settings),
        "--steps", 8, "--set", "learning_rate=1e12",
    )  # fmt: skip
    assert (code, out) == (5, "")
    assert "diverged at step" in err.splitlines()[-2]


def test_a_setup_is_told_in_words() -> None:
    assert describe_setup(["brick"], "auto") == "one-class: brick"
    assert describe_setup(["a", "b"], "auto") == "multi-class: one model for a, b"
    assert describe_setup(["a", "b"], "one-class") == "one-class: a model each for a, b"


def test_settings_are_plain_values() -> None:
    texts = ["a=1", "b = 2.5", "c=true", "d=[1, 2]", "e=guided", "f=./x=y", "g="]
    assert parse_settings(texts) == {
        "a": 1,
        "b": 2.5,
        "c": True,
        "d": [1, 2],
        "e": "guided",
        "f": "./x=y",
        "g": "",
    }
    for text in ("steps", "=3"):
        with pytest.raises(InputError, match="is no NAME=VALUE"):
            parse_settings([text])


def test_what_a_data_set_tests_on_is_not_learned_from(
    sample_data: Path, tmp_path: Path, command: Command, tiny_settings: dict[str, Any]
) -> None:
    defects = next(p for p in sorted((sample_data / "gravel" / "test").iterdir()) if p.name != "good")
    options = ["--out", tmp_path / "run", "--backbone", "filterbank", *small(tiny_settings), "--steps", "2"]
    code, _, err = command("train", defects, *options)
    assert code == 2
    assert f"test image of the data set {sample_data / 'gravel'}" in err
    assert f"agp-edge train {sample_data / 'gravel'}" in err
    assert not (tmp_path / "run").exists()
    assert command("train", sample_data / "gravel" / "train" / "good", *options)[0] == 0


def test_a_folder_of_runs_is_no_run_to_export(trained_run: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "nut").symlink_to(trained_run)
    code, _, err = command("export", tmp_path / "runs", "--out", tmp_path / "x.bundle")
    assert code == 2
    assert f"is a folder of runs: nut\n  give one of them: {tmp_path / 'runs' / 'nut'}" in err
