"""GStreamer by ctypes: just enough of its C interface to run a pipeline and take the newest picture of it.

PyGObject has to be compiled on many a device, and pip's OpenCV has no GStreamer; the libraries themselves are there
wherever a pipeline can run. Structures are declared as in GStreamer's headers (gstminiobject.h, gstbuffer.h,
gstmemory.h, gstmessage.h, video-info.h, gstvideometa.h); they do not change within 1.x, which promises its ABI.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

from agp_edge.errors import InputError

NO_TIME = 2**64 - 1
"""GST_CLOCK_TIME_NONE."""

NULL, READY, PLAYING = 1, 2, 4
"""States of an element."""

FAILED = 0
"""What a change of state returns when it fails."""

EOS, ERROR = 1, 2
"""Types of messages."""

READ = 1
"""How a buffer is mapped."""

TIME = 3
"""The format of segments that count nanoseconds."""

FULL_RANGE = 1
"""GST_VIDEO_COLOR_RANGE_0_255."""

MATRICES = {2: "fcc", 3: "bt709", 4: "bt601", 5: "smpte240m", 6: "bt2020"}
"""GstVideoColorMatrix -> what it is called here."""

_PLANES = 4
_READABLE, _WRITABLE = 1, 2


class GError(Structure):
    """What went wrong, from GLib."""

    _fields_ = (("domain", ctypes.c_uint32), ("code", c_int), ("message", c_char_p))


class GValue(Structure):
    """A value of any type, from GObject."""

    _fields_ = (("type", c_size_t), ("data", c_uint64 * 2))


class GParamSpec(Structure):
    """The head of what describes a property, from GObject."""

    _fields_ = (
        ("g_class", c_void_p),
        ("name", c_char_p),
        ("flags", c_uint),
        ("value_type", c_size_t),
        ("owner_type", c_size_t),
    )


class GstMiniObject(Structure):
    """What buffers, caps, samples and messages begin with."""

    _fields_ = (
        ("type", c_size_t),
        ("refcount", c_int),
        ("lockstate", c_int),
        ("flags", c_uint),
        ("copy", c_void_p),
        ("dispose", c_void_p),
        ("free", c_void_p),
        ("priv_uint", c_uint),
        ("priv_pointer", c_void_p),
    )


class GstBuffer(Structure):
    """The public part of a buffer; times in nanoseconds."""

    _fields_ = (
        ("mini_object", GstMiniObject),
        ("pool", c_void_p),
        ("pts", c_uint64),
        ("dts", c_uint64),
        ("duration", c_uint64),
        ("offset", c_uint64),
        ("offset_end", c_uint64),
    )


class GstMessage(Structure):
    """The head of a message."""

    _fields_ = (("mini_object", GstMiniObject), ("type", c_uint))


class GstMapInfo(Structure):
    """A buffer's bytes while it is mapped."""

    _fields_ = (
        ("memory", c_void_p),
        ("flags", c_int),
        ("data", c_void_p),
        ("size", c_size_t),
        ("maxsize", c_size_t),
        ("user_data", c_void_p * 4),
        ("reserved", c_void_p * 4),
    )


class GstVideoFormatInfo(Structure):
    """The head of what describes a pixel format."""

    _fields_ = (("format", c_int), ("name", c_char_p))


class GstVideoColorimetry(Structure):
    """What a picture's numbers mean as colours."""

    _fields_ = (("range", c_int), ("matrix", c_int), ("transfer", c_int), ("primaries", c_int))


class GstVideoInfo(Structure):
    """What caps say of a picture, and how it lies in a buffer that says nothing else."""

    _fields_ = (
        ("finfo", POINTER(GstVideoFormatInfo)),
        ("interlace_mode", c_int),
        ("flags", c_int),
        ("width", c_int),
        ("height", c_int),
        ("size", c_size_t),
        ("views", c_int),
        ("chroma_site", c_int),
        ("colorimetry", GstVideoColorimetry),
        ("par_n", c_int),
        ("par_d", c_int),
        ("fps_n", c_int),
        ("fps_d", c_int),
        ("offset", c_size_t * _PLANES),
        ("stride", c_int * _PLANES),
    )


class GstVideoMeta(Structure):
    """How a picture lies in the buffer that carries this."""

    _fields_ = (
        ("meta_flags", c_int),
        ("meta_info", c_void_p),
        ("buffer", c_void_p),
        ("flags", c_int),
        ("format", c_int),
        ("id", c_int),
        ("width", c_uint),
        ("height", c_uint),
        ("n_planes", c_uint),
        ("offset", c_size_t * _PLANES),
        ("stride", c_int * _PLANES),
    )


_LIBRARIES = {
    "gst": ("libgstreamer-1.0.so.0", "libgstreamer1.0-0"),
    "app": ("libgstapp-1.0.so.0", "libgstreamer-plugins-base1.0-0"),
    "video": ("libgstvideo-1.0.so.0", "libgstreamer-plugins-base1.0-0"),
    "gobject": ("libgobject-2.0.so.0", "libglib2.0-0"),
    "glib": ("libglib-2.0.so.0", "libglib2.0-0"),
}
"""Library -> its file and the Debian package that brings it."""

_FUNCTIONS: dict[str, dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "gst": {
        "gst_init_check": (c_int, (c_void_p, c_void_p, c_void_p)),
        "gst_debug_set_default_threshold": (None, (c_int,)),
        "gst_parse_launch": (c_void_p, (c_char_p, c_void_p)),
        "gst_object_ref_sink": (c_void_p, (c_void_p,)),
        "gst_object_unref": (None, (c_void_p,)),
        "gst_mini_object_ref": (c_void_p, (c_void_p,)),
        "gst_mini_object_unref": (None, (c_void_p,)),
        "gst_element_factory_find": (c_void_p, (c_char_p,)),
        "gst_element_factory_make": (c_void_p, (c_char_p, c_char_p)),
        "gst_element_set_state": (c_int, (c_void_p, c_int)),
        "gst_element_get_bus": (c_void_p, (c_void_p,)),
        "gst_element_get_base_time": (c_uint64, (c_void_p,)),
        "gst_bin_get_by_name": (c_void_p, (c_void_p, c_char_p)),
        "gst_element_get_static_pad": (c_void_p, (c_void_p, c_char_p)),
        "gst_pad_get_current_caps": (c_void_p, (c_void_p,)),
        "gst_caps_get_structure": (c_void_p, (c_void_p, c_uint)),
        "gst_structure_get_string": (c_char_p, (c_void_p, c_char_p)),
        "gst_system_clock_obtain": (c_void_p, ()),
        "gst_pipeline_use_clock": (None, (c_void_p, c_void_p)),
        "gst_bus_pop": (c_void_p, (c_void_p,)),
        "gst_message_parse_error": (None, (c_void_p, c_void_p, c_void_p)),
        "gst_sample_get_buffer": (c_void_p, (c_void_p,)),
        "gst_sample_get_caps": (c_void_p, (c_void_p,)),
        "gst_sample_get_segment": (c_void_p, (c_void_p,)),
        "gst_segment_to_running_time": (c_uint64, (c_void_p, c_int, c_uint64)),
        "gst_buffer_map": (c_int, (c_void_p, c_void_p, c_int)),
        "gst_buffer_unmap": (None, (c_void_p, c_void_p)),
        "gst_value_deserialize": (c_int, (c_void_p, c_char_p)),
    },
    "app": {
        "gst_app_sink_try_pull_sample": (c_void_p, (c_void_p, c_uint64)),
    },
    "video": {
        "gst_video_info_new": (POINTER(GstVideoInfo), ()),
        "gst_video_info_free": (None, (c_void_p,)),
        "gst_video_info_from_caps": (c_int, (c_void_p, c_void_p)),
        "gst_video_colorimetry_from_string": (c_int, (c_void_p, c_char_p)),
        "gst_buffer_get_video_meta": (POINTER(GstVideoMeta), (c_void_p,)),
    },
    "gobject": {
        "g_object_class_find_property": (POINTER(GParamSpec), (c_void_p, c_char_p)),
        "g_object_class_list_properties": (POINTER(POINTER(GParamSpec)), (c_void_p, c_void_p)),
        "g_object_set_property": (None, (c_void_p, c_char_p, c_void_p)),
        "g_object_get_property": (None, (c_void_p, c_char_p, c_void_p)),
        "g_param_value_validate": (c_int, (c_void_p, c_void_p)),
        "g_value_init": (c_void_p, (c_void_p, c_size_t)),
        "g_value_set_string": (None, (c_void_p, c_char_p)),
        "g_value_get_string": (c_char_p, (c_void_p,)),
        "g_value_unset": (None, (c_void_p,)),
        "g_type_from_name": (c_size_t, (c_char_p,)),
    },
    "glib": {
        "g_free": (None, (c_void_p,)),
        "g_error_free": (None, (c_void_p,)),
    },
}
"""Library -> function -> what it returns and takes."""

ELEMENTS = {
    "videotestsrc": "gstreamer1.0-plugins-base",
    "appsink": "gstreamer1.0-plugins-base",
    "rtspsrc": "gstreamer1.0-plugins-good",
    "rtph264depay": "gstreamer1.0-plugins-good",
    "rtph265depay": "gstreamer1.0-plugins-good",
    "h264parse": "gstreamer1.0-plugins-bad",
    "h265parse": "gstreamer1.0-plugins-bad",
    "avdec_h264": "gstreamer1.0-libav",
    "avdec_h265": "gstreamer1.0-libav",
    "nvarguscamerasrc": "nvidia-l4t-gstreamer",
    "nvvidconv": "nvidia-l4t-gstreamer",
}
"""Element -> the Debian package, or JetPack's, that brings it."""


class Gst:
    """The libraries, with each function of theirs that is used as an attribute."""

    def __init__(self) -> None:
        for name, (file, package) in _LIBRARIES.items():
            try:
                library = ctypes.CDLL(file)
                functions = {f: getattr(library, f) for f in _FUNCTIONS[name]}
            except (OSError, AttributeError) as error:
                raise InputError(
                    f"GStreamer is not here, or too old: {error}",
                    f"install it: sudo apt install {package} gstreamer1.0-plugins-base gstreamer1.0-plugins-good",
                ) from error
            for function, (result, arguments) in _FUNCTIONS[name].items():
                functions[function].restype, functions[function].argtypes = result, arguments
                setattr(self, function, functions[function])
        failure = POINTER(GError)()
        if not self.gst_init_check(None, None, byref(failure)):
            raise InputError(
                f"GStreamer does not start: {self.take_error(failure)}", "try: gst-inspect-1.0 --version"
            )
        if "GST_DEBUG" not in os.environ:
            # It prints to stderr on its own; what matters of it comes back as an error of ours.
            self.gst_debug_set_default_threshold(0)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def take_error(self, failure: Any) -> str:
        """The message of a `POINTER(GError)`, which is freed; empty for NULL."""
        if not failure:
            return ""
        text = (failure.contents.message or b"").decode(errors="replace")
        self.g_error_free(failure)
        return text

    def has_element(self, name: str) -> bool:
        """Whether an element of that name can be made; nothing is opened."""
        factory = self.gst_element_factory_find(name.encode())
        if factory:
            self.gst_object_unref(factory)
        return bool(factory)

    def reaches_ready(self, name: str) -> bool:
        """Whether an element can be made and opens what it needs, as a decoder its device.

        A driver may crash or hang in this: ask in a process that may end.
        """
        element = self.gst_element_factory_make(name.encode(), None)
        if not element:
            return False
        self.gst_object_ref_sink(element)
        ready: bool = self.gst_element_set_state(element, READY) != FAILED
        self.gst_element_set_state(element, NULL)
        self.gst_object_unref(element)
        return ready

    def set_property(self, element: int, name: str, text: str) -> None:
        """Set an object's property from a text; what is in it is a value and never becomes part of a pipeline.

        Args:
            element: the object.
            name: its property.
            text: an enumeration's name or number, a number, `true`, or a string as it is.

        Raises:
            InputError: there is no such property to set, it does not take that value, or it did not keep it. The value
                is not told: it may be a password.
        """
        g_class = c_void_p.from_address(element)
        spec = self.g_object_class_find_property(g_class, name.encode(errors="replace"))
        if not spec or not spec.contents.flags & _WRITABLE:
            raise InputError(f"it has no {name!r} to set", f"it has: {', '.join(self.properties(element))}")
        wrong = InputError(f"{name} cannot be so", "see what it takes: gst-inspect-1.0 ELEMENT")
        kind, wanted = spec.contents.value_type, os.fsencode(text)
        is_string = kind == self.g_type_from_name(b"gchararray")
        value = GValue()
        self.g_value_init(byref(value), kind)
        try:
            if is_string:
                self.g_value_set_string(byref(value), wanted)
            elif not self.gst_value_deserialize(byref(value), wanted):
                raise wrong
            # True where it had to be changed to be valid: GObject would say so on stderr and set something else.
            if self.g_param_value_validate(spec, byref(value)):
                raise wrong
            self.g_object_set_property(element, spec.contents.name, byref(value))
            # Elements of NVIDIA print that a range is invalid, and keep the one before.
            if is_string and spec.contents.flags & _READABLE and self._string(element, spec) != wanted:
                raise wrong
        finally:
            self.g_value_unset(byref(value))

    def _string(self, element: int, spec: Any) -> bytes:
        value = GValue()
        self.g_value_init(byref(value), spec.contents.value_type)
        self.g_object_get_property(element, spec.contents.name, byref(value))
        text: bytes = self.g_value_get_string(byref(value)) or b""
        self.g_value_unset(byref(value))
        return text

    def properties(self, element: int) -> list[str]:
        """Names of an object's properties that can be set, in order."""
        count = c_uint()
        specs = self.g_object_class_list_properties(c_void_p.from_address(element), byref(count))
        found = sorted(
            specs[i].contents.name.decode() for i in range(count.value) if specs[i].contents.flags & _WRITABLE
        )
        self.g_free(specs)
        return [name for name in found if name not in ("name", "parent")]


@functools.cache
def load_gst() -> Gst:
    """GStreamer, loaded and started once in a process.

    Raises:
        InputError: it is not here; with the command that installs it.
    """
    return Gst()


def missing_element(gst: Gst, *names: str) -> InputError | None:
    """The error of the first of these elements that is not here, with the package that brings it."""
    for name in names:
        if not gst.has_element(name):
            package = ELEMENTS.get(name)
            return InputError(
                f"GStreamer has no element {name} here",
                f"install it: sudo apt install {package}" if package else f"see: gst-inspect-1.0 {name}",
            )
    return None


@dataclass(frozen=True)
class Layout:
    """What caps say of a picture.

    Attributes:
        pixel_format: GStreamer's name: `NV12`.
        width, height: in pixels.
        fps: frames a second; None where the caps do not say.
        full_range: luma from 0 to 255 instead of 16 to 235.
        matrix: how luma and chroma were made of colours: `bt601` or another of `MATRICES`.
        offsets, strides: of each plane, in bytes.
    """

    pixel_format: str
    width: int
    height: int
    fps: float | None
    full_range: bool
    matrix: str
    offsets: tuple[int, ...]
    strides: tuple[int, ...]


def layout_of(gst: Gst, caps: int, colours: int | None = None) -> Layout | None:
    """Read caps; None where they are of no raw video.

    What is not said of colours is BT.601 in limited range, as it is for OpenCV's FFmpeg. GStreamer guesses by the
    picture's height, so what it fills in for itself does not count.

    Args:
        gst: the libraries.
        caps: of the picture.
        colours: caps that say what the colours are, where the picture's own may hold a guess.
    """
    info = gst.gst_video_info_new()
    try:
        if not caps or not gst.gst_video_info_from_caps(info, caps):
            return None
        found, said = info.contents, GstVideoColorimetry()
        text = gst.gst_structure_get_string(gst.gst_caps_get_structure(colours or caps, 0), b"colorimetry")
        if text is not None:
            gst.gst_video_colorimetry_from_string(byref(said), text)
        rate = found.fps_n / found.fps_d if found.fps_d else 0.0
        return Layout(
            found.finfo.contents.name.decode(),
            found.width,
            found.height,
            rate if 0 < rate <= 1000 else None,
            # A range is never a guess, and a parser says it only where the stream names a matrix too.
            FULL_RANGE in (said.range, found.colorimetry.range),
            MATRICES.get(said.matrix, "bt601"),
            tuple(found.offset),
            tuple(found.stride),
        )
    finally:
        gst.gst_video_info_free(info)
