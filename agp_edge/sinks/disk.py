"""How much of a disk a sink may take: its own files of a folder, of which the oldest go first."""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from agp_edge.errors import DiskFullError, InputError
from agp_edge.files import translate_write_errors

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
BLOCK_BYTES = 4096
LOOK_AHEAD = 4096
"""Names of the oldest files that are known at a time: a folder of millions costs no memory, but a look each so often."""

FUTURE_S = 60.0
"""A sensor's clock may be ahead by less."""

STALE_S = 3600.0


def parse_bytes(text: str, flag: str) -> int:
    """Bytes from `500M`, `10G` or a plain number, in powers of 1024 as logrotate and journald count.

    Raises:
        InputError: it is none, or zero.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?)(?:iB|B)?", text.strip(), re.IGNORECASE)
    value = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if value < 1:
        raise InputError(f"{flag} {text} is no size", "give bytes, or write it as 500M or 10G")
    return value


def on_disk(size_bytes: int) -> int:
    """What a file of that size takes, in whole blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder, which is made if it is not there.

    Raises:
        InputError, DiskFullError: it cannot be made.
    """
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder).free


class OwnFiles:
    """The files of a folder that a sink wrote, in groups of one stem whose names sort by time.

    Only names that are made of a stem and one of the suffixes are ever looked at or deleted, and only plain files. What an
    earlier run left there counts. Not safe to be called from two threads.

    Args:
        folder: where they are; files right in it.
        stem: what a stem looks like, with a group `time` for `20260203T040506` in UTC.
        suffixes: in the order in which a group's files are deleted.
        flag: that of the sink, for errors.
        limit_bytes: what all of them may take; None is no limit.
        reserve_bytes: what is left free on the disk for others. With neither nothing is ever deleted.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        suffixes: Sequence[str],
        flag: str,
        *,
        limit_bytes: int | None = None,
        reserve_bytes: int = 0,
    ) -> None:
        self._folder, self._flag = folder, flag
        self._limit_bytes, self._reserve_bytes = limit_bytes, reserve_bytes
        self._suffixes = list(suffixes)
        endings = "|".join(re.escape(suffix) for suffix in suffixes)
        self._name = re.compile(rf"(?P<stem>{stem})(?P<suffix>{endings})", re.ASCII)
        self._leftover = re.compile(rf"\.{stem}(?:{endings})\.\w{{8}}", re.ASCII)
        self._total: int | None = None
        self._oldest: deque[tuple[list[str], int]] = deque()
        self.deleted = 0

    def make_room(self, new_bytes: int, need_bytes: int | None = None, *, keep: str | None = None) -> None:
        """Delete the oldest groups until what is new is within the limit, and there is room for it on the disk.

        Where others fill the disk, what is new takes the place of what is oldest and of no more, and only if that helps:
        whoever is at fault for a full disk must not cost all that was kept.

        Args:
            new_bytes: what was not yet told to `add`: about to be written, or written so far of a video.
            need_bytes: what has to be free beyond the reserve; None for `new_bytes`.
            keep: a stem that is neither counted nor deleted, as of the video that is being written.

        Raises:
            DiskFullError: there is nothing left to delete that would help.
            InputError: a file cannot be deleted.
        """
        if self._limit_bytes is not None:
            while self._total_bytes(keep) + new_bytes > self._limit_bytes:
                if not self._delete_oldest(keep):
                    raise DiskFullError(
                        f"the {self._limit_bytes:,} bytes of {self._flag} leave no room for {new_bytes:,} in {self._folder}",
                        f"allow more: {self._flag}-limit",
                    )
        need = new_bytes if need_bytes is None else need_bytes
        free = free_bytes(self._folder)
        wanted = min(need, self._reserve_bytes + need - free)
        if wanted <= 0:
            return
        may_delete = self._limit_bytes is not None or self._reserve_bytes > 0
        if may_delete and self._total_bytes(keep) >= wanted:
            while wanted > 0 and (size := self._delete_oldest(keep)):
                wanted -= size
        if wanted > 0:
            raise DiskFullError(
                f"no space left to write {self._folder}: {free:,} bytes are free, {self._reserve_bytes + need:,} are needed",
                "free space there, or give another place; what was complete is kept",
            )

    def add(self, size_bytes: int) -> None:
        """Count a group that was written, in bytes on the disk."""
        if self._total is not None:
            self._total += size_bytes

    def _total_bytes(self, keep: str | None) -> int:
        if self._total is None:
            self._scan(keep)
        assert self._total is not None
        return self._total

    def _delete_oldest(self, keep: str | None) -> int:
        """Delete one group; what it took in bytes, 0 if there is none."""
        if not self._oldest:
            self._scan(keep)
        if not self._oldest:
            return 0
        names, size = self._oldest.popleft()
        with translate_write_errors(self._folder):
            for name in names:
                (self._folder / name).unlink(missing_ok=True)
        self._total = max(0, (self._total or 0) - size)
        self.deleted += 1
        return size

    def _scan(self, keep: str | None) -> None:
        """Count what is there, and note the oldest of it."""
        self._total = 0
        # What is named later than now was written while the clock was wrong, before anything that is written now.
        now = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() + FUTURE_S))
        oldest = heapq.nsmallest(
            LOOK_AHEAD,
            (
                (match["time"] <= now, match["stem"], self._suffixes.index(match["suffix"]), match[0], size)
                for match, size in self._files(keep)
            ),
        )
        groups: list[tuple[str, list[str], int]] = []
        for _, stem, _, name, size in oldest:
            if groups and groups[-1][0] == stem:
                groups[-1] = (stem, [*groups[-1][1], name], groups[-1][2] + size)
            else:
                groups.append((stem, [name], size))
        if len(oldest) == LOOK_AHEAD and len(groups) > 1:
            groups.pop()  # Perhaps not all of it was seen.
        self._oldest = deque((names, size) for _, names, size in groups)

    def _files(self, keep: str | None) -> Iterator[tuple[re.Match[str], int]]:
        """The name and the bytes of each file of ours, all of them added up."""
        with translate_write_errors(self._folder), os.scandir(self._folder) as entries:
            for entry in entries:
                if self._leftover.fullmatch(entry.name):
                    self._remove_leftover(entry)
                match = self._name.fullmatch(entry.name)
                if match is None or match["stem"] == keep:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        size = on_disk(entry.stat(follow_symlinks=False).st_size)
                        self._total = (self._total or 0) + size
                        yield match, size

    def _remove_leftover(self, entry: os.DirEntry[str]) -> None:
        """A folder in which a file of ours was being written when the process was killed; not one of another process."""
        with contextlib.suppress(FileNotFoundError):
            age = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if age > STALE_S and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
