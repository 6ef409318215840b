"""AGPNet: a frozen backbone, a light decoder that rebuilds its tokens, and the distance that is the anomaly map.

Source: Huang et al. 2024, arXiv 2408.07490. What is left out at inference is in `agpnet.perturbation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agpnet.backbones.base import Backbone, Features
from agpnet.config import Distance, ResidualScale

RIDGE = 0.3
"""Strong: a few thousand tokens must not be learned by heart. Between 0.1 and 3 nothing much changes."""


class Attention(nn.Module):
    """Multi-head self-attention, written out so that its weights can be read and every exporter can take it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, C] -> the same, and the attention [B, heads, T, T]."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, T, C / heads]
        attention = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        mixed = (attention @ v).transpose(1, 2).reshape(batch, tokens, width)
        return self.out(mixed), attention


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, C] -> the same, and the attention [B, heads, T, T]."""
        mixed, attention = self.attention(self.norm1(x))
        x = x + mixed
        return x + self.mlp(self.norm2(x)), attention


class Decoder(nn.Module):
    """A light ViT that rebuilds clean tokens from perturbed ones.

    Args:
        channels: channels of the target.
        tokens: tokens of an image.
        width: channels inside; another width than the target's is reached by a linear layer on either side.
        heads, blocks: of the transformer.
    """

    def __init__(self, channels: int, tokens: int, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.into = nn.Linear(channels, width) if width != channels else nn.Identity()
        self.position = nn.Parameter(torch.zeros(1, tokens, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        return self.rebuild(tokens)[0]

    def rebuild(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The rebuilt tokens, and the attention [B, heads, T, T] of each block."""
        x = self.into(tokens) + self.position
        attentions = []
        for block in self.blocks:
            x, attention = block(x)
            attentions.append(attention)
        return self.head(self.norm(x)), attentions


class AGPNet(nn.Module):
    """What runs on the line: backbone, decoder, distance. Nothing random.

    Args:
        backbone: frozen; its `norm` says how tokens become the target.
        decoder_width: channels inside the decoder; 0 takes `default_decoder_width`.
        decoder_heads, decoder_blocks: of the decoder.
        blur_sigma: Gaussian blur of the map, in input pixels; 0 is off.
        residual_scale: what a channel's difference is divided by before the distance is taken, see `fit_residuals`.
        distance: one for each token, or one for each of the cells that a token of the backbone holds.
    """

    channel_mean: Tensor
    channel_scale: Tensor
    residual_weight: Tensor
    residual_bias: Tensor
    residual_lowest: Tensor
    residual_highest: Tensor
    blur_kernel: Tensor
    blur_weight: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        decoder_width: int = 0,
        decoder_heads: int = 6,
        decoder_blocks: int = 4,
        blur_sigma: float = 4.0,
        residual_scale: ResidualScale = "off",
        distance: Distance = "token",
    ) -> None:
        super().__init__()
        self.backbone: Backbone = backbone
        self.residual_scale = residual_scale
        self.fold = backbone.fold if distance == "cell" else 1
        cast(nn.Module, backbone).requires_grad_(False)
        cast(nn.Module, backbone).eval()
        rows, columns = backbone.grid
        width = decoder_width or default_decoder_width(backbone.width, decoder_heads)
        if width % decoder_heads:
            raise ValueError(f"decoder_width {width} is no multiple of decoder_heads {decoder_heads}")
        self.decoder = Decoder(backbone.width, rows * columns, width, decoder_heads, decoder_blocks)
        self.register_buffer("channel_mean", torch.zeros(backbone.width))
        self.register_buffer("channel_scale", torch.ones(backbone.width))
        if residual_scale != "off":
            self.register_buffer("residual_bias", torch.zeros(backbone.width))
        if residual_scale == "rebuilt":
            self.register_buffer("residual_weight", torch.zeros(backbone.width, backbone.width))
            self.register_buffer("residual_lowest", torch.zeros(backbone.width))
            self.register_buffer("residual_highest", torch.zeros(backbone.width))
        self.register_buffer("blur_kernel", gaussian_kernel(blur_sigma), persistent=False)
        size = backbone.input_size
        self.register_buffer("blur_weight", self._blur(torch.ones(1, 1, size, size)), persistent=False)

    def train(self, mode: bool = True) -> AGPNet:
        """The backbone stays in evaluation mode whatever the decoder does."""
        super().train(mode)
        cast(nn.Module, self.backbone).eval()
        return self

    @torch.no_grad()
    def fit_channels(self, batches: list[Tensor]) -> None:
        """Take each channel's mean and spread over good images, for a backbone of norm `channel`.

        Args:
            batches: each [N, 3, S, S] in 0 to 1.
        """
        if self.backbone.norm != "channel":
            return
        tokens = torch.cat(
            [self._combine(self.backbone.extract(batch).layers).flatten(0, 1) for batch in batches]
        )
        self.channel_mean.copy_(tokens.mean(dim=0))
        # The floor keeps a channel that never moves (colour on a grey part) from exploding at the first tint.
        spread = tokens.std(dim=0)
        self.channel_scale.copy_(1 / spread.clamp_min(0.05 * float(spread.mean())))

    @torch.no_grad()
    def fit_residuals(self, targets: Iterable[Tensor]) -> None:
        """Learn how far a good token is rebuilt amiss, channel by channel, once the decoder is trained.

        A decoder does not rebuild everything equally well: where a brick meets the mortar, each good part differs a
        little, and a plain distance is large there on every part. `channel` takes the spread of each channel; `rebuilt`
        predicts it from the rebuilt token, which is what a good part would show there: ln r_c^2 = w_c D(F) + b_c, by
        ridge regression. The prediction stays within what it was over good images: nothing unheard-of excuses itself, or
        counts without bound.

        Args:
            targets: F of good images, each [N, T, C].
        """
        if self.residual_scale == "off":
            return
        pairs = [(target, self.decoder(target)) for target in targets]
        squares = torch.cat([(t - r).square().flatten(0, 1) for t, r in pairs]).double()
        # Differences far below the usual say nothing: they are taken as that much, and spoil no logarithm.
        logs = torch.log(squares + 1e-3 * squares.mean())
        bias = logs.mean(dim=0)
        predicted = bias.expand_as(logs)
        if self.residual_scale == "rebuilt":
            tokens = torch.cat([r.flatten(0, 1) for _, r in pairs]).double()
            weight, bias = ridge(tokens, logs, RIDGE)
            predicted = tokens @ weight + bias
            self.residual_weight.copy_(weight)
        # The mean of a logarithm is not the logarithm of the mean: now a channel's good differences average 1.
        shift = torch.log((squares / predicted.exp()).mean(dim=0).clamp_min(1e-12))
        self.residual_bias.copy_(bias + shift)
        if self.residual_scale == "rebuilt":
            self.residual_lowest.copy_((predicted + shift).amin(dim=0))
            self.residual_highest.copy_((predicted + shift).amax(dim=0))

    def target(self, images: Tensor) -> tuple[Tensor, Features]:
        """F, the combined normalised tokens of all layers [B, T, C], and what the backbone said."""
        features = self.backbone.extract(images)
        return self.normalise(features), features

    def normalise(self, features: Features) -> Tensor:
        """The layers' tokens, normalised as the backbone's `norm` says, and combined: [B, T, C]."""
        if self.backbone.norm == "channel":
            return (self._combine(features.layers) - self.channel_mean) * self.channel_scale
        return self._combine([F.layer_norm(layer, layer.shape[-1:]) for layer in features.layers])

    def _combine(self, layers: list[Tensor]) -> Tensor:
        return combine_layers(layers, self.backbone.width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, S, S] in 0 to 1 -> score [N], anomaly map [N, S, S]."""
        target, _ = self.target(images)
        return self.judge(target, self.decoder(target))

    def judge(self, target: Tensor, rebuilt: Tensor) -> tuple[Tensor, Tensor]:
        """The distance, upsampled and blurred, and its maximum."""
        difference = target - rebuilt
        squares = difference * difference
        if self.residual_scale != "off":
            spread = self.residual_bias
            if self.residual_scale == "rebuilt":
                foretold = rebuilt @ self.residual_weight + spread
                spread = torch.minimum(torch.maximum(foretold, self.residual_lowest), self.residual_highest)
            squares = squares * torch.exp(-spread)
        size = self.backbone.input_size
        anomaly_map = F.interpolate(
            self._distances(squares), (size, size), mode="bilinear", align_corners=False
        )
        if self.blur_kernel.numel() > 1:
            # Zero-padded and divided by the weight that fell inside: no darker border, and no Pad node.
            anomaly_map = self._blur(anomaly_map) / self.blur_weight
        anomaly_map = anomaly_map[:, 0]
        return anomaly_map.amax(dim=(1, 2)), anomaly_map

    def _distances(self, squares: Tensor) -> Tensor:
        """Square roots of the sums over channels of [N, T, C], as a picture [N, 1, rows * fold, columns * fold]."""
        rows, columns = self.backbone.grid
        cells = self.fold * self.fold
        # Cell by cell the channels lie as `pixel_unshuffle` left them: a channel of all cells, then the next channel.
        sums = squares.reshape(-1, rows * columns, self.backbone.width // cells, cells).sum(dim=2)
        grid = torch.sqrt(sums).transpose(1, 2).reshape(-1, cells, rows, columns)
        return F.pixel_shuffle(grid, self.fold) if self.fold > 1 else grid

    def _blur(self, x: Tensor) -> Tensor:
        kernel = self.blur_kernel
        half = kernel.shape[-1] // 2
        x = F.conv2d(x, kernel.reshape(1, 1, -1, 1), padding=(half, 0))
        return F.conv2d(x, kernel.reshape(1, 1, 1, -1), padding=(0, half))


def ridge(inputs: Tensor, outputs: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Ridge regression on standardised inputs; the intercept is free.

    Args:
        inputs: [M, C].
        outputs: [M, K].
        strength: of the penalty, where 1 is the variance of an input.

    Returns:
        Weights [C, K] and intercepts [K] for the inputs as they are.
    """
    mean, spread = inputs.mean(dim=0), inputs.std(dim=0).clamp_min(1e-6)
    x = (inputs - mean) / spread
    level = outputs.mean(dim=0)
    gram = x.T @ x / len(x) + strength * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ (outputs - level) / len(x)) / spread[:, None]
    return weight, level - mean @ weight


def combine_layers(layers: list[Tensor], width: int) -> Tensor:
    """Layers' tokens as one [B, T, width]: summed where each is `width` wide, else one beside another.

    Raises:
        ValueError: their widths do neither.
    """
    widths = [layer.shape[-1] for layer in layers]
    if set(widths) == {width}:
        return reduce(torch.add, layers)
    if sum(widths) == width:
        return torch.cat(layers, dim=-1)
    raise ValueError(f"layers of widths {widths} make no target of width {width}")


def default_decoder_width(channels: int, heads: int) -> int:
    """A decoder's width for a target of `channels`: as wide, or 384 beyond 768, up to a multiple of `heads`.

    384 is the width for the paper's ViT-S/16. A transformer's work grows with the square of its width, and its linear
    layers on either side carry the rest.
    """
    width = channels if channels <= 768 else 384
    return -(-width // heads) * heads


def gaussian_kernel(sigma: float) -> Tensor:
    """[2 * ceil(3 sigma) + 1] weights that sum to 1; one weight for sigma 0."""
    if sigma == 0:
        return torch.ones(1)
    half = int(-(-3 * sigma // 1))
    x = torch.arange(-half, half + 1, dtype=torch.float32)
    kernel = torch.exp(-(x * x) / (2 * sigma * sigma))
    return kernel / kernel.sum()
