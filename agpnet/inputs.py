"""The images of a training: read once, brought to the network's input, and looked at before an hour is spent on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agp_edge.datasets.base import Sample
from agp_edge.datasets.findings import some
from agp_edge.datasets.images import read_image
from agp_edge.errors import InputError
from agp_edge.frame import FrameSpec
from agp_edge.progress import Progress, silent
from agpnet.front import FrameFront

COPIES_SHARE = 0.5
"""More copies than this among the images are worth a warning."""


@dataclass(frozen=True)
class Inputs:
    """What was read.

    Attributes:
        images: [N, 3, S, S] float32 in 0 to 1.
        sizes: (width, height) of each image's frame.
    """

    images: Tensor
    sizes: list[tuple[int, int]]


def read_inputs(samples: Sequence[Sample], input_size: int, progress: Progress = silent) -> Inputs:
    """The network's inputs, each image through the front of its own frame size.

    Args:
        samples: the images.
        input_size: side S of the network's input, pixels.
        progress: told after each image.

    Raises:
        InputError: an image cannot be read.
    """
    fronts: dict[tuple[int, int], FrameFront] = {}
    inputs = torch.empty(len(samples), 3, input_size, input_size)
    sizes = []
    with torch.no_grad():
        for i, sample in enumerate(samples):
            frame = read_image(sample.path)
            size = (frame.shape[1], frame.shape[0])
            if size not in fronts:
                fronts[size] = FrameFront(FrameSpec(*size, 3), input_size)
            inputs[i] = fronts[size](torch.from_numpy(np.ascontiguousarray(frame[None])))[0]
            sizes.append(size)
            progress(i + 1, len(samples))
    return Inputs(inputs, sizes)


def frames_by_class(classes: Sequence[str], sizes: Sequence[tuple[int, int]]) -> dict[str, list[FrameSpec]]:
    """The frames of each class, the most frequent first.

    Args:
        classes: of each image.
        sizes: (width, height) of each.
    """
    counts: dict[str, Counter[tuple[int, int]]] = {}
    for name, size in zip(classes, sizes, strict=True):
        counts.setdefault(name, Counter())[size] += 1
    return {
        name: [FrameSpec(*size, 3) for size, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
        for name, found in counts.items()
    }


def check_inputs(images: Tensor, samples: Sequence[Sample]) -> list[str]:
    """What is suspicious about the images, in words.

    Args:
        images: [N, 3, S, S].
        samples: their N files.

    Raises:
        InputError: nothing can be learned from them: each is one flat colour, or all are the same picture.
    """
    n = len(samples)
    flat = [
        s.name for image, s in zip(images, samples, strict=True) if float((image.amax((1, 2)) - image.amin((1, 2))).max()) == 0
    ]  # fmt: skip
    if len(flat) == n:
        brightness = float(images.mean())
        what = "black" if brightness == 0 else "of one flat colour each"
        raise InputError(
            f"{_all(n)} {what} ({some(flat)}): there is nothing to learn from",
            "look at the camera's exposure and lens cap, and collect them again",
        )
    copies = Counter(image.numpy().tobytes() for image in images)
    if n > 1 and len(copies) == 1:
        raise InputError(
            f"all {n} good images are the same picture ({some([s.name for s in samples])})",
            "collect different parts, or several views of one: agp-edge capture --camera 0 --out DATA",
        )
    warnings = []
    if flat:
        warnings.append(f"{len(flat)} of {n} good images show one flat colour and nothing else: {some(flat)}")
    if n - len(copies) > COPIES_SHARE * n:
        warnings.append(
            f"only {len(copies)} of {n} good images differ, the others are copies of them: what is learned from so few "
            "will reject much"
        )
    return warnings


def _all(n: int) -> str:
    return "the only good image is" if n == 1 else f"all {n} good images are"
