"""V4L2 devices: which there are, opening one that gives pictures, and what it says of itself."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from agp_edge.errors import AgpEdgeError, InputError, SourceLostError
from agp_edge.sources import v4l2_ioctl as v4l2
from agp_edge.sources.v4l2_controls import current_values, list_controls
from agp_edge.sources.v4l2_modes import READABLE, Mode, list_formats, list_rates, list_sizes

_GONE = frozenset(
    {errno.ENODEV, errno.ENXIO, errno.EIO, errno.EPIPE, errno.ESHUTDOWN, errno.EPROTO, errno.ETIMEDOUT}
)
"""What a driver answers when the camera behind it is unplugged, or no longer answers."""


def translate(error: OSError, name: str, work: str) -> AgpEdgeError:
    """A driver's refusal as an error of ours.

    Args:
        error: what it answered.
        name: the device.
        work: what was asked of it, as in `set its size`.
    """
    if error.errno in _GONE:
        return SourceLostError(
            f"camera {name} is gone, or no longer answers ({os.strerror(error.errno or 0)})",
            "see that it is plugged in and has power, and what the kernel says: sudo dmesg",
        )
    if error.errno == errno.EBUSY:
        return InputError(
            f"camera {name} is in use by another program",
            f"end that; see which: fuser -v {name}",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return InputError(
            f"this user may not open camera {name}",
            'take it into the group `video`, then log in again: sudo usermod -aG video "$USER"',
        )
    if error.errno == errno.ENOSPC:
        return InputError(
            f"the USB bus has too little room for camera {name} at this size and rate",
            "take a smaller size, a lower rate or --pixel-format MJPG, or plug it into another controller",
        )
    return InputError(
        f"camera {name} refuses to {work}: {os.strerror(error.errno or 0)}",
        f"see what it offers: v4l2-ctl -d {name} --all",
    )


def open_device(path: Path) -> tuple[int, int]:
    """Open a device that gives pictures.

    Returns:
        (file descriptor, which never blocks; the type of its buffers).

    Raises:
        InputError: it is not there, may not be opened, or gives no pictures.
        SourceLostError: it is there, and its camera does not answer.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputError(f"there is no camera at {path}", _cameras_here()) from None
    except OSError as error:
        raise translate(error, str(path), "open") from error
    try:
        return fd, _buffer_type(fd, path)
    except BaseException:
        os.close(fd)
        raise


def list_devices() -> list[Path]:
    """The devices of /dev, in order of their numbers; some of them give no pictures."""
    return sorted(Path("/dev").glob("video[0-9]*"), key=lambda path: (len(path.name), path.name))


def describe_device(path: Path) -> dict[str, Any]:
    """What a camera is and offers, as JSON; it may be in use meanwhile.

    Returns:
        `card`, `driver`, `bus`; `formats`: by pixel format whether it is `readable` here and its `sizes`, each with its
        `rates`; `controls`: by name what each takes and its `value`, None where it cannot be read.

    Raises:
        InputError: it is not there, may not be opened, or gives no pictures.
        SourceLostError: it is there, and its camera does not answer.
    """
    fd, buffer_type = open_device(path)
    try:
        capability = v4l2.Capability()
        v4l2.call(fd, v4l2.QUERYCAP, capability)
        values = current_values(fd)
        return {
            "card": _text(capability.card),
            "driver": _text(capability.driver),
            "bus": _text(capability.bus_info),
            "formats": {
                code: {"readable": code in READABLE, "sizes": _describe_sizes(fd, code)}
                for code in list_formats(fd, buffer_type)
            },
            "controls": {
                control.name: {"takes": control.range(), "value": _json_value(values.get(control.name))}
                for control in list_controls(fd)
                if control.settable
            },
        }
    except OSError as error:
        raise translate(error, str(path), "describe itself") from error
    finally:
        os.close(fd)


def _describe_sizes(fd: int, code: str) -> dict[str, list[str]]:
    found = {}
    for size in list_sizes(fd, code):
        rates = list_rates(fd, Mode(code, (size.widths[1], size.heights[1])))
        found[str(size)] = list(map(str, rates))
    return found


def _json_value(value: int | bytes | None) -> int | str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _buffer_type(fd: int, path: Path) -> int:
    capability = v4l2.Capability()
    try:
        v4l2.call(fd, v4l2.QUERYCAP, capability)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise InputError(f"{path} is no camera", _cameras_here()) from None
        raise translate(error, str(path), "say what it is") from error
    # What this one node can; `capabilities` is of all nodes of the camera.
    able = capability.capabilities
    if able & v4l2.CAP_DEVICE_CAPS:
        able = capability.device_caps
    for flag, buffer_type in (
        (v4l2.CAP_VIDEO_CAPTURE, v4l2.BUF_TYPE_VIDEO_CAPTURE),
        (v4l2.CAP_VIDEO_CAPTURE_MPLANE, v4l2.BUF_TYPE_VIDEO_CAPTURE_MPLANE),
    ):
        if able & flag and able & v4l2.CAP_STREAMING:
            return buffer_type
    # A USB camera has two nodes, the second of which gives metadata.
    raise InputError(f"{path} ({_text(capability.card)}) gives no pictures", _cameras_here())


def _cameras_here() -> str:
    """The hint of an error: which devices give pictures."""
    found = []
    for path in list_devices():
        try:
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                found.append(f"{path} (this user may not open it)")
            continue
        try:
            capability = v4l2.Capability()
            if v4l2.ask(fd, v4l2.QUERYCAP, capability) and capability.device_caps & (
                v4l2.CAP_VIDEO_CAPTURE | v4l2.CAP_VIDEO_CAPTURE_MPLANE
            ):
                found.append(f"{path} ({_text(capability.card)})")
        except OSError:
            continue
        finally:
            os.close(fd)
    if found:
        return f"cameras here: {', '.join(found)}"
    return "plug one in, or take another source: --source rtsp://ADDRESS, a video file or a folder of images"


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
