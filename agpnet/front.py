"""From the camera's own frame to the network's input: inside the graph, so that there is one arithmetic only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agp_edge.frame import FrameSpec


class FrameFront(nn.Module):
    """uint8 frames to the network's input.

    The frame's first node is the Cast, since TensorRT takes uint8 into nothing else. Large frames shrink by an
    exact AveragePool first and by a linear Resize after: TensorRT has no antialiased Resize.

    Args:
        frame: the frames it takes.
        input_size: side S of the network's input, pixels. Frames that are not square are stretched.
    """

    def __init__(self, frame: FrameSpec, input_size: int) -> None:
        super().__init__()
        self.frame = frame
        self.input_size = input_size
        self.pool = (pool_factor(frame.height, input_size), pool_factor(frame.width, input_size))

    def forward(self, frames: Tensor) -> Tensor:
        """[N, H, W, C] uint8 BGR or mono -> [N, 3, S, S] float32 RGB in 0 to 1."""
        x = frames.to(torch.float32).permute(0, 3, 1, 2)  # [N, C, H, W]
        if self.pool != (1, 1):
            x = F.avg_pool2d(x, self.pool)
        if x.shape[2:] != (self.input_size, self.input_size):
            x = F.interpolate(x, (self.input_size, self.input_size), mode="bilinear", align_corners=False)
        # BGR -> RGB by concatenation; a mono frame is three equal channels.
        channels = (2, 1, 0) if self.frame.channels == 3 else (0, 0, 0)
        return torch.cat([x[:, c : c + 1] for c in channels], dim=1) / 255


def pool_factor(size: int, input_size: int) -> int:
    """The largest whole factor that divides `size` and leaves at least `input_size`: no pixel is cut off."""
    return next(k for k in range(max(size // input_size, 1), 0, -1) if size % k == 0)
