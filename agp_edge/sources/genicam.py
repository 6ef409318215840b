"""Cameras of GigE Vision and USB3 Vision through Aravis: found by serial number, set by GenICam's feature names."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time

from agp_edge.errors import AgpEdgeError, InputError, MissingExtraError, SourceLostError, quote
from agp_edge.extras import import_cv2
from agp_edge.sources import aravis_binding
from agp_edge.sources.aravis_binding import (
    AravisError,
    Buffer,
    BufferImage,
    Camera,
    Device,
    Stream,
    find_devices,
)
from agp_edge.sources.base import Clock, Frame, Source
from agp_edge.sources.device_clock import DeviceClock
from agp_edge.sources.genicam_features import configure
from agp_edge.sources.options import AS_IT_IS, SourceOptions
from agp_edge.sources.pixels import PIXEL_FORMATS, to_frame_pixels
from agp_edge.sources.uri import redact

BUFFERS = 5
"""One that is filled, one that is looked at, and room for as many as come while this process waits for its turn."""

SLICE_S = 0.1
"""How long a wait for a frame lasts before it is asked whether to go on."""

MOST_LOST = 10_000
"""A gap in the camera's numbers that is larger is no gap: the camera began to count anew."""

_NONE_FOUND = "no camera answers: see that it is on, and in a network of this machine, or give its IP address"


class GenicamSource(Source):
    """A camera of GigE Vision or USB3 Vision; the newest whole frame wins.

    Args:
        uri: `genicam://NAME`, where a name is a serial number, Aravis' id (`Vendor-Model-Serial`), an IP or a MAC
            address; `genicam://` where there is exactly one.

    Attributes:
        incomplete: frames of which packets were lost on the way.
    """

    takes = frozenset({"size_wh", "fps", "pixel_format", "controls", "timeout_s"})
    live = True

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        self.name = redact(uri)
        self.fps: float | None = None
        self.incomplete = 0
        self._wanted = uri.partition("://")[2].strip("/")
        self._options = options
        self._interrupted = threading.Event()
        self._camera: Camera | None = None
        self._stream: Stream | None = None
        self._format = ""
        self._number = -1
        self._lost = 0
        self._last_id: int | None = None
        self._clock = DeviceClock()

    def load(self) -> None:
        """Load Aravis, and OpenCV, which mono cameras can do without."""
        aravis_binding.load()
        with contextlib.suppress(MissingExtraError):
            import_cv2("converting colours")

    def open(self) -> None:
        """Find the camera, set it and have it send. Sequence numbers go on where they were."""
        self.close()
        self._check_interrupt()
        try:
            device_id, is_loopback = self._find()
            self._check_interrupt()
            self._camera = Camera(device_id)
            if not self._camera.is_controlled:
                raise AravisError("no control over it", "taken")
            self._format, self.fps = configure(self._camera, self._options)
            self._stream = self._camera.create_stream(BUFFERS, packet_socket=not is_loopback)
            self._camera.execute("AcquisitionStart")
        except AravisError as error:
            self._let_go(answers=error.trouble != "lost")
            raise self._translated(error) from None
        except AgpEdgeError:
            self._let_go(answers=True)
            raise
        self._last_id = None
        self._clock = DeviceClock()

    def read(self) -> Frame:
        """The newest frame.

        Raises:
            InputError: this one cannot be converted.
            SourceLostError: no whole one came in time, or the camera does not answer any more.
        """
        if self._camera is None or self._stream is None:
            raise SourceLostError(f"{self.name} is not open", "open it first")
        buffer = self._wait(self._camera, self._stream)
        try:
            return self._convert(self._stream.look(buffer))
        except AravisError as error:
            self._number += 1
            raise InputError(
                f"a frame of {self.name} is no plain picture: {error}", "take another --pixel-format"
            ) from None
        finally:
            self._stream.push(buffer)

    def interrupt(self) -> None:
        """End a blocked `read`, and every later call; from any thread."""
        self._interrupted.set()

    def close(self) -> None:
        """Have the camera stop and give it back; safe to call twice."""
        self._let_go(answers=self._camera is not None and self._camera.is_controlled)

    def _let_go(self, *, answers: bool) -> None:
        # A camera that does not answer is not asked to stop: that takes seconds. It stops by itself without a heartbeat.
        if self._camera is not None and self._stream is not None and answers:
            with contextlib.suppress(AravisError):
                self._camera.execute("AcquisitionStop")
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    def _check_interrupt(self) -> None:
        if self._interrupted.is_set():
            raise SourceLostError(f"{self.name} was told to stop", "open another")

    def _find(self) -> tuple[str, bool]:
        """What Aravis finds the camera by, and whether it is on this machine.

        Raises:
            InputError: there is no such camera, or it is not said which.
        """
        with contextlib.suppress(ValueError):
            # Not looked for: one behind a router hears no broadcast, and answers when it is asked.
            return self._wanted, ipaddress.ip_address(self._wanted).is_loopback
        devices = find_devices()
        if not self._wanted:
            if len(devices) != 1:
                raise InputError(
                    f"{self.name} means the only camera, and there are {len(devices)}",
                    f"say which: {_listed(devices)}" if devices else _NONE_FOUND,
                )
            # What was found first is meant as long as this object lives, whatever else is plugged in while it is away.
            self._wanted = devices[0].id
        for device in devices:
            if self._wanted in (device.id, device.serial, device.address, device.physical):
                return device.id, device.address.startswith("127.")
        raise InputError(
            f"there is no camera {self.name}", f"cameras here: {_listed(devices)}" if devices else _NONE_FOUND
        )

    def _translated(self, error: AravisError) -> AgpEdgeError:
        said = quote(error)
        if error.trouble == "taken":
            return SourceLostError(
                f"{self.name} is controlled by another program",
                "end that program; after a crash the camera is free within its heartbeat time-out, mostly 3 s",
            )
        if error.trouble == "absent":
            return InputError(f"there is no camera {self.name}: {said}", "see that it is on and reachable")
        if error.trouble == "lost":
            return SourceLostError(f"{self.name} does not answer: {said}", "see that it is on and reachable")
        return InputError(f"{self.name} refuses what it is told: {said}", "take another value")

    def _wait(self, camera: Camera, stream: Stream) -> Buffer:
        """The newest whole frame; older ones and broken ones are given back."""
        incomplete = self.incomplete
        until = time.monotonic() + self._options.timeout_s
        while True:
            newest = stream.pop(min(SLICE_S, until - time.monotonic()))
            while newest is not None:
                follower = stream.pop(0)
                if follower is None:
                    break
                older, newest = (
                    (newest, follower) if follower.is_whole or not newest.is_whole else (follower, newest)
                )
                self._lost += older.is_whole
                self.incomplete += not older.is_whole
                stream.push(older)
            if newest is not None and newest.is_whole:
                return newest
            if newest is not None:
                self.incomplete += 1
                stream.push(newest)
            self._check_interrupt()
            if not camera.is_controlled:
                raise SourceLostError(
                    f"{self.name} does not answer any more", "see that it is on and reachable"
                )
            if time.monotonic() >= until:
                broken = self.incomplete - incomplete
                raise SourceLostError(
                    f"{self.name} gives no {'whole ' if broken else ''}frame for {self._options.timeout_s:g} s",
                    f"packets of {broken} frames were lost: see docs/cameras.md for packet size and net.core.rmem_max"
                    if broken
                    else "see that it is on, and if it waits for a trigger, give a longer --timeout",
                )

    def _convert(self, image: BufferImage) -> Frame:
        now_ns, now_s = time.monotonic_ns(), time.time()
        self._number += self._step(image.frame_id)
        # Aravis knows the arrival by the wall clock alone. It was a moment ago, or the clock was set meanwhile.
        waited_ns = int(now_s * 1e9) - image.system_ns
        arrived_ns = now_ns - (waited_ns if 0 <= waited_ns < 10**9 else 0)
        stamped = image.device_ns not in (0, image.system_ns)
        captured_ns = self._clock.to_monotonic_ns(image.device_ns, arrived_ns) if stamped else arrived_ns
        stride = PIXEL_FORMATS[self._format].row_bytes(image.width) + image.padding_bytes
        pixels = to_frame_pixels(image.data, self._format, image.width, image.height, stride)
        wall_s = now_s - (now_ns - captured_ns) / 1e9
        lost, self._lost = self._lost, 0
        clock: Clock = "sensor" if stamped else "arrival"
        return Frame(pixels, self._number, captured_ns, wall_s, clock, self.name, lost)

    def _step(self, frame_id: int) -> int:
        """How far a frame is behind the one before, by the camera's own numbers: a gap is what was lost on the way."""
        last, self._last_id = self._last_id, frame_id
        if last is None:
            return 1
        step = frame_id - last
        if step <= 0 and last < 2**16:
            step += 2**16 - 1  # In 16 bits GigE Vision goes on from 65535 to 1.
        return step if 0 < step <= MOST_LOST else 1


def _listed(devices: list[Device]) -> str:
    return ", ".join(f"genicam://{d.serial or d.id} ({d.id}, {d.address})" for d in devices)
