"""The network on the line: nothing random, the backbone frozen, the score the maximum of the map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from agpnet.backbones import FilterBank
from agpnet.backbones.base import Features
from agpnet.config import ResidualScale
from agpnet.network import (
    AGPNet,
    Attention,
    Decoder,
    combine_layers,
    default_decoder_width,
    gaussian_kernel,
    ridge,
)


def make_network(blur_sigma: float = 4.0) -> AGPNet:
    torch.manual_seed(0)
    backbone = FilterBank(64)
    network = AGPNet(backbone, decoder_width=24, decoder_heads=3, decoder_blocks=2, blur_sigma=blur_sigma)
    network.fit_channels([torch.rand(4, 3, 64, 64)])
    return network.eval()


def test_attention_is_torchs_own() -> None:
    torch.manual_seed(0)
    ours = Attention(24, 3)
    theirs = torch.nn.MultiheadAttention(24, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight, "out_proj.bias": ours.out.bias,
        }
    )  # fmt: skip
    x = torch.rand(2, 5, 24)
    mixed, attention = ours(x)
    expected, weights = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(attention, weights)


def test_a_decoder_gives_back_what_it_takes_in_any_width() -> None:
    for width in (24, 36):
        decoder = Decoder(24, 9, width, 3, 2)
        rebuilt, attentions = decoder.rebuild(torch.rand(2, 9, 24))
        assert rebuilt.shape == (2, 9, 24)
        assert [a.shape for a in attentions] == [(2, 3, 9, 9)] * 2
    assert sum(p.numel() for p in Decoder(24, 9, 24, 3, 2).into.parameters()) == 0


def test_the_score_is_the_maps_maximum_and_the_map_the_distance() -> None:
    network = make_network(blur_sigma=0)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        score, anomaly_map = network(images)
        target, _ = network.target(images)
        distance = (target - network.decoder(target)).norm(dim=2).reshape(2, 1, 4, 4)
    assert (score.shape, anomaly_map.shape) == ((2,), (2, 64, 64))
    assert torch.equal(score, anomaly_map.amax(dim=(1, 2)))
    up = F.interpolate(distance, (64, 64), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(anomaly_map, up)
    again = network(images)
    assert torch.equal(again[0], score), "nothing is random"


def test_blur_keeps_the_mean_of_an_even_map_to_its_border() -> None:
    network = make_network(blur_sigma=4)
    target = torch.ones(1, 16, network.backbone.width)
    _, anomaly_map = network.judge(target, torch.zeros_like(target))
    torch.testing.assert_close(anomaly_map, torch.full((1, 64, 64), network.backbone.width**0.5))
    kernel = gaussian_kernel(4)
    assert kernel.shape == (25,)
    assert kernel.sum().item() == pytest.approx(1)
    assert gaussian_kernel(0).tolist() == [1]


def test_layers_are_normalised_and_summed_or_put_side_by_side() -> None:
    network = make_network()
    network.backbone.norm, network.backbone.width = "layer", 8
    layers = [torch.randn(2, 16, 8) * 5 + 3, torch.randn(2, 16, 8)]
    target = network.normalise(Features(layers, None))
    torch.testing.assert_close(target, sum((F.layer_norm(x, (8,)) for x in layers), torch.zeros(())))
    torch.testing.assert_close(combine_layers(layers, 8), layers[0] + layers[1])
    network.backbone.width = 20
    wide = [*layers, torch.randn(2, 16, 4)]
    target = network.normalise(Features(wide, None))
    torch.testing.assert_close(target, torch.cat([F.layer_norm(x, x.shape[-1:]) for x in wide], dim=-1))
    with pytest.raises(ValueError, match=r"widths \[8, 8, 4\] make no target of width 8"):
        combine_layers(wide, 8)


@pytest.mark.parametrize(
    ("channels", "heads", "width"),
    [(384, 6, 384), (768, 6, 768), (1024, 6, 384), (1536, 5, 385), (100, 6, 102)],
)
def test_a_decoder_is_no_wider_than_it_has_to_be(channels: int, heads: int, width: int) -> None:
    assert default_decoder_width(channels, heads) == width


def test_channels_are_brought_to_one_spread_with_a_floor() -> None:
    network = make_network()
    images = torch.rand(8, 3, 64, 64)
    images[:, 1:] = images[:, :1]  # Grey: the colour channels never move.
    network.fit_channels([images[:4], images[4:]])
    target = network.target(images)[0].flatten(0, 1)
    assert target.mean(dim=0).abs().max() < 1e-3
    spread = target.std(dim=0)
    assert spread.max() < 1.01
    assert spread.min() < 0.1, "a channel that never moves is not blown up"
    assert torch.isfinite(network.channel_scale).all()


def test_the_backbone_stays_in_evaluation_mode_and_frozen() -> None:
    network = make_network().train()
    assert network.decoder.training
    assert not network.backbone.training  # type: ignore[attr-defined]  # It is a module too.
    assert all(p.requires_grad for p in network.decoder.parameters())


def test_a_width_that_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="no multiple of decoder_heads"):
        AGPNet(FilterBank(64), decoder_width=25, decoder_heads=3)


def with_residuals(kind: ResidualScale) -> AGPNet:
    torch.manual_seed(0)
    backbone = FilterBank(64)
    return AGPNet(
        backbone, decoder_width=24, decoder_heads=3, decoder_blocks=1, blur_sigma=0, residual_scale=kind
    ).eval()


@pytest.mark.parametrize("kind", ["channel", "rebuilt"])
def test_good_differences_are_brought_to_one_size_in_every_channel(kind: ResidualScale) -> None:
    network = with_residuals(kind)
    spread = torch.linspace(0.01, 3, network.backbone.width)
    targets = [torch.randn(4, 16, network.backbone.width) * spread for _ in range(8)]
    network.fit_residuals(targets)
    with torch.no_grad():
        rebuilt = [network.decoder(target) for target in targets]
        score, _ = network.judge(targets[0], rebuilt[0])
        spreads = network.residual_bias
        if kind == "rebuilt":
            spreads = torch.cat([r @ network.residual_weight for r in rebuilt]) + network.residual_bias
        squares = torch.cat([(t - r).square() for t, r in zip(targets, rebuilt, strict=True)])
        scaled = (squares / spreads.exp()).mean(dim=(0, 1))
    torch.testing.assert_close(scaled, torch.ones_like(scaled), rtol=1e-3, atol=1e-3)
    # The distance of a good token is then about the root of the number of channels.
    assert float(score.mean()) == pytest.approx(network.backbone.width**0.5, rel=0.3)


def test_the_spread_is_foretold_from_what_was_rebuilt() -> None:
    """Two kinds of tokens, one rebuilt ten times worse than the other: the same difference says more on the other."""
    network = with_residuals("rebuilt")
    width = network.backbone.width
    kind = torch.tensor([1.0, -1.0]).repeat(8).reshape(1, 16, 1).expand(400, -1, -1)
    base = kind * torch.randn(width)
    noise = torch.randn(400, 16, width) * torch.where(kind > 0, 1.0, 0.1)

    class Known(torch.nn.Module):
        """Rebuilds each token as its kind."""

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return base[: len(tokens)]

    network.decoder = Known()  # type: ignore[assignment]
    network.fit_residuals([base + noise])
    lift = torch.full((1, 16, width), 0.5)
    squares = lift.square() * torch.exp(-(base[:1] @ network.residual_weight + network.residual_bias))
    worse, better = squares[0][kind[0, :, 0] > 0].mean(), squares[0][kind[0, :, 0] < 0].mean()
    assert 50 < better / worse < 200
    assert float(worse) == pytest.approx(0.25, rel=0.35), "ridge regression shrinks it a little"
    # Beyond anything seen, the prediction goes no further than on good images.
    assert float((base[:1] * 50 @ network.residual_weight + network.residual_bias).max()) > float(
        network.residual_highest.max()
    )
    with torch.no_grad():
        far = network.judge(base[:1] * 50 + 10, base[:1] * 50)[0]
    assert float(far) > 10 * width**0.5 * 0.9


def test_off_is_the_papers_plain_distance() -> None:
    network = with_residuals("off")
    before = {name for name, _ in network.named_buffers()}
    network.fit_residuals([torch.randn(2, 16, network.backbone.width)])
    assert not any("residual" in name for name in before)


def test_ridge_is_scikit_learns() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    torch.manual_seed(1)
    x, y = torch.randn(200, 5).double() * torch.tensor([1, 2, 3, 4, 5]) + 7, torch.randn(200, 3).double()
    weight, bias = ridge(x, y, 0.3)
    scaler = StandardScaler().fit(x.numpy())
    scaler.scale_ = x.std(dim=0).numpy()  # torch's spread divides by n - 1.
    theirs = Ridge(alpha=0.3 * len(x)).fit(scaler.transform(x.numpy()), y.numpy())
    expected = torch.from_numpy(theirs.predict(scaler.transform(x.numpy())))
    torch.testing.assert_close(x @ weight + bias, expected)


def test_a_token_of_several_cells_has_a_distance_for_each_of_them() -> None:
    bank = FilterBank(64)
    settings: dict[str, Any] = {
        "decoder_width": 8,
        "decoder_heads": 2,
        "decoder_blocks": 1,
        "blur_sigma": 0.0,
    }
    network = AGPNet(bank, distance="cell", **settings)
    rows, columns = bank.grid
    side = bank.input_size // bank.cell
    cells = torch.zeros(1, bank.cell_width, side, side)
    cells[0, 3, 2, 5] = 3.0  # One cell, in two of its channels.
    cells[0, 7, 2, 5] = 4.0
    target = F.pixel_unshuffle(cells, bank.fold).flatten(2).transpose(1, 2)
    score, anomaly_map = network.judge(target, torch.zeros_like(target))
    wanted = torch.zeros(1, 1, side, side)
    wanted[0, 0, 2, 5] = 5.0
    up = F.interpolate(wanted, (64, 64), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(anomaly_map, up)
    assert float(score) == float(up.max())
    _, coarse = AGPNet(bank, distance="token", **settings).judge(target, torch.zeros_like(target))
    token = torch.zeros(1, 1, rows, columns)
    token[0, 0, 1, 2] = 5.0
    torch.testing.assert_close(
        coarse, F.interpolate(token, (64, 64), mode="bilinear", align_corners=False)[:, 0]
    )
