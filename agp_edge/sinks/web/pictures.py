"""Pictures for a page: small, coded once for everybody, with the heat map beside them and not in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agp_edge.extras import import_cv2
from agp_edge.rendering import colour_heat, draw_heat
from agp_edge.sinks.base import Judgement

LARGEST_WH = (960, 1280)
"""No picture is wider or higher: more than that no tile of a page shows, and a phone's network has better to do."""

HEAT_WIDTH = 320
"""A map is no finer than that: a browser draws it over the picture as smoothly as we would."""

THUMB_WH = (240, 240)
JPEG_QUALITY = 80
THUMB_QUALITY = 75

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """A judged frame as a browser takes it.

    Attributes:
        jpeg: the frame without anything drawn on it.
        heat: a transparent PNG of any size, to be drawn over all of it; empty where every place is cold or there is no map.
        size_wh: (width, height) of the JPEG in pixels.
        boxes: of its regions (left, top, width, height), each as a share of width or height.
    """

    jpeg: bytes
    heat: bytes
    size_wh: tuple[int, int]
    boxes: list[Box]


def paint_picture(judgement: Judgement) -> Picture:
    """Code a judged frame.

    Raises:
        ValueError: it came without pixels.
    """
    small = _shrink(_pixels(judgement), LARGEST_WH)
    height, width = small.shape[:2]
    return Picture(
        jpeg=_encode(".jpg", small, JPEG_QUALITY),
        heat=_paint_heat(judgement, width, height),
        size_wh=(width, height),
        boxes=_boxes(judgement),
    )


def paint_thumb(judgement: Judgement) -> bytes:
    """A judged frame as a small JPEG with its heat map, for a list.

    Raises:
        ValueError: it came without pixels.
    """
    small = _shrink(_pixels(judgement), THUMB_WH)
    if judgement.anomaly_map is not None:
        small = draw_heat(small, judgement.anomaly_map, judgement.threshold)
    return _encode(".jpg", small, THUMB_QUALITY)


def _pixels(judgement: Judgement) -> NDArray[np.uint8]:
    if judgement.pixels is None:
        raise ValueError("this frame came without pixels: the page wants pictures")
    return judgement.pixels


def _shrink(pixels: NDArray[np.uint8], most_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """[h, w, C] that fits into a size, never enlarged."""
    cv2 = import_cv2("the live page")
    height, width = pixels.shape[:2]
    scale = min(1.0, most_wh[0] / width, most_wh[1] / height)
    if scale == 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small: NDArray[np.uint8] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small.reshape(*small.shape[:2], -1)  # OpenCV leaves out the last axis of a mono frame.


def _paint_heat(judgement: Judgement, width: int, height: int) -> bytes:
    if judgement.anomaly_map is None:
        return b""
    size = min(width, HEAT_WIDTH), max(1, round(height * min(1.0, HEAT_WIDTH / width)))
    paint, share = colour_heat(judgement.anomaly_map, judgement.threshold, size)
    alpha = (share * 255 + 0.5).astype(np.uint8)
    if not alpha.any():
        return b""
    return _encode(".png", np.dstack([paint, alpha]), 1)


def _boxes(judgement: Judgement) -> list[Box]:
    height, width = _pixels(judgement).shape[:2]
    return [
        (
            round(region.x / width, 4),
            round(region.y / height, 4),
            round(region.width / width, 4),
            round(region.height / height, 4),
        )
        for region in judgement.regions[:MOST_BOXES]
    ]


MOST_BOXES = 50
"""A frame that is nothing but specks has thousands of regions; the strongest come first."""


def _encode(suffix: str, pixels: NDArray[np.uint8], quality: int) -> bytes:
    cv2 = import_cv2("the live page")
    flag = cv2.IMWRITE_PNG_COMPRESSION if suffix == ".png" else cv2.IMWRITE_JPEG_QUALITY
    done, encoded = cv2.imencode(suffix, pixels, [flag, quality])
    if not done:
        raise ValueError(f"OpenCV coded no {suffix} of {pixels.shape}")
    data: bytes = encoded.tobytes()
    return data
