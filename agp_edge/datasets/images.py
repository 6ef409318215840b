"""Images as files: read into the frames that a camera would give, written without loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.datasets.base import Sample
from agp_edge.errors import InputError
from agp_edge.extras import import_cv2
from agp_edge.files import write_bytes
from agp_edge.frame import FrameSpec

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What counts as an image among the files of a folder, in lower case."""


def read_image(path: Path, *, mono: bool = False) -> NDArray[np.uint8]:
    """Read an image as a frame.

    Grey and palette images become BGR, an alpha channel is dropped, the orientation that EXIF names is applied.
    16 bits become 8 by the range of the type (65535 is 255), never by the image's content: two images of one
    camera must not be scaled differently.

    Args:
        path: the file.
        mono: give one channel (ITU-R 601 luma of a colour image) instead of three.

    Returns:
        [H, W, C] uint8, C-contiguous: BGR with C = 3, or mono with C = 1.

    Raises:
        InputError: it cannot be read, is cut off, or holds numbers without a fixed range (floating point).
        MissingExtraError: OpenCV is not installed.
    """
    pixels = _decode(path)
    if pixels.dtype == np.uint16:
        # In 32 bits, because 65535 + 128 does not fit into 16.
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise InputError(
            f"image {path} holds {pixels.dtype} numbers, which have no fixed range",
            "save it with 8 or 16 bits a channel",
        )
    if mono:
        # Always from BGR: left to the decoders, each would turn colour into grey in its own way.
        cv2 = import_cv2("reading images")
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[..., np.newaxis]
    return np.ascontiguousarray(pixels)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a truth mask: defect where any channel is not zero, since published masks are not all 0 and 255.

    Returns:
        [H, W] bool.

    Raises:
        InputError, MissingExtraError: as `read_image`.
    """
    # Before any scaling: a 16-bit mask of 0 and 1 must not round to nothing.
    mask: NDArray[np.bool_] = (_decode(path) != 0).any(axis=2)
    return mask


def read_frame(sample: Sample, frame: FrameSpec) -> NDArray[np.uint8]:
    """A sample as the frame that an artefact takes.

    Returns:
        [H, W, C] uint8.

    Raises:
        InputError: it cannot be read, or has another size.
    """
    pixels = read_image(sample.path, mono=frame.channels == 1)
    if pixels.shape != frame.shape:
        height, width = pixels.shape[:2]
        raise InputError(
            f"image {sample.path} is {width}x{height}, the artefact takes {frame.width}x{frame.height}",
            f"export for this size: agp-edge export RUN --out BUNDLE --frame-size {width}x{height}",
        )
    return pixels


def read_truth(sample: Sample, frame: FrameSpec) -> NDArray[np.bool_] | None:
    """Which pixels of a sample are anomalous: none of a good one; None for a defect without a mask.

    Returns:
        [H, W] bool in the frame's pixels.

    Raises:
        InputError: the mask cannot be read, or has another size than the frame.
    """
    if sample.good:
        return np.zeros((frame.height, frame.width), bool)
    if sample.mask is None:
        return None
    mask = read_mask(sample.mask)
    if mask.shape != (frame.height, frame.width):
        raise InputError(
            f"mask {sample.mask} is {mask.shape[1]}x{mask.shape[0]}, its image {frame.width}x{frame.height}",
            "draw the mask again at the image's size, or remove it",
        )
    return mask


def _decode(path: Path) -> NDArray[Any]:
    """[H, W, 3] BGR of whatever type the file holds."""
    cv2 = import_cv2("reading images")
    hint = "replace or remove it; it must be a whole image, such as PNG or JPEG"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read image {path}: {error.strerror or error}", hint) from error
    if _cut_off(data):
        raise InputError(f"image {path} is cut off: its end is missing", hint)
    try:
        # ANYDEPTH keeps 16 bits, which COLOR alone would shift away; both apply EXIF orientation.
        with _quiet(cv2):
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise InputError(f"cannot read image {path}: {error.err or error}", hint) from error
    if pixels is None:
        raise InputError(f"{path} ({len(data)} bytes) is no image that can be read", hint)
    decoded: NDArray[Any] = pixels
    return decoded


def _cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which OpenCV 4 fills with grey or black and does not report."""
    if data.startswith(b"\xff\xd8"):
        # Within a scan 0xFF is followed by 0x00 or a restart, so these two are markers. Trailers may follow.
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in data
    return False


@contextlib.contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """OpenCV's own complaints about a file would stand before the one line that names it."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a frame as PNG, without loss, whole or not at all.

    Args:
        path: the file; its folder is made.
        pixels: [H, W, 3] BGR, [H, W, 1] or [H, W] mono, uint8.

    Raises:
        InputError, DiskFullError: it cannot be written.
        MissingExtraError: OpenCV is not installed.
    """
    if pixels.dtype != np.uint8 or pixels.size == 0 or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise ValueError(f"write_png takes [H, W, 1 or 3] uint8, got {list(pixels.shape)} {pixels.dtype}")
    cv2 = import_cv2("writing images")
    _, encoded = cv2.imencode(".png", pixels)
    write_bytes(path, encoded.tobytes())


def list_images(folder: Path) -> list[Path]:
    """The images right inside a folder, in order of name; hidden files are none. Empty where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        item
        for item in folder.iterdir()
        if item.suffix.lower() in IMAGE_SUFFIXES and not item.name.startswith(".") and item.is_file()
    )
