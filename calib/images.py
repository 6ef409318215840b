"""The good images of a data set as a calibration takes them: by content, each once, and never a test image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agp_edge.datasets import content_hashes
from agp_edge.datasets.base import Dataset, Sample
from agp_edge.datasets.images import read_image
from agp_edge.errors import InputError
from agp_edge.frame import FrameSpec


@dataclass(frozen=True)
class GoodImages:
    """The good images of a data set, each content once.

    Attributes:
        samples: content hash -> the first image that has it.
        frame: what they are read as.
        warnings: what the user should know of them.
    """

    samples: dict[str, Sample]
    frame: FrameSpec
    warnings: list[str]

    @classmethod
    def of(cls, dataset: Dataset, frame: FrameSpec) -> GoodImages:
        """List and hash them.

        Raises:
            InputError: one cannot be read.
        """
        every = [s for data in dataset.classes for s in (*data.train, *data.validation)]
        samples: dict[str, Sample] = {}
        for digest, sample in zip(content_hashes(every), every, strict=True):
            samples.setdefault(digest, sample)
        copies = len(every) - len(samples)
        warnings = [f"{copies} of {len(every)} images are copies of others, and count once"] if copies else []
        return cls(samples, frame, warnings)

    def read(self, digest: str) -> NDArray[np.uint8]:
        """An image as a frame of the bundle, [H, W, C].

        Raises:
            InputError: it cannot be read, or has another size.
        """
        path, frame = self.samples[digest].path, self.frame
        pixels = read_image(path, mono=frame.channels == 1)
        if pixels.shape != frame.shape:
            raise InputError(
                f"image {path} is {pixels.shape[1]}x{pixels.shape[0]}, "
                f"the bundle takes the camera's frames of {frame.width}x{frame.height}",
                "collect good frames at the camera's size (agp-edge capture --camera 0 --out DATA) and calibrate "
                "with them, or train on them",
            )
        return pixels
