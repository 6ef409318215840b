"""A source's frame as an engine takes it: the one place where colours are converted and sizes refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import InputError
from agp_edge.extras import import_cv2
from agp_edge.frame import FrameSpec


def conform(pixels: NDArray[np.uint8], spec: FrameSpec, source: str) -> NDArray[np.uint8]:
    """Bring a frame to the channels of an engine: BGR to mono by ITU-R 601 luma, mono to BGR by repetition.

    Args:
        pixels: [H, W, C] uint8, BGR or mono.
        spec: the frame that the engine takes.
        source: the source's name, for the error.

    Returns:
        [H, W, spec.channels] uint8; `pixels` itself where nothing had to be done.

    Raises:
        InputError: another size: nothing is ever scaled on its way to an engine.
    """
    height, width, channels = pixels.shape
    if (width, height) != (spec.width, spec.height):
        fits = width >= spec.width and height >= spec.height
        cut = "cut that out with --roi X,Y, " if fits else ""
        raise InputError(
            f"a frame of {source} is {width}x{height}, the engine takes {spec.width}x{spec.height}",
            f"set the camera to --size {spec.width}x{spec.height}, {cut}or make an engine for it: "
            f"agp-edge export RUN --out BUNDLE --frame-size {width}x{height}",
        )
    if channels == spec.channels:
        return pixels
    cv2 = import_cv2("converting colours")
    if spec.channels == 1:
        grey: NDArray[np.uint8] = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[..., np.newaxis]
        return grey
    colour: NDArray[np.uint8] = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    return colour
