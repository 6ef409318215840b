"""What a V4L2 camera offers of pixel formats, sizes and rates, and which of them is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agp_edge.errors import InputError
from agp_edge.sources import v4l2_ioctl as v4l2
from agp_edge.sources.options import SourceOptions

READABLE = {
    "BGR3": "bgr", "RGB3": "rgb", "XR24": "bgrx", "AR24": "bgra", "BGR4": "bgrx", "XB24": "rgbx", "AB24": "rgba",
    "YUYV": "yuyv", "UYVY": "uyvy", "NV12": "nv12", "YU12": "i420",
    "RGGB": "bayerrg8", "GRBG": "bayergr8", "GBRG": "bayergb8", "BA81": "bayerbg8",
    "GREY": "mono8", "Y10": "mono10", "Y12": "mono12", "Y14": "mono14", "Y16": "mono16",
    "RG10": "bayerrg10", "BA10": "bayergr10", "GB10": "bayergb10", "BG10": "bayerbg10",
    "RG12": "bayerrg12", "BA12": "bayergr12", "GB12": "bayergb12", "BG12": "bayerbg12",
    "RG14": "bayerrg14", "GR14": "bayergr14", "GB14": "bayergb14", "BG14": "bayerbg14",
    "RG16": "bayerrg16", "GR16": "bayergr16", "GB16": "bayergb16", "BYR2": "bayerbg16",
    "MJPG": "mjpeg", "JPEG": "mjpeg",
}  # fmt: skip
"""V4L2's four characters -> the format's name in `agp_edge.sources.pixels`, those that are preferred first.

Colour comes before mono; 8 bits before more, because an engine takes 8; and JPEG last, because what a camera threw away
to compress is not in the picture.
"""


@dataclass(frozen=True)
class SizeOffer:
    """One size, or a range of them in steps; pixels."""

    widths: tuple[int, int, int]
    heights: tuple[int, int, int]

    def has(self, size_wh: tuple[int, int]) -> bool:
        """Whether a size is among them."""
        return all(
            low <= value <= high and (value - low) % max(step, 1) == 0
            for value, (low, high, step) in zip(size_wh, (self.widths, self.heights), strict=True)
        )

    def __str__(self) -> str:
        low, high = (f"{self.widths[i]}x{self.heights[i]}" for i in (0, 1))
        if low == high:
            return low
        return f"{low} to {high} in steps of {self.widths[2]}x{self.heights[2]}"


@dataclass(frozen=True)
class RateOffer:
    """One rate, or all between two; frames a second."""

    slowest: float
    fastest: float

    def has(self, fps: float) -> bool:
        """Whether a rate is among them; 30 is, where there is 29.97."""
        return self.slowest * 0.995 <= fps <= self.fastest * 1.005

    def __str__(self) -> str:
        if self.slowest == self.fastest:
            return f"{self.fastest:.4g}"
        return f"{self.slowest:.4g} to {self.fastest:.4g}"


@dataclass(frozen=True)
class Mode:
    """What is asked of a camera: a pixel format by its four characters, and a size (width, height)."""

    code: str
    size_wh: tuple[int, int]


def list_formats(fd: int, buffer_type: int) -> list[str]:
    """The pixel formats that a device offers, by their four characters."""
    found: list[str] = []
    entry = v4l2.FormatDescription(type=buffer_type)
    while v4l2.ask(fd, v4l2.ENUM_FMT, entry):
        code = v4l2.fourcc(entry.pixelformat)
        # A driver may have one twice, for two kinds of memory.
        if code not in found:
            found.append(code)
        entry = v4l2.FormatDescription(type=buffer_type, index=entry.index + 1)
    return found


def list_sizes(fd: int, code: str) -> list[SizeOffer]:
    """The sizes of a pixel format; empty where the driver does not tell."""
    found = []
    entry = v4l2.SizeEntry(pixel_format=v4l2.fourcc_code(code))
    while v4l2.ask(fd, v4l2.ENUM_FRAMESIZES, entry):
        size = entry.stepwise
        if entry.type != v4l2.FRMSIZE_TYPE_DISCRETE:
            widths = (size.min_width, size.max_width, size.step_width)
            return [SizeOffer(widths, (size.min_height, size.max_height, size.step_height))]
        width, height = size.min_width, size.max_width
        found.append(SizeOffer((width, width, 1), (height, height, 1)))
        entry = v4l2.SizeEntry(pixel_format=entry.pixel_format, index=entry.index + 1)
    return found


def list_rates(fd: int, mode: Mode) -> list[RateOffer]:
    """The rates of a pixel format at a size; empty where the driver does not tell."""
    found = []
    width, height = mode.size_wh
    code = v4l2.fourcc_code(mode.code)
    entry = v4l2.IntervalEntry(pixel_format=code, width=width, height=height)
    while v4l2.ask(fd, v4l2.ENUM_FRAMEINTERVALS, entry):
        fastest = rate_of(entry.stepwise.min)
        if entry.type != v4l2.FRMIVAL_TYPE_DISCRETE:
            return [RateOffer(rate_of(entry.stepwise.max) or 0.0, fastest or float("inf"))]
        if fastest:
            found.append(RateOffer(fastest, fastest))
        entry = v4l2.IntervalEntry(pixel_format=code, width=width, height=height, index=entry.index + 1)
    return found


def rate_of(interval: v4l2.Fraction) -> float | None:
    """Frames a second; None of an interval that is none."""
    if not interval.numerator or not interval.denominator:
        return None
    return interval.denominator / interval.numerator


def choose_mode(
    fd: int, name: str, buffer_type: int, size_wh: tuple[int, int], options: SourceOptions
) -> Mode:
    """What to ask of a camera.

    Of the pixel formats that can be read the first in the order of `READABLE` is taken which comes at the size, and at
    the rate if one is asked for. Without a size in the options it is the one that the driver has.

    Args:
        fd: the opened device.
        name: its name, for errors.
        buffer_type: of one piece of memory for a picture, or of several.
        size_wh: what the driver has now.
        options: `size_wh`, `fps`, `pixel_format`.

    Raises:
        InputError: the camera does not offer it; the hint tells what it does.
    """
    offered = list_formats(fd, buffer_type)
    codes = [code for code in READABLE if code in offered]
    if not codes:
        raise InputError(
            f"camera {name} has no pixel format that can be read: {', '.join(offered) or 'none at all'}",
            "take another device of this camera, or read it by GStreamer",
        )
    if options.pixel_format is not None:
        codes = [_find_format(name, options.pixel_format, offered, codes)]
    sizes = {code: list_sizes(fd, code) for code in codes}
    wanted = options.size_wh or size_wh
    fitting = [code for code in codes if not sizes[code] or any(s.has(wanted) for s in sizes[code])]
    if not fitting and options.size_wh is not None:
        raise InputError(
            f"camera {name} does not offer {wanted[0]}x{wanted[1]}",
            f"it has: {_tell(sizes)}",
        )
    modes = [Mode(code, wanted) for code in fitting or codes]
    if options.fps is None:
        return modes[0]
    rates = {mode: list_rates(fd, mode) for mode in modes}
    for mode in modes:
        if not rates[mode] or any(rate.has(options.fps) for rate in rates[mode]):
            return mode
    raise InputError(
        f"camera {name} does not offer {options.fps:g} frames a second at {wanted[0]}x{wanted[1]}",
        f"it has: {_tell({mode.code: offers for mode, offers in rates.items()})}",
    )


def _find_format(name: str, wanted: str, offered: list[str], readable: list[str]) -> str:
    for code in (wanted.rstrip(), wanted.rstrip().upper()):
        if code in readable:
            return code
    others = [code for code in offered if code not in READABLE]
    if wanted in others:
        what = f"pixel format {wanted} of camera {name} cannot be read"
    else:
        what = f"camera {name} does not offer pixel format {wanted!r}"
    raise InputError(
        what,
        f"take one of: {', '.join(readable)}" + (f" (cannot be read: {', '.join(others)})" if others else ""),
    )


def _tell(offers: Mapping[str, Sequence[SizeOffer] | Sequence[RateOffer]]) -> str:
    """What there is by pixel format, those that offer the same together."""
    codes: dict[str, list[str]] = {}
    for code, of_code in offers.items():
        codes.setdefault(", ".join(dict.fromkeys(map(str, of_code))), []).append(code)
    return "; ".join(f"{what} ({', '.join(having)})" for what, having in codes.items())
