"""Other views of the few images there are: what a camera and a mounting might do to a good part, and no more.

Half of the images stay as they are each time. Turning and shifting interpolates, which takes some of the finest detail
away: a network that saw nothing else would call sharp images anomalous.

| `augment` | what |
|---|---|
| `flips` | one of the eight flips and quarter turns: for parts and surfaces that may lie any way |
| `jitter` | turned by up to 8 degrees, shifted by up to 4 % of the side, scaled by up to 5 %, brightness and contrast changed by up to 8 % |
| `both` | the one, then the other |
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from agpnet.config import Augment

SHARE = 0.5
"""How many of the images are changed."""
MAX_TURN = math.radians(8)
MAX_SHIFT = 0.04
MAX_SCALE = 0.05
MAX_LIGHT = 0.08


def augment(images: Tensor, kind: Augment, generator: torch.Generator) -> Tensor:
    """Some of the images, changed.

    Args:
        images: [B, 3, S, S] in 0 to 1.
        kind: `none`, `flips`, `jitter` or `both`.
        generator: on the device of the images.

    Returns:
        [B, 3, S, S] in 0 to 1.
    """
    if kind in ("none", "auto"):
        return images
    changed = images
    if kind in ("flips", "both"):
        changed = flip(changed, generator)
    if kind in ("jitter", "both"):
        changed = jitter(changed, generator)
    chosen = torch.rand(len(images), generator=generator, device=images.device) < SHARE
    return torch.where(chosen.reshape(-1, 1, 1, 1), changed, images)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image in one of its eight flips and quarter turns, exactly: [B, 3, S, S]."""
    ways = torch.randint(8, (len(images),), generator=generator, device=images.device).tolist()
    views = []
    for image, way in zip(images, ways, strict=True):
        view = image.flip(-1) if way >= 4 else image
        views.append(torch.rot90(view, way % 4, (-2, -1)))
    return torch.stack(views)


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned, shifted, scaled and lit a little differently: [B, 3, S, S]; borders are mirrored."""
    draws = torch.rand(len(images), 6, generator=generator, device=images.device) * 2 - 1  # [B, 6] in -1 to 1
    turn, scale = draws[:, 0] * MAX_TURN, 1 + draws[:, 1] * MAX_SCALE
    shift = draws[:, 2:4] * 2 * MAX_SHIFT  # the image is 2 wide in the coordinates of `affine_grid`
    cos, sin = turn.cos() * scale, turn.sin() * scale
    affine = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], dim=1), torch.stack([sin, cos, shift[:, 1]], dim=1)], dim=1
    )  # [B, 2, 3]
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    brightness, contrast = (draws[:, i].reshape(-1, 1, 1, 1) * MAX_LIGHT for i in (4, 5))
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    return ((moved - mean) * (1 + contrast) + mean + brightness).clamp(0, 1)
