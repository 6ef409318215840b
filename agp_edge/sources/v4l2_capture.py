"""A V4L2 camera that is set and running: its buffers, and the newest frame in them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import InputError
from agp_edge.sources import v4l2_ioctl as v4l2
from agp_edge.sources.base import Clock
from agp_edge.sources.options import SourceOptions
from agp_edge.sources.v4l2_controls import set_controls
from agp_edge.sources.v4l2_modes import READABLE, Mode, choose_mode, rate_of

BUFFERS = 4
"""One that is read, one that is filled, and two between: with fewer a driver has none free when a thread wakes late."""

OLDEST_STAMP_NS = 10 * 10**9
"""A driver's time that is longer ago, or in the future, is none of this clock, and the arrival is taken instead."""

_WHOLE = frozenset(
    {v4l2.FIELD_NONE, v4l2.FIELD_INTERLACED, v4l2.FIELD_INTERLACED_TB, v4l2.FIELD_INTERLACED_BT}
)
"""How a buffer has both fields of a picture, every row in its place."""


@dataclass(frozen=True)
class RawFrame:
    """A frame as the driver gave it.

    Attributes:
        data: flat uint8, a copy.
        sequence: the driver's own number, from 0 when the stream began; frames that it lost leave a gap.
        captured_ns: monotonic clock, by the driver where `clock` is `sensor`.
        wall_s: the same on the wall clock.
        clock: whose time it is.
    """

    data: NDArray[np.uint8]
    sequence: int
    captured_ns: int
    wall_s: float
    clock: Clock


class Capture:
    """Sets an opened device as the options say, and starts it.

    Args:
        fd: the opened device, closed by `close`.
        buffer_type: of its buffers.
        name: its name, for errors.
        options: `size_wh`, `fps`, `pixel_format`, `controls`.

    Attributes:
        pixel_format: a name of `agp_edge.sources.pixels`.
        size_wh: of its frames, in pixels.
        stride_bytes: from one row to the next.
        fps: nominal frames a second; None where the driver does not tell.

    Raises:
        InputError: it does not offer what is asked for.
        OSError: the driver refused; the device is closed then too.
    """

    def __init__(self, fd: int, buffer_type: int, name: str, options: SourceOptions) -> None:
        self._name = name
        self._type = buffer_type
        self._fd = fd
        self._buffers: list[mmap.mmap] = []
        self.fps: float | None = None
        try:
            self._set_mode(options)
            self._set_rate(options.fps)
            set_controls(fd, name, options.controls)
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The opened device, for `poll`."""
        return self._fd

    def take(self) -> tuple[RawFrame | None, int, int]:
        """All that has come, without waiting.

        Returns:
            (the newest whole frame, if any; how many older whole ones there were; how many damaged ones).

        Raises:
            OSError: the driver has stopped; ENODEV where the camera is gone.
        """
        newest: v4l2.Buffer | None = None
        older = damaged = 0
        while (buffer := self._dequeue()) is not None:
            if buffer.flags & v4l2.BUF_FLAG_ERROR or not self._span(buffer)[1]:
                damaged += 1
                self._queue(buffer.index)
                continue
            if newest is not None:
                older += 1
                self._queue(newest.index)
            newest = buffer
        if newest is None:
            return None, older, damaged
        now_ns, now_s = time.monotonic_ns(), time.time()
        # Copied as it is, because a driver's memory may be uncached, and every further read of it slow; and given back
        # at once, so that the driver never waits for a conversion.
        data = self._copy(newest)
        self._queue(newest.index)
        stamp_ns = newest.timestamp.tv_sec * 10**9 + newest.timestamp.tv_usec * 1000
        is_monotonic = newest.flags & v4l2.BUF_FLAG_TIMESTAMP_MASK == v4l2.BUF_FLAG_TIMESTAMP_MONOTONIC
        if is_monotonic and now_ns - OLDEST_STAMP_NS < stamp_ns <= now_ns:
            wall_s = now_s - (now_ns - stamp_ns) / 1e9
            return RawFrame(data, newest.sequence, stamp_ns, wall_s, "sensor"), older, damaged
        return RawFrame(data, newest.sequence, now_ns, now_s, "arrival"), older, damaged

    def close(self) -> None:
        """Stop it and let go; safe to call twice."""
        if self._fd < 0:
            return
        # A camera that is gone answers nothing of this.
        with contextlib.suppress(OSError):
            v4l2.call(self._fd, v4l2.STREAMOFF, ctypes.c_int(self._type))
        for memory in self._buffers:
            memory.close()
        self._buffers.clear()
        os.close(self._fd)
        self._fd = -1

    @property
    def _is_mplane(self) -> bool:
        return self._type == v4l2.BUF_TYPE_VIDEO_CAPTURE_MPLANE

    def _set_mode(self, options: SourceOptions) -> None:
        form = v4l2.Format(type=self._type)
        v4l2.call(self._fd, v4l2.G_FMT, form)
        # Both kinds begin with width, height, pixel format and field.
        picture = form.fmt.pix
        mode = choose_mode(self._fd, self._name, self._type, (picture.width, picture.height), options)
        form = v4l2.Format(type=self._type)
        picture = form.fmt.pix
        picture.width, picture.height = mode.size_wh
        picture.pixelformat = v4l2.fourcc_code(mode.code)
        picture.field = v4l2.FIELD_ANY
        if self._is_mplane:
            form.fmt.pix_mp.num_planes = 1
        v4l2.call(self._fd, v4l2.S_FMT, form)
        self._check_mode(form, mode, options)
        self.pixel_format = READABLE[mode.code]
        self.size_wh = (picture.width, picture.height)
        plane = form.fmt.pix_mp.plane_fmt[0]
        self.stride_bytes = (plane if self._is_mplane else picture).bytesperline or None

    def _check_mode(self, form: v4l2.Format, mode: Mode, options: SourceOptions) -> None:
        """A driver takes any format and answers with one that it has."""
        picture = form.fmt.pix
        code, size = v4l2.fourcc(picture.pixelformat), (picture.width, picture.height)
        if code != mode.code or (options.size_wh is not None and size != options.size_wh):
            raise InputError(
                f"camera {self._name} gives {size[0]}x{size[1]} in {code} when asked for "
                f"{mode.size_wh[0]}x{mode.size_wh[1]} in {mode.code}",
                f"take what it gives: --size {size[0]}x{size[1]} --pixel-format {code}",
            )
        if self._is_mplane and form.fmt.pix_mp.num_planes != 1:
            raise InputError(
                f"camera {self._name} gives {code} in {form.fmt.pix_mp.num_planes} pieces of memory",
                "take another --pixel-format",
            )
        if picture.field not in _WHOLE:
            raise InputError(
                f"camera {self._name} gives single fields of interlaced pictures",
                "switch it to progressive, or take another input of it with v4l2-ctl --set-input",
            )

    def _set_rate(self, fps: float | None) -> None:
        parm = v4l2.StreamParm(type=self._type)
        can_tell = v4l2.ask(self._fd, v4l2.G_PARM, parm)
        if fps is not None:
            if not (can_tell and parm.parm.capture.capability & v4l2.CAP_TIMEPERFRAME):
                raise InputError(f"the rate of camera {self._name} cannot be set", "leave out --fps")
            interval = parm.parm.capture.timeperframe
            interval.numerator, interval.denominator = 1000, round(fps * 1000)
            v4l2.call(self._fd, v4l2.S_PARM, parm)
        rate = rate_of(parm.parm.capture.timeperframe) if can_tell else None
        if fps is not None and rate is not None and abs(rate - fps) > 0.005 * fps:
            raise InputError(
                f"camera {self._name} gives {rate:.4g} frames a second when asked for {fps:g}",
                f"take what it gives: --fps {rate:.4g}",
            )
        self.fps = rate

    def _start(self) -> None:
        request = v4l2.RequestBuffers(count=BUFFERS, type=self._type, memory=v4l2.MEMORY_MMAP)
        v4l2.call(self._fd, v4l2.REQBUFS, request)
        for index in range(request.count):
            buffer = self._new_buffer(index)
            v4l2.call(self._fd, v4l2.QUERYBUF, buffer)
            place = buffer.m.planes[0] if self._is_mplane else buffer
            offset = place.m.mem_offset if self._is_mplane else place.m.offset
            self._buffers.append(
                mmap.mmap(
                    self._fd, place.length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
                )
            )
            self._queue(index)
        v4l2.call(self._fd, v4l2.STREAMON, ctypes.c_int(self._type))

    def _new_buffer(self, index: int = 0) -> v4l2.Buffer:
        buffer = v4l2.Buffer(index=index, type=self._type, memory=v4l2.MEMORY_MMAP)
        if self._is_mplane:
            # The structure keeps the plane alive.
            buffer.m.planes = ctypes.pointer(v4l2.Plane())
            buffer.length = 1
        return buffer

    def _queue(self, index: int) -> None:
        v4l2.call(self._fd, v4l2.QBUF, self._new_buffer(index))

    def _dequeue(self) -> v4l2.Buffer | None:
        buffer = self._new_buffer()
        try:
            v4l2.call(self._fd, v4l2.DQBUF, buffer)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return None
            raise
        return buffer

    def _span(self, buffer: v4l2.Buffer) -> tuple[int, int]:
        """(begin, end) of the picture in its memory; the end is 0 where the driver gave nothing."""
        if self._is_mplane:
            return buffer.m.planes[0].data_offset, buffer.m.planes[0].bytesused
        return 0, buffer.bytesused

    def _copy(self, buffer: v4l2.Buffer) -> NDArray[np.uint8]:
        begin, end = self._span(buffer)
        view = np.frombuffer(self._buffers[buffer.index], np.uint8, end - begin, begin)
        return np.array(view)
