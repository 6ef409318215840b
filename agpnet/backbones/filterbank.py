"""Fixed filters over luminance and colour: a backbone with no weights to download.

Oriented quadrature filters (Gabor pairs; Daugman, 1985) over a pyramid of the luminance give the energy of texture
by orientation and scale. Beside them stand what a mean over a cell hides (its brightest and its darkest spot, its
strongest bright and dark line), its colour as ratios, which a change of light leaves alone, and how it differs from
its surroundings. Energies are compressed by a logarithm, as contrast is multiplicative.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agpnet.backbones.base import Features

EPSILON = 1e-2
"""Contrast below about one hundredth of the range is noise: the logarithm's foot."""
DARK = 0.02
"""Added to colours before their ratios are taken: below two hundredths of the range, a colour is noise."""


class FilterBank(nn.Module):
    """The filters.

    Args:
        input_size: side of the input, pixels.
        cell: side of a feature cell, pixels.
        fold: a token holds `fold` x `fold` cells, and so some context of its own.
        orientations: oriented filters a scale.
        scales: levels of the pyramid, each half the size of the one before.
    """

    norm = "channel"
    LINE_SCALES = (0, 1, 2)
    EXTREME_SCALES = (1, 2)
    bank: Tensor

    def __init__(
        self, input_size: int = 256, cell: int = 8, fold: int = 2, orientations: int = 6, scales: int = 4
    ) -> None:
        super().__init__()
        if input_size % (cell * fold) or cell % (1 << (scales - 1)):
            raise ValueError(
                f"input {input_size}, cell {cell}, fold {fold} and {scales} scales do not divide"
            )
        self.input_size, self.cell, self.fold = input_size, cell, fold
        self.orientations, self.scales = orientations, scales
        side = input_size // (cell * fold)
        self.grid = (side, side)
        every = range(scales)
        self.cell_width = (
            scales
            * (orientations + 4)  # energies and their highest, the contrast of luminance and of both colours
            + 2 * sum(s in self.LINE_SCALES for s in every)
            + 2 * sum(s in self.EXTREME_SCALES for s in every)
            + 8  # mean colour, its difference to the surroundings, colour ratios
        )
        self.width = self.cell_width * fold * fold
        self.register_buffer(
            "bank", torch.cat([gabor_pairs(orientations), contrast_filter()]), persistent=False
        )

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in 0 to 1 -> [N, T, C] tokens."""
        level = opponent_colours(images)  # [N, 3, S, S]
        side = self.input_size // self.cell
        maps = []
        for scale in range(self.scales):
            maps += self._look(level, scale, side)
            level = _shrink(level, max(level.shape[-1] // 2, side))
        mean = _shrink(level, side)  # By now the mean colour of a cell.
        maps += [mean - _surroundings(mean), colour_ratios(_shrink(images, side)), mean]
        cells = torch.cat(maps, dim=1)  # [N, cell_width, side, side]
        return F.pixel_unshuffle(cells, self.fold).flatten(2).transpose(1, 2)

    def _look(self, level: Tensor, scale: int, side: int) -> list[Tensor]:
        """What one level [N, 3, h, w] of the pyramid says of each cell: maps of `side` x `side`."""
        # Energy is smooth: every second place is enough wherever a cell has several.
        stride = 2 if level.shape[-1] > side else 1
        luminance = level[:, :1]
        response = self._filter(luminance, self.bank, stride)
        even, odd, contrast = torch.split(response, [self.orientations, self.orientations, 1], dim=1)
        energy = torch.sqrt(even * even + odd * odd + 1e-8)
        colours = self._filter(level[:, 1:], self.bank[-1:], stride)
        maps = [
            _log(_shrink(torch.cat([energy, contrast.abs(), colours.abs()], dim=1), side)),
            _log(_highest(energy.amax(dim=1, keepdim=True), side)),
        ]
        if scale in self.LINE_SCALES:
            # The strongest bright and the strongest dark line: a thin scratch, which a mean would dilute.
            bright, dark = even.amax(dim=1, keepdim=True), -even.amin(dim=1, keepdim=True)
            maps.append(_log(_highest(torch.cat([bright, dark], dim=1), side).clamp_min(0)))
        if scale in self.EXTREME_SCALES:
            maps += [_highest(luminance, side), -_highest(-luminance, side)]
        return maps

    @staticmethod
    def _filter(planes: Tensor, kernels: Tensor, stride: int) -> Tensor:
        """[N, P, h, w] by [K, 1, k, k] -> [N, P * K, h / stride, w / stride], every plane by every kernel."""
        count, channels, height, width = planes.shape
        pad = kernels.shape[-1] // 2
        padded = F.pad(planes, (pad, pad, pad, pad), mode="replicate")
        flat = padded.reshape(count * channels, 1, height + 2 * pad, width + 2 * pad)
        response = F.conv2d(flat, kernels, stride=stride)
        return response.reshape(count, -1, *response.shape[2:])

    def extract(self, images: Tensor) -> Features:
        """Tokens as one layer; filters have no attention."""
        return Features([self(images)], None)

    def describe(self) -> dict[str, object]:
        """Its arguments."""
        return {
            "kind": "filterbank",
            "input_size": self.input_size,
            "cell": self.cell,
            "fold": self.fold,
            "orientations": self.orientations,
            "scales": self.scales,
        }


def _shrink(planes: Tensor, side: int) -> Tensor:
    """Mean over whole blocks, down to `side` x `side`."""
    factor = planes.shape[-1] // side
    return F.avg_pool2d(planes, factor) if factor > 1 else planes


def _highest(planes: Tensor, side: int) -> Tensor:
    """Maximum over whole blocks, down to `side` x `side`."""
    factor = planes.shape[-1] // side
    return F.max_pool2d(planes, factor) if factor > 1 else planes


def _surroundings(cells: Tensor) -> Tensor:
    """Mean over 5 x 5 cells, the border repeated."""
    return F.avg_pool2d(F.pad(cells, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


def _log(contrast: Tensor) -> Tensor:
    return torch.log(contrast + EPSILON)


def colour_ratios(images: Tensor) -> Tensor:
    """[N, 3, S, S] RGB in 0 to 1 -> log(red / green) and log(blue / green): what a change of light leaves alone."""
    # An image that training put noise on may go below 0, where there is no ratio.
    red, green, blue = torch.log(images.clamp_min(0) + DARK).unbind(dim=1)
    return torch.stack([red - green, blue - green], dim=1)


def opponent_colours(images: Tensor) -> Tensor:
    """[N, 3, S, S] RGB in 0 to 1 -> luminance (BT.601), red-green and blue-yellow."""
    red, green, blue = images.unbind(dim=1)
    # Written out: a 1x1 convolution over three channels is several times slower on a CPU.
    return torch.stack(
        [0.299 * red + 0.587 * green + 0.114 * blue, (red - green) / 2, (2 * blue - red - green) / 4], dim=1
    )


def gabor_pairs(orientations: int, size: int = 7, wavelength: float = 4.0, sigma: float = 1.8) -> Tensor:
    """[2 * orientations, 1, size, size]: all even filters, then all odd ones; zero mean, unit L2 norm.

    At a wavelength of 4 pixels, one filter on every level of a pyramid covers an octave.
    """
    half = size // 2
    y, x = torch.meshgrid(torch.arange(-half, half + 1.0), torch.arange(-half, half + 1.0), indexing="ij")
    envelope = torch.exp(-(x * x + y * y) / (2 * sigma * sigma))
    pairs: list[list[Tensor]] = [[], []]
    for i in range(orientations):
        angle = math.pi * i / orientations
        phase = 2 * math.pi / wavelength * (x * math.cos(angle) + y * math.sin(angle))
        for kind, wave in enumerate((torch.cos(phase), torch.sin(phase))):
            kernel = wave * envelope
            kernel = kernel - envelope * kernel.sum() / envelope.sum()
            pairs[kind].append(kernel / kernel.norm())
    return torch.stack(pairs[0] + pairs[1]).unsqueeze(1)


def contrast_filter(size: int = 7, box: int = 5) -> Tensor:
    """[1, 1, size, size]: a pixel less the mean of the `box` x `box` around it."""
    kernel = torch.zeros(size, size)
    edge = (size - box) // 2
    kernel[edge : size - edge, edge : size - edge] = -1 / (box * box)
    kernel[size // 2, size // 2] += 1
    return kernel.reshape(1, 1, size, size)
