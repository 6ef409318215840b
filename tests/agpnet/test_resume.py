"""A training that is broken off goes on to the same bits, and never over the work of another one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agp_edge.datasets import load_dataset
from agp_edge.datasets.images import write_png
from agp_edge.errors import ArtefactError, DivergedError, InputError
from agpnet.checkpoint import Checkpoints, Every, parse_every
from agpnet.config import Config, config_from_dict, make_config
from agpnet.run import RunRecord, load_run
from agpnet.training import train

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve different pictures of 64x64."""
    rng = np.random.default_rng(0)
    for i in range(12):
        write_png(tmp_path / "data" / f"{i:02}.png", rng.integers(0, 256, (64, 64, 3), np.uint8))
    return tmp_path / "data"


@pytest.fixture
def config(tiny_settings: dict[str, Any]) -> Config:
    return make_config(**{**tiny_settings, "steps": 24, "hold_out": 0.0})


def learn(data: Path, config: Config, out: Path, *, stop_at: int = 0, **options: Any) -> RunRecord:
    """Train; broken off after a step if one is given."""

    def progress(done: int, total: int, note: str = "") -> None:
        if note and done == stop_at:
            raise KeyboardInterrupt

    return train(load_dataset(data), config, out, progress=progress, **options)


def weights(run: Path) -> bytes:
    return (run / "weights.safetensors").read_bytes()


def test_kill_9_and_on_to_the_same_bits(data: Path, tmp_path: Path, tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, "steps": 120, "hold_out": 0.0}
    arguments = [f"--set={k}={json.dumps(v)}" for k, v in settings.items() if k != "backbone"]
    out = tmp_path / "run"
    program = subprocess.Popen(
        [sys.executable, "-c", "from agp_edge.cli import main; main()", "train", str(data), "--out", str(out),
         "--backbone", "filterbank", "--checkpoint-every", "20", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not list(out.glob("training/step-*.json")) and program.poll() is None:
            time.sleep(0.005)
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    assert program.returncode == -signal.SIGKILL, "it was still at work"
    assert not (out / "run.json").exists()
    kept = list((out / "training").rglob("*"))
    assert {p.suffix for p in kept if p.name.startswith("step-")} == {".safetensors", ".json"}
    told: list[str] = []
    config = make_config(**settings)
    record = learn(data, config, out, resume=True, note=told.append)
    assert any(text.startswith("going on from step ") for text in told)
    assert (record.state, record.step) == ("finished", 120)
    learn(data, config, tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")
    assert (out / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    assert not (out / "training").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"where": "feature"},
        {"augment": "both", "mask": "prior"},
        {"robust": "images", "robust_from": 0.1},
        {"ema": False, "precision": "bf16", "batch_size": 5},
    ],
)
def test_whatever_the_settings(data: Path, config: Config, tmp_path: Path, change: dict[str, Any]) -> None:
    config = config_from_dict({**change, "steps": 9}, base=config)
    learn(data, config, tmp_path / "whole")
    for stop in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            learn(data, config, tmp_path / "run", resume=True, stop_at=stop)
    record = learn(data, config, tmp_path / "run", resume=True)
    assert record.state == "finished"
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_nobody_else_disturbs_the_random_numbers(data: Path, config: Config, tmp_path: Path) -> None:
    def meddle(done: int, total: int, note: str = "") -> None:
        torch.manual_seed(done)
        torch.rand(done)

    learn(data, config, tmp_path / "a")
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    learn(data, config, tmp_path / "b")
    assert torch.equal(before, torch.random.get_rng_state()), "nor does a training disturb others"
    train(load_dataset(data), config, tmp_path / "c", progress=meddle, reading=meddle)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") == weights(tmp_path / "c")


def break_off(data: Path, config: Config, out: Path) -> list[int]:
    """A training that is killed after step 20, as far as files tell; steps of its checkpoints."""
    with pytest.raises(KeyboardInterrupt):
        learn(data, config, out, stop_at=20, checkpoint_every=Every(steps=8))
    return Checkpoints(out).steps()


def test_the_last_two_are_kept_and_the_older_serves_if_the_newest_is_spoilt(
    data: Path, config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert break_off(data, config, out) == [20, 16]
    newest = out / "training" / "step-00000020.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    told: list[str] = []
    learn(data, config, out, resume=True, note=told.append)
    assert "the checkpoint of step 20 was changed" in told[0]
    assert told[-1] == f"going on from step 16 of {config.steps}"
    learn(data, config, tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")


def test_without_a_whole_one_it_stops(data: Path, config: Config, tmp_path: Path) -> None:
    out = tmp_path / "run"
    break_off(data, config, out)
    (out / "training" / "step-00000020.safetensors").unlink()
    (out / "training" / "step-00000016.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"no checkpoint in .* is whole"):
        learn(data, config, out, resume=True)
    assert learn(data, config, out, overwrite=True).state == "finished"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alpha_max": 2.0}, "alpha_max was 1.25 and is 2.0"),
        ({"steps": 48}, r"steps was 24 and is 48 \(noise and learning rate follow the share"),
        ({"seed": 1}, "seed was 0 and is 1"),
    ],
)
def test_other_settings_are_refused(
    data: Path, config: Config, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    out = tmp_path / "run"
    break_off(data, config, out)
    with pytest.raises(InputError, match=named) as caught:
        learn(data, replace(config, **change), out, resume=True)
    assert caught.value.exit_code == 2
    assert Checkpoints(out).steps() == [20, 16]


def test_other_images_and_other_formats_are_refused(data: Path, config: Config, tmp_path: Path) -> None:
    out = tmp_path / "run"
    break_off(data, config, out)
    (data / "05.png").rename(tmp_path / "05.png")
    with pytest.raises(InputError, match=r"1 are gone or changed \(05.png\)"):
        learn(data, config, out, resume=True)
    (tmp_path / "05.png").rename(data / "zz.png")
    with pytest.raises(InputError, match="other names or copies, and with them another order"):
        learn(data, config, out, resume=True)
    (data / "zz.png").rename(data / "05.png")
    for file in (out / "training").glob("*.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "version": 2}))
    with pytest.raises(InputError, match="has version 2 of the checkpoints, this program reads 1"):
        learn(data, config, out, resume=True)


def test_unfinished_work_is_not_lost_by_a_slip(data: Path, config: Config, tmp_path: Path) -> None:
    out = tmp_path / "run"
    break_off(data, config, out)
    with pytest.raises(InputError, match="not finished, at step 20") as caught:
        learn(data, config, out)
    assert "--resume" in caught.value.hint
    assert "--overwrite" in caught.value.hint
    with pytest.raises(InputError, match="--resume goes on and --overwrite begins again"):
        learn(data, config, out, resume=True, overwrite=True)
    record = load_run(out)[1]
    assert (record.state, record.step) == ("interrupted", 20)
    assert learn(data, config, out, overwrite=True).step == config.steps


def test_a_finished_run_stays_until_the_next_one_is_finished(
    data: Path, config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    learn(data, config, out)
    first = weights(out)
    told: list[str] = []
    assert learn(data, config, out, resume=True, note=told.append).step == config.steps
    assert told == [f"{out} is finished already"]
    with pytest.raises(InputError, match="finished run of something else: seed was 0 and is 1"):
        learn(data, replace(config, seed=1), out, resume=True)
    break_off(data, replace(config, seed=1), out)
    assert weights(out) == first
    assert load_run(out)[1].state == "finished"
    learn(data, replace(config, seed=1), out, resume=True)
    assert weights(out) != first


def test_to_go_on_with_nothing_is_to_begin(data: Path, config: Config, tmp_path: Path) -> None:
    assert learn(data, config, tmp_path / "run", resume=True).state == "finished"


def test_two_programs_do_not_train_one_run(data: Path, config: Config, tmp_path: Path) -> None:
    with (
        Checkpoints(tmp_path / "run").open(),
        pytest.raises(InputError, match="another program is training"),
    ):
        learn(data, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_last_checkpoint_outlives_a_divergence(data: Path, config: Config, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"the checkpoint of step \d+ is kept in") as caught:
        learn(data, replace(config, learning_rate=1e12), out, checkpoint_every=Every(steps=1))
    assert "--overwrite" in caught.value.hint
    assert Checkpoints(out).steps()
    assert not (out / "run.json").exists()


def test_a_full_disk_is_told_and_the_training_goes_on(data: Path, config: Config, small_disk: Any) -> None:
    told: list[str] = []

    def fill(done: int, total: int, note: str = "") -> None:
        small_disk.leave(4096 if done < 20 else 2 << 20)

    train(
        load_dataset(data), config, small_disk.path / "run", progress=fill, note=told.append,
        checkpoint_every=Every(steps=8),
    )  # fmt: skip
    assert len([t for t in told if "no checkpoint at step" in t and "the training goes on" in t]) == 2
    assert load_run(small_disk.path / "run")[1].state == "finished"


def test_when_checkpoints_are_due() -> None:
    assert parse_every("500") == Every(steps=500)
    assert parse_every("1.5s") == Every(seconds=1.5)
    auto = parse_every("auto")
    assert not auto.is_due(10**6, 9.9, 0.0)
    assert auto.is_due(1, 10.0, 0.09)
    assert not auto.is_due(1, 10.0, 0.2), "a hundred times what the last one took"
    assert auto.is_due(1, 20.0, 0.2)
    assert Every(steps=5).is_due(5, 0.0, 9.0)
    assert not Every(steps=5).is_due(4, 99.0, 0.0)
    for text in ("", "0", "1.5", "-1s", "5 min"):
        with pytest.raises(InputError, match="says no time for checkpoints"):
            parse_every(text)
