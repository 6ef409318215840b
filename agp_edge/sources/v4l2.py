"""USB and other V4L2 cameras, asked through the kernel's own interface: no library stands between."""

from __future__ import annotations

import os
import select
import threading
import time
from pathlib import Path

from agp_edge.errors import InputError, MissingExtraError, SourceLostError
from agp_edge.extras import import_cv2
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.options import AS_IT_IS, SourceOptions
from agp_edge.sources.pixels import to_frame_pixels
from agp_edge.sources.v4l2_capture import Capture
from agp_edge.sources.v4l2_device import open_device, translate


class V4l2Source(Source):
    """A camera at `/dev/video*`.

    What the options do not name is left as the driver has it, but for the pixel format: that is the first of
    `v4l2_modes.READABLE` which comes at the size, and at the rate if one is asked for.

    A frame's number is the driver's, so that what it lost leaves a gap. Its time is the driver's where that stamps by
    the monotonic clock, as USB cameras' does, and its clock is then `sensor`; else it is when the frame was fetched.

    Args:
        uri: `0`, `/dev/video0` or `v4l2:///dev/video0`; `/dev/v4l/by-id/…` stays the same camera wherever it is
            plugged in again.
        options: `size_wh`, `fps`, `pixel_format`, `controls`, `timeout_s`.
    """

    takes = frozenset({"size_wh", "fps", "pixel_format", "controls", "timeout_s"})
    live = True

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        path = uri.removeprefix("v4l2://")
        self._path = Path(f"/dev/video{path}" if path.isdigit() else path)
        self.name = str(self._path)
        self.fps: float | None = None
        self._options = options
        self._capture: Capture | None = None
        self._poll = select.poll()
        self._was_there = False
        self._base = self._next_number = 0
        self._lost = self._damaged = 0
        self._lock = threading.Lock()
        self._interrupted = False
        self._wake = -1

    def load(self) -> None:
        """Import what converts colours."""
        import_cv2("reading cameras")

    def open(self) -> None:
        """Open the device, set it, and start it. Sequence numbers go on where they were."""
        self.load()
        self.close()
        with self._lock:
            if self._interrupted:
                raise self._stopped()
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._capture = self._start()
        except BaseException:
            self.close()
            raise
        self._was_there = True
        self._base = self._next_number
        self._lost = self._damaged = 0
        self._poll = select.poll()
        self._poll.register(self._capture.fd, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self.fps = self._capture.fps

    def read(self) -> Frame:
        """The newest frame that has come; older ones that wait are dropped, and counted in it.

        Raises:
            InputError: a frame was damaged on its way, or cannot be decoded.
            SourceLostError: none came within `timeout_s`, or the camera is gone.
        """
        if self._capture is None:
            raise SourceLostError(f"{self.name} is not open", "open it first")
        raw = None
        until = time.monotonic() + self._options.timeout_s
        while raw is None:
            if self._damaged:
                self._damaged -= 1
                raise InputError(
                    f"a frame of camera {self.name} was damaged on its way",
                    "see its cable, and that its USB bus is not full",
                )
            self._wait(until)
            try:
                raw, older, damaged = self._capture.take()
            except OSError as error:
                raise translate(error, self.name, "give frames") from error
            self._lost += older
            self._damaged += damaged
        # There are drivers that do not count.
        number = self._next_number = max(self._base + raw.sequence, self._next_number)
        self._next_number += 1
        width, height = self._capture.size_wh
        try:
            pixels = to_frame_pixels(
                raw.data, self._capture.pixel_format, width, height, self._capture.stride_bytes
            )
        except MissingExtraError:
            raise
        except InputError as error:
            raise InputError(f"camera {self.name}: {error.what}", error.hint) from error
        lost, self._lost = self._lost, 0
        return Frame(pixels, number, raw.captured_ns, raw.wall_s, raw.clock, self.name, lost)

    def interrupt(self) -> None:
        """End a blocked `read`, and every later one; from any thread."""
        with self._lock:
            self._interrupted = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Stop the camera and let go; safe to call twice."""
        if self._capture is not None:
            self._capture.close()
            self._capture = None
        with self._lock:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    def _start(self) -> Capture:
        try:
            fd, buffer_type = open_device(self._path)
        except InputError:
            if self._was_there and not self._path.exists():
                raise SourceLostError(
                    f"camera {self.name} is no longer there",
                    "plug it in again; by its path in /dev/v4l/by-id it is found under any number",
                ) from None
            raise
        try:
            return Capture(fd, buffer_type, self.name, self._options)
        except OSError as error:
            raise translate(error, self.name, "start") from error

    def _wait(self, until: float) -> None:
        """Wait until the driver has a frame, or says that there will be none."""
        assert self._capture is not None
        ready = dict(self._poll.poll(max(0.0, until - time.monotonic()) * 1000))
        if self._interrupted:
            raise self._stopped()
        events = ready.get(self._capture.fd, 0)
        if not events:
            raise SourceLostError(
                f"camera {self.name} gave no frame for {self._options.timeout_s:g} s",
                "see its cable, and that its exposure is shorter than that; --timeout waits longer",
            )
        if not events & select.POLLIN:
            raise SourceLostError(
                f"camera {self.name} has stopped: it is unplugged, or its driver failed",
                "see that it is plugged in and has power, and what the kernel says: sudo dmesg",
            )

    def _stopped(self) -> SourceLostError:
        return SourceLostError(f"reading {self.name} was ended", "open it again")
