"""Which backbone it is, whatever it is called: a folder or an id may name other weights tomorrow."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from agp_edge.files import sha256_bytes
from agpnet.backbones.base import Backbone


def backbone_sha256(backbone: Backbone) -> str:
    """Hash of a backbone's parameters and buffers, fixed filters and pixel statistics among them, by their names."""
    module = cast(nn.Module, backbone)
    parts = []
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        # As bytes, because NumPy has no bfloat16.
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        parts.append(f"{name} {sha256_bytes(data)}")
    return sha256_bytes("\n".join(sorted(parts)).encode())
