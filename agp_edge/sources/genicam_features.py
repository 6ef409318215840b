"""What a GenICam camera is told: features by name, each checked against what the camera itself says of it."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Mapping

from agp_edge.errors import InputError
from agp_edge.sources.aravis_binding import AravisError, Camera, FeatureType
from agp_edge.sources.options import SourceOptions
from agp_edge.sources.pixels import PIXEL_FORMATS, frame_bytes

_OTHER_NAMES = {
    "RGB8": "rgb", "RGB8Packed": "rgb", "BGR8": "bgr", "BGR8Packed": "bgr",
    "RGBa8": "rgba", "RGBA8Packed": "rgba", "BGRa8": "bgra", "BGRA8Packed": "bgra",
    "YUV422_8": "yuyv", "YUYVPacked": "yuyv", "YUV422_8_UYVY": "uyvy", "YUV422Packed": "uyvy",
}  # fmt: skip
"""GenICam's name -> ours, where it is not the same in lower case; GigE Vision 1 had other names than GenICam has now."""

_OFFSETS = ("OffsetX", "OffsetY")
_TRUE, _FALSE = ("1", "true", "on", "yes"), ("0", "false", "off", "no")


def our_format(name: str) -> str | None:
    """Our name of a pixel format that GenICam calls `name`; None where it cannot be converted."""
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    ours = name.lower()
    return ours if ours in PIXEL_FORMATS and ours.startswith(("mono", "bayer")) else None


def configure(camera: Camera, options: SourceOptions) -> tuple[str, float | None]:
    """Tell a camera what the options say: controls as they are given, pixel format, size, frame rate.

    An area smaller than the sensor lies in its middle, unless `OffsetX` and `OffsetY` are controls.

    Returns:
        Our name of the pixel format that it sends, and its frames a second, None where it has no such figure.

    Raises:
        InputError: it has no such feature, or not that value.
        AravisError: it does not answer, or refuses without saying why.
    """
    controls = dict(options.controls)
    later = {name: controls.pop(name) for name in _OFFSETS if options.size_wh and name in controls}
    for name, value in controls.items():
        set_feature(camera, name, value)
    pixel_format = _set_format(camera, options.pixel_format)
    if options.size_wh is not None:
        _set_size(camera, options.size_wh, later)
    # Once, and not of every frame: packed pixels have no odd width.
    frame_bytes(pixel_format, camera.get_integer("Width"), camera.get_integer("Height"))
    if options.fps is not None:
        _set_rate(camera, options.fps)
    if "Continuous" in _choices(camera, "AcquisitionMode"):
        camera.set_string("AcquisitionMode", "Continuous")
    return pixel_format, _rate(camera)


def set_feature(camera: Camera, feature: str, value: str) -> None:
    """Set a feature, or execute a command.

    Args:
        camera: to be told.
        feature: GenICam's name of it, as in `ExposureTime`.
        value: as text; a boolean is `true` or `false`, a command takes `1` or nothing.

    Raises:
        InputError: it has no such feature, or not that value.
        AravisError: it does not answer, or refuses without saying why.
    """
    kind = camera.type_of(feature)
    if kind is None:
        like = difflib.get_close_matches(feature, camera.features(), n=6, cutoff=0.5)
        raise InputError(
            f"the camera has no feature {feature!r}",
            f"it has {', '.join(like)}" if like else "arv-tool-0.8 features lists what it has",
        )
    if not camera.is_available(feature):
        raise InputError(
            f"the camera's {feature} cannot be used as the camera is set",
            "another feature may lock it, as ExposureAuto locks ExposureTime: set that one before",
        )
    _SETTERS[kind](camera, feature, value)


def _set_boolean(camera: Camera, feature: str, value: str) -> None:
    if value.lower() not in _TRUE + _FALSE:
        raise _refused(feature, value, "true or false")
    camera.set_boolean(feature, value.lower() in _TRUE)


def _execute(camera: Camera, feature: str, value: str) -> None:
    if value.lower() not in ("", *_TRUE):
        raise _refused(feature, value, "1: it is a command")
    camera.execute(feature)


def _set_enumeration(camera: Camera, feature: str, value: str) -> None:
    choices = camera.choices(feature)
    if value not in choices:
        raise _refused(feature, value, f"one of {', '.join(choices)}")
    camera.set_string(feature, value)


def _set_float(camera: Camera, feature: str, value: str) -> None:
    low, high = camera.float_range(feature)
    number = math.nan
    with contextlib.suppress(ValueError):
        number = float(value)
    if not low <= number <= high:
        raise _refused(feature, value, f"a number from {low:g} to {high:g}")
    camera.set_float(feature, number)


def _set_integer(camera: Camera, feature: str, value: str) -> None:
    low, high, step = camera.integer_range(feature)
    number = None
    with contextlib.suppress(ValueError):
        number = int(value, 0)
    if number is None or not low <= number <= high or (number - low) % step:
        steps = f" in steps of {step}" if step > 1 else ""
        raise _refused(feature, value, f"a whole number from {low} to {high}{steps}")
    camera.set_integer(feature, number)


def _set_string(camera: Camera, feature: str, value: str) -> None:
    camera.set_string(feature, value)


_SETTERS: Mapping[FeatureType, Callable[[Camera, str, str], None]] = {
    "boolean": _set_boolean,
    "command": _execute,
    "enumeration": _set_enumeration,
    "float": _set_float,
    "integer": _set_integer,
    "string": _set_string,
}


def _refused(feature: str, value: str, takes: str) -> InputError:
    return InputError(f"the camera's {feature} cannot be {value!r}", f"it takes {takes}")


def _choices(camera: Camera, feature: str) -> list[str]:
    return camera.choices(feature) if camera.type_of(feature) == "enumeration" else []


def _set_format(camera: Camera, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in _choices(camera, "PixelFormat") or our_format(wanted) is None:
            raise InputError(
                f"the camera has no pixel format {wanted!r} that can be converted", _offered(camera)
            )
        camera.set_string("PixelFormat", wanted)
    now = camera.get_string("PixelFormat")
    ours = our_format(now)
    if ours is None:
        raise InputError(f"the camera sends {now}, which cannot be converted", _offered(camera))
    return ours


def _offered(camera: Camera) -> str:
    offered = _choices(camera, "PixelFormat")
    able = [name for name in offered if our_format(name)]
    if not able:
        return f"it offers {', '.join(offered)}, and none of them can be converted"
    return f"take --pixel-format with one of: {', '.join(able)}"


def _set_size(camera: Camera, size_wh: tuple[int, int], offsets: Mapping[str, str]) -> None:
    # An area that is moved cannot be as large as the sensor: first back to the corner.
    movable = [name for name in _OFFSETS if camera.type_of(name) == "integer" and camera.is_available(name)]
    for name in movable:
        camera.set_integer(name, camera.integer_range(name)[0])
    for name, pixels, offset in zip(("Width", "Height"), size_wh, _OFFSETS, strict=True):
        largest = camera.integer_range(name)[1]
        # One that has no choice is not told: its feature may be read-only.
        if camera.get_integer(name) != pixels:
            _set_integer(camera, name, str(pixels))
        if offset in offsets:
            set_feature(camera, offset, offsets[offset])
        elif offset in movable:
            # Not the middle of what the offset may be: not every camera says that less fits beside a larger area.
            low, high, step = camera.integer_range(offset)
            camera.set_integer(offset, low + min((largest - pixels) // 2, high - low) // step * step)


def _set_rate(camera: Camera, fps: float) -> None:
    for enable in ("AcquisitionFrameRateEnable", "AcquisitionFrameRateEnabled"):
        if camera.type_of(enable) == "boolean" and camera.is_available(enable):
            camera.set_boolean(enable, True)
    if "Off" in _choices(camera, "AcquisitionFrameRateAuto"):
        camera.set_string("AcquisitionFrameRateAuto", "Off")
    name = _rate_feature(camera)
    if name is None:
        raise InputError("the camera's frame rate cannot be set", "leave --fps out, or have it triggered")
    _set_float(camera, name, str(fps))


def _rate(camera: Camera) -> float | None:
    name = _rate_feature(camera)
    if name is None:
        return None
    try:
        rate = camera.get_float(name)
    except AravisError as error:
        if error.trouble == "lost":
            raise
        return None
    return rate if math.isfinite(rate) and rate > 0 else None


def _rate_feature(camera: Camera) -> str | None:
    for name in ("AcquisitionFrameRate", "AcquisitionFrameRateAbs"):
        if camera.type_of(name) == "float" and camera.is_available(name):
            return name
    return None
