"""Frozen feature extractors behind one Protocol: fixed filters, and pretrained vision transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agpnet.backbones.base import Backbone, Features
from agpnet.backbones.filterbank import FilterBank
from agpnet.backbones.transformer import TransformerBackbone, load_transformer

__all__ = ["Backbone", "Features", "FilterBank", "TransformerBackbone", "make_backbone", "restore_backbone"]


def make_backbone(
    name: str, layers: tuple[int, ...] = (), input_size: int = 0
) -> FilterBank | TransformerBackbone:
    """The backbone that a configuration names.

    Args:
        name: `filterbank`, a model id, or a folder.
        layers, input_size: as in `Config`; filters take no layers.

    Raises:
        InputError: it cannot be loaded or does not take these.
    """
    if name != "filterbank":
        return load_transformer(name, layers, input_size)
    try:
        return FilterBank(input_size or 256)
    except ValueError as error:
        from agp_edge.errors import InputError

        raise InputError(str(error), "take an input_size that is a multiple of 16") from error


def restore_backbone(description: dict[str, Any], folder: Path) -> FilterBank | TransformerBackbone:
    """The backbone that a run describes, its weights in `folder`."""
    fields = dict(description)
    kind = fields.pop("kind")
    if kind == "filterbank":
        return FilterBank(**fields)
    backbone = load_transformer(
        str(folder), tuple(fields["layers"]), fields["input_size"], mean=fields["mean"], std=fields["std"]
    )
    backbone.source = fields["source"]
    return backbone
