"""The network on the line: nothing random, the backbone frozen, the score the maximum of the map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from agpnet.backbones import FilterBank
from agpnet.backbones.base import Features
from agpnet.network import AGPNet, Attention, Decoder, combine_layers, default_decoder_width, gaussian_kernel


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
