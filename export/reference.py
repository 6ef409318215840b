"""Reference frames: drawn, not taken, so that every bundle can test itself before anybody has calibrated it.

`export` scores them with torch and puts them into the bundle. A device scores them with the FP32 graph: it must say the
same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agp_edge.bundle import BundleFrame
from agp_edge.datasets.images import write_png
from agp_edge.engines.base import Inference, Session
from agp_edge.files import sha256_file
from agp_edge.frame import FrameSpec

BLOCKS = (96, 40, 16, 6)
"""Blocks along the shorter side of each frame: from finer than a token to coarser than the decoder's whole view."""
SMALLEST = 3
"""Pixels."""
DIGITS = 6
"""Significant digits of a score that are written down: beyond them, the order of a sum on several cores can be seen."""


@dataclass(frozen=True)
class ReferenceFrames:
    """Frames of a camera's size, and what torch says of them.

    Attributes:
        pixels: [N, H, W, C] uint8.
        said: torch's scores and maps.
    """

    pixels: NDArray[np.uint8]
    said: Inference

    def save(self, folder: Path) -> tuple[dict[str, Path], list[BundleFrame]]:
        """Write the frames as PNG.

        Args:
            folder: where `frames/` is made.

        Returns:
            Path inside a bundle -> the file; and the entries for the manifest.
        """
        files, entries = {}, []
        for i, (pixels, score) in enumerate(zip(self.pixels, self.said.score.tolist(), strict=True)):
            name = f"frames/reference-{i}.png"
            files[name] = folder / name
            write_png(folder / name, pixels)
            entries.append(
                BundleFrame(
                    file=name,
                    name=f"reference-{i}",
                    sha256=sha256_file(folder / name),
                    part="reference",
                    self_test=True,
                    score=float(f"{score:.{DIGITS}g}"),
                )
            )
        return files, entries


def score_reference_frames(session: Session) -> ReferenceFrames:
    """Draw reference frames for a session over torch, and have them scored."""
    pixels = draw_frames(session.frame)
    return ReferenceFrames(pixels, session.infer(pixels))


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
