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


def described(images: Tensor) -> list[dict[str, Tensor]]:
    """What a picture's cells say, a dictionary a scale and one for colour: [N, T, fold * fold, channels] each."""
    bank = FilterBank(images.shape[-1])
    # A token is `fold` x `fold` cells of `cell_width` channels, channel by channel.
    cells = bank(images).unflatten(2, (bank.cell_width, bank.fold**2)).transpose(2, 3)
    found, start = [], 0

    def take(names: dict[str, int]) -> dict[str, Tensor]:
        nonlocal start
        taken = {}
        for name, width in names.items():
            taken[name] = cells[..., start : start + width]
            start += width
        return taken

    for scale in range(SCALES):
        names = {"energy": ORIENTATIONS, "contrast": 1, "colours": 2, "highest": 1}
        names |= {"bright": 1, "dark": 1} if scale in FilterBank.LINE_SCALES else {}
        names |= {"lightest": 1, "darkest": 1} if scale in FilterBank.EXTREME_SCALES else {}
        found.append(take(names))
    found.append(take({"difference": 3, "ratios": 2, "mean": 3}))
    assert start == bank.cell_width
    return found


def energies(images: Tensor) -> Tensor:
    """[scales, orientations] mean energy of the oriented filters, before the logarithm."""
    scales = described(images)[:SCALES]
    return torch.stack([scale["energy"].mean(dim=(0, 1, 2)) for scale in scales]).exp() - EPSILON


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
    *scales, colours = described(images)
    luminance = 0.299 * 0.2 + 0.587 * 0.5 + 0.114 * 0.8
    floor = math.log(EPSILON)
    for scale in scales:
        for name, values in scale.items():
            level = luminance if name in ("lightest", "darkest") else floor
            assert (values - level).abs().max() < 0.02, name
    for name, expected in (
        ("mean", [luminance, -0.15, 0.225]),
        ("difference", [0.0, 0.0, 0.0]),
        ("ratios", [math.log(0.22 / 0.52), math.log(0.82 / 0.52)]),
    ):
        torch.testing.assert_close(colours[name], torch.tensor(expected).expand_as(colours[name]), msg=name)


def test_a_thin_line_tells_bright_from_dark() -> None:
    images = torch.full((2, 3, 128, 128), 0.5)
    images[0, :, :, 64:66], images[1, :, :, 64:66] = 0.9, 0.1
    for scale in described(images)[:2]:
        bright, dark = (scale[name].amax(dim=(1, 2, 3)) for name in ("bright", "dark"))
        # Each line has side lobes of the other sign, which are weaker.
        assert bright[0] > dark[0] + 0.3
        assert dark[1] > bright[1] + 0.3


def test_one_spot_in_a_cell_is_seen_though_its_mean_hides_it() -> None:
    images = torch.full((1, 3, 128, 128), 0.5)
    images[0, :, 64:66, 64:66] = 0.0
    *scales, colours = described(images)
    assert float(scales[1]["darkest"].min()) < 0.01
    assert float(scales[1]["lightest"].max()) == pytest.approx(0.5)
    assert float((colours["mean"][..., 0] - 0.5).abs().max()) < 0.04


def test_colour_ratios_leave_light_alone() -> None:
    images = torch.rand(1, 3, 64, 64) * 0.4 + 0.3
    *_, before = described(images)
    *_, after = described(images * 1.3)
    *_, tinted = described(images * torch.tensor([1.3, 1.0, 1.0]).reshape(1, 3, 1, 1))
    light = (after["ratios"] - before["ratios"]).abs().max()
    tint = (tinted["ratios"] - before["ratios"])[..., 0]
    assert light < 0.02
    assert tint.min() > 0.2


def test_an_image_with_noise_below_zero_gives_numbers() -> None:
    images = torch.rand(1, 3, 64, 64) * 4 - 2
    assert torch.isfinite(FilterBank(64)(images)).all()


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
