"""Aravis, the library of GenICam cameras, through ctypes: a device needs its package, no headers, compiler or introspection.

Everything here belongs to one object of Aravis and is used by one thread at a time, as Aravis asks for
(https://aravisproject.github.io/aravis/aravis-stable/thread-safety.html). Its errors become `AravisError`.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from ctypes import byref, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any, Literal

from agp_edge.errors import InputError

LIBRARY = "libaravis-0.8.so.0"
"""Of Debian's and Ubuntu's package libaravis-0.8-0; every 0.8 has what is called here."""

Trouble = Literal["absent", "lost", "taken", "refused"]
FeatureType = Literal["boolean", "command", "enumeration", "float", "integer", "string"]

_TROUBLES: dict[int, Trouble] = {
    2: "lost",
    3: "lost",
    4: "lost",
    5: "lost",
    6: "absent",
    10: "taken",
    17: "taken",
    18: "taken",
}
"""ArvDeviceError -> what it means to us; the others refuse a feature or a value."""


class AravisError(Exception):
    """A call that failed.

    Attributes:
        trouble: `absent`, there is no such camera; `lost`, it does not answer; `taken`, another program controls it;
            `refused`, a feature or a value.
    """

    def __init__(self, message: str, trouble: Trouble) -> None:
        super().__init__(message)
        self.trouble = trouble


@dataclass(frozen=True)
class Device:
    """A camera that answered.

    Attributes:
        id: Aravis' name of it, vendor, model and serial number.
        serial: as the vendor printed it on the camera.
        address: its IP address, or of USB3 Vision what Aravis says.
        physical: its MAC address, or of USB3 Vision its bus.
    """

    id: str
    serial: str
    address: str
    physical: str


class _GError(ctypes.Structure):
    _fields_ = (("domain", ctypes.c_uint32), ("code", c_int), ("message", c_char_p))


class _GSList(ctypes.Structure):
    pass


_GSList._fields_ = (("data", c_void_p), ("next", ctypes.POINTER(_GSList)))

_P = c_void_p
_FALLIBLE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "arv_camera_new": (_P, (c_char_p,)),
    "arv_camera_create_stream": (_P, (_P, _P, _P)),
    "arv_camera_get_payload": (c_uint, (_P,)),
    "arv_camera_is_feature_available": (c_int, (_P, c_char_p)),
    "arv_camera_execute_command": (None, (_P, c_char_p)),
    "arv_camera_set_boolean": (None, (_P, c_char_p, c_int)),
    "arv_camera_set_string": (None, (_P, c_char_p, c_char_p)),
    "arv_camera_get_string": (c_char_p, (_P, c_char_p)),
    "arv_camera_set_integer": (None, (_P, c_char_p, c_int64)),
    "arv_camera_get_integer": (c_int64, (_P, c_char_p)),
    "arv_camera_get_integer_bounds": (None, (_P, c_char_p, _P, _P)),
    "arv_camera_get_integer_increment": (c_int64, (_P, c_char_p)),
    "arv_camera_set_float": (None, (_P, c_char_p, c_double)),
    "arv_camera_get_float": (c_double, (_P, c_char_p)),
    "arv_camera_get_float_bounds": (None, (_P, c_char_p, _P, _P)),
    "arv_camera_dup_available_enumerations_as_strings": (ctypes.POINTER(c_char_p), (_P, c_char_p, _P)),
}
"""Function of Aravis that takes a `GError **` last -> what it gives, and what it takes before that."""

_INFALLIBLE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "arv_update_device_list": (None, ()),
    "arv_get_n_devices": (c_uint, ()),
    "arv_get_device_id": (c_char_p, (c_uint,)),
    "arv_get_device_serial_nbr": (c_char_p, (c_uint,)),
    "arv_get_device_address": (c_char_p, (c_uint,)),
    "arv_get_device_physical_id": (c_char_p, (c_uint,)),
    "arv_device_error_quark": (ctypes.c_uint32, ()),
    "arv_gc_error_quark": (ctypes.c_uint32, ()),
    "arv_device_get_feature": (_P, (_P, c_char_p)),
    "arv_camera_get_device": (_P, (_P,)),
    "arv_camera_is_gv_device": (c_int, (_P,)),
    "arv_camera_gv_set_stream_options": (None, (_P, c_int)),
    "arv_gv_device_is_controller": (c_int, (_P,)),
    "arv_gc_category_get_features": (ctypes.POINTER(_GSList), (_P,)),
    "arv_stream_push_buffer": (None, (_P, _P)),
    "arv_stream_try_pop_buffer": (_P, (_P,)),
    "arv_stream_timeout_pop_buffer": (_P, (_P, c_uint64)),
    "arv_buffer_new_allocate": (_P, (c_size_t,)),
    "arv_buffer_get_status": (c_int, (_P,)),
    "arv_buffer_get_payload_type": (c_int, (_P,)),
    "arv_buffer_get_data": (_P, (_P, _P)),
    "arv_buffer_get_frame_id": (c_uint64, (_P,)),
    "arv_buffer_get_timestamp": (c_uint64, (_P,)),
    "arv_buffer_get_system_timestamp": (c_uint64, (_P,)),
    "arv_buffer_get_image_width": (c_int, (_P,)),
    "arv_buffer_get_image_height": (c_int, (_P,)),
    **{f"arv_gc_{kind}_get_type": (c_size_t, ()) for kind in
       ("boolean", "category", "command", "enumeration", "float", "integer", "string")},
}  # fmt: skip

_TYPE_ORDER: tuple[FeatureType, ...] = ("enumeration", "boolean", "command", "float", "integer", "string")
"""A node of GenICam may be of several types, an enumeration also an integer and a string: the first that fits."""

_PACKET_SOCKET_DISABLED = 1
_SUCCESS = 0
_IMAGE_PAYLOADS = (1, 5)
"""An image, and an image with chunks of data behind it."""


class _Library:
    def __init__(self) -> None:
        try:
            self._aravis = ctypes.CDLL(LIBRARY)
            self.gobject = ctypes.CDLL("libgobject-2.0.so.0")
            self.glib = ctypes.CDLL("libglib-2.0.so.0")
        except OSError as error:
            raise InputError(
                f"reading GigE Vision and USB3 Vision needs Aravis ({LIBRARY}), which does not load here",
                "install it: sudo apt install libaravis-0.8-0",
            ) from error
        for name, (result, arguments) in _INFALLIBLE.items():
            self._declare(name, result, arguments)
        for name, (result, arguments) in _FALLIBLE.items():
            self._declare(name, result, (*arguments, _P))
        self.gobject.g_object_unref.restype, self.gobject.g_object_unref.argtypes = None, (_P,)
        self.gobject.g_type_check_instance_is_a.restype = c_int
        self.gobject.g_type_check_instance_is_a.argtypes = (_P, c_size_t)
        self.gobject.g_object_set.restype = None
        self.glib.g_error_free.restype, self.glib.g_error_free.argtypes = None, (_P,)
        self.glib.g_free.restype, self.glib.g_free.argtypes = None, (_P,)

    def _declare(self, name: str, result: Any, arguments: tuple[Any, ...]) -> None:
        function = getattr(self._aravis, name)
        function.restype, function.argtypes = result, arguments

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function; of one that can fail, its error is taken and freed.

        Raises:
            AravisError: it failed.
        """
        function = getattr(self._aravis, name)
        if name not in _FALLIBLE:
            return function(*arguments)
        slot = c_void_p()
        result = function(*arguments, byref(slot))
        if slot.value is None:
            return result
        error = _GError.from_address(slot.value)
        message = (error.message or b"").decode(errors="replace")
        # Beside the camera's errors and those of its description there are the system's: no network, no USB device.
        trouble: Trouble = "lost"
        if error.domain == self._aravis.arv_device_error_quark():
            trouble = _TROUBLES.get(error.code, "refused")
        elif error.domain == self._aravis.arv_gc_error_quark():
            trouble = "refused"
        self.glib.g_error_free(slot)
        raise AravisError(message, trouble)

    def optional(self, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
        """A function that only newer versions have, else None."""
        if not hasattr(self._aravis, name):
            return None
        self._declare(name, result, arguments)
        return getattr(self._aravis, name)


@functools.cache
def _library() -> _Library:
    return _Library()


def load() -> None:
    """Load Aravis; whatever needs it does so otherwise.

    Raises:
        InputError: it is not installed.
    """
    _library()


_DISCOVERY = threading.Lock()
"""Aravis has one list of cameras for the whole process, and gives pointers into it."""


def find_devices() -> list[Device]:
    """The cameras that answer a broadcast on every network, and those on USB. Takes a second.

    Raises:
        InputError: Aravis is not installed.
    """
    library = _library()
    with _DISCOVERY:
        library.call("arv_update_device_list")

        def text(name: str, index: int) -> str:
            return (library.call(f"arv_get_device_{name}", index) or b"").decode(errors="replace")

        return [
            Device(text("id", i), text("serial_nbr", i), text("address", i), text("physical_id", i))
            for i in range(library.call("arv_get_n_devices"))
        ]


class Camera:
    """A camera under our control; `close` gives it back.

    Args:
        name: Aravis' id of a camera, an IP address, or the name that a user gave to it.

    Raises:
        AravisError: there is none, or it does not answer.
        InputError: Aravis is not installed.
    """

    def __init__(self, name: str) -> None:
        self._library = _library()
        with _DISCOVERY:
            self._camera: int | None = self._library.call("arv_camera_new", name.encode())
        self._is_gv = bool(self._library.call("arv_camera_is_gv_device", self._camera))

    @property
    def is_controlled(self) -> bool:
        """Whether it obeys us and answers: of GigE Vision as the heartbeat of Aravis finds, of others always."""
        if not self._is_gv:
            return True
        return bool(self._library.call("arv_gv_device_is_controller", self._device))

    @property
    def _device(self) -> Any:
        return self._library.call("arv_camera_get_device", self._camera)

    def close(self) -> None:
        """Give it back, and join Aravis' heartbeat; some seconds where it does not answer. Safe to call twice."""
        if self._camera is not None:
            self._library.gobject.g_object_unref(self._camera)
            self._camera = None

    def type_of(self, feature: str) -> FeatureType | None:
        """What a feature is; None where the camera has none of that name."""
        node = self._node(feature)
        if node is None:
            return None
        return next((kind for kind in _TYPE_ORDER if self._is_a(node, kind)), None)

    def is_available(self, feature: str) -> bool:
        """Whether the camera has a feature that can be used as it is set now."""
        return bool(self._call("arv_camera_is_feature_available", feature.encode()))

    def features(self) -> list[str]:
        """The names of all features that can have a value or be executed."""
        found: dict[str, None] = {}
        waiting, seen = ["Root"], set()
        while waiting:
            category = waiting.pop()
            node = self._node(category)
            if category in seen or node is None:
                continue
            seen.add(category)
            entry = self._library.call("arv_gc_category_get_features", node)
            while entry:
                name = ctypes.string_at(entry.contents.data).decode(errors="replace")
                child = self._node(name)
                if child is not None and self._is_a(child, "category"):
                    waiting.append(name)
                elif child is not None:
                    found[name] = None
                entry = entry.contents.next
        return list(found)

    def choices(self, feature: str) -> list[str]:
        """The values that an enumeration can have now."""
        count = c_uint()
        names = self._call("arv_camera_dup_available_enumerations_as_strings", feature.encode(), byref(count))
        if not names:
            return []
        texts = [(names[i] or b"").decode(errors="replace") for i in range(count.value)]
        # The texts are the camera's.
        self._library.glib.g_free(ctypes.cast(names, c_void_p))
        return texts

    def integer_range(self, feature: str) -> tuple[int, int, int]:
        """Smallest, largest, step."""
        low, high = c_int64(), c_int64()
        self._call("arv_camera_get_integer_bounds", feature.encode(), byref(low), byref(high))
        step = int(self._call("arv_camera_get_integer_increment", feature.encode()))
        return low.value, high.value, max(1, step)

    def float_range(self, feature: str) -> tuple[float, float]:
        """Smallest, largest."""
        low, high = c_double(), c_double()
        self._call("arv_camera_get_float_bounds", feature.encode(), byref(low), byref(high))
        return low.value, high.value

    def get_integer(self, feature: str) -> int:
        """The value of an integer."""
        return int(self._call("arv_camera_get_integer", feature.encode()))

    def get_float(self, feature: str) -> float:
        """The value of a float."""
        return float(self._call("arv_camera_get_float", feature.encode()))

    def get_string(self, feature: str) -> str:
        """The value of a string or an enumeration."""
        return bytes(self._call("arv_camera_get_string", feature.encode()) or b"").decode(errors="replace")

    def set_integer(self, feature: str, value: int) -> None:
        """Set an integer."""
        self._call("arv_camera_set_integer", feature.encode(), value)

    def set_float(self, feature: str, value: float) -> None:
        """Set a float."""
        self._call("arv_camera_set_float", feature.encode(), value)

    def set_boolean(self, feature: str, value: bool) -> None:
        """Set a boolean."""
        self._call("arv_camera_set_boolean", feature.encode(), int(value))

    def set_string(self, feature: str, value: str) -> None:
        """Set a string or an enumeration."""
        self._call("arv_camera_set_string", feature.encode(), value.encode())

    def execute(self, command: str) -> None:
        """Execute a command."""
        self._call("arv_camera_execute_command", command.encode())

    def create_stream(self, buffers: int, *, packet_socket: bool) -> Stream:
        """A stream with that many buffers of the size that the camera's frames have now.

        Args:
            buffers: how many frames may wait.
            packet_socket: where this process may, Aravis reads below the kernel's UDP; not so on loopback.
        """
        if self._is_gv:
            options = 0 if packet_socket else _PACKET_SOCKET_DISABLED
            self._library.call("arv_camera_gv_set_stream_options", self._camera, options)
        payload = int(self._call("arv_camera_get_payload"))
        stream = self._call("arv_camera_create_stream", None, None)
        if self._is_gv:
            # Two frames may lie in the kernel while Aravis' thread waits for its turn; the kernel gives what it may,
            # net.core.rmem_max. Left alone that is 208 KiB, less than one frame.
            size = c_int(min(2 * payload, 2**30))
            self._library.gobject.g_object_set(
                c_void_p(stream), c_char_p(b"socket-buffer-size"), size, c_void_p()
            )
        return Stream(self._library, stream, buffers, payload)

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._library.call(name, self._camera, *arguments)

    def _node(self, feature: str) -> Any:
        return self._library.call("arv_device_get_feature", self._device, feature.encode())

    def _is_a(self, node: int, kind: str) -> bool:
        kind_type = self._library.call(f"arv_gc_{kind}_get_type")
        return bool(self._library.gobject.g_type_check_instance_is_a(node, kind_type))


@dataclass(frozen=True)
class Buffer:
    """A frame in Aravis' memory, until it is pushed back.

    Attributes:
        address: Aravis' object.
        is_whole: every packet came.
    """

    address: int
    is_whole: bool


@dataclass(frozen=True)
class BufferImage:
    """What a whole buffer holds.

    Attributes:
        data: a view of the buffer; not to be used once it is pushed back.
        width: in pixels.
        height: in pixels.
        padding_bytes: behind each row.
        frame_id: the camera's number of the frame.
        device_ns: the camera's time of it; the system's where it has no clock.
        system_ns: wall clock when its first packet came, nanoseconds since the epoch.
    """

    data: memoryview
    width: int
    height: int
    padding_bytes: int
    frame_id: int
    device_ns: int
    system_ns: int


class Stream:
    """The frames of a camera; made by `Camera.create_stream`, closed before its camera."""

    def __init__(self, library: _Library, stream: int, buffers: int, payload: int) -> None:
        self._library = library
        self._stream: int | None = stream
        # From 0.8.23 on; before that Aravis does not tell it.
        self._get_padding = library.optional("arv_buffer_get_image_padding", None, (_P, _P, _P))
        for _ in range(buffers):
            library.call("arv_stream_push_buffer", stream, library.call("arv_buffer_new_allocate", payload))

    def close(self) -> None:
        """Join Aravis' thread and free the buffers; safe to call twice."""
        if self._stream is not None:
            self._library.gobject.g_object_unref(self._stream)
            self._stream = None

    def pop(self, timeout_s: float) -> Buffer | None:
        """The oldest frame that waits, or that comes in time; give it back by `push`."""
        if timeout_s <= 0:
            return self._buffer(self._library.call("arv_stream_try_pop_buffer", self._stream))
        return self._buffer(
            self._library.call("arv_stream_timeout_pop_buffer", self._stream, int(timeout_s * 1e6))
        )

    def push(self, buffer: Buffer) -> None:
        """Give a frame's memory back, to be filled again."""
        self._library.call("arv_stream_push_buffer", self._stream, buffer.address)

    def look(self, buffer: Buffer) -> BufferImage:
        """What a whole buffer holds.

        Raises:
            AravisError: no picture that is not compressed.
        """
        call = functools.partial(self._library.call)
        payload = call("arv_buffer_get_payload_type", buffer.address)
        if payload not in _IMAGE_PAYLOADS:
            raise AravisError(f"a payload of type {payload}", "refused")
        size = c_size_t()
        data = call("arv_buffer_get_data", buffer.address, byref(size))
        padding = c_int()
        if self._get_padding is not None:
            self._get_padding(buffer.address, byref(padding), byref(c_int()))
        return BufferImage(
            data=memoryview((ctypes.c_uint8 * size.value).from_address(data)).cast("B"),
            width=call("arv_buffer_get_image_width", buffer.address),
            height=call("arv_buffer_get_image_height", buffer.address),
            padding_bytes=padding.value,
            frame_id=call("arv_buffer_get_frame_id", buffer.address),
            device_ns=call("arv_buffer_get_timestamp", buffer.address),
            system_ns=call("arv_buffer_get_system_timestamp", buffer.address),
        )

    def _buffer(self, address: int | None) -> Buffer | None:
        if address is None:
            return None
        return Buffer(address, self._library.call("arv_buffer_get_status", address) == _SUCCESS)
