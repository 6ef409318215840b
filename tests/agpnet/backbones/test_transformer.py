"""Vision transformers from folders on disk: their tokens and attention, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from agp_edge.errors import InputError
from agpnet.backbones import TransformerBackbone, load_pretrained, make_backbone, restore_backbone
from agpnet.backbones.pretrained import IMAGENET_MEAN

transformers = pytest.importorskip("transformers")

Folder = Callable[[str], Path]

PREFIX = {
    "vit": 1, "dino": 1, "deit": 2, "beit": 1, "dinov2": 1, "dinov2-registers": 4, "dinov3": 5, "clip-vision": 1,
    "clip": 1, "siglip": 0,
}  # fmt: skip
"""Name -> tokens before the patches."""


def load(folder: Path, *arguments: Any, **more: Any) -> TransformerBackbone:
    backbone = load_pretrained(str(folder), *arguments, **more)
    assert isinstance(backbone, TransformerBackbone)
    return backbone


@pytest.mark.parametrize("name", PREFIX)
def test_tokens_are_those_of_the_patches_alone(model_folder: Folder, name: str) -> None:
    patch = 14 if name.startswith("dinov2") else 16
    # Smaller or larger than what its positions were learned for.
    backbone = load(model_folder(name), (), 8 * patch)
    assert backbone.grid == (8, 8)
    assert backbone.layers == (1, 2, 3, 4)
    assert backbone.width == 32
    images = torch.rand(2, 3, 8 * patch, 8 * patch)
    seen: list[Any] = []
    with torch.no_grad():
        hook = backbone.model.register_forward_hook(lambda *called: seen.append(called[2]))
        features = backbone.extract(images)
        hook.remove()
    (whole,) = seen
    before = PREFIX[name]
    for layer, states in zip(features.layers, whole.hidden_states[1:], strict=True):
        assert layer.shape == (2, 64, 32)
        assert torch.equal(layer, states[:, before:])
    assert len(whole.attentions) == 4
    queries = slice(0, 1) if before else slice(None)  # CLS; or everybody, where there is none.
    expected = torch.stack([a[:, :, queries, before:] for a in whole.attentions]).mean(dim=(0, 2, 3))
    assert features.attention is not None
    torch.testing.assert_close(features.attention, expected)
    # What CLS gives to itself and to registers is missing: the rest of a row of a softmax.
    sums = features.attention.sum(dim=1)
    assert (sums < 1 + 1e-5).all()
    assert (sums > 0.5).all()


@pytest.mark.parametrize("name", ["dino", "beit", "dinov2-registers", "dinov3", "clip", "siglip"])
def test_a_square_of_the_picture_moves_the_token_in_its_place(model_folder: Folder, name: str) -> None:
    patch = 14 if name.startswith("dinov2") else 16
    backbone = load(model_folder(name), (1,), 4 * patch)
    images = torch.full((1, 3, 4 * patch, 4 * patch), 0.5)
    changed = images.clone()
    changed[:, :, patch : 2 * patch, 2 * patch : 3 * patch] = 1.0  # Row 1, column 2 of the grid.
    with torch.no_grad():
        difference = backbone.extract(changed).layers[0] - backbone.extract(images).layers[0]
    assert int(difference.norm(dim=2).argmax()) == 1 * 4 + 2


@pytest.mark.parametrize(("name", "learned"), [("dino", 14), ("vit", 4), ("dinov2", 8)])
@pytest.mark.parametrize("side", [4, 9, 14])
def test_learned_positions_are_brought_to_another_size(
    model_folder: Folder, name: str, learned: int, side: int
) -> None:
    patch = 14 if name == "dinov2" else 16
    backbone = load(model_folder(name), (1,), side * patch)
    embeddings: Any = backbone.model.embeddings
    table = embeddings.position_embeddings.detach()[:, 1:]
    assert table.shape[1] == learned**2
    square = table.transpose(1, 2).reshape(1, 32, learned, learned)
    expected = (
        F.interpolate(square, (side, side), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    )
    with torch.no_grad():
        embeddings.patch_embeddings.projection.weight.zero_()
        embeddings.patch_embeddings.projection.bias.zero_()
        # Without a picture, nothing is left of a token but its position.
        tokens = embeddings(torch.rand(1, 3, side * patch, side * patch), **backbone._arguments)[:, 1:]
    torch.testing.assert_close(tokens, expected)


def test_layers_and_sizes_are_chosen(model_folder: Folder) -> None:
    folder = model_folder("vit")
    backbone = make_backbone(str(folder), (2, 4), 64)
    assert isinstance(backbone, TransformerBackbone)
    features = backbone.extract(torch.rand(1, 3, 64, 64))
    assert [layer.shape for layer in features.layers] == [(1, 16, 32)] * 2
    assert backbone.width == 32, "summed, as the paper has it"
    assert make_backbone(str(folder), (2, 4), 64, "concat").width == 64
    assert make_backbone(str(model_folder("dinov2"))).input_size == 252, "the next multiple of 14 below 256"
    with pytest.raises(InputError, match="has 4 blocks") as caught:
        load(folder, (5,))
    assert "1 to 4" in caught.value.hint
    with pytest.raises(InputError, match="no multiple of the patch of 16"):
        load(folder, (), 100)
    with pytest.raises(InputError, match="combine = 'mean'"):
        load(folder, (), 64, "mean")


def test_only_attention_that_tells_its_weights_is_taken() -> None:
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**settings, patch_size=16, image_size=64)
    fused = transformers.ViTModel._from_config(config, attn_implementation="sdpa").eval()
    if fused(torch.zeros(1, 3, 64, 64), output_attentions=True).attentions not in (None, ()):
        pytest.skip("this transformers leaves fused attention by itself")
    with pytest.raises(InputError, match="'eager'"):
        TransformerBackbone(fused, (1,), 64)


@pytest.mark.parametrize("name", ["dino", "beit"])
def test_what_is_loaded_is_eager_and_without_a_pooler(model_folder: Folder, name: str) -> None:
    model: Any = load(model_folder(name), (1,), 64).model
    assert model.config._attn_implementation == "eager"
    assert not [key for key in model.state_dict() if "pooler" in key], "it may be random"


@pytest.mark.parametrize("name", ["clip", "siglip", "dino"])
def test_it_is_restored_from_what_a_run_keeps(model_folder: Folder, tmp_path: Path, name: str) -> None:
    backbone = load(model_folder(name), (1, 3), 64, mean=[0.1, 0.2, 0.3])
    backbone.save(tmp_path / "backbone")
    assert {p.suffix for p in (tmp_path / "backbone").iterdir()} == {".json", ".safetensors"}
    kept = load_file(tmp_path / "backbone" / "model.safetensors")
    assert not [key for key in kept if "text" in key or "logit_scale" in key], (
        "the half that reads is not kept"
    )
    assert sum(t.numel() for t in kept.values()) == sum(p.numel() for p in backbone.model.parameters())
    again = restore_backbone(backbone.describe(), tmp_path / "backbone")
    images = torch.rand(1, 3, 64, 64)
    for a, b in zip(again.extract(images).layers, backbone.extract(images).layers, strict=True):
        assert torch.equal(a, b)
    assert again.describe() == backbone.describe()


def test_a_checkpoint_in_half_precision_becomes_single(model_folder: Folder, tmp_path: Path) -> None:
    model = transformers.AutoModel.from_pretrained(model_folder("dino"))
    model.half().save_pretrained(tmp_path)
    backbone = load(tmp_path, (1,), 64)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert backbone.extract(torch.rand(1, 3, 64, 64)).layers[0].dtype == torch.float32


def test_a_checkpoint_without_all_its_weights_is_not_filled_with_random_ones(
    model_folder: Folder, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    folder = Path(shutil.copytree(model_folder("dino"), tmp_path / "dino"))
    tensors = load_file(folder / "model.safetensors")
    for key in [key for key in tensors if "embeddings.patch_embeddings" in key]:
        del tensors[key]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lacks 2 weights of its ViTModel"):
        load(folder, (1,), 64)


def test_the_preprocessors_own_normalisation_is_taken(model_folder: Folder, tmp_path: Path) -> None:
    import json

    folder = Path(shutil.copytree(model_folder("vit"), tmp_path / "vit"))
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.2],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    backbone = load(folder, (1,), 64)
    assert (backbone.mean, backbone.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert load(model_folder("vit"), (1,), 64).mean == IMAGENET_MEAN


def test_a_model_that_is_not_there_says_how_to_give_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot load the backbone 'nobody/nothing'") as caught:
        load_pretrained("nobody/nothing")
    assert "--backbone DIR" in caught.value.hint
    assert "\n" not in caught.value.what


def test_a_folder_that_is_no_model_says_what_one_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot load the backbone") as caught:
        load(tmp_path)
    assert "save_pretrained" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mae", "patches do not stay"),  # It hides three quarters of them, at random.
        ("yolos", "not the patches, row by row"),  # Its last tokens are detections.
        ("swin", "patches do not stay"),
        ("bert", "no vision transformer and no convolutional network"),
    ],
)
def test_what_is_no_plain_vision_transformer_is_refused(model_folder: Folder, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        load(model_folder(name), (), 64)
    assert "\n" not in caught.value.what
    assert "facebook/dino-vits16" in caught.value.hint
