"""Other views of the images there are: what a camera and a mounting might do to a good part, and no more.

Half of the images stay as they are each time. Turning and shifting interpolates, which takes some of the finest detail
away: a network that saw nothing else would call sharp images anomalous.

| `augment` | what |
|---|---|
| `flips` | one of the eight flips and quarter turns: for parts and surfaces that may lie any way |
| `jitter` | turned by up to 8 degrees, shifted by up to 4 % of the side, scaled by up to 5 %, brightness and contrast changed by up to 8 % |
| `both` | the one, then the other |
| `camera` | brightness changed by up to 5 %, noise of up to 3 grey levels, a third blurred by up to 0.7 pixels, half through JPEG of quality 80 to 100: another exposure of a camera that does not move |
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agp_edge.extras import import_cv2
from agpnet.config import Augment

SHARE = 0.5
"""How many of the images are changed."""
MAX_TURN = math.radians(8)
MAX_SHIFT = 0.04
MAX_SCALE = 0.05
MAX_LIGHT = 0.08
MAX_GAIN = 0.05
MAX_NOISE = 3 / 255
BLURRED, MAX_BLUR = 0.33, 0.7
COMPRESSED, MIN_QUALITY = 0.5, 80


def augment(images: Tensor, kind: Augment, generator: torch.Generator) -> Tensor:
    """Some of the images, changed.

    Args:
        images: [B, 3, S, S] in 0 to 1.
        kind: `none`, `flips`, `jitter`, `both` or `camera`.
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
    if kind == "camera":
        changed = expose_again(changed, generator)
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


def expose_again(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image as the same camera might give it another time, in 8 bits: [B, 3, S, S]."""
    draws = torch.rand(len(images), 6, generator=generator, device=images.device)
    gain = 1 + (draws[:, 0] * 2 - 1) * MAX_GAIN
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    lit = images * gain.reshape(-1, 1, 1, 1)
    blurred = torch.where(draws[:, 1] < BLURRED, draws[:, 2] * MAX_BLUR, 0)
    soft = torch.stack([_blur(image, float(s)) for image, s in zip(lit, blurred, strict=True)])
    noisy = soft + noise * (draws[:, 3] * MAX_NOISE).reshape(-1, 1, 1, 1)
    levels = (noisy.clamp(0, 1) * 255).round()
    quality = torch.where(draws[:, 4] < COMPRESSED, MIN_QUALITY + draws[:, 5] * (100 - MIN_QUALITY), 0)
    frames = [
        _compress(frame, round(float(q))) if q else frame for frame, q in zip(levels, quality, strict=True)
    ]
    return torch.stack(frames) / 255


def _blur(image: Tensor, sigma: float) -> Tensor:
    """[3, S, S] blurred by less than a pixel; 3 x 3 is enough for that."""
    if sigma < 0.2:
        return image  # The neighbours' weight is below 4e-6.
    side = math.exp(-0.5 / sigma**2)
    row = torch.tensor([side, 1, side], device=image.device) / (1 + 2 * side)
    padded = F.pad(image[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(F.conv2d(padded, row.reshape(1, 1, 3, 1)), row.reshape(1, 1, 1, 3))[:, 0]


def _compress(levels: Tensor, quality: int) -> Tensor:
    """[3, S, S] RGB in 0 to 255 through JPEG and back."""
    cv2 = import_cv2("--augment camera")
    pixels = levels.permute(1, 2, 0).flip(-1).to("cpu", torch.uint8).numpy()
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(pixels), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return torch.from_numpy(decoded).flip(-1).permute(2, 0, 1).to(levels)
