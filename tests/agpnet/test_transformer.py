"""Vision transformers from folders on disk: their tokens and attention, without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agp_edge.errors import InputError
from agpnet.backbones import TransformerBackbone, make_backbone, restore_backbone
from agpnet.backbones.transformer import IMAGENET_MEAN, load_transformer

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("ViT", {"patch_size": 16, "image_size": 224, "intermediate_size": 64}, 1),
    "deit": ("DeiT", {"patch_size": 16, "image_size": 224, "intermediate_size": 64}, 2),
    "dinov2": ("Dinov2", {"patch_size": 14, "image_size": 112}, 1),
    "dinov2-registers": ("Dinov2WithRegisters", {"patch_size": 14, "image_size": 112, "num_register_tokens": 3}, 4),
    "clip": ("CLIPVision", {"patch_size": 16, "image_size": 64, "intermediate_size": 64}, 1),
}  # fmt: skip
"""Name -> (class in `transformers`, its configuration, tokens before the patches)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`folder("vit")`: a small model with random weights, as `save_pretrained` leaves it."""
    root = tmp_path_factory.mktemp("models")
    torch.set_num_threads(1)

    def make(name: str) -> Path:
        if not (root / name).exists():
            kind, settings, _ = MODELS[name]
            torch.manual_seed(0)
            config = getattr(transformers, f"{kind}Config")(**SMALL, **settings)
            getattr(transformers, f"{kind}Model")(config).save_pretrained(root / name)
        return root / name

    return make


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_the_patches_alone(folder: Callable[[str], Path], name: str) -> None:
    backbone = load_transformer(str(folder(name)))
    patch = MODELS[name][1]["patch_size"]
    assert backbone.input_size == 256 // patch * patch
    side = backbone.input_size // patch
    assert backbone.grid == (side, side)
    assert backbone.layers == (1, 2, 3, 4)
    images = torch.rand(2, 3, backbone.input_size, backbone.input_size)
    with torch.no_grad():
        features = backbone.extract(images)
        shown = (images - torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1)) / backbone._std
        arguments = {} if name == "dinov2" else {"interpolate_pos_encoding": True}
        if "registers" in name:
            arguments = {}
        whole = backbone.model(shown, output_hidden_states=True, output_attentions=True, **arguments)
    before = MODELS[name][2]
    for layer, states in zip(features.layers, whole.hidden_states[1:], strict=True):
        assert layer.shape == (2, side * side, 32)
        assert torch.equal(layer, states[:, before:])
    assert features.attention is not None
    expected = torch.stack([a[:, :, 0, before:] for a in whole.attentions]).mean(dim=(0, 2))
    torch.testing.assert_close(features.attention, expected)
    # What CLS gives to itself and to registers is missing: the rest of a row of a softmax.
    sums = features.attention.sum(dim=1)
    assert (sums < 1).all()
    assert (sums > 0.5).all()


def test_a_square_of_the_picture_moves_the_token_in_its_place(folder: Callable[[str], Path]) -> None:
    backbone = load_transformer(str(folder("dinov2-registers")), (1,), 56)
    images = torch.full((1, 3, 56, 56), 0.5)
    changed = images.clone()
    changed[:, :, 14:28, 28:42] = 1.0  # Row 1, column 2 of the grid.
    with torch.no_grad():
        difference = backbone.extract(changed).layers[0] - backbone.extract(images).layers[0]
    assert int(difference.norm(dim=2).argmax()) == 1 * 4 + 2


def test_layers_and_sizes_are_chosen(folder: Callable[[str], Path]) -> None:
    backbone = make_backbone(str(folder("vit")), (2, 4), 64)
    assert isinstance(backbone, TransformerBackbone)
    features = backbone.extract(torch.rand(1, 3, 64, 64))
    assert [layer.shape for layer in features.layers] == [(1, 16, 32)] * 2
    with pytest.raises(InputError, match="has 4 blocks") as caught:
        load_transformer(str(folder("vit")), (5,))
    assert "1 to 4" in caught.value.hint
    with pytest.raises(InputError, match="no multiple of the patch of 16"):
        load_transformer(str(folder("vit")), (), 100)


def test_it_is_restored_from_what_a_run_keeps(folder: Callable[[str], Path], tmp_path: Path) -> None:
    backbone = load_transformer(str(folder("clip")), (1, 3), 64, mean=[0.1, 0.2, 0.3])
    backbone.save(tmp_path / "backbone")
    assert {p.suffix for p in (tmp_path / "backbone").iterdir()} == {".json", ".safetensors"}
    again = restore_backbone(backbone.describe(), tmp_path / "backbone")
    images = torch.rand(1, 3, 64, 64)
    for a, b in zip(again.extract(images).layers, backbone.extract(images).layers, strict=True):
        assert torch.equal(a, b)
    assert again.describe() == backbone.describe()


def test_the_preprocessors_own_normalisation_is_taken(folder: Callable[[str], Path], tmp_path: Path) -> None:
    import json
    import shutil

    shutil.copytree(folder("vit"), tmp_path / "vit")
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2],
    }
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_transformer(str(tmp_path / "vit")).mean == (0.5, 0.4, 0.3)
    assert load_transformer(str(folder("vit"))).mean == IMAGENET_MEAN


def test_a_model_that_is_not_there_says_how_to_give_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot load the backbone 'nobody/nothing'") as caught:
        load_transformer("nobody/nothing")
    assert "--backbone DIR" in caught.value.hint
    assert "\n" not in caught.value.what


def test_a_folder_that_is_no_model_says_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot load the backbone") as caught:
        load_transformer(str(tmp_path))
    assert "save_pretrained" in caught.value.hint


def test_a_model_without_patches_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=20
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no vision transformer"):
        load_transformer(str(tmp_path))
