"""Images on disk as a source: one image, a folder, or a glob, in order of name."""

from __future__ import annotations

import glob
import time
from pathlib import Path

from agp_edge.datasets.images import IMAGE_SUFFIXES, read_image
from agp_edge.errors import InputError
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.options import AS_IT_IS, SourceOptions

GLOB_CHARACTERS = frozenset("*?[")


def find_images(pattern: str) -> list[Path]:
    """The images that an image file, a folder (and the folders in it) or a glob names, in order of name.

    Raises:
        InputError: there are none.
    """
    path = Path(pattern)
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
        # Hidden files and folders hold thumbnails and half-written files.
        found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        nothing = f"there are no images in {path}"
    elif path.exists():
        return [path]
    elif GLOB_CHARACTERS & set(pattern):
        found = [p for p in map(Path, glob.glob(pattern, recursive=True)) if p.is_file()]  # noqa: PTH207 - takes absolute patterns too
        nothing = f"no file matches {pattern}"
    else:
        found, nothing = [], f"there is no image at {path}"
    if not found:
        raise InputError(nothing, f"give images: {', '.join(sorted(IMAGE_SUFFIXES))}")
    return sorted(found)


class ImagesSource(Source):
    """An image, a folder of images, or a glob; the list is made when it is opened.

    An image that cannot be read raises InputError once, with its number used up, and the next `read` goes on.

    Args:
        pattern: what `find_images` takes.
    """

    def __init__(self, pattern: str, options: SourceOptions = AS_IT_IS) -> None:
        self.name = pattern
        self.live = False
        self.fps = None
        self._pattern = pattern
        self._paths: list[Path] = []
        self._number = 0

    def open(self) -> None:
        """List the images."""
        self._paths = find_images(self._pattern)
        self._number = 0

    def read(self) -> Frame | None:
        """The next image as a frame, [H, W, 3] uint8 BGR; its capture is when reading it began."""
        if self._number >= len(self._paths):
            return None
        number, self._number = self._number, self._number + 1
        captured_ns, wall_s = time.monotonic_ns(), time.time()
        return Frame(read_image(self._paths[number]), number, captured_ns, wall_s, "arrival", self.name)

    def close(self) -> None:
        """Nothing is held; it is at its end."""
        self._paths = []
