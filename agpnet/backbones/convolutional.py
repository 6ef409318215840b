"""Convolutional networks: the maps of some stages, brought to one grid of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agp_edge.errors import InputError
from agpnet.backbones.base import Features
from agpnet.backbones.pretrained import (
    DEFAULT_INPUT_SIZE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PretrainedBackbone,
    check_layers,
)

CELL = 16
"""Side of a token in pixels: 16x16 tokens of a 256x256 input, as many as ViT-S/16 has."""
DEFAULT_STRIDES = (8, 16)


class ConvolutionalBackbone(PretrainedBackbone):
    """Maps of a convolutional network as tokens.

    Layer i is `hidden_states[i]` of the model. For ResNet, RegNet, BiT and ConvNeXt these are the stages 1 to 4; for
    EfficientNet the blocks, from 1 through all stages; MobileNet counts its layers from 0, so that 1 is the second.

    Args:
        model: as `agpnet.backbones.pretrained.load_model` gives it.
        layers: of the maps to take; empty takes the last ones at strides 8 and 16. Mid-level maps are what transfers:
            earlier ones are edges, later ones the classes of ImageNet, on a grid too coarse for small defects.
        input_size: side of the input, pixels; a multiple of 16; 0 takes 256.
        combine: `concat`, `sum` for layers of one width, or `auto` for `concat`.
        mean, std: of the normalisation the model was trained with, RGB.
        source: the id or folder it came from, for the record.

    Raises:
        InputError: a layer that the model has not, a size that does not fit, layers of unlike widths to be summed, or
            a model that gives no maps.
    """

    kind = "convolutional"

    def __init__(
        self,
        model: nn.Module,
        layers: tuple[int, ...] = (),
        input_size: int = 0,
        combine: str = "auto",
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        source: str = "",
    ) -> None:
        size = input_size or DEFAULT_INPUT_SIZE
        if size % CELL:
            raise InputError(
                f"input_size {size} is no multiple of a token of {CELL} pixels",
                f"take {size // CELL * CELL or CELL}",
            )
        shapes = map_shapes(model, size, source)
        sides = {layer: shape[1] for layer, shape in enumerate(shapes, start=1)}
        layers = layers or default_layers(sides, size, source)
        last = last_at_stride(sides, size)
        places = ", ".join(f"{layer} (stride {stride})" for stride, layer in sorted(last.items()))
        check_layers(layers, len(shapes), source, "layers", f"; the last ones of their size are {places}")
        grid = size // CELL
        for layer in layers:
            side = sides[layer]
            if side > grid and side % grid:
                raise InputError(
                    f"layer {layer} of {source} gives maps of {side}x{side}, which do not divide into {grid}x{grid} tokens",
                    f"take an input_size that is a multiple of {2 * CELL}, or other layers",
                )
        widths = [shapes[layer - 1][0] for layer in layers]
        super().__init__(
            model, layers, widths, size, CELL, "concat" if combine == "auto" else combine, mean, std, source
        )

    def extract(self, images: Tensor) -> Features:
        """Tokens of the chosen layers, and the energy of their maps in the place of attention."""
        states = self.model(
            pixel_values=self.normalise_pixels(images), output_hidden_states=True
        ).hidden_states
        maps = [states[i] for i in self.layers]
        side = self.grid[0]
        tokens = [to_grid(m, side).flatten(2).transpose(1, 2) for m in maps]
        return Features(tokens, None, activation_energy(maps, side))


def map_shapes(model: nn.Module, size: int, source: str) -> list[tuple[int, int]]:
    """(channels, side) of each of the model's maps but the stem's, found by running it once.

    Args:
        model: the network.
        size: side of the input, pixels.
        source: for the message.

    Raises:
        InputError: what it gives is no maps.
    """
    refusal = InputError(
        f"the backbone {source!r} ({type(model).__name__}) is no vision transformer and no convolutional network",
        "give one with patches, as facebook/dino-vits16, or with maps, as microsoft/resnet-50",
    )
    try:
        with torch.no_grad():
            output: Any = model(pixel_values=torch.zeros(1, 3, size, size), output_hidden_states=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise refusal from error
    states = getattr(output, "hidden_states", None) or ()
    if len(states) < 2 or any(s.ndim != 4 or s.shape[2] != s.shape[3] for s in states):
        raise refusal
    return [(state.shape[1], state.shape[2]) for state in states[1:]]


def last_at_stride(sides: dict[int, int], size: int) -> dict[int, int]:
    """Stride -> the last layer that has it. `sides`: layer -> side of its maps; `size`: side of the input."""
    return {round(size / side): layer for layer, side in sorted(sides.items())}


def default_layers(sides: dict[int, int], size: int, source: str) -> tuple[int, ...]:
    """The last layer at each of the strides 8 and 16.

    Args:
        sides: layer -> side of its maps.
        size: side of the input, pixels.
        source: for the message.

    Raises:
        InputError: there is none.
    """
    last = last_at_stride(sides, size)
    found = [last[stride] for stride in DEFAULT_STRIDES if stride in last]
    if not found:
        raise InputError(f"{source} has no maps at strides 8 and 16", "choose its layers: --set layers=[1,2]")
    return tuple(found)


def to_grid(maps: Tensor, side: int) -> Tensor:
    """[N, C, h, h] -> [N, C, side, side]: the mean of each cell of finer maps, bilinear between coarser ones."""
    size = maps.shape[-1]
    if size > side:
        return F.avg_pool2d(maps, size // side)
    if size < side:
        return F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
    return maps


def activation_energy(maps: Sequence[Tensor], side: int) -> Tensor:
    """Mean square over channels, mean over layers of which each counts alike: [N, side * side].

    It has to be taken here: once a token is normalised over its channels its energy is the same everywhere.

    Args:
        maps: each [N, C, h, h], as the network gives them.
        side: of the grid.
    """
    energies = []
    for layer in maps:
        energy = to_grid(layer.float().square().mean(dim=1, keepdim=True), side).flatten(1)  # [N, T]
        energies.append(energy / energy.mean(dim=1, keepdim=True).clamp_min(1e-12))
    return torch.stack(energies).mean(dim=0)
