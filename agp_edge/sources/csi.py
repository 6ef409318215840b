"""CSI cameras of a Jetson, through its GStreamer element `nvarguscamerasrc`."""

from __future__ import annotations

from typing import Any

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources.opencv import OpenCvSource
from agp_edge.sources.options import AS_IT_IS, SourceOptions


def pipeline(sensor: int) -> str:
    """The GStreamer pipeline of a CSI sensor, ending in BGR frames of which only the newest is kept."""
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM) ! nvvidconv ! video/x-raw,format=BGRx "
        "! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )


class CsiSource(OpenCvSource):
    """A CSI camera.

    Args:
        uri: `csi://0`, with the sensor's number.

    Raises:
        InputError: no sensor number.
    """

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        number = uri.removeprefix("csi://")
        if not number.isdigit():
            raise InputError(f"{uri!r} names no CSI sensor", "write its number, as in csi://0")
        self._sensor = int(number)
        super().__init__(uri, live=True)

    def _connect(self, cv2: Any) -> Any:
        if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise InputError(
                f"{self.name} needs an OpenCV with GStreamer; {cv2.__version__} here was built without",
                "use the OpenCV of JetPack: a virtual environment with --system-site-packages and no pip OpenCV in it",
            )
        capture = cv2.VideoCapture(pipeline(self._sensor), cv2.CAP_GSTREAMER)
        if not capture.isOpened():
            raise SourceLostError(
                f"{self.name} does not open",
                "see that the sensor is connected: gst-inspect-1.0 nvarguscamerasrc",
            )
        return capture
