"""Images on disk as a source: one image, a folder, or a glob, in order of name."""

from __future__ import annotations

import glob
import threading
import time
from pathlib import Path

from agp_edge.datasets.images import IMAGE_SUFFIXES, read_image
from agp_edge.errors import InputError, MissingExtraError, SourceLostError
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.folder_watch import FolderWatch
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
    """An image, a folder of images, or a glob.

    As it is, the list is made when it is opened, in order of name, and has an end. With `options.follow` a folder or glob is
    watched for ever: what is there comes first, then what is added, in order of the files' times and then of their names.
    Nothing is dropped; how a file that is still being written is told from a whole one, `FolderWatch` says.

    An image that cannot be read raises InputError once, with its number used up, and the next `read` goes on.

    Args:
        pattern: what `find_images` takes.
        options: `follow` means something here.

    Raises:
        InputError: what is to be watched is no folder and no glob.
    """

    takes = frozenset({"follow"})

    def __init__(self, pattern: str, options: SourceOptions = AS_IT_IS) -> None:
        self.name = pattern
        self.live = False
        self.endless = options.follow
        self.fps = None
        self._pattern = pattern
        # Made once: opened again, as when a share was away, it still knows what was taken.
        self._watch = FolderWatch(pattern) if options.follow else None
        self._interrupted = threading.Event()
        self._paths: list[Path] = []
        self._number = 0

    def open(self) -> None:
        """List the images; a folder that is watched may be empty, but has to be there."""
        if self._watch is not None:
            self._watch.check()
        else:
            self._paths = find_images(self._pattern)
            self._number = 0

    def read(self) -> Frame | None:
        """The next image as a frame, [H, W, 3] uint8 BGR; its capture is when reading it began.

        Where a folder is watched this waits for the next image, and there is no end.
        """
        if self._watch is not None:
            return self._read_watched(self._watch)
        if self._number >= len(self._paths):
            return None
        number, self._number = self._number, self._number + 1
        return self._read(self._paths[number], number)

    def interrupt(self) -> None:
        """Make a `read` that waits for the next image raise SourceLostError."""
        self._interrupted.set()

    def close(self) -> None:
        """Nothing is held; a list is at its end."""
        self._paths = []

    def _read(self, path: Path, number: int) -> Frame:
        captured_ns, wall_s = time.monotonic_ns(), time.time()
        pixels = read_image(path)
        return Frame(pixels, number, captured_ns, wall_s, "arrival", self.name, file=str(path))

    def _read_watched(self, watch: FolderWatch) -> Frame:
        while not self._interrupted.is_set():
            path = watch.next()
            if path is None:
                self._interrupted.wait(watch.pause_s)
                continue
            try:
                frame = self._read(path, self._number)
            except MissingExtraError:
                raise
            except InputError:
                if watch.not_whole(path):
                    self._number += 1
                    raise
                continue
            watch.took(path)
            self._number += 1
            return frame
        raise SourceLostError(f"{self.name} is not watched any more", "it was interrupted")
