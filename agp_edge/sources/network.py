"""Network cameras: RTSP over TCP, and MJPEG over HTTP, both through OpenCV's FFmpeg."""

from __future__ import annotations

from typing import Any

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources.opencv import OpenCvSource
from agp_edge.sources.options import AS_IT_IS, SourceOptions
from agp_edge.sources.uri import escape_userinfo, redact

OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_MS = 5000


class NetworkSource(OpenCvSource):
    """A camera behind a URL. RTSP runs over TCP, which is OpenCV's default: UDP loses parts of pictures.

    Args:
        uri: `rtsp://…`, `rtsps://…`, `http://…` or `https://…`; user and password may be in it.
    """

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        self._uri = uri
        super().__init__(redact(uri), live=True)

    def _connect(self, cv2: Any) -> Any:
        if not cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG):
            raise InputError(
                f"{self.name} needs an OpenCV with FFmpeg; {cv2.__version__} here was built without",
                "install one: pip install opencv-python-headless",
            )
        capture = cv2.VideoCapture(
            escape_userinfo(self._uri),
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS,
            ],
        )  # fmt: skip
        if not capture.isOpened():
            raise SourceLostError(
                f"{self.name} cannot be reached, or refuses",
                "see that it is on, and check address, user and password",
            )
        return capture
