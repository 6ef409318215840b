"""A USB camera that is a thread: a device of USB Video Class 1.0, plugged into the kernel's own USB/IP host.

The kernel's `uvcvideo` drives it as any webcam: https://docs.kernel.org/usb/usbip_protocol.html tells how requests come,
USB.org's "Device Class Definition for Video Devices" 1.0a what they mean. It sends JPEG and YUYV over a bulk endpoint,
has exposure, brightness and gain, and can be unplugged.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HOST = Path("/sys/devices/platform/vhci_hcd.0")
HIGH_SPEED = 3
PAYLOAD = 16384
"""Bytes of one transfer at most, its header of 2 among them; the driver asks for as much at once."""

SIZES = ((320, 180), (640, 360))
RATES = {1: (30, 15, 5), 2: (15, 5)}
"""Format -> rates of its frames: JPEG, then YUYV, which is slower as on every USB 2 camera."""

AUTO, MANUAL = 8, 1
_SUBMIT, _UNLINK, _RET_SUBMIT, _RET_UNLINK = 1, 2, 3, 4
_STALL, _UNLINKED = -32, -104
_HEADER = struct.Struct(">5I28s")


class Camera:
    """The device.

    Attributes:
        damaged: how many of the next frames have the error bit in their header.
        cut: how many of the next JPEG pictures break off in the middle.
        stalled: whether it says nothing any more.
        exposure, exposure_mode, brightness, gain: what the host has set.
    """

    def __init__(self) -> None:
        self.damaged = self.cut = 0
        self.stalled = False
        # What the host may set: minimum, maximum, step, default, bytes, whether it is signed.
        self._ranges = {
            (1, 2): (MANUAL, AUTO, MANUAL | AUTO, AUTO, 1, False),
            (1, 4): (10, 1000, 10, 150, 4, False),
            (2, 2): (-64, 64, 1, 0, 2, True),
            (2, 4): (0, 100, 1, 0, 2, False),
        }
        self._values = {key: values[3] for key, values in self._ranges.items()}
        self._probe = self._negotiate(1, 1, 0)
        self._lock = threading.Condition()
        self._socket: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._pending: deque[tuple[int, int]] = deque()
        self._streams = 0

    @property
    def exposure(self) -> int:
        return self._values[1, 4]

    def plug(self) -> None:
        """Plug it in."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        self._pending.clear()
        self._threads = [threading.Thread(target=work, args=(ours,)) for work in (self._serve, self._film)]
        for thread in self._threads:
            thread.start()
        with theirs:
            (HOST / "attach").write_text(f"0 {theirs.fileno()} 65537 {HIGH_SPEED}")

    def unplug(self) -> None:
        """Pull the plug."""
        ours, self._socket = self._socket, None
        if ours is None:
            return
        ours.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()
        ours.close()

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 BGR: even, as bright as exposure, brightness and gain say; a dark bar tells left from right."""
        exposure = self._values[1, 4] if self._values[1, 2] == MANUAL else 150
        level = exposure / 150 * 64 + self._values[2, 2] + self._values[2, 4]
        pixels = np.full((height, width, 3), np.clip(level, 0, 255), np.uint8)
        pixels[:, : width // 8] = 0
        return pixels

    def _serve(self, link: socket.socket) -> None:
        """Answer the host until the plug is pulled."""
        try:
            while True:
                command, sequence, _, direction, endpoint, rest = _HEADER.unpack(_receive(link, 48))
                if command == _UNLINK:
                    self._unlink(link, sequence, struct.unpack_from(">I", rest)[0])
                    continue
                _, length, _, _, _, setup = struct.unpack(">Iiiii8s", rest)
                data = _receive(link, length) if not direction and length else b""
                if endpoint:
                    with self._lock:
                        self._pending.append((sequence, length))
                        self._lock.notify_all()
                    continue
                answer = self._control(setup, data)
                if answer is None:
                    self._reply(link, sequence, _STALL, b"")
                else:
                    self._reply(link, sequence, 0, answer if direction else b"", length)
        except (OSError, EOFError):
            return

    def _unlink(self, link: socket.socket, sequence: int, victim: int) -> None:
        with self._lock:
            left = [entry for entry in self._pending if entry[0] != victim]
            status = _UNLINKED if len(left) < len(self._pending) else 0
            self._pending = deque(left)
            link.sendall(struct.pack(">5Ii24x", _RET_UNLINK, sequence, 0, 0, 0, status))

    def _reply(
        self, link: socket.socket, sequence: int, status: int, data: bytes, length: int | None = None
    ) -> None:
        head = struct.pack(
            ">5Iiiiii8x", _RET_SUBMIT, sequence, 0, 0, 0, status, len(data) if data else length or 0, 0, 0, 0
        )
        with self._lock:
            link.sendall(head + data)

    def _control(self, setup: bytes, data: bytes) -> bytes | None:
        """The answer to a request on the control endpoint; None for what the device does not know."""
        kind, request, value, index, length = struct.unpack("<BBHHH", setup)
        if kind & 0x60 == 0x20:
            answer = self._class_request(request, value >> 8, index >> 8, index & 0xFF, data)
            return None if answer is None else answer[:length]
        if request == 6:
            described = _descriptor(value >> 8, value & 0xFF)
            return None if described is None else described[:length]
        # Status, configuration, alternate setting; others are taken and mean nothing here.
        return {0: b"\0\0", 8: b"\1", 10: b"\0"}.get(request, b"")[:length]

    def _class_request(
        self, request: int, selector: int, entity: int, interface: int, data: bytes
    ) -> bytes | None:
        if interface == 1:
            return self._streaming_request(request, selector, data)
        if (entity, selector) not in self._ranges:
            return None
        *numbers, size, signed = self._ranges[entity, selector]
        if request == 1:
            self._values[entity, selector] = int.from_bytes(data, "little", signed=signed)
            return b""
        if request in (0x85, 0x86):
            return {0x85: struct.pack("<H", size), 0x86: b"\3"}[request]
        low, high, step, default = numbers
        known = {0x81: self._values[entity, selector], 0x82: low, 0x83: high, 0x84: step, 0x87: default}
        return known[request].to_bytes(size, "little", signed=signed) if request in known else None

    def _streaming_request(self, request: int, selector: int, data: bytes) -> bytes | None:
        if selector not in (1, 2):
            return None
        if request == 1:
            form, frame, interval = struct.unpack_from("<BBI", data, 2)
            self._probe = self._negotiate(form, frame, interval)
            if selector == 2:
                with self._lock:
                    self._streams += 1
                    self._lock.notify_all()
            return b""
        if request in (0x85, 0x86):
            return {0x85: struct.pack("<H", 26), 0x86: b"\3"}[request]
        return self._probe

    def _negotiate(self, form: int, frame: int, interval: int) -> bytes:
        form, frame = min(max(form, 1), 2), min(max(frame, 1), len(SIZES))
        able = [10**7 // rate for rate in RATES[form]]
        interval = min(able, key=lambda one: abs(one - interval)) if interval else able[0]
        width, height = SIZES[frame - 1]
        return struct.pack(
            "<HBBIHHHHHII", 1, form, frame, interval, 0, 0, 0, 0, 0, width * height * 2, PAYLOAD
        )

    def _film(self, link: socket.socket) -> None:
        """Send frames as long as the host asks for them."""
        parity = 0
        try:
            while self._socket is link:
                with self._lock:
                    if not self._pending or self.stalled:
                        self._lock.wait(0.05)
                        continue
                    stream = self._streams
                form, frame, interval = struct.unpack_from("<BBI", self._probe, 2)
                begin = time.monotonic()
                parity ^= 1
                self._send(link, stream, parity, self._encode(form, *SIZES[frame - 1]))
                time.sleep(max(0.0, begin + interval / 1e7 - time.monotonic()))
        except OSError:
            return

    def _encode(self, form: int, width: int, height: int) -> bytes:
        pixels = self.picture(width, height)
        if form == 1:
            picture = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            if self.cut:
                self.cut -= 1
                return picture[: len(picture) // 2]
            return picture
        yuv = cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_YUY2)
        return bytes(yuv)

    def _send(self, link: socket.socket, stream: int, parity: int, frame: bytes) -> None:
        damaged = 0x40 if self.damaged else 0
        self.damaged -= bool(damaged)
        pieces = [frame[i : i + PAYLOAD - 2] for i in range(0, len(frame), PAYLOAD - 2)]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            with self._lock:
                while not self._pending:
                    if self._socket is not link or self._streams != stream:
                        return
                    self._lock.wait(0.05)
                sequence, _ = self._pending.popleft()
                # Under one lock: an answer to a transfer that was taken back meanwhile would be a fault of the bus.
                head = bytes((2, 0x80 | damaged | (2 if last else 0) | parity))
                self._reply(link, sequence, 0, head + piece)


def _receive(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = link.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _descriptor(kind: int, index: int) -> bytes | None:
    if kind == 1:
        return struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0xEF, 2, 1, 64, 0x1209, 1, 0x0100, 1, 2, 3, 1)
    if kind == 2:
        return _configuration()
    if kind == 3:
        if index == 0:
            return b"\4\3\x09\4"
        text = ("", "agp-edge", "Loopback Camera", "0001")[index].encode("utf-16-le")
        return bytes((2 + len(text), 3)) + text
    return None


def _configuration() -> bytes:
    """All descriptors: an interface for control with terminals and a unit, one for streaming with formats and frames."""
    units = b"".join(
        (
            # The camera's terminal: exposure mode and time.
            struct.pack("<BBBBHBBHHHB3s", 18, 0x24, 2, 1, 0x0201, 0, 0, 0, 0, 0, 3, b"\x0a\0\0"),
            # The processing unit: brightness and gain.
            struct.pack("<BBBBBHB2sB", 11, 0x24, 5, 2, 1, 0, 2, b"\x01\x02", 0),
            struct.pack("<BBBBHBBB", 9, 0x24, 3, 3, 0x0101, 0, 2, 0),
        )
    )
    control = struct.pack("<BBBHHIBB", 13, 0x24, 1, 0x0100, 13 + len(units), 48_000_000, 1, 1) + units
    jpeg = struct.pack("<11B", 11, 0x24, 6, 1, len(SIZES), 1, 1, 0, 0, 0, 0) + _frames(1, 7)
    guid = b"YUY2\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    yuyv = struct.pack("<5B16s6B", 27, 0x24, 4, 2, len(SIZES), guid, 16, 1, 0, 0, 0, 0) + _frames(2, 5)
    formats = jpeg + yuyv + bytes((6, 0x24, 0x0D, 1, 1, 4))
    streaming = (
        struct.pack("<BBBBHBBBBBBB2s", 15, 0x24, 1, 2, 15 + len(formats), 0x81, 0, 3, 0, 0, 0, 1, b"\0\0")
        + formats
    )
    body = b"".join(
        (
            bytes((8, 11, 0, 2, 0x0E, 3, 0, 2)),
            bytes((9, 4, 0, 0, 0, 0x0E, 1, 0, 2)),
            control,
            bytes((9, 4, 1, 0, 1, 0x0E, 2, 0, 0)),
            streaming,
            struct.pack("<BBBBHB", 7, 5, 0x81, 2, 512, 0),
        )
    )
    return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 2, 1, 0, 0x80, 250) + body


def _frames(form: int, kind: int) -> bytes:
    found = b""
    for number, (width, height) in enumerate(SIZES, 1):
        intervals = [10**7 // rate for rate in RATES[form]]
        size = width * height * 2
        found += struct.pack(
            "<BBBBBHHIIIIB", 26 + 4 * len(intervals), 0x24, kind, number, 0, width, height, size * 8, size * 8 * 30,
            size, intervals[0], len(intervals),
        ) + struct.pack(f"<{len(intervals)}I", *intervals)  # fmt: skip
    return found
