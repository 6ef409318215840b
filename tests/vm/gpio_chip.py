"""A chip of eight GPIO lines that is a thread: Silicon Labs' CP2112, which the kernel's own driver takes for one on USB.

Debian's kernel has neither gpio-sim nor gpio-mockup. It has `hid-cp2112`, and `uhid`, through which a program is a HID
device: https://docs.kernel.org/hid/uhid.html. What the reports mean is told by Silicon Labs' AN495. The driver finds edges
by asking for the levels every 40 ms or so.
"""

from __future__ import annotations

import os
import select
import struct
import threading

_DESTROY, _GET, _GET_REPLY, _CREATE, _SET, _SET_REPLY = 1, 9, 10, 11, 13, 14
_CONFIG, _LEVELS, _SET_LEVELS, _VERSION, _SMBUS, _USB = 0x02, 0x03, 0x04, 0x05, 0x06, 0x21
_DESCRIPTOR = bytes.fromhex("0600ff0901a1018501150026ff00750895080901 8102c0".replace(" ", ""))


class GpioChip:
    """The chip.

    Attributes:
        levels: of its lines, bit by bit, as something outside drives those that are inputs.
        outputs: of its lines, as the kernel drives them.
        directions: a bit is set where the line is an output.
    """

    def __init__(self) -> None:
        self.levels = self.outputs = self.directions = 0
        self._fd = -1
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def plug(self) -> None:
        """Plug it in."""
        self._fd = os.open("/dev/uhid", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._end.clear()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        create = struct.pack(
            "<I128s64s64sHHIIII", _CREATE, b"CP2112", b"", b"", len(_DESCRIPTOR), 3, 0x10C4, 0xEA90, 0, 0
        )
        os.write(self._fd, create + _DESCRIPTOR)

    def unplug(self) -> None:
        """Pull the plug; safe to call twice."""
        if self._thread is None:
            return
        os.write(self._fd, struct.pack("<I", _DESTROY))
        self._end.set()
        self._thread.join()
        self._thread = None
        os.close(self._fd)

    def _serve(self) -> None:
        while not self._end.is_set():
            if not select.select([self._fd], [], [], 0.05)[0]:
                continue
            event = os.read(self._fd, 4380)
            kind, identity = struct.unpack_from("<II", event)
            if kind == _GET:
                data = self._get(event[8])
                head = struct.pack("<IIHH", _GET_REPLY, identity, 0 if data else 5, len(data))
                os.write(self._fd, head + data)
            elif kind == _SET:
                size = struct.unpack_from("<H", event, 10)[0]
                self._set(event[12 : 12 + size])
                os.write(self._fd, struct.pack("<IIH", _SET_REPLY, identity, 0))

    def _get(self, report: int) -> bytes:
        seen = (self.levels & ~self.directions) | (self.outputs & self.directions)
        return {
            _CONFIG: bytes((_CONFIG, self.directions, 0xFF, 0, 0)),
            _LEVELS: bytes((_LEVELS, seen)),
            _VERSION: bytes((_VERSION, 0x0C, 3)),
            _SMBUS: bytes((_SMBUS,)) + bytes(13),
            _USB: struct.pack("<BHHBBBBB", _USB, 0x10C4, 0xEA90, 50, 0, 1, 0, 0),
        }.get(report, b"")

    def _set(self, data: bytes) -> None:
        if data[0] == _CONFIG:
            self.directions = data[1]
        elif data[0] == _SET_LEVELS:
            self.outputs = (self.outputs & ~data[2]) | (data[1] & data[2])
