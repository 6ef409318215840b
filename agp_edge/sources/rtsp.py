"""RTSP cameras, through OpenCV's FFmpeg, or decoded in hardware through GStreamer where it can."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from agp_edge.errors import AgpEdgeError, InputError, SourceLostError
from agp_edge.extras import import_cv2
from agp_edge.sources import library_log
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.opencv import PURPOSE, OpenCvSource
from agp_edge.sources.options import AS_IT_IS, SourceOptions
from agp_edge.sources.uri import escape_userinfo, redact

LOG_LEVEL = "32"
"""FFmpeg's level of messages that say what it made up: its information, below its warnings."""

ANALYSE_US = 100_000
"""How much of a stream FFmpeg looks at before it begins. By itself it takes a second, which each reconnect then costs; what
it finds out there is the frame rate. It opens without the picture's size too, and the first whole picture has that."""

_MADE_UP = re.compile(r"concealing \d+|error while decoding|CABAC_MAX_BIN|bad vlc|error (dc|count)")
_DAMAGE = re.compile(rf"{_MADE_UP.pattern}|missed \d+ packets|Could not find ref")
"""What FFmpeg says of a picture that is not whole: what it made up of H.264, where H.265 and JPEG end too early; and of packets
that never came, and pictures that others are built on.
"""

_STATUS = re.compile(r"method \w+ failed: (\d{3})")
_NOT_REACHED = re.compile(
    r"Connection refused|No route to host|Network is unreachable|Failed to resolve hostname"
)


class RtspSource(Source):
    """A camera that speaks RTSP.

    Args:
        uri: `rtsp://…` or `rtsps://…`; user and password may be in it.
        options: `transport`, `decode` and `timeout_s`.
    """

    takes = frozenset({"transport", "decode", "timeout_s"})
    live = True

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        self.name = redact(uri)
        self.fps: float | None = None
        self._uri = uri
        self._options = options
        self._inner: Source | None = None

    def load(self) -> None:
        """Find out what decodes, and load that."""
        if self._inner is None:
            self._inner = self._choose()
        self._inner.load()

    def open(self) -> None:
        """Connect."""
        self.load()
        assert self._inner is not None
        self._inner.open()
        self.fps = self._inner.fps

    def read(self) -> Frame | None:
        """The next frame, in the size that it comes in: a camera that is set to another gives that from then on."""
        if self._inner is None:
            raise SourceLostError(f"{self.name} is not open", "open it first")
        return self._inner.read()

    def interrupt(self) -> None:
        """End a wait of GStreamer's; FFmpeg's cannot be ended."""
        if self._inner is not None:
            self._inner.interrupt()

    def close(self) -> None:
        """Let go; safe to call twice."""
        if self._inner is not None:
            self._inner.close()

    def _choose(self) -> Source:
        if self._options.decode == "software":
            return FfmpegRtspSource(self._uri, self._options)
        from agp_edge.sources.gst_rtsp import GstRtspSource, rtsp_hardware_decoder

        if rtsp_hardware_decoder() is not None:
            return GstRtspSource(self._uri, self._options)
        if self._options.decode == "hardware":
            raise InputError(
                f"there is nothing here that decodes {self.name} in hardware",
                "leave --decode away: GStreamer has no such decoder, or is not installed (see agp-edge doctor)",
            )
        return FfmpegRtspSource(self._uri, self._options)


class FfmpegRtspSource(OpenCvSource):
    """An RTSP camera decoded on the CPU.

    Its settings of FFmpeg are those of the process. FFmpeg decodes in one thread, because each further one keeps a frame back.

    Where packets were lost FFmpeg makes up what is missing, and shows no sign of that but in its log. In a process whose log
    is caught such a picture counts as one that cannot be read, and so do those after it, which are built on it, up to
    the next that is built on none.

    Args:
        uri: `rtsp://…` or `rtsps://…`.
        options: `transport` and `timeout_s`.
    """

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        super().__init__(redact(uri), live=True)
        self._uri = uri
        self._options = options
        self._damaged = False
        self._first = True
        self._whole_at = 0.0

    def open(self) -> None:
        """Connect."""
        super().open()
        library_log.take()
        self._damaged, self._first = False, True
        self._whole_at = time.monotonic()

    def read(self) -> Frame | None:
        """The next frame that is whole.

        Raises:
            InputError: this one is not.
            SourceLostError: none came within `timeout_s`, or the connection ended.
        """
        frame = super().read()
        log = library_log.take()
        # Before the first picture FFmpeg complains of all that is built on an earlier one, and shows nothing of it.
        harm = (_MADE_UP if self._first else _DAMAGE).search(log)
        self._first = False
        if harm:
            self._damaged = True
        elif self._damaged and self._stands_alone():
            self._damaged = False
        now = time.monotonic()
        if not self._damaged:
            self._whole_at = now
            return frame
        if now - self._whole_at > self._options.timeout_s:
            raise SourceLostError(
                f"{self.name} gives no whole picture for {self._options.timeout_s:g} s",
                "see that the network loses nothing, and have the camera send key frames more often",
            )
        raise InputError(
            f"a picture of {self.name} is damaged: parts of it did not come",
            "see that the network loses nothing, or take --transport tcp",
        )

    def _stands_alone(self) -> bool:
        """Whether the picture that was read last is built on no other."""
        cv2 = import_cv2(PURPOSE)
        if hasattr(cv2, "CAP_PROP_FRAME_TYPE"):
            return int(self._capture.get(cv2.CAP_PROP_FRAME_TYPE)) == ord("I")
        return bool(self._capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))

    def _connect(self, cv2: Any) -> Any:
        if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
            raise InputError(
                f"{self.name} needs an OpenCV with FFmpeg; {cv2.__version__} here was built without",
                "install one: pip install opencv-python-headless",
            )
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
            f"rtsp_transport;{self._options.transport}|fflags;nobuffer|analyzeduration;{ANALYSE_US}"
        )
        if library_log.is_caught():
            os.environ["OPENCV_FFMPEG_LOGLEVEL"] = LOG_LEVEL
        timeout_ms = int(self._options.timeout_s * 1000)
        capture = cv2.VideoCapture(
            escape_userinfo(self._uri),
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms,
                cv2.CAP_PROP_N_THREADS, 1,
            ],
        )  # fmt: skip
        if not capture.isOpened():
            raise self._refusal(library_log.take())
        return capture

    def _refusal(self, log: str) -> AgpEdgeError:
        """Why FFmpeg did not open it, from what it printed; nothing of that is shown as it is."""
        # The last: a camera that asks for a password says 401 first.
        status = next(reversed(list(_STATUS.finditer(log))), None)
        if status:
            return refusal(self.name, status[1])
        if not_reached := _NOT_REACHED.search(log):
            return SourceLostError(
                f"{self.name} cannot be reached: {not_reached[0].lower()}",
                "see that it is on, and check address and port",
            )
        return SourceLostError(
            f"{self.name} does not open within {self._options.timeout_s:g} s, or gives no video",
            "see that it is on and reachable, and check address, user and password",
        )


def refusal(name: str, status: str) -> AgpEdgeError:
    """Why a camera does not give its stream.

    Args:
        name: the source, as it may be shown.
        status: what it answered: `401`.
    """
    if status in ("401", "403"):
        return InputError(
            f"{name} refuses user and password ({status})",
            "give those of the camera: rtsp://USER:PASSWORD@ADDRESS/PATH, a secret as ${NAME} or ${file:PATH}",
        )
    if status == "404":
        return SourceLostError(
            f"{name} is no stream that the camera has (404)",
            "look into the camera's manual for the path behind its address",
        )
    return SourceLostError(
        f"{name} is refused by the camera ({status})",
        "see that it has room for one more viewer, and try --transport udp, or tcp",
    )
