"""The auxiliary branch: attention masks, and noise where they say, from easy to hard. Training only.

Source: Huang et al. 2024, arXiv 2408.07490; what its digest leaves open is tagged [default] in docs/agpnet.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from agpnet.backbones.base import Features
from agpnet.config import Config, Schedule


def progress_of(step: int, steps: int, schedule: Schedule) -> float:
    """How hard the noise is at a step: from 0 to 1 along a line, or 1 throughout."""
    return 1.0 if schedule == "constant" else step / max(steps - 1, 1)


def minmax(x: Tensor) -> Tensor:
    """n: each image of [B, T] from 0 to 1; an image that is constant becomes 0."""
    low, high = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)
    return (x - low) / (high - low).clamp_min(1e-12)


def prior_attention(features: Features, target: Tensor) -> Tensor:
    """A_prior [B, T]: the backbone's CLS-to-patch attention; without one, its activation energy, else the target's.

    The target's own energy serves only where each channel was normalised over images: after a LayerNorm it is constant.
    """
    if features.attention is not None:
        return features.attention
    if features.energy is not None:
        return features.energy
    return target.square().mean(dim=-1)


def learned_attention(attentions: list[Tensor]) -> Tensor:
    """A_learn [B, T]: attention each token receives, mean over queries, heads and blocks."""
    return torch.stack([a.mean(dim=(1, 2)) for a in attentions]).mean(dim=0)


def attention_mask(prior: Tensor | None, learned: Tensor | None) -> Tensor:
    """A = n(n(A_prior) + n(A_learn)), or of the one that is given: [B, T] in 0 to 1."""
    parts = [minmax(part) for part in (prior, learned) if part is not None]
    return minmax(torch.stack(parts).sum(dim=0))


def noise_strength(mask: Tensor, config: Config, hardness: float) -> Tensor:
    """Standard deviation of the feature noise [B, T], in units of rms(F).

    Guided: alpha(t) A + beta. Random: one value everywhere whose energy (mean square over the image) is the same.
    """
    guided = config.alpha_max * hardness * mask + config.beta
    if config.noise == "guided":
        return guided
    if config.noise == "random":
        return guided.square().mean(dim=1, keepdim=True).sqrt().expand_as(guided)
    return torch.zeros_like(guided)


def perturb_features(target: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """F' = F + E * strength, with E Gaussian and scaled by rms(F) of the image: [B, T, C]."""
    rms = target.square().mean(dim=(1, 2), keepdim=True).sqrt()
    noise = torch.randn(target.shape, generator=generator, device=target.device, dtype=target.dtype)
    return target + noise * rms * strength.unsqueeze(-1)


def perturb_image(
    images: Tensor,
    mask: Tensor,
    grid: tuple[int, int],
    config: Config,
    hardness: float,
    generator: torch.Generator,
) -> Tensor:
    """x' = x + 1[patch in the share rho(t)] sigma eps: [B, 3, S, S].

    The share is the top of the mask when guided, and drawn at random, as large, otherwise.
    """
    batch, tokens = mask.shape
    count = round(config.rho_max * hardness * tokens)
    if count == 0 or config.noise == "none":
        return images
    rank = mask
    if config.noise == "random":
        rank = torch.rand(mask.shape, generator=generator, device=mask.device)
    chosen = torch.zeros_like(mask).scatter_(1, rank.topk(count, dim=1).indices, 1.0)
    inside = F.interpolate(chosen.reshape(batch, 1, *grid), images.shape[2:], mode="nearest")
    spread = images.std(dim=(0, 2, 3), keepdim=True)
    noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    return images + inside * noise * spread * config.image_sigma
