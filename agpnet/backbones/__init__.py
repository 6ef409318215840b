"""Frozen feature extractors behind one Protocol: fixed filters, and pretrained transformers and convolutional networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agpnet.backbones.base import Backbone, Features
from agpnet.backbones.convolutional import ConvolutionalBackbone
from agpnet.backbones.filterbank import FilterBank
from agpnet.backbones.identity import backbone_sha256
from agpnet.backbones.pretrained import PretrainedBackbone, load_model, pixel_statistics
from agpnet.backbones.transformer import TransformerBackbone

__all__ = [
    "Backbone",
    "ConvolutionalBackbone",
    "Features",
    "FilterBank",
    "PretrainedBackbone",
    "TransformerBackbone",
    "backbone_sha256",
    "load_pretrained",
    "make_backbone",
    "restore_backbone",
]


def make_backbone(
    name: str, layers: tuple[int, ...] = (), input_size: int = 0, combine: str = "auto"
) -> FilterBank | PretrainedBackbone:
    """The backbone that a configuration names.

    Args:
        name: `filterbank`, a model id, or a folder.
        layers, input_size, combine: as in `Config`; filters are one layer.

    Raises:
        InputError: it cannot be loaded or does not take these.
    """
    if name != "filterbank":
        return load_pretrained(name, layers, input_size, combine)
    try:
        return FilterBank(input_size or 256)
    except ValueError as error:
        from agp_edge.errors import InputError

        raise InputError(str(error), "take an input_size that is a multiple of 16") from error


def load_pretrained(
    source: str,
    layers: tuple[int, ...] = (),
    input_size: int = 0,
    combine: str = "auto",
    *,
    mean: Any = None,
    std: Any = None,
) -> PretrainedBackbone:
    """Load a vision transformer or a convolutional network.

    Args:
        source: a model id as in `facebook/dino-vits16`, or a folder that `save_pretrained` wrote.
        layers, input_size, combine: as `TransformerBackbone` and `ConvolutionalBackbone`.
        mean, std: of the normalisation; by default what the model's preprocessor says, else ImageNet's.

    Raises:
        MissingExtraError: `transformers` is not installed.
        InputError: it cannot be loaded, or is neither.
    """
    model, settings = load_model(source)
    patches = ("num_hidden_layers", "patch_size", "hidden_size")
    kind = (
        TransformerBackbone
        if all(isinstance(getattr(model.config, name, None), int) for name in patches)
        else ConvolutionalBackbone
    )
    known_mean, known_std = pixel_statistics(settings)
    return kind(model, layers, input_size, combine, mean or known_mean, std or known_std, source)


def restore_backbone(description: dict[str, Any], folder: Path) -> FilterBank | PretrainedBackbone:
    """The backbone that a run describes, its weights in `folder`."""
    fields = dict(description)
    kind = fields.pop("kind")
    if kind == "filterbank":
        return FilterBank(**fields)
    backbone = load_pretrained(
        str(folder),
        tuple(fields["layers"]),
        fields["input_size"],
        fields.get("combine", "auto"),
        mean=fields["mean"],
        std=fields["std"],
    )
    backbone.source = fields["source"]
    return backbone
