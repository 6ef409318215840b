"""Fixed filters: each answers most to its own orientation and scale, and to nothing where there is nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agpnet.backbones import FilterBank, make_backbone, restore_backbone
from agpnet.backbones.filterbank import EPSILON, gabor_pairs, opponent_colours

ORIENTATIONS, SCALES = 6, 4


def grating(angle: float, wavelength: float, size: int = 128) -> Tensor:
    """[1, 3, S, S]: grey stripes whose normal points along `angle`."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    wave = 0.5 + 0.3 * torch.cos(2 * math.pi / wavelength * (x * math.cos(angle) + y * math.sin(angle)))
    return wave.expand(1, 3, -1, -1)


def energies(images: Tensor) -> Tensor:
    """[scales, orientations] mean energy of the oriented filters, before the logarithm."""
    bank = FilterBank(images.shape[-1])
    tokens = bank(images)
    # A token is `fold` x `fold` cells of `cell_width` channels, channel by channel.
    cells = tokens.unflatten(2, (bank.cell_width, bank.fold**2)).mean(dim=(0, 1, 3))
    # A scale: energies, contrast, and where colours count two more; the mean colour is last.
    widths = [ORIENTATIONS + (3 if scale in bank.COLOUR_SCALES else 1) for scale in range(SCALES)]
    *scales, _ = cells.split([*widths, 3])
    return torch.stack([scale[:ORIENTATIONS] for scale in scales]).exp() - EPSILON


@pytest.mark.parametrize("orientation", range(ORIENTATIONS))
@pytest.mark.parametrize("scale", [0, 1, 2])
def test_a_grating_excites_its_own_orientation_and_scale_most(orientation: int, scale: int) -> None:
    found = energies(grating(math.pi * orientation / ORIENTATIONS, 4 * 2**scale))
    assert divmod(int(found.argmax()), ORIENTATIONS) == (scale, orientation)
    across = found[scale, (orientation + 3) % ORIENTATIONS]
    assert across < 0.15 * found[scale, orientation]


def test_filters_have_no_mean_and_one_energy() -> None:
    kernels = gabor_pairs(ORIENTATIONS)
    assert kernels.shape == (2 * ORIENTATIONS, 1, 7, 7)
    assert kernels.sum(dim=(1, 2, 3)).abs().max() < 1e-6
    torch.testing.assert_close(kernels.norm(dim=(2, 3)), torch.ones(2 * ORIENTATIONS, 1))
    # A pair is in quadrature: the odd one is the even one a quarter of a wave on.
    assert (kernels[:ORIENTATIONS] * kernels[ORIENTATIONS:]).sum(dim=(1, 2, 3)).abs().max() < 1e-6


def test_an_even_picture_gives_the_floor_and_its_colour() -> None:
    colour = torch.tensor([0.2, 0.5, 0.8])
    images = colour.reshape(1, 3, 1, 1).expand(1, 3, 128, 128)
    bank = FilterBank(128)
    cells = bank(images).unflatten(2, (bank.cell_width, bank.fold**2)).mean(dim=3)[0]
    torch.testing.assert_close(cells, cells[:1].expand_as(cells), msg="all tokens are the same")
    luminance = 0.299 * 0.2 + 0.587 * 0.5 + 0.114 * 0.8
    torch.testing.assert_close(cells[0, -3:], torch.tensor([luminance, -0.15, 0.225]))
    floor = math.log(EPSILON)
    assert (cells[0, :-3] - floor).abs().max() < 0.02


def test_grey_has_no_colour() -> None:
    colours = opponent_colours(torch.rand(2, 1, 4, 4).expand(2, 3, 4, 4))
    assert colours[:, 1:].abs().max() < 1e-6


def test_shapes_are_what_it_says() -> None:
    bank = FilterBank(64)
    features = bank.extract(torch.rand(3, 3, 64, 64))
    assert features.attention is None
    (tokens,) = features.layers
    assert tokens.shape == (3, 4 * 4, bank.width)
    assert bank.grid == (4, 4)
    assert list(bank.parameters()) == [], "nothing to train"
    again = restore_backbone(bank.describe(), None)  # type: ignore[arg-type]  # Filters need no folder.
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.extract(images).layers[0], bank(images))


def test_a_size_that_its_cells_do_not_divide_is_refused() -> None:
    from agp_edge.errors import InputError

    with pytest.raises(InputError, match="do not divide") as caught:
        make_backbone("filterbank", input_size=100)
    assert "16" in caught.value.hint
