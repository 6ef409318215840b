"""What a backbone is: a frozen network that gives tokens of several layers, and attention where it has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """What a backbone says of N images.

    Attributes:
        layers: each [N, T, C_l], one a chosen layer, T tokens in row order of the grid.
        attention: [N, T] CLS-to-patch attention, mean over heads and layers; None where there is none.
        energy: [N, T] what stands in for attention where there is none, taken before any normalisation; None leaves it
            to the energy of the target.
    """

    layers: list[Tensor]
    attention: Tensor | None
    energy: Tensor | None = None


class Backbone(Protocol):
    """A frozen feature extractor; also a `torch.nn.Module` without trained parameters of ours.

    Attributes:
        input_size: side S of its input, pixels.
        grid: (rows, columns) of tokens.
        fold: a token holds `fold` x `fold` cells of the picture, each with channels of its own, a channel of all cells after the
            other; 1 where a token is one.
        width: channels C of the target. Layers that are each so wide are summed; layers whose widths add up to it
            are put one beside another.
        norm: how tokens become the target: `layer` (LayerNorm over channels, for networks whose token norm drifts)
            or `channel` (each channel by its mean and spread over good images, for filters of unlike units).
    """

    input_size: int
    grid: tuple[int, int]
    fold: int
    width: int
    norm: str

    def extract(self, images: Tensor) -> Features:
        """Features of [N, 3, S, S] float RGB images in 0 to 1."""

    def describe(self) -> dict[str, object]:
        """What a run keeps to build it again with `agpnet.backbones.restore_backbone`."""
