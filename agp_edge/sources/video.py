"""Video files: every frame, in order, as fast as they are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agp_edge.errors import InputError
from agp_edge.sources.opencv import OpenCvSource
from agp_edge.sources.options import AS_IT_IS, SourceOptions

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
"""What a file is called that is a video, in lower case; others are tried all the same."""


class VideoFileSource(OpenCvSource):
    """A video file. One that is cut off gives the frames that it has.

    Args:
        path: the file.
    """

    def __init__(self, path: str, options: SourceOptions = AS_IT_IS) -> None:
        self._path = Path(path)
        super().__init__(path, live=False)

    def _connect(self, cv2: Any) -> Any:
        if not self._path.is_file():
            what = "is a folder" if self._path.is_dir() else "does not exist"
            raise InputError(
                f"video {self._path} {what}", "give a video file, an image, a folder of images or a URI"
            )
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_ANY)
        if not capture.isOpened():
            size = self._path.stat().st_size
            raise InputError(
                f"video {self._path} ({size} bytes) does not open",
                "it is no video, damaged, or coded in a way that OpenCV does not read; try: ffprobe FILE",
            )
        return capture
