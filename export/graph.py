"""The module that is exported: frames in, score and anomaly map out, with all arithmetic in between."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

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
            (whose logarithms underflow in half) stay in single; every cast is written out.
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
            cast(nn.Module, self.network.backbone).half()

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
