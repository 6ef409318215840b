"""Reference frames in a bundle: what torch says of them, which a device's FP32 graph must say too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agp_edge.bundle import BundleFrame
from agp_edge.datasets.images import write_png
from agp_edge.engines.base import Inference, Session
from agp_edge.files import sha256_file
from agp_edge.reference_frames import draw_frames

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
