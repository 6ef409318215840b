"""RTSP cameras through GStreamer, decoded in hardware where the machine has that."""

from __future__ import annotations

import functools
import re

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources.gst_binding import load_gst, missing_element
from agp_edge.sources.gstreamer import GstSource, Pipeline
from agp_edge.sources.options import AS_IT_IS, SourceOptions
from agp_edge.sources.rtsp import refusal
from agp_edge.sources.uri import redact, split_userinfo

CODECS = {"H264": "rtph264depay ! h264parse name=parse", "H265": "rtph265depay ! h265parse name=parse"}
"""A codec as RTP calls it -> what takes it out of RTP and finds its pictures."""

HARDWARE = {
    # A Jetson's, which leaves its pictures in memory of its own; from there they are brought by its image converter.
    "nvv4l2decoder": dict.fromkeys(CODECS, "nvv4l2decoder ! nvvidconv"),
    # NVIDIA's cards.
    "nvh264dec": {"H264": "nvh264dec", "H265": "nvh265dec"},
    # Graphics of Intel and AMD.
    "vah264dec": {"H264": "vah264dec", "H265": "vah265dec"},
    # Other boards, where their kernel has a decoder.
    "v4l2h264dec": {"H264": "v4l2h264dec", "H265": "v4l2h265dec"},
}
"""A decoder in hardware, by its element for H.264 -> codec -> what decodes it and gives pictures in ordinary memory."""

SOFTWARE = {"H264": "avdec_h264", "H265": "avdec_h265"}
"""The same by FFmpeg, on the processor."""

RAW = 'capsfilter caps="video/x-raw,format={NV12,I420}"'
"""What a decoder may give. Decoders of one codec give the same bytes, and all colours are converted in one place here."""

LATENCY_MS = {"tcp": "0", "udp": "200"}
"""How long a packet that is missing is waited for; over TCP none is."""

_STATUS = re.compile(r" \((\d{3})\)$")


@functools.cache
def rtsp_hardware_decoder() -> str | None:
    """The element that decodes H.264 in hardware here: the first of `HARDWARE` that opens its device. None without one.

    A driver may crash or hang when it is asked: ask in a process that may end.
    """
    try:
        gst = load_gst()
    except InputError:
        return None
    return next((name for name in HARDWARE if gst.has_element(name) and gst.reaches_ready(name)), None)


def decoder_of(codec: str, decode: str) -> str | None:
    """What decodes a codec here, as part of a pipeline.

    Args:
        codec: a key of `CODECS`.
        decode: as `SourceOptions.decode`; `auto` takes hardware where there is some.
    """
    ways = []
    hardware = rtsp_hardware_decoder() if decode != "software" else None
    if hardware is not None:
        ways.append(HARDWARE[hardware][codec])
    if decode != "hardware":
        ways.append(SOFTWARE[codec])
    return next((way for way in ways if missing_element(load_gst(), *_elements(way)) is None), None)


def describe(codec: str, decoder: str) -> str:
    """The pipeline from a camera to decoded pictures; the source is called `camera`, what parses the stream `parse`.

    Args:
        codec: a key of `CODECS`.
        decoder: what decodes it, as part of a pipeline.
    """
    only = f"application/x-rtp,media=video,encoding-name={codec}"
    return f"rtspsrc name=camera ! {only} ! {CODECS[codec]} ! {decoder} ! {RAW}"


def _elements(description: str) -> list[str]:
    """The elements of a part of a pipeline."""
    return [part.split()[0] for part in description.split(" ! ")]


class GstRtspSource(GstSource):
    """An RTSP camera that sends H.264 or H.265.

    A frame's time is when it was decoded. GStreamer has one of its arrival beside it, corrected for a clock of the camera
    that goes faster or slower; it takes half a minute to settle, and was up to 45 ms off until then.

    Args:
        uri: `rtsp://…` or `rtsps://…`; user and password may be in it, and become no part of any text that is shown.
        options: `transport`, `decode` and `timeout_s`.
    """

    takes = frozenset({"transport", "decode", "timeout_s"})

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        super().__init__(redact(uri), options.timeout_s)
        self._location, self._user, self._password = split_userinfo(uri)
        self._options = options
        self._codecs = list(CODECS)

    def load(self) -> None:
        """Load GStreamer, and find out what decodes: a driver takes its time to say."""
        super().load()
        for codec in CODECS:
            decoder_of(codec, self._options.decode)

    def open(self) -> None:
        """Connect. Which codec it is shows when it sends; the one that it was is tried first the next time."""
        for codec in list(self._codecs):
            try:
                super().open()
                return
            except SourceLostError as error:
                if status := _STATUS.search(error.what):
                    raise refusal(self.name, status[1]) from error
                # No part of the pipeline took the stream.
                if "not-linked" not in error.what:
                    raise
            self._codecs.remove(codec)
            self._codecs.append(codec)
        raise InputError(
            f"{self.name} sends neither H.264 nor H.265", "set the camera to H.264, or take --decode software"
        )

    def _make(self) -> Pipeline:
        codec = self._codecs[0]
        gst = load_gst()
        if missing := missing_element(gst, "rtspsrc", *_elements(CODECS[codec])):
            raise missing
        decoder = decoder_of(codec, self._options.decode)
        if decoder is None:
            way = " in hardware" if self._options.decode == "hardware" else ""
            raise InputError(
                f"nothing here decodes {codec} of {self.name}{way}",
                "leave --decode away" if way else "install FFmpeg's: sudo apt install gstreamer1.0-libav",
            )
        pipeline = Pipeline(describe(codec, decoder), self.name, colours="parse")
        micros = str(int(self._timeout_s * 1e6))
        values = {
            "location": self._location,
            "protocols": self._options.transport,
            "latency": LATENCY_MS[self._options.transport],
            "timeout": micros,
            "tcp-timeout": micros,
        }
        if self._user or self._password:
            values |= {"user-id": self._user, "user-pw": self._password}
        try:
            pipeline.set("camera", values)
        except InputError as error:
            pipeline.close()
            raise InputError(f"{self.name}: {error.what}", error.hint) from error
        return pipeline
