"""Masks and noise, each against its formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agpnet.backbones.base import Features
from agpnet.config import Config
from agpnet.perturbation import (
    attention_mask,
    learned_attention,
    minmax,
    noise_strength,
    perturb_features,
    perturb_image,
    prior_attention,
    progress_of,
)

CONFIG = Config(alpha_max=1.25, beta=0.1, rho_max=0.5, image_sigma=0.5)
GRID = (4, 4)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def mask() -> Tensor:
    """[2, 16] in 0 to 1; the second image's is upside down."""
    ramp = torch.linspace(0, 1, 16)
    return torch.stack([ramp, ramp.flip(0)])


def test_it_begins_easy_and_ends_hard() -> None:
    assert [progress_of(step, 5, "linear") for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert {progress_of(step, 5, "constant") for step in range(5)} == {1}
    assert progress_of(0, 1, "linear") == 0


def test_minmax_is_of_each_image() -> None:
    x = torch.tensor([[1.0, 3.0, 2.0], [-5.0, -5.0, -5.0]])
    assert minmax(x).tolist() == [[0, 1, 0.5], [0, 0, 0]]


def test_the_prior_is_attention_or_else_energy() -> None:
    target = torch.tensor([[[1.0, 1.0], [3.0, 1.0]]])
    assert prior_attention(Features([target], None), target).tolist() == [[1, 5]]
    attention = torch.rand(1, 2)
    assert prior_attention(Features([target], attention), target) is attention


def test_learned_attention_is_what_a_token_receives() -> None:
    # Everybody looks at token 2, in both heads of the one block; nobody in particular in the other.
    one = torch.zeros(1, 2, 3, 3)
    one[..., 2] = 1
    even = torch.full((1, 2, 3, 3), 1 / 3)
    torch.testing.assert_close(learned_attention([one, even]), torch.tensor([[1 / 6, 1 / 6, 2 / 3]]))


def test_a_mask_is_from_the_prior_the_learned_or_both() -> None:
    prior, learned = torch.tensor([[0.0, 10.0, 20.0]]), torch.tensor([[3.0, 1.0, 2.0]])
    assert attention_mask(prior, None).tolist() == [[0, 0.5, 1]]
    assert attention_mask(None, learned).tolist() == [[1, 0, 0.5]]
    # n(prior) + n(learned) = 1, 0.5, 1.5
    assert attention_mask(prior, learned).tolist() == [[0.5, 0, 1]]
    both = attention_mask(torch.rand(8, 50), torch.rand(8, 50))
    assert both.amin(dim=1).tolist() == [0] * 8
    assert both.amax(dim=1).tolist() == [1] * 8


@pytest.mark.parametrize("hardness", [0.0, 0.3, 1.0])
def test_guided_strength_is_the_formula_and_random_has_its_energy(mask: Tensor, hardness: float) -> None:
    guided = noise_strength(mask, CONFIG, hardness)
    torch.testing.assert_close(guided, 1.25 * hardness * mask + 0.1)
    random = noise_strength(mask, replace(CONFIG, noise="random"), hardness)
    assert (random == random[:, :1]).all(), "one strength everywhere"
    torch.testing.assert_close(random.square().mean(dim=1), guided.square().mean(dim=1))
    assert not noise_strength(mask, replace(CONFIG, noise="none"), hardness).any()


def test_feature_noise_has_its_strength_in_units_of_rms() -> None:
    target = torch.randn(2, 16, 4096, generator=generator()) * torch.tensor([1.0, 7.0]).reshape(2, 1, 1)
    strength = torch.linspace(0, 2, 16).expand(2, 16)
    noise = perturb_features(target, strength, generator()) - target
    rms = target.square().mean(dim=(1, 2)).sqrt()
    measured = noise.std(dim=2) / rms.unsqueeze(1)
    torch.testing.assert_close(measured, strength, atol=0.1, rtol=0)
    assert not noise[:, 0].any()
    assert torch.equal(perturb_features(target, torch.zeros(2, 16), generator()), target)


def test_image_noise_is_inside_the_top_of_the_mask_alone(mask: Tensor) -> None:
    images = torch.rand(2, 3, 32, 32) * torch.tensor([1.0, 0.1]).reshape(2, 1, 1, 1)
    noise = perturb_image(images, mask, GRID, CONFIG, 1.0, generator()) - images
    patches = noise.unfold(2, 8, 8).unfold(3, 8, 8).abs().sum(dim=(1, 4, 5)).flatten(1) > 0
    # rho = 0.5 of 16 patches: the last eight of the first image, the first eight of the second.
    assert patches[0].tolist() == [False] * 8 + [True] * 8
    assert patches[1].tolist() == [True] * 8 + [False] * 8
    spread = images.std(dim=(0, 2, 3))
    inside = noise[0][:, 16:]
    torch.testing.assert_close(inside.std(dim=(1, 2)), 0.5 * spread, rtol=0.1, atol=0)


@pytest.mark.parametrize(("hardness", "count"), [(0.0, 0), (0.01, 0), (0.5, 4), (1.0, 8)])
def test_the_noised_share_grows(mask: Tensor, hardness: float, count: int) -> None:
    images = torch.rand(2, 3, 32, 32)
    for noise in ("guided", "random"):
        config = replace(CONFIG, noise=noise)
        changed = perturb_image(images, mask, GRID, config, hardness, generator()) != images
        patches = changed.any(dim=1).unfold(1, 8, 8).unfold(2, 8, 8).flatten(3).any(dim=3).flatten(1)
        assert patches.sum(dim=1).tolist() == [count, count]


def test_random_image_noise_does_not_look_at_the_mask(mask: Tensor) -> None:
    images = torch.rand(2, 3, 32, 32)
    config = replace(CONFIG, noise="random")
    one = perturb_image(images, mask, GRID, config, 1.0, generator())
    other = perturb_image(images, mask.flip(1), GRID, config, 1.0, generator())
    assert torch.equal(one, other)
    assert torch.equal(
        perturb_image(images, mask, GRID, replace(CONFIG, noise="none"), 1.0, generator()), images
    )


def test_gaussian_noise_is_gaussian() -> None:
    target = torch.ones(1, 1, 200_000)
    noise = (perturb_features(target, torch.ones(1, 1), generator()) - target).flatten()
    inside = float((noise.abs() < 1).float().mean())
    assert inside == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.005)
