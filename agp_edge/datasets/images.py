"""Images as files: read into the frames that a camera would give, written without loss."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.datasets.base import Sample
from agp_edge.datasets.orientation import exif_orientation, is_tiff, tiff_samples, turn_upright
from agp_edge.errors import InputError
from agp_edge.extras import CV2_SILENT, import_cv2, set_cv2_log_level
from agp_edge.files import write_bytes
from agp_edge.frame import FrameSpec

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What counts as an image among the files of a folder, in lower case."""


def read_image(path: Path, *, mono: bool = False) -> NDArray[np.uint8]:
    """Read an image as a frame.

    Grey, palette and CMYK images become BGR, an alpha channel is dropped, never blended, and the orientation that
    EXIF names is applied.
    16 bits become 8 by the range of the type (65535 is 255), never by the image's content: two images of one
    camera must not be scaled differently.

    Args:
        path: the file.
        mono: give one channel (ITU-R 601 luma of a colour image) instead of three.

    Returns:
        [H, W, C] uint8, C-contiguous: BGR with C = 3, or mono with C = 1.

    Raises:
        InputError: it cannot be read, is cut off, holds numbers without a fixed range (floating point), or is a
            TIFF with transparent pixels of 8 bits.
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
    if frame.any_size:
        return pixels
    if pixels.shape != frame.shape:
        height, width = pixels.shape[:2]
        raise InputError(
            f"image {sample.path} is {width}x{height}, the artefact takes {frame.width}x{frame.height}",
            f"export for this size: agp-edge export RUN --out BUNDLE --frame-size {width}x{height}",
        )
    return pixels


def read_truth(sample: Sample, frame: FrameSpec) -> NDArray[np.bool_] | None:
    """Which pixels of a sample are anomalous: none of a good one, for a defect those that any of its masks marks.

    Returns:
        [H, W] bool in the frame's pixels; None for a defect without a mask, or whose masks mark nothing: where it is
        cannot be told, and nowhere is wrong.

    Raises:
        InputError: a mask cannot be read, or has another size than the frame.
    """
    if frame.any_size:
        height, width = read_image(sample.path).shape[:2]
        frame = frame.of_size(width, height)
    truth = np.zeros((frame.height, frame.width), bool)
    if sample.good:
        return truth
    for path in sample.masks:
        mask = read_mask(path)
        if mask.shape != truth.shape:
            raise InputError(
                f"mask {path} is {mask.shape[1]}x{mask.shape[0]}, its image {frame.width}x{frame.height}",
                "draw the mask again at the image's size, or remove it",
            )
        truth |= mask
    return truth if truth.any() else None


def _decode(path: Path) -> NDArray[Any]:
    """[H, W, 3] BGR of whatever type the file holds, upright."""
    cv2 = import_cv2("reading images")
    hint = "replace or remove it; it must be a whole image, such as PNG or JPEG"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read image {path}: {error.strerror or error}", hint) from error
    if _cut_off(data):
        raise InputError(f"image {path} is cut off: its end is missing", hint)
    # ANYDEPTH keeps 16 bits, which COLOR alone would shift away.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    if not is_tiff(data):
        # Which formats OpenCV turns depends on its version (WebP: not in 4.8). TIFF it turns always.
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        with _quiet(cv2):
            encoded = np.frombuffer(data, np.uint8)
            pixels = cv2.imdecode(encoded, flags) if data else None
            blended = tiff_samples(data) == 4 and _is_transparent(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED))
    except cv2.error as error:
        raise InputError(f"cannot read image {path}: {error.err or error}", hint) from error
    if pixels is None:
        raise InputError(f"{path} ({len(data)} bytes) is no image that can be read", hint)
    if blended:
        raise InputError(
            f"image {path} is an 8-bit TIFF with transparent pixels, whose colour OpenCV blends with black",
            "save it without the alpha channel, or as PNG",
        )
    decoded: NDArray[Any] = pixels
    return decoded if is_tiff(data) else np.ascontiguousarray(turn_upright(decoded, exif_orientation(data)))


def _is_transparent(pixels: NDArray[Any] | None) -> bool:
    """Whether a TIFF, decoded unchanged, has 8-bit alpha that is not opaque everywhere; with 16 bits nothing blends."""
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 4:
        return False
    return bool(pixels[..., 3].min() < 255)


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
    before = set_cv2_log_level(cv2, CV2_SILENT)
    try:
        yield
    finally:
        set_cv2_log_level(cv2, before)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A frame as PNG, without loss, as fast as OpenCV does it: a stronger compression takes three times as long.

    Args:
        pixels: [H, W, 3] BGR, [H, W, 1] or [H, W] mono, uint8.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    if pixels.dtype != np.uint8 or pixels.size == 0 or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise ValueError(f"a PNG here is [H, W, 1 or 3] uint8, got {list(pixels.shape)} {pixels.dtype}")
    cv2 = import_cv2("writing images")
    _, encoded = cv2.imencode(".png", pixels)
    data: bytes = encoded.tobytes()
    return data


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a frame as PNG, without loss, whole or not at all.

    Args:
        path: the file; its folder is made.
        pixels: as `encode_png` takes them.

    Raises:
        InputError, DiskFullError: it cannot be written.
        MissingExtraError: OpenCV is not installed.
    """
    write_bytes(path, encode_png(pixels))


def list_images(folder: Path) -> list[Path]:
    """The images right inside a folder, in order of name; hidden files are none. Empty where there is no folder."""
    if not folder.is_dir():
        return []
    # The folder's own entries say what is a file, so that no file is looked at.
    with os.scandir(folder) as entries:
        return sorted(folder / e.name for e in entries if is_image_name(e.name) and e.is_file())


def is_image_name(name: str) -> bool:
    """Whether a file is an image by its name: a known suffix in any case, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
