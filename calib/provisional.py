"""Scores for a network that left no good image out: provisional ones, from altered copies of what it was trained on.

With few shots there is nothing to hold out. A true leave-one-out would train a network for each shot, and each of them
would be another network than the one that runs. So each shot is altered as another part and another exposure of the same
camera might be (turned, shifted, scaled, lit, noisy, blurred, through JPEG), and the copy with the median score stands for
it: one score a shot, since copies of one shot say nothing of other parts.

Two errors pull apart. The network knows these shots, which makes their scores too low; and a copy may be altered more than
good parts differ, which makes them too high. Which of the two wins depends on the part: a threshold over such scores
promises nothing, either way. Measured, and with what else was tried: docs/decisions/0011-provisional-thresholds.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from agp_edge.engines.base import Session
from agp_edge.errors import ArtefactError
from agp_edge.progress import Progress, silent
from agpnet.augmentation import expose_again, jitter

COPIES = 15
"""Of each shot; an odd number, so that one of them has the median score."""
MAX_SHOTS = 64
"""More images than this tell no more of how far copies move a score."""

Frame = NDArray[np.uint8]
"""[H, W, C] BGR or mono."""


@dataclass(frozen=True)
class Copy:
    """An altered copy of an image.

    Attributes:
        pixels: [H, W, C] uint8.
        number: which of the copies of its image.
        score: what the network gave it.
    """

    pixels: Frame
    number: int
    score: float


def median_copies(
    frames: Iterator[Frame], digests: Sequence[str], session: Session, progress: Progress = silent
) -> list[Copy]:
    """The copy of each frame whose score is the median of its copies' scores.

    Args:
        frames: the frames, in order.
        digests: content hash of each, which seeds its copies: the same image gives the same ones.
        session: the FP32 graph; it stays its owner's to close.
        progress: told of frames.

    Raises:
        ArtefactError: a score is no finite number.
    """
    chosen = []
    for done, (frame, digest) in enumerate(zip(frames, digests, strict=True), start=1):
        copies = alter(frame, COPIES, seed=int(digest[:12], 16))
        scores = np.concatenate(
            [
                session.infer(copies[i : i + session.frame.batch]).score
                for i in range(0, COPIES, session.frame.batch)
            ]
        )
        if not np.isfinite(scores).all():
            raise ArtefactError(
                "the fp32 graph gives scores that are no finite numbers",
                "export the run again, or train it again",
            )
        number = int(np.argsort(scores, kind="stable")[COPIES // 2])
        chosen.append(Copy(copies[number], number, float(scores[number])))
        progress(done, len(digests), "provisional scores")
    return chosen


def alter(frame: Frame, n: int, *, seed: int) -> NDArray[np.uint8]:
    """Copies of a frame as another part, placed and lit a little differently, and exposed anew: [n, H, W, C]."""
    generator = torch.Generator().manual_seed(seed)
    channels = frame.shape[2]
    # As training has it: RGB in 0 to 1; one copy at a time, since a camera's frames are large.
    image = torch.from_numpy(frame[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    image = image.expand(1, 3, -1, -1)
    copies = []
    for _ in range(n):
        altered = expose_again(jitter(image, generator), generator)[0, :channels]
        pixels = (altered * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        copies.append(pixels[..., ::-1].copy())
    return np.stack(copies)
