"""Small models with random weights on disk, in the form of the real checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 8,
}  # fmt: skip
STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}
EFFICIENT = {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", {**VIT, "patch_size": 16, "image_size": 64}),
    "dino": ("ViTModel", "ViTConfig", {**VIT, "patch_size": 16, "image_size": 224}),
    "deit": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {**VIT, "patch_size": 16, "image_size": 64}),
    "beit": ("BeitForImageClassification", "BeitConfig", {**VIT, "image_size": 64, "use_relative_position_bias": True}),
    "dinov2": ("Dinov2Model", "Dinov2Config", {**VIT, "patch_size": 14, "image_size": 112}),
    "dinov2-registers": (
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig",
        {**VIT, "patch_size": 14, "image_size": 112, "num_register_tokens": 3},
    ),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**VIT, "image_size": 64, "num_register_tokens": 4}),
    "clip-vision": ("CLIPVisionModel", "CLIPVisionConfig", {**VIT, "patch_size": 16, "image_size": 64}),
    "clip": ("CLIPModel", "CLIPConfig", {
        "text_config": TEXT, "vision_config": {**VIT, "patch_size": 16, "image_size": 64}
    }),
    "siglip": ("SiglipModel", "SiglipConfig", {
        "text_config": TEXT, "vision_config": {**VIT, "patch_size": 16, "image_size": 64}
    }),
    "mae": ("ViTMAEModel", "ViTMAEConfig", {**VIT, "image_size": 64}),
    "yolos": ("YolosModel", "YolosConfig", {**VIT, "image_size": [64, 64], "num_detection_tokens": 5}),
    "swin": ("SwinModel", "SwinConfig", {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 64}),
    "bert": ("BertModel", "BertConfig", {**VIT, "vocab_size": 20}),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", {**STAGES, "embedding_size": 8, "layer_type": "basic"}),
    "efficientnet": ("EfficientNetForImageClassification", "EfficientNetConfig", EFFICIENT),
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", STAGES),
    "regnet": ("RegNetForImageClassification", "RegNetConfig", {**STAGES, "embedding_size": 8, "groups_width": 8}),
    "mobilenet": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.25}),
}  # fmt: skip
"""Name -> (class of the checkpoint, class of its configuration, settings), as `transformers` names them."""


@pytest.fixture(scope="package")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`model_folder("vit")`: a small model as `save_pretrained` leaves it. Do not write; skips where there is none."""
    root = tmp_path_factory.mktemp("models")
    torch.set_num_threads(1)

    def make(name: str) -> Path:
        kind, config, settings = MODELS[name]
        if not hasattr(transformers, kind):
            pytest.skip(f"transformers {transformers.__version__} has no {kind}")
        if not (root / name).exists():
            torch.manual_seed(0)
            model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
            with torch.no_grad():
                for parameter in model.parameters():
                    # Some begin as zeros, and what is zero cannot be told from what is absent.
                    parameter.add_(0.02 * torch.randn_like(parameter))
            model.save_pretrained(root / name)
        return root / name

    return make
