"""Reference frames: drawn, not taken, so that everything that judges frames can test itself, whoever has no pictures.

`export` scores them with torch and puts them into the bundle, where the FP32 graph must say the same. `build-engine` writes
down what the engine says of them on its machine, and there it must say so for ever.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from agp_edge.frame import FrameSpec

BLOCKS = (96, 40, 16, 6)
"""Blocks along the shorter side of each frame: from finer than a token to coarser than the decoder's whole view."""
SMALLEST = 3
"""Pixels."""


def draw_frames(frame: FrameSpec) -> NDArray[np.uint8]:
    """[N, H, W, C] uint8: coloured blocks of random levels, finer and coarser, the same on every machine for ever.

    Every channel differs from every other and no two places are alike, so that a swapped channel, a shifted pixel or
    another way to resize moves the scores. The levels are SHAKE-256's: a generator of numpy may change.
    """
    fine, *coarse = (_draw_blocks(frame, count) for count in BLOCKS)
    # Inside a coarse block lies some of the finest: on an even plane filters find nothing but rounding, and amplify it.
    return np.stack([fine, *((3 * blocks + fine) // 4 for blocks in coarse)]).astype(np.uint8)


def _draw_blocks(frame: FrameSpec, count: int) -> NDArray[np.uint16]:
    """[H, W, C] levels of blocks, `count` of them along the shorter side."""
    side = max(SMALLEST, min(frame.width, frame.height) // count)
    rows, columns = -(-frame.height // side), -(-frame.width // side)
    stream = hashlib.shake_256(f"agp-edge reference {count}".encode())
    levels = np.frombuffer(stream.digest(rows * columns * frame.channels), np.uint8).astype(np.uint16)
    blocks = levels.reshape(rows, columns, frame.channels).repeat(side, axis=0).repeat(side, axis=1)
    return blocks[: frame.height, : frame.width]
