"""The kernel's video interface as Python sees it: structures, numbers of the calls, and the call itself.

Written from the kernel's documentation (https://docs.kernel.org/userspace-api/media/v4l/) and laid out as on every
64-bit Linux; `tests/agp_edge/sources/test_v4l2_ioctl.py` holds sizes, offsets and numbers against linux/videodev2.h.
Constants and fields have the kernel's own names, without `V4L2_`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
from ctypes import c_char, c_int32, c_int64, c_long, c_uint8, c_uint16, c_uint32, c_uint64, c_ulong
from typing import Any

CAP_VIDEO_CAPTURE = 0x00000001
CAP_VIDEO_CAPTURE_MPLANE = 0x00001000
CAP_STREAMING = 0x04000000
CAP_DEVICE_CAPS = 0x80000000

BUF_TYPE_VIDEO_CAPTURE = 1
BUF_TYPE_VIDEO_CAPTURE_MPLANE = 9
MEMORY_MMAP = 1

FIELD_ANY = 0
FIELD_NONE = 1
FIELD_INTERLACED = 4
FIELD_INTERLACED_TB = 8
FIELD_INTERLACED_BT = 9

BUF_FLAG_ERROR = 0x00000040
BUF_FLAG_TIMESTAMP_MASK = 0x0000E000
BUF_FLAG_TIMESTAMP_MONOTONIC = 0x00002000

FRMSIZE_TYPE_DISCRETE = 1
FRMIVAL_TYPE_DISCRETE = 1
CAP_TIMEPERFRAME = 0x1000

CTRL_TYPE_INTEGER = 1
CTRL_TYPE_BOOLEAN = 2
CTRL_TYPE_MENU = 3
CTRL_TYPE_BUTTON = 4
CTRL_TYPE_INTEGER64 = 5
CTRL_TYPE_CTRL_CLASS = 6
CTRL_TYPE_STRING = 7
CTRL_TYPE_BITMASK = 8
CTRL_TYPE_INTEGER_MENU = 9

CTRL_FLAG_DISABLED = 0x0001
CTRL_FLAG_GRABBED = 0x0002
CTRL_FLAG_READ_ONLY = 0x0004
CTRL_FLAG_INACTIVE = 0x0010
CTRL_FLAG_WRITE_ONLY = 0x0040
CTRL_FLAG_VOLATILE = 0x0080
CTRL_FLAG_NEXT_CTRL = 0x80000000
CTRL_WHICH_CUR_VAL = 0


class Capability(ctypes.Structure):
    """`v4l2_capability`: what a device is."""

    driver: bytes
    card: bytes
    bus_info: bytes
    version: int
    capabilities: int
    device_caps: int
    _fields_ = [
        ("driver", c_char * 16),
        ("card", c_char * 32),
        ("bus_info", c_char * 32),
        ("version", c_uint32),
        ("capabilities", c_uint32),
        ("device_caps", c_uint32),
        ("reserved", c_uint32 * 3),
    ]


class FormatDescription(ctypes.Structure):
    """`v4l2_fmtdesc`: one pixel format of a device."""

    index: int
    type: int
    flags: int
    description: bytes
    pixelformat: int
    _fields_ = [
        ("index", c_uint32),
        ("type", c_uint32),
        ("flags", c_uint32),
        ("description", c_char * 32),
        ("pixelformat", c_uint32),
        ("mbus_code", c_uint32),
        ("reserved", c_uint32 * 3),
    ]


class SizeRange(ctypes.Structure):
    """`v4l2_frmsize_stepwise`; of a discrete size the values are `min_width` and `max_width`, which lie where its two do."""

    min_width: int
    max_width: int
    step_width: int
    min_height: int
    max_height: int
    step_height: int
    _fields_ = [
        ("min_width", c_uint32),
        ("max_width", c_uint32),
        ("step_width", c_uint32),
        ("min_height", c_uint32),
        ("max_height", c_uint32),
        ("step_height", c_uint32),
    ]


class SizeEntry(ctypes.Structure):
    """`v4l2_frmsizeenum`: one size, or a range of them."""

    index: int
    pixel_format: int
    type: int
    stepwise: SizeRange
    _fields_ = [
        ("index", c_uint32),
        ("pixel_format", c_uint32),
        ("type", c_uint32),
        ("stepwise", SizeRange),
        ("reserved", c_uint32 * 2),
    ]


class Fraction(ctypes.Structure):
    """`v4l2_fract`: seconds as a fraction."""

    numerator: int
    denominator: int
    _fields_ = [("numerator", c_uint32), ("denominator", c_uint32)]


class IntervalRange(ctypes.Structure):
    """`v4l2_frmival_stepwise`; a discrete interval lies where `min` does."""

    min: Fraction
    max: Fraction
    step: Fraction
    _fields_ = [("min", Fraction), ("max", Fraction), ("step", Fraction)]


class IntervalEntry(ctypes.Structure):
    """`v4l2_frmivalenum`: one interval from frame to frame, or a range of them."""

    index: int
    pixel_format: int
    width: int
    height: int
    type: int
    stepwise: IntervalRange
    _fields_ = [
        ("index", c_uint32),
        ("pixel_format", c_uint32),
        ("width", c_uint32),
        ("height", c_uint32),
        ("type", c_uint32),
        ("stepwise", IntervalRange),
        ("reserved", c_uint32 * 2),
    ]


class PixFormat(ctypes.Structure):
    """`v4l2_pix_format`: a picture in one piece of memory."""

    width: int
    height: int
    pixelformat: int
    field: int
    bytesperline: int
    sizeimage: int
    _fields_ = [
        ("width", c_uint32),
        ("height", c_uint32),
        ("pixelformat", c_uint32),
        ("field", c_uint32),
        ("bytesperline", c_uint32),
        ("sizeimage", c_uint32),
        ("colorspace", c_uint32),
        ("priv", c_uint32),
        ("flags", c_uint32),
        ("ycbcr_enc", c_uint32),
        ("quantization", c_uint32),
        ("xfer_func", c_uint32),
    ]


class PlanePixFormat(ctypes.Structure):
    """`v4l2_plane_pix_format`: one piece of memory of several."""

    sizeimage: int
    bytesperline: int
    _pack_ = 1
    _fields_ = [("sizeimage", c_uint32), ("bytesperline", c_uint32), ("reserved", c_uint16 * 6)]


class PixFormatMplane(ctypes.Structure):
    """`v4l2_pix_format_mplane`: a picture in several pieces of memory."""

    width: int
    height: int
    pixelformat: int
    field: int
    plane_fmt: ctypes.Array[PlanePixFormat]
    num_planes: int
    _pack_ = 1
    _fields_ = [
        ("width", c_uint32),
        ("height", c_uint32),
        ("pixelformat", c_uint32),
        ("field", c_uint32),
        ("colorspace", c_uint32),
        ("plane_fmt", PlanePixFormat * 8),
        ("num_planes", c_uint8),
        ("flags", c_uint8),
        ("ycbcr_enc", c_uint8),
        ("quantization", c_uint8),
        ("xfer_func", c_uint8),
        ("reserved", c_uint8 * 7),
    ]


class FormatUnion(ctypes.Union):
    """What kind of format it is; one of those left out holds pointers, so it is aligned to 8 bytes."""

    pix: PixFormat
    pix_mp: PixFormatMplane
    _fields_ = [
        ("pix", PixFormat),
        ("pix_mp", PixFormatMplane),
        ("raw_data", c_uint8 * 200),
        ("aligned", c_uint64),
    ]


class Format(ctypes.Structure):
    """`v4l2_format`."""

    type: int
    fmt: FormatUnion
    _fields_ = [("type", c_uint32), ("fmt", FormatUnion)]


class CaptureParm(ctypes.Structure):
    """`v4l2_captureparm`."""

    capability: int
    timeperframe: Fraction
    _fields_ = [
        ("capability", c_uint32),
        ("capturemode", c_uint32),
        ("timeperframe", Fraction),
        ("extendedmode", c_uint32),
        ("readbuffers", c_uint32),
        ("reserved", c_uint32 * 4),
    ]


class ParmUnion(ctypes.Union):
    """Capture or output."""

    capture: CaptureParm
    _fields_ = [("capture", CaptureParm), ("raw_data", c_uint8 * 200)]


class StreamParm(ctypes.Structure):
    """`v4l2_streamparm`: the rate of a stream."""

    type: int
    parm: ParmUnion
    _fields_ = [("type", c_uint32), ("parm", ParmUnion)]


class RequestBuffers(ctypes.Structure):
    """`v4l2_requestbuffers`."""

    count: int
    type: int
    memory: int
    _fields_ = [
        ("count", c_uint32),
        ("type", c_uint32),
        ("memory", c_uint32),
        ("capabilities", c_uint32),
        ("flags", c_uint8),
        ("reserved", c_uint8 * 3),
    ]


class PlaneUnion(ctypes.Union):
    """Where it lies."""

    mem_offset: int
    _fields_ = [("mem_offset", c_uint32), ("userptr", c_ulong), ("fd", c_int32)]


class Plane(ctypes.Structure):
    """`v4l2_plane`: a piece of memory in a buffer."""

    bytesused: int
    length: int
    m: PlaneUnion
    data_offset: int
    _fields_ = [
        ("bytesused", c_uint32),
        ("length", c_uint32),
        ("m", PlaneUnion),
        ("data_offset", c_uint32),
        ("reserved", c_uint32 * 11),
    ]


class Timeval(ctypes.Structure):
    """`timeval` of a 64-bit Linux."""

    tv_sec: int
    tv_usec: int
    _fields_ = [("tv_sec", c_long), ("tv_usec", c_long)]


class Timecode(ctypes.Structure):
    """`v4l2_timecode`."""

    _fields_ = [
        ("type", c_uint32),
        ("flags", c_uint32),
        ("frames", c_uint8),
        ("seconds", c_uint8),
        ("minutes", c_uint8),
        ("hours", c_uint8),
        ("userbits", c_uint8 * 4),
    ]


class BufferUnion(ctypes.Union):
    """Where it lies, or its planes."""

    offset: int
    planes: Any
    _fields_ = [
        ("offset", c_uint32),
        ("userptr", c_ulong),
        ("planes", ctypes.POINTER(Plane)),
        ("fd", c_int32),
    ]


class Buffer(ctypes.Structure):
    """`v4l2_buffer`."""

    index: int
    type: int
    bytesused: int
    flags: int
    field: int
    timestamp: Timeval
    sequence: int
    memory: int
    m: BufferUnion
    length: int
    _fields_ = [
        ("index", c_uint32),
        ("type", c_uint32),
        ("bytesused", c_uint32),
        ("flags", c_uint32),
        ("field", c_uint32),
        ("timestamp", Timeval),
        ("timecode", Timecode),
        ("sequence", c_uint32),
        ("memory", c_uint32),
        ("m", BufferUnion),
        ("length", c_uint32),
        ("reserved2", c_uint32),
        ("request_fd", c_int32),
    ]


class QueryExtCtrl(ctypes.Structure):
    """`v4l2_query_ext_ctrl`: a control, its type and its range."""

    id: int
    type: int
    name: bytes
    minimum: int
    maximum: int
    step: int
    default_value: int
    flags: int
    elems: int
    nr_of_dims: int
    _fields_ = [
        ("id", c_uint32),
        ("type", c_uint32),
        ("name", c_char * 32),
        ("minimum", c_int64),
        ("maximum", c_int64),
        ("step", c_uint64),
        ("default_value", c_int64),
        ("flags", c_uint32),
        ("elem_size", c_uint32),
        ("elems", c_uint32),
        ("nr_of_dims", c_uint32),
        ("dims", c_uint32 * 4),
        ("reserved", c_uint32 * 32),
    ]


class MenuUnion(ctypes.Union):
    """Its name, or its value."""

    name: bytes
    value: int
    _pack_ = 1
    _fields_ = [("name", c_char * 32), ("value", c_int64)]


class QueryMenu(ctypes.Structure):
    """`v4l2_querymenu`: an entry of a menu."""

    id: int
    index: int
    item: MenuUnion
    _pack_ = 1
    _fields_ = [("id", c_uint32), ("index", c_uint32), ("item", MenuUnion), ("reserved", c_uint32)]


class ControlUnion(ctypes.Union):
    """By the type of the control."""

    value: int
    value64: int
    string: int | None
    _pack_ = 1
    _fields_ = [("value", c_int32), ("value64", c_int64), ("string", ctypes.c_void_p)]


class ExtControl(ctypes.Structure):
    """`v4l2_ext_control`: a control and a value for it."""

    id: int
    size: int
    u: ControlUnion
    _pack_ = 1
    _fields_ = [("id", c_uint32), ("size", c_uint32), ("reserved2", c_uint32), ("u", ControlUnion)]


class ExtControls(ctypes.Structure):
    """`v4l2_ext_controls`: several of them in one call."""

    which: int
    count: int
    error_idx: int
    controls: Any
    _fields_ = [
        ("which", c_uint32),
        ("count", c_uint32),
        ("error_idx", c_uint32),
        ("request_fd", c_int32),
        ("reserved", c_uint32),
        ("controls", ctypes.POINTER(ExtControl)),
    ]


_WRITE, _READ = 1, 2


def _number(direction: int, number: int, structure: type[Any]) -> int:
    """As the macros of asm-generic/ioctl.h make it, which x86, ARM and RISC-V share."""
    return direction << 30 | ctypes.sizeof(structure) << 16 | ord("V") << 8 | number


QUERYCAP = _number(_READ, 0, Capability)
ENUM_FMT = _number(_READ | _WRITE, 2, FormatDescription)
G_FMT = _number(_READ | _WRITE, 4, Format)
S_FMT = _number(_READ | _WRITE, 5, Format)
REQBUFS = _number(_READ | _WRITE, 8, RequestBuffers)
QUERYBUF = _number(_READ | _WRITE, 9, Buffer)
QBUF = _number(_READ | _WRITE, 15, Buffer)
DQBUF = _number(_READ | _WRITE, 17, Buffer)
STREAMON = _number(_WRITE, 18, ctypes.c_int)
STREAMOFF = _number(_WRITE, 19, ctypes.c_int)
G_PARM = _number(_READ | _WRITE, 21, StreamParm)
S_PARM = _number(_READ | _WRITE, 22, StreamParm)
QUERYMENU = _number(_READ | _WRITE, 37, QueryMenu)
G_EXT_CTRLS = _number(_READ | _WRITE, 71, ExtControls)
S_EXT_CTRLS = _number(_READ | _WRITE, 72, ExtControls)
ENUM_FRAMESIZES = _number(_READ | _WRITE, 74, SizeEntry)
ENUM_FRAMEINTERVALS = _number(_READ | _WRITE, 75, IntervalEntry)
QUERY_EXT_CTRL = _number(_READ | _WRITE, 103, QueryExtCtrl)


def call(fd: int, request: int, argument: Any) -> None:
    """Make one call of the driver; what it answers is in `argument`.

    Raises:
        OSError: the driver refused, `errno` says why.
    """
    # A signal that interrupts a call that waits makes Python try again on its own (PEP 475), but not for ioctl.
    while True:
        try:
            fcntl.ioctl(fd, request, argument)
            return
        except InterruptedError:
            continue


def ask(fd: int, request: int, argument: Any) -> bool:
    """As `call`; False where the driver has no such thing: an index behind the last, or a call that it does not know."""
    try:
        call(fd, request, argument)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):
            return False
        raise
    return True


def fourcc(code: int) -> str:
    """A pixel format as its four characters, without the spaces at their end; `-BE` where bit 31 says so."""
    text = (code & 0x7FFFFFFF).to_bytes(4, "little").decode("latin-1").rstrip(" \0")
    return text + ("-BE" if code & 0x80000000 else "")


def fourcc_code(text: str) -> int:
    """The number of what `fourcc` gives; what is no such text gives one that no camera has, 0."""
    big = text.endswith("-BE")
    raw = text.removesuffix("-BE").encode("latin-1", "replace")
    if not 0 < len(raw) <= 4:
        return 0
    return int.from_bytes(raw.ljust(4), "little") | (0x80000000 if big else 0)
