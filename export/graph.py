"""The module that is exported: frames in, score and anomaly map out, with all arithmetic in between."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from agp_edge.frame import FrameSpec
from agpnet.backbones.base import Features
from agpnet.front import FrameFront
from agpnet.network import AGPNet


class FrameNet(nn.Module):
    """Front and network in one graph.

    Args:
        network: a trained network; it is copied, not changed.
        frame: the frames that the graph takes.
        half: run the core in half precision. The front, the target's normalisation, the distance and fixed filters
            (whose logarithms underflow in half) stay in single; every cast is written out. LayerNorm takes and gives half
            and counts in single, which is what ONNX defines (`stash_type`).
    """

    def __init__(self, network: AGPNet, frame: FrameSpec, *, half: bool = False) -> None:
        super().__init__()
        self.front = FrameFront(frame, network.backbone.input_size)
        self.network = copy.deepcopy(network).eval()
        self.half_backbone = half and self.network.backbone.norm == "layer"
        self.core_type = torch.float16 if half else torch.float32
        if half:
            self.network.decoder.half()
        if self.half_backbone:
            backbone = cast(nn.Module, self.network.backbone)
            settle_batch_norms(backbone)
            backbone.half()

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """[N, H, W, C] uint8 -> score [N] float32, anomaly map [N, S, S] float32."""
        images = self.front(frames)
        if self.half_backbone:
            features = self.network.backbone.extract(images.to(torch.float16))
            layers = [layer.to(torch.float32) for layer in features.layers]
            target = self.network.normalise(Features(layers, None))
        else:
            target, _ = self.network.target(images)
        rebuilt = self.network.decoder(target.to(self.core_type)).to(torch.float32)
        return self.network.judge(target, rebuilt)


@torch.no_grad()
def settle_batch_norms(module: nn.Module) -> None:
    """Give every BatchNorm inside mean 0, variance 1 and epsilon 0, and all that it does as weight and bias.

    A running variance can be beyond what half precision holds (65504), or below it; what is made of it in single, one
    factor a channel, is not.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            scale = torch.rsqrt(norm.running_var + norm.eps)
            if norm.weight is not None:
                scale = scale * norm.weight
            shift = -norm.running_mean * scale
            if norm.bias is not None:
                shift = shift + norm.bias
            norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(shift)
            norm.running_mean, norm.running_var = torch.zeros_like(scale), torch.ones_like(scale)
            norm.eps = 0.0
