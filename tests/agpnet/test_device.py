"""Where a training computes: what is refused, mixed precision here, and all of it on a GPU where there is one."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agp_edge.errors import InputError
from agpnet.config import Config, make_config
from agpnet.device import choose_device
from agpnet.trainer import Trainer
from agpnet.training import seeded_network

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: mixed precision and torch.compile on CUDA were not tried"
)


@pytest.fixture
def config(tiny_settings: dict[str, Any]) -> Config:
    return replace(make_config(**tiny_settings), learning_rate=3e-3)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def losses(images: Tensor, config: Config) -> list[float]:
    trainer = Trainer(seeded_network(config), images, config)
    trainer.network.train()
    return [trainer.step() for _ in range(config.steps)]


def test_a_gpu_that_is_not_there(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(config).type == "cpu"
    assert choose_device(replace(config, precision="bf16")).type == "cpu"
    with pytest.raises(InputError, match="torch sees no GPU here"):
        choose_device(replace(config, device="cuda"))
    with pytest.raises(InputError, match="precision = 'fp16' needs a GPU"):
        choose_device(replace(config, precision="fp16"))


def test_bf16_learns_much_the_same(images: Tensor, config: Config) -> None:
    config = replace(config, steps=20, device="cpu")
    full, mixed = losses(images, config), losses(images, replace(config, precision="bf16"))
    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.05)


def test_what_is_compiled_is_what_runs(
    images: Tensor, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through torch's tracer; the code generator itself, which takes minutes here, is tried on a GPU."""
    compiled: list[Any] = []
    real = torch.compile

    def spy(function: Any) -> Any:
        compiled.append(function)
        return real(function, backend="eager")

    config = replace(config, steps=2, device="cpu")
    plain = losses(images, config)
    monkeypatch.setattr(torch, "compile", functools.wraps(real)(spy))
    assert losses(images, replace(config, compile=True)) == pytest.approx(plain, rel=1e-5)
    assert len(compiled) == 3, "the decoder, its EMA copy, and the backbone"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_twenty_steps_on_a_gpu(images: Tensor, config: Config, precision: Any) -> None:
    settings = replace(config, steps=20, device="cuda", precision=precision, compile=True, augment="both")
    trainer = Trainer(seeded_network(settings), images, settings)
    trainer.run()
    assert {p.device.type for p in trainer.network.parameters()} == {"cuda"}
    assert trainer.log[-1]["loss"] < trainer.first_loss
    state = trainer.state()
    again = Trainer(seeded_network(settings), images, settings)
    again.restore(state)
    assert again.step_number == 20
    score, _ = trainer.network.cpu()(images)
    assert score.isfinite().all()
