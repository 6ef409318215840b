"""The pictures of a report: which images are worth a look, and their frame, map and truth as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agp_edge.contact_sheet import Row, Tiles
from agp_edge.evaluation import JudgedImage
from agp_edge.extras import import_cv2

HARDEST = 3
"""Images of each kind a class: with fifteen classes the page stays below 3 MB."""

TILE_WIDTH, TILE_MAX_HEIGHT = 200, 250
JPEG_QUALITY = 82


@dataclass(frozen=True)
class Pictures:
    """One image three times, each a data URI.

    Attributes:
        frame: with a line around what the map has above the threshold.
        anomaly_map: in the colours of its class's scale.
        truth: white where anomalous; None for a defect without a mask.
        size_wh: (width, height) of each, in pixels.
    """

    frame: str
    anomaly_map: str
    truth: str | None
    size_wh: tuple[int, int]


def choose_hardest(images: Sequence[JudgedImage], n: int = HARDEST) -> list[JudgedImage]:
    """The images that an artefact finds hardest: of each class the defects with the lowest scores, lowest first, then
    the good images with the highest, highest first.

    Whatever the threshold is, these are the worst misses and the worst false alarms, or the closest to it.

    Args:
        images: judged images, of one class or of several.
        n: at most so many defects, and so many good images, of each class.
    """
    chosen: list[JudgedImage] = []
    for name in dict.fromkeys(image.class_name for image in images):
        members = [image for image in images if image.class_name == name]
        ordered = sorted(members, key=lambda image: (image.score, image.sample.name))
        chosen += [image for image in ordered if not image.sample.good][:n]
        chosen += [image for image in reversed(ordered) if image.sample.good][:n]
    return chosen


def picture_rows(rows: Sequence[Row], threshold: float | None) -> tuple[list[Pictures], tuple[float, float]]:
    """Frame, map and truth of some rows, on one colour scale.

    Args:
        rows: at least one, all of one class.
        threshold: what the line on the frame surrounds; None draws none.

    Returns:
        The pictures, and the values at the dark and the bright end of the scale.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    tiles = Tiles(rows, threshold, TILE_WIDTH, TILE_MAX_HEIGHT)
    found = []
    for row in rows:
        truth = tiles.truth(row)
        found.append(
            Pictures(
                _data_uri(tiles.frame(row), "jpeg"),
                _data_uri(tiles.heat(row), "jpeg"),
                # Two tones and sharp edges: as PNG it is smaller, and exact.
                None if truth is None else _data_uri(truth, "png"),
                tiles.wh,
            )
        )
    return found, (tiles.low, tiles.high)


def _data_uri(pixels: NDArray[np.uint8], kind: str) -> str:
    cv2 = import_cv2("drawing a report")
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if kind == "jpeg" else []
    _, encoded = cv2.imencode(f".{kind}", pixels, options)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
