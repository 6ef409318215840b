"""A folder or a glob watched for new images, by looking at it again and again.

Not by inotify: it does not see what another machine writes to an NFS or SMB share, which is where such folders are.
"""

from __future__ import annotations

import glob
import os
import stat
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agp_edge.datasets.images import is_image_name
from agp_edge.errors import InputError, SourceLostError

LOOK_S = 0.25
"""Pause between two looks; longer where a look itself takes long, so that no more than a fifth of the time goes into it."""

SETTLED_S = 2.0
"""A file whose time lies so far back is not being written: it need not be looked at twice."""

BROKEN_S = 10.0
"""For so long a file that is no whole image may stay as it is before it counts as failed."""

MOST_GONE = 65536
"""Names that vanished and are remembered, in case that only the share was away for a while."""


class Stamp(NamedTuple):
    """By what a file is known to have changed."""

    mtime_ns: int
    size: int


@dataclass
class _Pending:
    """A file that was not taken yet: how it looked, since when, and whether it was tried like that."""

    stamp: Stamp
    since: float
    tried: bool = False


class FolderWatch:
    """Gives each image of a folder or glob once, when it seems to be whole; not safe to be used from two threads.

    A file is offered when its size and time were the same at two looks; who cannot read it then says so (`not_whole`), and
    it is offered again when it has changed, and a last time after `BROKEN_S`. Names that were taken are known for as long as
    they are there. A name that went is new when it comes again, unless it is the very file (time and size).

    Args:
        pattern: a folder, with the folders in it, or a glob.

    Raises:
        InputError: it is neither.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._folder = None if glob.has_magic(pattern) and not Path(pattern).is_dir() else Path(pattern)
        if self._folder is not None and self._folder.exists() and not self._folder.is_dir():
            raise InputError(
                f"{pattern} is no folder and no glob, so that nothing new can come",
                "give --follow a folder, or a glob in quotes: 'shots/*.png'",
            )
        self._was_there = False
        self._pending: dict[str, _Pending] = {}
        self._taken: dict[str, Stamp] = {}
        self._failed: dict[str, Stamp] = {}
        self._gone: OrderedDict[str, Stamp] = OrderedDict()
        self._ready: deque[str] = deque()
        self.pause_s = LOOK_S

    def check(self) -> None:
        """See that the folder is there.

        Raises:
            InputError: it has never been there.
            SourceLostError: it is there no more.
        """
        if self._folder is None:
            return
        if not self._was_there and not self._folder.is_dir():
            raise InputError(
                f"there is no folder {self._folder} to watch", "make it, or mount the share that has it"
            )
        next(_images_in(self._folder, root=True), None)
        self._was_there = True

    def next(self) -> Path | None:
        """The oldest file that seems whole, by time and then by name; None if there is none for now.

        Raises:
            SourceLostError: the folder itself is not there any more.
        """
        if not self._ready:
            began = time.monotonic()
            self._look()
            self.pause_s = max(LOOK_S, 4 * (time.monotonic() - began))
        return Path(self._ready.popleft()) if self._ready else None

    def took(self, path: Path) -> None:
        """The file was read."""
        if pending := self._pending.pop(str(path), None):
            self._taken[str(path)] = pending.stamp

    def not_whole(self, path: Path) -> bool:
        """The file could not be read; whether that is final, because it has not changed for too long."""
        key = str(path)
        pending = self._pending.get(key)
        if pending is None or not path.exists():
            self._pending.pop(key, None)
            return False  # It was deleted meanwhile, which is no error.
        if time.monotonic() - pending.since < BROKEN_S:
            pending.tried = True
            return False
        del self._pending[key]
        self._failed[key] = pending.stamp
        return True

    def _look(self) -> None:
        now, there = time.monotonic(), set()
        ready: list[tuple[int, str]] = []
        for key in self._names():
            there.add(key)
            if key in self._taken:
                continue
            stamp = _stamp(key)
            if stamp is None or self._is_known(key, stamp):
                continue
            pending = self._pending.get(key)
            if pending is None or pending.stamp != stamp:
                pending = self._pending[key] = _Pending(stamp, now)
                whole = time.time() - stamp.mtime_ns / 1e9 > SETTLED_S
            else:
                whole = not pending.tried or now - pending.since >= BROKEN_S
            if whole:
                ready.append((stamp.mtime_ns, key))
        self._forget_all_but(there)
        self._ready.extend(key for _, key in sorted(ready))

    def _is_known(self, key: str, stamp: Stamp) -> bool:
        """Whether it is a file that failed and did not change, or one that was taken, gone and is back."""
        if self._failed.get(key) == stamp:
            return True
        self._failed.pop(key, None)
        if self._gone.pop(key, None) == stamp:
            self._taken[key] = stamp
            return True
        return False

    def _forget_all_but(self, there: set[str]) -> None:
        for key in [k for k in self._taken if k not in there]:
            self._gone[key] = self._taken.pop(key)
            self._gone.move_to_end(key)
        while len(self._gone) > MOST_GONE:
            self._gone.popitem(last=False)
        for known in (self._pending, self._failed):
            for key in [k for k in known if k not in there]:
                del known[key]

    def _names(self) -> Iterator[str]:
        if self._folder is not None:
            yield from _images_in(self._folder, root=True)
            return
        for name in glob.iglob(self._pattern, recursive=True):  # noqa: PTH207 - takes absolute patterns too
            if is_image_name(os.path.basename(name)):  # noqa: PTH119
                yield name


def _images_in(folder: Path | str, *, root: bool = False) -> Iterator[str]:
    """The images in a folder and those below it; hidden ones are being written, or thumbnails."""
    try:
        with os.scandir(folder) as entries:
            below = []
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                elif is_image_name(entry.name):
                    yield entry.path
    except OSError as error:
        if root:
            raise SourceLostError(
                f"the folder {folder} cannot be looked at any more: {error.strerror or error}",
                "see that it is there, and its drive or share mounted",
            ) from error
        return  # It was removed between two looks.
    for path in below:
        yield from _images_in(path)


def _stamp(key: str) -> Stamp | None:
    """None if the file is gone, or no plain file."""
    try:
        status = os.stat(key)  # noqa: PTH116
    except OSError:
        return None
    return Stamp(status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None
