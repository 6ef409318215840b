"""Convolutional networks from folders on disk: maps on one grid, their energy, and statistics that stay as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agp_edge.errors import InputError
from agpnet.backbones import ConvolutionalBackbone, load_pretrained, restore_backbone
from agpnet.backbones.convolutional import activation_energy, to_grid
from agpnet.backbones.pretrained import IMAGENET_MEAN, IMAGENET_STD, pixel_statistics
from agpnet.config import make_config
from agpnet.network import AGPNet
from agpnet.perturbation import minmax, prior_attention
from agpnet.trainer import Trainer

Folder = Callable[[str], Path]
Command = Callable[..., tuple[int, str, str]]

DEFAULTS = {
    "resnet": ((2, 3), (24, 32)), "regnet": ((2, 3), (24, 32)), "convnext": ((2, 3), (24, 32)),
    "efficientnet": ((3, 5), (16, 32)), "mobilenet": ((4, 11), (8, 24)),
}  # fmt: skip
"""Name -> (the last layers at strides 8 and 16, their channels)."""


def maps_of(backbone: ConvolutionalBackbone, images: Tensor) -> list[Tensor]:
    """What the model itself gives, all layers."""
    shown = (images - torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1)) / backbone._std
    with torch.no_grad():
        return list(backbone.model(shown, output_hidden_states=True).hidden_states)


def load(folder: Path, *arguments: Any) -> ConvolutionalBackbone:
    backbone = load_pretrained(str(folder), *arguments)
    assert isinstance(backbone, ConvolutionalBackbone)
    return backbone


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_middle_maps_become_tokens_of_sixteen_pixels(model_folder: Folder, name: str) -> None:
    backbone = load(model_folder(name))
    layers, widths = DEFAULTS[name]
    assert (backbone.input_size, backbone.grid) == (256, (16, 16))
    assert (backbone.layers, backbone.width, backbone.combine) == (layers, sum(widths), "concat")
    images = torch.rand(2, 3, 256, 256)
    features = backbone.extract(images)
    fine, coarse = (maps_of(backbone, images)[layer] for layer in layers)
    assert fine.shape[-1] == 32
    cells = fine.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))  # [2, C, 16, 16]
    torch.testing.assert_close(features.layers[0], cells.flatten(2).transpose(1, 2))
    torch.testing.assert_close(features.layers[1], coarse.flatten(2).transpose(1, 2))
    assert features.attention is None
    target = AGPNet(backbone, decoder_heads=1, decoder_blocks=1).normalise(features)
    assert target.shape == (2, 256, sum(widths))
    torch.testing.assert_close(target[..., widths[0] :], F.layer_norm(features.layers[1], (widths[1],)))


def test_maps_coarser_than_the_grid_are_filled_in(model_folder: Folder) -> None:
    backbone = load(model_folder("resnet"), (1, 4), 128)
    images = torch.rand(1, 3, 128, 128)
    fine, coarse = backbone.extract(images).layers
    assert (fine.shape, coarse.shape) == ((1, 64, 16), (1, 64, 40))
    maps = maps_of(backbone, images)[4]
    assert maps.shape[-1] == 4
    expected = F.interpolate(maps, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(coarse, expected.flatten(2).transpose(1, 2))


def test_the_grid_keeps_places_and_means() -> None:
    maps = torch.rand(1, 2, 8, 8)
    assert to_grid(maps, 8) is maps
    torch.testing.assert_close(to_grid(maps, 2)[0, 1, 0, 1], maps[0, 1, :4, 4:].mean())
    torch.testing.assert_close(to_grid(torch.full((1, 1, 2, 2), 3.0), 8), torch.full((1, 1, 8, 8), 3.0))


def test_the_prior_is_energy_before_normalisation(model_folder: Folder) -> None:
    network = AGPNet(load(model_folder("resnet"), (), 128), decoder_heads=1, decoder_blocks=1)
    backbone = network.backbone
    assert isinstance(backbone, ConvolutionalBackbone)
    images = torch.full((1, 3, 128, 128), 0.45)
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[0, :, 64:96, 32:64] = noise  # Rows 4 and 5, columns 2 and 3 of the grid.
    target, features = network.target(images)
    prior = prior_attention(features, target)
    assert prior.shape == (1, 64)
    assert features.energy is prior
    row, column = divmod(int(prior.argmax()), 8)
    assert (row, column) in {(4, 2), (4, 3), (5, 2), (5, 3)}
    maps = [maps_of(backbone, images)[layer] for layer in (2, 3)]
    energies = [to_grid(m.square().mean(dim=1, keepdim=True), 8).flatten(1) for m in maps]
    torch.testing.assert_close(prior, sum(e / e.mean() for e in energies) / 2)
    # The target's own energy says nothing: LayerNorm has made it one number.
    even = target.square().mean(dim=-1)
    torch.testing.assert_close(even, even.mean().expand_as(even), rtol=1e-2, atol=0)
    assert float(minmax(prior).mean()) < 0.5


def test_energy_counts_each_layer_alike_and_survives_a_dead_one() -> None:
    loud, quiet = torch.rand(2, 4, 8, 8) * 1000, torch.rand(2, 4, 4, 4) / 1000
    both = activation_energy([loud, quiet], 4)
    torch.testing.assert_close(both, (activation_energy([loud], 4) + activation_energy([quiet], 4)) / 2)
    torch.testing.assert_close(both.mean(dim=1), torch.ones(2))
    assert not activation_energy([torch.zeros(1, 4, 8, 8)], 4).any()


@pytest.mark.parametrize("name", ["resnet", "efficientnet"])
def test_batch_norm_keeps_its_statistics_in_training(model_folder: Folder, name: str) -> None:
    backbone = load(model_folder(name), (), 64)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert any("running_mean" in key for key in before)
    network = AGPNet(backbone, decoder_heads=1, decoder_blocks=1)
    images = torch.rand(6, 3, 64, 64) * 0.2
    config = make_config(backbone=str(model_folder(name)), steps=2, batch_size=2, input_size=64)
    Trainer(network, images, config).run()
    network.train()
    alone = backbone.extract(images[:1]).layers[0]
    together = backbone.extract(images).layers[0][:1]
    torch.testing.assert_close(alone, together)
    after = backbone.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any(p.requires_grad for p in backbone.parameters())


def test_layers_are_summed_where_they_can_be(model_folder: Folder) -> None:
    with pytest.raises(InputError, match=r"are 24, 32 channels wide and cannot be summed") as caught:
        load(model_folder("resnet"), (2, 3), 64, "sum")
    assert "concat" in caught.value.hint
    # Two blocks of one stage.
    backbone = load(model_folder("mobilenet"), (3, 4), 64, "sum")
    assert backbone.width == 8
    network = AGPNet(backbone, decoder_heads=1, decoder_blocks=1)
    features = backbone.extract(torch.rand(1, 3, 64, 64))
    torch.testing.assert_close(
        network.normalise(features), sum(F.layer_norm(x, (8,)) for x in features.layers)
    )  # fmt: skip


def test_layers_and_sizes_that_do_not_fit_say_what_does(model_folder: Folder) -> None:
    with pytest.raises(InputError, match=r"layers \[5\]: .* has 4 layers") as caught:
        load(model_folder("resnet"), (5,), 64)
    assert "1 to 4" in caught.value.hint
    assert "2 (stride 8), 3 (stride 16)" in caught.value.hint
    with pytest.raises(InputError, match="input_size 100 is no multiple of a token of 16") as caught:
        load(model_folder("resnet"), (), 100)
    assert "96" in caught.value.hint


def test_it_is_restored_from_what_a_run_keeps(model_folder: Folder, tmp_path: Path) -> None:
    backbone = load(model_folder("efficientnet"), (3, 5), 64)
    backbone.save(tmp_path / "backbone")
    again = restore_backbone(backbone.describe(), tmp_path / "backbone")
    images = torch.rand(1, 3, 64, 64)
    for a, b in zip(again.extract(images).layers, backbone.extract(images).layers, strict=True):
        assert torch.equal(a, b)
    assert again.describe() == backbone.describe()


def test_efficientnet_divides_by_its_spread_twice(model_folder: Folder, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    processor = pytest.importorskip("transformers").EfficientNetImageProcessor
    settings = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.47853944, 0.4732864, 0.47434163]}
    mean, std = pixel_statistics({"image_processor_type": "EfficientNetImageProcessor", **settings})
    assert mean == IMAGENET_MEAN
    assert std == pytest.approx(IMAGENET_STD, abs=1e-6)
    assert pixel_statistics({**settings, "include_top": False})[1] == pytest.approx(settings["image_std"])
    assert pixel_statistics({"do_normalize": False, **settings}) == ((0, 0, 0), (1, 1, 1))
    folder = Path(shutil.copytree(model_folder("efficientnet"), tmp_path / "efficientnet"))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "EfficientNetImageProcessor", "include_top": True, **settings})
    )
    backbone = load(folder, (), 64)
    assert backbone.std == pytest.approx(IMAGENET_STD, abs=1e-6)
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    theirs = processor(size={"height": 64, "width": 64}, **settings)(pixels.numpy(), return_tensors="pt")
    ours = backbone.normalise_pixels(pixels[None] / 255)
    torch.testing.assert_close(ours, torch.as_tensor(theirs["pixel_values"]).float(), atol=1e-4, rtol=0)


def test_the_command_trains_on_stages_and_refuses_one_that_is_not_there(
    model_folder: Folder, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "run"
    options = [
        "--backbone",
        model_folder("resnet"),
        "--set",
        "input_size=64",
        "--set",
        "batch_size=2",
        "--steps",
        1,
    ]
    code, text, _ = command(
        "train", sample_data / "brick", "--out", out, *options, "--set", "layers=[1,2]", "--json", "-"
    )  # fmt: skip
    assert code == 0
    assert json.loads(text)["config"]["layers"] == [1, 2]
    kept = json.loads((out / "run.json").read_text())
    assert (kept["backbone"]["kind"], kept["backbone"]["layers"], kept["width"]) == (
        "convolutional",
        [1, 2],
        40,
    )
    code, _, _ = command("verify", out)
    assert code == 0
    code, text, err = command(
        "train", sample_data / "brick", "--out", tmp_path / "x", *options, "--set", "layers=[2,7]"
    )
    assert (code, text) == (2, "")
    assert "has 4 layers" in err
    assert "take layers from 1 to 4" in err
    assert not (tmp_path / "x").exists()
