"""USB and other V4L2 cameras. Thin on purpose: the camera's own pixel format, size and controls are left as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agp_edge.errors import InputError
from agp_edge.sources.opencv import OpenCvSource
from agp_edge.sources.options import AS_IT_IS, SourceOptions


class V4l2Source(OpenCvSource):
    """A camera at `/dev/video*`.

    Args:
        uri: `0`, `/dev/video0` or `v4l2:///dev/video0`.
    """

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        path = uri.removeprefix("v4l2://")
        self._device = Path(f"/dev/video{path}" if path.isdigit() else path)
        super().__init__(str(self._device), live=True)

    def _connect(self, cv2: Any) -> Any:
        if not self._device.exists():
            present = sorted(str(p) for p in Path("/dev").glob("video*"))
            raise InputError(
                f"there is no camera at {self._device}",
                f"cameras here: {', '.join(present)}"
                if present
                else "plug one in, or take another source: --source rtsp://ADDRESS, a video file or a folder of images",
            )
        capture = cv2.VideoCapture(str(self._device), cv2.CAP_V4L2)
        if not capture.isOpened():
            raise InputError(
                f"camera {self._device} does not open",
                "see that nothing else uses it and that this user is in the group `video`",
            )
        # One buffer in the driver: an older frame than the newest is of no use.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture
