"""Sources that are pipelines of GStreamer: the newest picture, its time, and time-outs that hold when an element does not."""

from __future__ import annotations

import ctypes
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_void_p
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import InputError, SourceLostError, quote
from agp_edge.extras import import_cv2
from agp_edge.sources import gst_binding
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.gst_binding import GError, GstBuffer, GstMapInfo, GstMessage, Layout
from agp_edge.sources.gst_picture import picture_pixels
from agp_edge.sources.uri import redact

T = TypeVar("T")
Bytes = NDArray[np.uint8]

APPSINK = "appsink name=sink drop=true max-buffers=1 sync=false enable-last-sample=false"
"""Where a pipeline ends: of several pictures that wait the newest is kept, and none waits for its time."""

CLOSE_S = 5.0
"""An element that does not stop for longer is left behind, with its thread."""

LONGEST_AGE_S = 10.0
"""A picture that says it is older has no time that can be believed."""

_SLICE_S = 0.1


class Pipeline:
    """A pipeline that ends in `APPSINK`. It runs in threads of GStreamer; what blocks in it does not block its owner.

    Args:
        description: as `gst-launch-1.0` takes it, without its end; may hold no text from outside.
        name: for errors, without any password.
        colours: name of the element whose output says what the colours are, where that of the last may be a guess.

    Raises:
        InputError: GStreamer is not here, or the description does not hold.
    """

    def __init__(self, description: str, name: str, colours: str | None = None) -> None:
        self.name = name
        self._colours = colours
        self._gst = gst_binding.load_gst()
        self._mapped = GstMapInfo()
        self._caps: int | None = None
        self._layout: Layout | None = None
        self._stopping: threading.Thread | None = None
        self._lost: str | None = None
        gst = self._gst
        if missing := gst_binding.missing_element(gst, "appsink"):
            raise missing
        failure = POINTER(GError)()
        made = gst.gst_parse_launch(f"{description} ! {APPSINK}".encode(), byref(failure))
        wrong = gst.take_error(failure)
        self._pipeline: int | None = gst.gst_object_ref_sink(made) if made else None
        self._sink: int | None = None
        self._bus: int | None = None
        if wrong or not self._pipeline:
            self.close()
            raise InputError(
                f"{name}: GStreamer makes no pipeline: {quote(wrong)}", f"try: gst-launch-1.0 {description}"
            )
        self._sink = gst.gst_bin_get_by_name(self._pipeline, b"sink")
        self._bus = gst.gst_element_get_bus(self._pipeline)
        # Its times are then CLOCK_MONOTONIC, as are Python's; an element may bring a clock of its own.
        clock = gst.gst_system_clock_obtain()
        gst.gst_pipeline_use_clock(self._pipeline, clock)
        gst.gst_object_unref(clock)

    def set(self, element: str, values: dict[str, str]) -> None:
        """Set properties of an element by its name in the description.

        Raises:
            InputError: there is no such property, or it does not take the value.
        """
        found = self._gst.gst_bin_get_by_name(self._pipeline, element.encode())
        try:
            for name, text in values.items():
                self._gst.set_property(found, name, text)
        finally:
            self._gst.gst_object_unref(found)

    def start(self, timeout_s: float) -> None:
        """Begin to play.

        Raises:
            SourceLostError: it does not, or not in that time.
        """
        result: list[int] = []
        pipeline = self._pipeline
        thread = threading.Thread(
            target=lambda: result.append(self._gst.gst_element_set_state(pipeline, gst_binding.PLAYING)),
            name=f"start {self.name}",
            daemon=True,
        )
        thread.start()
        thread.join(timeout_s)
        if not result:
            # Whoever starts it holds a lock that stopping it waits for.
            self._stopping = thread
            raise SourceLostError(
                f"{self.name} does not start within {timeout_s:g} s", "see that it is on and reachable"
            )
        if result[0] == gst_binding.FAILED:
            self._check_bus()
            raise SourceLostError(
                f"{self.name} does not start", "see that it is on and that nothing else uses it"
            )

    def pull(
        self, timeout_s: float, use: Callable[[Bytes, Layout, int | None], T], stop: threading.Event
    ) -> T:
        """Wait for the next picture.

        Args:
            timeout_s: for how long.
            use: given the picture's bytes, flat and valid until it returns, how they lie, and when it was captured
                (`time.monotonic_ns`; None where it does not say).
            stop: ends the wait when it is set.

        Raises:
            SourceLostError: none came, the pipeline failed, it came to its end, or it was told to stop.
        """
        end = time.monotonic() + timeout_s
        while not stop.is_set():
            left_s = end - time.monotonic()
            sample = self._gst.gst_app_sink_try_pull_sample(
                self._sink, max(0, int(1e9 * min(left_s, _SLICE_S)))
            )
            if sample:
                try:
                    self._read_bus()
                    return self._with_picture(sample, use)
                finally:
                    self._gst.gst_mini_object_unref(sample)
            self._check_bus()
            if left_s <= 0:
                raise SourceLostError(
                    f"{self.name} gives no frame for {timeout_s:g} s", "see that it is on and reachable"
                )
        raise SourceLostError(f"{self.name} was told to stop", "make a new source")

    def close(self) -> bool:
        """Stop it and let go; safe to call twice.

        Returns:
            Whether it stopped within `CLOSE_S`. If it did not, calling it again waits on.
        """
        if self._pipeline is None:
            return True
        if self._stopping is None or not self._stopping.is_alive():
            self._stopping = threading.Thread(target=self._stop, name=f"stop {self.name}", daemon=True)
            self._stopping.start()
        self._stopping.join(CLOSE_S)
        return self._pipeline is None

    def _stop(self) -> None:
        gst = self._gst
        gst.gst_element_set_state(self._pipeline, gst_binding.NULL)
        for held in (self._sink, self._bus, self._pipeline):
            if held:
                gst.gst_object_unref(held)
        if self._caps:
            gst.gst_mini_object_unref(self._caps)
        self._sink = self._bus = self._caps = self._pipeline = None

    def _with_picture(self, sample: int, use: Callable[[Bytes, Layout, int | None], T]) -> T:
        gst, mapped = self._gst, self._mapped
        caps = gst.gst_sample_get_caps(sample)
        if caps != self._caps:
            if self._caps:
                gst.gst_mini_object_unref(self._caps)
            # Held, so that no other caps are ever made at its address.
            self._caps = gst.gst_mini_object_ref(caps)
            said = self._caps_of(self._colours) if self._colours else None
            self._layout = gst_binding.layout_of(gst, caps, said)
            if said:
                gst.gst_mini_object_unref(said)
        layout = self._layout
        if layout is None:
            raise SourceLostError(
                f"{self.name} gives no pictures", "see what it sends: gst-discoverer-1.0 URI"
            )
        buffer = gst.gst_sample_get_buffer(sample)
        meta = gst.gst_buffer_get_video_meta(buffer)
        if meta:
            layout = replace(layout, offsets=tuple(meta.contents.offset), strides=tuple(meta.contents.stride))
        captured_ns = self._captured_ns(sample, buffer)
        if not gst.gst_buffer_map(buffer, byref(mapped), gst_binding.READ):
            raise InputError(f"a frame of {self.name} cannot be read", "see that there is memory left")
        try:
            data = np.frombuffer((ctypes.c_uint8 * mapped.size).from_address(mapped.data), np.uint8)
            return use(data, layout, captured_ns)
        finally:
            gst.gst_buffer_unmap(buffer, byref(mapped))

    def _caps_of(self, name: str) -> int | None:
        """What an element gives, as caps that the caller lets go of."""
        gst = self._gst
        element = gst.gst_bin_get_by_name(self._pipeline, name.encode())
        pad = gst.gst_element_get_static_pad(element, b"src")
        caps: int | None = gst.gst_pad_get_current_caps(pad)
        gst.gst_object_unref(pad)
        gst.gst_object_unref(element)
        return caps

    def _captured_ns(self, sample: int, buffer: int) -> int | None:
        """A buffer's time on the pipeline's clock, which is the system's monotonic one."""
        pts = GstBuffer.from_address(buffer).pts
        segment = self._gst.gst_sample_get_segment(sample)
        running = self._gst.gst_segment_to_running_time(segment, gst_binding.TIME, pts)
        if gst_binding.NO_TIME in (pts, running):
            return None
        base: int = self._gst.gst_element_get_base_time(self._pipeline)
        return base + int(running)

    def _read_bus(self) -> None:
        """Take what waits on the bus, which would grow without end, and keep the first error or the end."""
        gst = self._gst
        while message := gst.gst_bus_pop(self._bus):
            kind = GstMessage.from_address(message).type
            if self._lost is None and kind in (gst_binding.ERROR, gst_binding.EOS):
                self._lost = self._error_text(message) if kind == gst_binding.ERROR else "it ended"
            gst.gst_mini_object_unref(message)

    def _check_bus(self) -> None:
        """Raise SourceLostError if there was an error, or the end."""
        self._read_bus()
        if self._lost is not None:
            raise SourceLostError(f"{self.name}: {self._lost}", "see that it is on and reachable")

    def _error_text(self, message: int) -> str:
        failure, debug = POINTER(GError)(), c_char_p()
        self._gst.gst_message_parse_error(message, byref(failure), byref(debug))
        text = self._gst.take_error(failure)
        # Where it happened, and on the last line what.
        detail = (debug.value or b"").decode(errors="replace").strip().splitlines()[-1:]
        self._gst.g_free(ctypes.cast(debug, c_void_p))
        return quote(redact(" ".join([text, *detail])))


class GstSource(Source):
    """A live source that is a pipeline; a kind of source writes `_make`.

    Args:
        name: the source's name, without any password.
        timeout_s: without a frame for longer it is lost.
        stamped: its pictures have the time at which they came, on the pipeline's clock; else that is when they are
            taken from the pipeline.
    """

    def __init__(self, name: str, timeout_s: float, *, stamped: bool = False) -> None:
        self.name = name
        self.live = True
        self.fps: float | None = None
        self._timeout_s = timeout_s
        self._stamped = stamped
        self._pipeline: Pipeline | None = None
        self._number = 0
        self._stop = threading.Event()
        self._first: Frame | None = None

    @abstractmethod
    def _make(self) -> Pipeline:
        """Give the pipeline, not started, with its properties set; or raise InputError or SourceLostError."""

    def load(self) -> None:
        """Load GStreamer, which looks through its plugins the first time, and what converts colours."""
        gst_binding.load_gst()
        import_cv2("converting colours")

    def open(self) -> None:
        """Connect, and wait for a first frame: only that proves that there is a camera."""
        self.close()
        if self._pipeline is not None:
            raise SourceLostError(
                f"{self.name} has not let go of what it held", "end this program if that does not change"
            )
        try:
            self._pipeline = self._make()
            self._pipeline.start(self._timeout_s)
            self._first = self._pull()
        except BaseException:
            self.close()
            raise

    def read(self) -> Frame | None:
        """The next frame: [H, W, 3] BGR, or [H, W, 1] mono."""
        first, self._first = self._first, None
        return first or self._pull()

    def interrupt(self) -> None:
        """End a blocked `open` or `read`, and every later one; from any thread."""
        self._stop.set()

    def close(self) -> None:
        """Let go; safe to call twice."""
        self._first = None
        if self._pipeline is not None and self._pipeline.close():
            self._pipeline = None

    def _pull(self) -> Frame:
        if self._pipeline is None:
            raise SourceLostError(f"{self.name} is not open", "open it first")
        return self._pipeline.pull(self._timeout_s, self._to_frame, self._stop)

    def _to_frame(self, data: Bytes, layout: Layout, captured_ns: int | None) -> Frame:
        now_ns, wall_s = time.monotonic_ns(), time.time()
        self.fps = layout.fps
        if not self._stamped or captured_ns is None or not 0 <= now_ns - captured_ns <= LONGEST_AGE_S * 1e9:
            captured_ns = now_ns
        number, self._number = self._number, self._number + 1
        pixels = picture_pixels(data, layout)
        return Frame(pixels, number, captured_ns, wall_s - (now_ns - captured_ns) / 1e9, "arrival", self.name)
