"""A picture in a buffer of GStreamer as a frame's pixels, wherever its planes lie and whatever range its luma has."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import InputError
from agp_edge.extras import import_cv2
from agp_edge.sources.gst_binding import Layout
from agp_edge.sources.pixels import to_frame_pixels

Bytes = NDArray[np.uint8]

FORMATS = {"NV12": "nv12", "I420": "i420", "BGRx": "bgrx", "BGR": "bgr", "GRAY8": "mono8"}
"""GStreamer's name of a pixel format -> ours. No pipeline needs a `videoconvert`, which works on the processor."""


def picture_pixels(data: Bytes, layout: Layout) -> Bytes:
    """The pixels of a picture.

    Cameras send luma of 0 to 255 or of 16 to 235, and colours by BT.601 or BT.709, and say so in their stream. It is
    taken as they say, as where OpenCV decodes: a verdict must not depend on which decoder was there.

    Args:
        data: the buffer's bytes, flat.
        layout: how the picture lies in them.

    Returns:
        [H, W, C] uint8, C-contiguous, no view of `data`.

    Raises:
        InputError: another pixel format, a size that it cannot have, or too few bytes.
    """
    if layout.pixel_format not in FORMATS:
        raise InputError(
            f"pixel format {layout.pixel_format} of GStreamer is not known here",
            f"let the pipeline give one of: {', '.join(FORMATS)}",
        )
    name, width, height = FORMATS[layout.pixel_format], layout.width, layout.height
    if name not in ("nv12", "i420"):
        return to_frame_pixels(data[layout.offsets[0] :], name, width, height, layout.strides[0])
    if width % 2 or height % 2:
        raise InputError(
            f"a picture of {width}x{height} has colours for half its last pixels",
            "set the camera to an even size",
        )
    if layout.full_range or layout.matrix != "bt601":
        return _by_matrix(data, layout)
    if _is_usual(layout):
        return to_frame_pixels(data, name, width, height, layout.strides[0])
    joined = np.concatenate([plane.reshape(-1) for plane in _planes(data, layout)])
    return to_frame_pixels(joined, name, width, height)


def _is_usual(layout: Layout) -> bool:
    """Whether planes follow one another without a gap, the rows of colours as far apart as those of luma, or half."""
    stride, rows = layout.strides[0], layout.height
    if layout.pixel_format == "NV12":
        return layout.strides[1] == stride and layout.offsets[:2] == (0, stride * rows)
    half = stride // 2
    return (
        stride % 2 == 0
        and layout.strides[1:3] == (half, half)
        and layout.offsets[:3] == (0, stride * rows, stride * rows + half * (rows // 2))
    )


def _planes(data: Bytes, layout: Layout) -> list[Bytes]:
    """Each plane as [rows, bytes of a row], without the padding, as views of `data`.

    Raises:
        InputError: the buffer is too short.
    """
    width, height = layout.width, layout.height
    chroma = [width] if layout.pixel_format == "NV12" else [width // 2] * 2
    shapes = [(height, width), *((height // 2, row) for row in chroma)]
    planes = []
    for (rows, row), offset, stride in zip(shapes, layout.offsets, layout.strides, strict=False):
        if stride < row or offset + (rows - 1) * stride + row > data.size:
            raise InputError(
                f"a frame of {width}x{height} in {layout.pixel_format} has {data.size} bytes, too few for it",
                "see what the pipeline gives: gst-launch-1.0 -v",
            )
        planes.append(
            np.lib.stride_tricks.as_strided(data[offset:], (rows, row), (stride, 1), writeable=False)
        )
    return planes


def _by_matrix(data: Bytes, layout: Layout) -> Bytes:
    """The general way: OpenCV has a conversion of its own for limited BT.601 alone."""
    cv2 = import_cv2("converting colours")
    luma, *chroma = _planes(data, layout)
    if layout.pixel_format == "NV12":
        half = (layout.height // 2, layout.width // 2, 2)
        chroma = list(cv2.split(np.ascontiguousarray(chroma[0]).reshape(half)))
    # Nearest: OpenCV's own conversion, too, takes one colour for four pixels.
    size = (layout.width, layout.height)
    wide = [cv2.resize(np.ascontiguousarray(c), size, interpolation=cv2.INTER_NEAREST) for c in chroma]
    pixels: Bytes = cv2.transform(
        cv2.merge([np.ascontiguousarray(luma), *wide]), colour_matrix(layout.matrix, layout.full_range)
    )
    return pixels


LUMA = {
    "fcc": (0.30, 0.11),
    "bt709": (0.2126, 0.0722),
    "bt601": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020": (0.2627, 0.0593),
}
"""Matrix -> the parts of red and of blue in luma (ITU-T H.273, table 4)."""


@functools.cache
def colour_matrix(matrix: str, full_range: bool) -> NDArray[np.float64]:
    """[3, 4]: what makes blue, green and red of luma, Cb, Cr and 1, all of them from 0 to 255 (ITU-T H.273, 8.3).

    Args:
        matrix: a key of `LUMA`.
        full_range: luma is 0 to 255 and chroma 1 to 255 instead of 16 to 235 and 16 to 240.
    """
    red, blue = LUMA[matrix]
    green = 1 - red - blue
    luma_scale, chroma_scale, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    to_blue, to_red = 2 * (1 - blue) * chroma_scale, 2 * (1 - red) * chroma_scale
    rows = np.array(
        [
            [luma_scale, to_blue, 0],
            [luma_scale, -to_blue * blue / green, -to_red * red / green],
            [luma_scale, 0, to_red],
        ]
    )
    return np.column_stack([rows, -rows @ [black, 128, 128]])
