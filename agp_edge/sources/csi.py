"""CSI cameras of a Jetson, through its GStreamer element `nvarguscamerasrc`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from agp_edge.errors import InputError
from agp_edge.sources.gst_binding import load_gst, missing_element
from agp_edge.sources.gstreamer import GstSource, Pipeline
from agp_edge.sources.options import AS_IT_IS, SourceOptions

PIXEL_FORMATS = ("NV12", "BGRx")
"""What a picture may come as. NV12 is what the camera gives, half the bytes, and has its colours converted as all others."""


@dataclass(frozen=True)
class CameraElement:
    """What a CSI source is made of in GStreamer.

    Attributes:
        element: the source.
        sensor: its property that takes the sensor's number.
        caps: the kind of memory that its pictures are in.
        convert: the element that brings them into ordinary memory.
    """

    element: str
    sensor: str
    caps: str
    convert: str


ARGUS = CameraElement("nvarguscamerasrc", "sensor-id", "video/x-raw(memory:NVMM)", "nvvidconv")


class CsiSource(GstSource):
    """A CSI camera. Its element stamps a picture when the image processor hands it over, later than the sensor gave it.

    Without a size it is 1920x1080, without a rate 30: the element's own choice.

    Args:
        uri: `csi://0`, with the sensor's number.
        options: `size_wh` and `fps`, by which the sensor's mode is chosen; `pixel_format`, NV12 or BGRx; `controls`,
            the element's properties by name; `timeout_s`.

    Raises:
        InputError: no sensor number, or another pixel format.
    """

    takes = frozenset({"size_wh", "fps", "pixel_format", "controls", "timeout_s"})
    camera: ClassVar[CameraElement] = ARGUS

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        number = uri.removeprefix("csi://")
        if not (number.isascii() and number.isdigit()):
            raise InputError(f"{uri!r} names no CSI sensor", "write its number, as in csi://0")
        self._format = options.pixel_format or PIXEL_FORMATS[0]
        if self._format not in PIXEL_FORMATS:
            raise InputError(
                f"{uri} gives no {self._format!r}", f"take a pixel format of: {', '.join(PIXEL_FORMATS)}"
            )
        self._sensor = number
        self._options = options
        super().__init__(uri, options.timeout_s, stamped=True)

    def describe(self) -> str:
        """The pipeline from the sensor to a picture in ordinary memory; its source is called `camera`."""
        camera, options = self.camera, self._options
        caps = [camera.caps, "format=NV12"]
        if options.size_wh is not None:
            caps += ["width={},height={}".format(*options.size_wh)]
        if options.fps is not None:
            rate = Fraction(options.fps).limit_denominator(1001)
            caps.append(f"framerate={rate.numerator}/{rate.denominator}")
        wanted = f"video/x-raw,format={self._format}"
        return f"{camera.element} name=camera ! {','.join(caps)} ! {camera.convert} ! {wanted}"

    def _make(self) -> Pipeline:
        camera, options = self.camera, self._options
        if missing := missing_element(load_gst(), camera.element, camera.convert):
            raise InputError(
                f"{self.name}: {missing.what}", f"on a Jetson {missing.hint}; elsewhere there is no csi://"
            )
        pipeline = Pipeline(self.describe(), self.name)
        try:
            pipeline.set("camera", {**options.controls, camera.sensor: self._sensor})
        except InputError as error:
            pipeline.close()
            raise InputError(f"{self.name}: {error.what}", error.hint) from error
        return pipeline
