"""Fixed filters over luminance and colour: a backbone with no weights to download.

Oriented quadrature filters (Gabor pairs; Daugman, 1985) over a pyramid of the luminance give the energy of texture
by orientation and scale; local means and spreads of luminance and two opponent colours give the rest. Energies are
compressed by a logarithm, as contrast is multiplicative.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agpnet.backbones.base import Features

EPSILON = 1e-2
"""Contrast below about one hundredth of the range is noise: the logarithm's foot."""


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
    COLOUR_SCALES = (1, 2)
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
        coloured = sum(scale in self.COLOUR_SCALES for scale in range(scales))
        # A scale: energies, and the contrast of luminance, of both colours too where they count; then the means.
        self.cell_width = scales * (orientations + 1) + 2 * coloured + 3
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
            size = level.shape[-1]
            # Energy is smooth: every second place is enough wherever a cell has several.
            stride = 2 if size > side else 1
            response = self._filter(level[:, :1], self.bank, stride)
            even, odd, contrast = torch.split(response, [self.orientations, self.orientations, 1], dim=1)
            found = [torch.sqrt(even * even + odd * odd + 1e-8), contrast.abs()]
            if scale in self.COLOUR_SCALES:
                # Colour where noise has been averaged away.
                found.append(self._filter(level[:, 1:], self.bank[-1:], stride).abs())
            maps.append(torch.log(_shrink(torch.cat(found, dim=1), side) + EPSILON))
            level = _shrink(level, max(size // 2, side))
        level = _shrink(level, side)
        maps.append(level)  # By now the mean colour of a cell.
        cells = torch.cat(maps, dim=1)  # [N, cell_width, side, side]
        return F.pixel_unshuffle(cells, self.fold).flatten(2).transpose(1, 2)

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
