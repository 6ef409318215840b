"""A verdict as a picture: the frame, the heat of its map, boxes around regions, and the score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agp_edge.extras import import_cv2
from agp_edge.verdict import Region, VerdictName

OK_BGR = (160, 110, 30)
NG_BGR = (20, 95, 215)
"""Blue and orange: they stay apart for every common colour blindness."""

STRONGEST = 0.6
"""Share of colour from the threshold on: the part must stay visible below."""


def heat(anomaly_map: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """How hot each place is, in 0..1: 0 at half the threshold and below, 0.5 at the threshold, 1 at 1.5 times it.

    The scale is the threshold's, never the map's own maximum: a good part must look cold, however even its map is.
    """
    span = max(abs(threshold), 1e-6)
    # In float64, where the largest float32 divided by a small span is still a number.
    above = np.nan_to_num((anomaly_map - threshold).astype(np.float32)).astype(np.float64)
    return np.clip(above / span + 0.5, 0, 1).astype(np.float32)


def draw_heat(
    pixels: NDArray[np.uint8], anomaly_map: NDArray[np.float32], threshold: float
) -> NDArray[np.uint8]:
    """Lay a heat map over a frame: nothing up to half the threshold, then slowly more, all of it from the threshold on.

    Args:
        pixels: [H, W, C] uint8, BGR or mono.
        anomaly_map: [h, w] float32.
        threshold: the score's threshold.

    Returns:
        [H, W, 3] uint8 BGR, a new array.
    """
    cv2 = import_cv2("drawing heat maps")
    height, width = pixels.shape[:2]
    colour = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.shape[2] == 1 else pixels
    paint, share = colour_heat(anomaly_map, threshold, (width, height))
    mixed: NDArray[np.uint8] = colour.copy()
    rows, columns = np.flatnonzero(share.any(axis=1)), np.flatnonzero(share.any(axis=0))
    if rows.size:
        # Most of a part is cold: only the box around what is not is painted.
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        alpha = share[box][..., np.newaxis]
        mixed[box] = (colour[box] * (1 - alpha) + paint[box] * alpha + 0.5).astype(np.uint8)
    return mixed


def colour_heat(
    anomaly_map: NDArray[np.float32], threshold: float, size_wh: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The colours of a heat map, and how much of them covers what is below.

    Args:
        anomaly_map: [h, w] float32.
        threshold: the score's threshold.
        size_wh: (width, height) of the result.

    Returns:
        [H, W, 3] uint8 BGR, and [H, W] float32 in 0..`STRONGEST`: 0 where a place is cold.
    """
    cv2 = import_cv2("drawing heat maps")
    hot = cv2.resize(heat(anomaly_map, threshold), size_wh, interpolation=cv2.INTER_LINEAR)
    paint: NDArray[np.uint8] = cv2.applyColorMap((hot * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    # Cubed: most of a good part lies between half the threshold and the threshold, and must keep its colours.
    share: NDArray[np.float32] = STRONGEST * np.minimum(2 * hot, 1) ** 3
    return paint, share


def annotate(
    pixels: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    verdict: VerdictName,
    score: float,
    threshold: float,
    regions: Sequence[Region] = (),
) -> NDArray[np.uint8]:
    """A frame with heat, boxes, a border in the verdict's colour and, where there is room, a line of text.

    Returns:
        [H, W, 3] uint8 BGR, a new array.
    """
    cv2 = import_cv2("drawing verdicts")
    picture = draw_heat(pixels, anomaly_map, threshold)
    height, width = picture.shape[:2]
    thickness = max(1, round(min(height, width) / 200))
    for region in regions:
        corner = region.x + region.width - 1, region.y + region.height - 1
        cv2.rectangle(picture, (region.x, region.y), corner, NG_BGR, thickness)
    colour = OK_BGR if verdict == "OK" else NG_BGR
    cv2.rectangle(picture, (0, 0), (width - 1, height - 1), colour, 2 * thickness)
    # Colour alone does not tell everybody: the word and the sign say it too.
    text = f"{verdict} {score:.3g} {'<=' if verdict == 'OK' else '>'} {threshold:.3g}"
    scale = min(height / 480, width / 480)
    font = cv2.FONT_HERSHEY_SIMPLEX
    (text_width, text_height), below = cv2.getTextSize(text, font, scale, thickness)
    if text_height >= 6 and text_width + 16 <= width:
        cv2.rectangle(picture, (0, 0), (text_width + 16, text_height + below + 12), colour, cv2.FILLED)
        cv2.putText(picture, text, (8, text_height + 6), font, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return picture
