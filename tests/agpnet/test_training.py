"""Training: the step's formulas, repeatable to the bit, and what is left however it ends."""

from __future__ import annotations

import json
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
from torch import Tensor

from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.datasets.base import Sample
from agp_edge.datasets.images import write_png
from agp_edge.errors import DivergedError, InputError
from agpnet import trainer as trainer_module
from agpnet import training
from agpnet.config import Config, config_from_dict, make_config
from agpnet.inputs import Inputs, read_inputs
from agpnet.network import AGPNet
from agpnet.perturbation import noise_strength, progress_of
from agpnet.run import build_network, load_run
from agpnet.selection import choose_held_out
from agpnet.trainer import Trainer, ema_decay_at
from agpnet.training import train

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tiny_settings: dict[str, Any]) -> Config:
    return make_config(**tiny_settings)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """[8, 3, 64, 64] textured pictures."""
    return torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def make_trainer(images: Tensor, config: Config) -> Trainer:
    torch.manual_seed(config.seed)
    return Trainer(build_network(config), images, config)


def weights(network: AGPNet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "change", [{}, {"noise": "random"}, {"where": "image", "mask": "learned", "ema": False}]
)
def test_the_same_seed_gives_the_same_bits(images: Tensor, config: Config, change: dict[str, Any]) -> None:
    settings = config_from_dict(change, base=config)

    def learnt(settings: Config) -> dict[str, Tensor]:
        trainer = make_trainer(images, settings)
        trainer.run()
        return weights(trainer.network)

    first = learnt(settings)
    assert equal(first, learnt(settings))
    assert not equal(first, learnt(replace(settings, seed=1)))


def test_it_learns(images: Tensor, config: Config) -> None:
    trainer = make_trainer(images, replace(config, steps=60, noise="none", learning_rate=3e-3))
    first = trainer.step()
    trainer.run()
    assert trainer.log[-1]["loss"] < 0.9 * first


def test_the_ema_copy_follows_its_formula(images: Tensor, config: Config) -> None:
    trainer = make_trainer(images, replace(config, ema_decay=0.05, learning_rate=1e-2))
    before = [p.clone() for p in trainer.ema.parameters()]
    for old, start in zip(before, trainer.network.decoder.parameters(), strict=True):
        assert torch.equal(old, start)
    trainer.step()
    moved = False
    for old, now, current in zip(
        before, trainer.ema.parameters(), trainer.network.decoder.parameters(), strict=True
    ):
        torch.testing.assert_close(now, 0.05 * old + 0.95 * current)
        moved = moved or not torch.equal(now, old)
        assert not now.requires_grad
    assert moved


def test_the_decay_of_the_ema_rises_to_its_value() -> None:
    assert ema_decay_at(0, 0.999) == pytest.approx(0.1)
    assert ema_decay_at(300, 0.999) == pytest.approx(301 / 310)
    assert ema_decay_at(20_000, 0.999) == 0.999
    assert ema_decay_at(0, 0.05) == 0.05


def test_the_pretrained_backbone_is_frozen(images: Tensor, config: Config, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(patch_size=16, image_size=64, **small)).save_pretrained(
        tmp_path
    )
    trainer = make_trainer(images, replace(config, backbone=str(tmp_path), decoder_width=0, steps=3))
    before = weights(trainer.network)
    trainer.run()
    after = weights(trainer.network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("decoder.") for name in changed)
    assert not any(name.startswith("backbone.") for name in changed)
    trained = {name for name, p in trainer.network.named_parameters() if p.requires_grad}
    assert all(name.startswith("decoder.") for name in trained)


def test_from_easy_to_hard(images: Tensor, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def spy(mask: Tensor, settings: Config, hardness: float) -> Tensor:
        seen.append(hardness)
        return noise_strength(mask, settings, hardness)

    monkeypatch.setattr(trainer_module, "noise_strength", spy)
    trainer = make_trainer(images, replace(config, steps=5, alpha_max=2.0))
    trainer.run()
    assert seen == [progress_of(i, 5, "linear") for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert trainer.log[-1]["alpha"] == 2.0, "what the last step used"


def test_the_rate_warms_up_and_falls(images: Tensor, config: Config) -> None:
    trainer = make_trainer(images, replace(config, steps=100, learning_rate=0.3, decay_at=0.8))
    rates = []
    for trainer.step_number in (0, 14, 29, 79, 80, 99):
        rates.append(trainer._rate())
    assert rates == pytest.approx([0.01, 0.15, 0.3, 0.3, 0.03, 0.03])


def test_without_noise_the_loss_is_plain_reconstruction(images: Tensor, config: Config) -> None:
    for where in ("both", "feature", "image"):
        trainer = make_trainer(
            images, config_from_dict({"noise": "none", "where": where, "batch_size": 8}, base=config)
        )
        with torch.no_grad():
            target, _ = trainer.network.target(images)
            expected = (trainer.network.decoder(target) - target).square().mean().item()
        assert trainer.step() == pytest.approx(expected, rel=1e-4)


def test_every_image_comes_once_before_any_comes_again(images: Tensor, config: Config) -> None:
    trainer = make_trainer(images, replace(config, batch_size=3))
    rows = torch.cat([trainer._next_batch() for _ in range(8)]).tolist()
    for epoch in range(3):
        assert sorted(rows[8 * epoch : 8 * epoch + 8]) == list(range(8))


def test_what_does_not_fit_the_cache_is_computed_again(
    images: Tensor, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = make_trainer(images, config)
    monkeypatch.setattr(trainer_module, "CACHE_BYTES", 0)
    fresh = make_trainer(images, config)
    assert fresh._cache is None
    assert [fresh.step() for _ in range(3)] == pytest.approx([cached.step() for _ in range(3)], rel=1e-5)


@pytest.mark.parametrize(
    ("n", "share", "held_out"),
    [(1000, 0.2, 200), (100, 0.2, 32), (80, 0.2, 32), (60, 0.2, 24), (5, 0.2, 2), (1000, 0.9, 400), (100, 0, 0), (1, 0.2, 0)],
)  # fmt: skip
def test_enough_is_held_out_and_never_too_much(n: int, share: float, held_out: int) -> None:
    hashes = [f"{i * 7919 % 10007:05}" for i in range(n)]
    chosen = choose_held_out(hashes, share)
    assert len(chosen) == held_out
    assert chosen == choose_held_out(hashes[::-1], share), "the order of files does not matter"


def test_held_out_images_are_never_seen(
    sample_data: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Sample] = []
    read = read_inputs

    def spy(samples: list[Sample], *arguments: Any) -> Inputs:
        shown.extend(samples)
        return read(samples, *arguments)

    monkeypatch.setattr(training, "read_inputs", spy)
    record = train(load_dataset(sample_data), replace(config, steps=1), tmp_path / "run")
    hashes = content_hashes(shown)
    assert sorted(hashes) == record.trained
    assert not set(hashes) & set(record.held_out)
    assert (len(record.trained), len(record.held_out)) == (52, 32)


def test_a_copy_of_a_held_out_image_is_held_out_too(
    sample_data: Path, config: Config, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    files = sorted((sample_data / "brick" / "train" / "good").iterdir())[:10]
    for i, file in enumerate(files):
        for copy in "ab":
            (data / f"{copy}{i}.png").write_bytes(file.read_bytes())
    record = train(load_dataset(data), replace(config, steps=1), tmp_path / "run")
    assert (len(record.trained), len(record.held_out)) == (6, 4)


def test_an_interrupt_leaves_a_run_that_can_be_read(
    sample_data: Path, config: Config, tmp_path: Path
) -> None:
    def progress(done: int, total: int, note: str = "") -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(
        KeyboardInterrupt, match=rf"interrupted at step 3 of {config.steps}; go on from step 3 .* --resume"
    ):
        train(load_dataset(sample_data), config, tmp_path / "run", progress=progress)
    _, record = load_run(tmp_path / "run")
    assert (record.state, record.step) == ("interrupted", 3)


def test_ctrl_c_in_the_real_program(sample_data: Path, tmp_path: Path, tiny_settings: dict[str, Any]) -> None:
    settings = [
        f"--set={name}={json.dumps(value)}" for name, value in tiny_settings.items() if name != "backbone"
    ]
    out, told = tmp_path / "run", tmp_path / "stderr"
    with told.open("w") as stderr:
        program = subprocess.Popen(
            [sys.executable, "-c", "from agp_edge.cli import main; main()", "train", str(sample_data), "--out", str(out),
             "--backbone", "filterbank", *settings, "--steps", "1000000"],
            stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip
        try:
            while "train:" not in told.read_text() and program.poll() is None:
                time.sleep(0.05)
            program.send_signal(signal.SIGINT)
            rest, _ = program.communicate(timeout=60)
        finally:
            program.kill()
            program.wait()
    err = told.read_text()
    assert program.returncode == 130, err
    assert (rest, err.splitlines()[-1]) == (b"", "interrupted")
    assert "Traceback" not in err
    _, record = load_run(out)
    assert (
        f"interrupted at step {record.step} of 1000000; go on from step {record.step} with the same command and --resume; "
        f"the run as it stood is in {out}"
    ) in err
    assert record.state == "interrupted"
    assert 0 < record.step < 1_000_000
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(10, record.step + 1, 10))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "stderr"]


def test_a_training_that_diverges_stops_and_leaves_nothing(
    sample_data: Path, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match="diverged at step") as caught:
        train(load_dataset(sample_data), replace(config, learning_rate=1e12), tmp_path / "run")
    assert caught.value.exit_code == 5
    assert "1e+12" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_does_not_fall_is_told(sample_data: Path, config: Config, tmp_path: Path) -> None:
    told: list[str] = []
    idle = replace(config, steps=100, learning_rate=1e-12)
    train(load_dataset(sample_data / "brick"), idle, tmp_path / "idle", note=told.append)
    assert [text for text in told if text.startswith("warning: the loss did not fall (")]
    told.clear()
    train(load_dataset(sample_data), replace(idle, learning_rate=1e-3), tmp_path / "run", note=told.append)
    assert not [text for text in told if "the loss did not fall" in text]


def write_images(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    rng = np.random.default_rng(0)
    for i, (width, height) in enumerate(sizes):
        write_png(folder / f"{i}.png", rng.integers(0, 256, (height, width, 3), np.uint8))
    return folder


def spoil(data: Path) -> None:
    (data / "1.png").write_bytes((data / "1.png").read_bytes()[:50])


BAD_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda data: None, "there is no data set"),
    "empty": (lambda data: data.mkdir(), "is empty"),
    "a file": (lambda data: data.write_text("x"), "is a file"),
    "mixed sizes": (lambda data: write_images(data, [(64, 64), (64, 64), (64, 48)]), "differ in size"),
    "unreadable": (lambda data: spoil(write_images(data, [(64, 64)] * 3)), "1.png"),
    "one image": (lambda data: write_images(data, [(64, 64)]), "1 good images to train on"),
}


@pytest.mark.parametrize(("make", "message"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_bad_data_ends_in_two(
    tmp_path: Path, command: Command, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "data")
    code, out, err = command(
        "train", tmp_path / "data", "--out", tmp_path / "run", "--backbone", "filterbank", "--steps", 1
    )
    assert (code, out) == (2, "")
    lines = err.splitlines()[-2:]
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


def test_nothing_but_a_run_is_overwritten(sample_data: Path, config: Config, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").touch()
    with pytest.raises(InputError, match="exists and is no run"):
        train(load_dataset(sample_data), config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letters.txt"]
