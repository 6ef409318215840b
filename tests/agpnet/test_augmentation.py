"""Augmentation: only what it promises, seeded, and never with the cache of features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agpnet import augmentation
from agpnet.augmentation import augment, expose_again, flip, jitter
from agpnet.config import Config, make_config, resolve
from agpnet.run import build_network
from agpnet.trainer import Trainer


@pytest.fixture
def images() -> Tensor:
    return torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_flips_are_the_eight_ways_a_square_lies(images: Tensor) -> None:
    image = images[:1]
    seen = {view.numpy().tobytes() for view in flip(image.repeat(200, 1, 1, 1), seeded())}
    ways = {torch.rot90(m, k, (-2, -1)).contiguous().numpy().tobytes() for m in (image[0], image[0].flip(-1)) for k in range(4)}  # fmt: skip
    assert seen == ways
    assert len(ways) == 8


def test_jitter_stays_near(images: Tensor) -> None:
    smooth = torch.nn.functional.interpolate(images[..., :4, :4], (32, 32), mode="bilinear")
    moved = jitter(smooth, seeded())
    assert moved.shape == smooth.shape
    assert moved.min() >= 0
    assert moved.max() <= 1
    difference = (moved - smooth).abs().mean(dim=(1, 2, 3))
    assert (difference > 0.001).all()
    assert (difference < 0.12).all()
    light = (moved.mean(dim=(1, 2, 3)) - smooth.mean(dim=(1, 2, 3))).abs()
    assert (light < augmentation.MAX_LIGHT + 0.03).all()


def test_another_exposure_is_of_the_same_scene_in_8_bits(images: Tensor) -> None:
    smooth = torch.nn.functional.interpolate(images[..., :4, :4], (32, 32), mode="bilinear").repeat(
        4, 1, 1, 1
    )
    seen = expose_again(smooth, seeded())
    levels = seen * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert ((seen - smooth).abs().mean(dim=(1, 2, 3)) < 0.06).all()
    light = seen.mean(dim=(1, 2, 3)) / smooth.mean(dim=(1, 2, 3))
    assert (light - 1).abs().max() < augmentation.MAX_GAIN + 0.01
    assert light.std() > 0.01, "some brighter, some darker"


def test_compression_and_focus_are_what_a_camera_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "MAX_GAIN", 0.0)
    monkeypatch.setattr(augmentation, "MAX_NOISE", 0.0)
    image = torch.zeros(1, 3, 32, 32)
    image[0, 0, :, 16:] = 1.0  # Black and red: JPEG halves the resolution of colours.
    monkeypatch.setattr(augmentation, "BLURRED", 0.0)
    monkeypatch.setattr(augmentation, "COMPRESSED", 0.0)
    torch.testing.assert_close(expose_again(image, seeded()), image)
    monkeypatch.setattr(augmentation, "COMPRESSED", 1.0)
    compressed = expose_again(image, seeded())[0]
    assert float(compressed[0, :, 20:].mean()) > 0.9, "red stays red"
    assert float(compressed[2, :, 20:].mean()) < 0.1
    assert 0.001 < float((compressed - image[0]).abs().mean()) < 0.1
    monkeypatch.setattr(augmentation, "COMPRESSED", 0.0)
    monkeypatch.setattr(augmentation, "BLURRED", 1.0)
    rows = expose_again(image.repeat(8, 1, 1, 1), seeded())[:, 0, 8]
    assert 0.03 < float(rows[:, 15].max()) < 0.3
    torch.testing.assert_close(rows[:, 15] + rows[:, 16], torch.ones(8), rtol=0, atol=0.01)
    assert float(rows[:, 13].max()) == 0


@pytest.mark.parametrize("kind", ["flips", "jitter", "both", "camera"])
def test_half_of_the_images_stay_and_the_seed_decides(images: Tensor, kind: Any) -> None:
    many = images.repeat(8, 1, 1, 1)
    once = augment(many, kind, seeded())
    same = (once == many).all(dim=(1, 2, 3)).double().mean()
    assert 0.35 < same < 0.7
    assert torch.equal(once, augment(many, kind, seeded()))
    assert not torch.equal(once, augment(many, kind, seeded(1)))
    assert torch.equal(many, images.repeat(8, 1, 1, 1)), "in no place of its own"


def test_few_shot_alone_takes_other_views_by_itself(tiny_settings: dict[str, Any]) -> None:
    config = make_config(**tiny_settings)
    assert resolve(config, 10).augment == "none"
    assert resolve(replace(config, shots=2), 2).augment == "jitter"
    assert resolve(replace(config, shots=2, augment="none"), 2).augment == "none"


def trainer_of(images: Tensor, config: Config) -> Trainer:
    torch.manual_seed(0)
    return Trainer(build_network(config), images, config)


def test_features_are_kept_only_where_nothing_random_touches_the_image(tiny_settings: dict[str, Any]) -> None:
    images = torch.rand(8, 3, 64, 64, generator=seeded(3))
    config = make_config(**tiny_settings)
    assert trainer_of(images, config)._cache is not None
    assert trainer_of(images, replace(config, augment="flips"))._cache is None
    assert trainer_of(images, replace(config, shots=1))._cache is None


def test_the_channels_know_other_views_too(tiny_settings: dict[str, Any]) -> None:
    images = (
        torch.rand(1, 3, 64, 64, generator=seeded(3)).cumsum(-1) / 64
    )  # dark on the left, bright on the right
    config = make_config(**tiny_settings)
    alone = trainer_of(images, replace(config, augment="none")).network
    views = trainer_of(images, replace(config, augment="both")).network
    assert not torch.equal(alone.channel_mean, views.channel_mean)


def test_one_image_is_enough_to_learn_from(tiny_settings: dict[str, Any]) -> None:
    images = torch.rand(1, 3, 64, 64, generator=seeded(3))
    trainer = trainer_of(images, replace(make_config(**tiny_settings), shots=1, steps=40, learning_rate=3e-3))
    trainer.run()
    assert trainer.log[-1]["loss"] < 0.9 * trainer.first_loss
