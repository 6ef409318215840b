"""Rejected frames as files: the frame without loss, the same with its heat map, and its verdict."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from agp_edge.clock import utc
from agp_edge.datasets.images import encode_png
from agp_edge.files import to_json, translate_write_errors, write_bytes
from agp_edge.sinks.base import Judgement, Sink
from agp_edge.sinks.disk import OwnFiles, on_disk

LIMIT_BYTES = 10 << 30
"""What rejects may take where nothing else is said: some thousand in 1080p, at 9 MB each."""

RESERVE_BYTES = 256 << 20
"""What is left free for others on the same disk."""

STEM = r"(?P<time>\d{8}T\d{6})\.\d{6}Z_[A-Za-z0-9-]+_\d{6,}(?:_roi-[A-Za-z0-9-]+)?(?:_part-[A-Za-z0-9-]+)?(?:_\d+)?"
SUFFIXES = (".json", ".overlay.png", ".png")
"""In the order in which they are deleted; written they are the other way round."""

LONGEST_WORD = 40


def file_stem(judgement: Judgement) -> str:
    """A name that sorts by time: `20260203T040506.789012Z_camera_000042`, then region of interest and part if there are."""
    moment = utc(judgement.wall_s).strftime("%Y%m%dT%H%M%S.%fZ")
    stem = f"{moment}_{_word(judgement.source, 'source')}_{judgement.frame:06d}"
    if judgement.roi is not None:
        stem += f"_roi-{_word(judgement.roi[0], 'x')}"
    if judgement.part is not None:
        stem += f"_part-{_word(judgement.part, 'x')}"
    return stem


def _word(text: str, otherwise: str) -> str:
    """Text as a part of a file name: its end, in letters and digits of ASCII."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[-LONGEST_WORD:].strip("-") or otherwise


class RejectsSink(Sink):
    """A folder with three files for every NG frame: `….png`, `….overlay.png`, `….json`.

    Each file is whole or absent, and the JSON comes last: where it is, the other two are. Where the limit is reached the
    oldest three go, JSON first; rejects of earlier runs count, files of any other name are never touched.

    Args:
        folder: made if absent.
        limit_bytes: what the rejects may take; None is no limit.
        reserve_bytes: what is left free on the disk; below that a new reject takes the place of the oldest.

    Raises:
        InputError: it cannot be made.
    """

    name = "--rejects"
    wants = "rejects"

    def __init__(self, folder: Path, limit_bytes: int | None = None, reserve_bytes: int = 0) -> None:
        self._folder = folder
        self._judged = self._rejects = 0
        self._made = not folder.exists()
        with translate_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._own = OwnFiles(
            folder, STEM, SUFFIXES, self.name, limit_bytes=limit_bytes, reserve_bytes=reserve_bytes
        )

    def write(self, judgement: Judgement) -> None:
        """Keep the frame if it is NG."""
        self._judged += 1
        if judgement.verdict != "NG":
            return
        assert judgement.pixels is not None, "a sink that wants rejects gets them"
        record = to_json(judgement.to_dict()).encode()
        # Coded before the disk is touched: what they take has to be known.
        contents = dict(
            zip(
                SUFFIXES,
                (record, encode_png(judgement.annotated()), encode_png(judgement.pixels)),
                strict=True,
            )
        )
        size = sum(on_disk(len(data)) for data in contents.values())
        self._own.make_room(size)
        stem = self._free_stem(file_stem(judgement))
        try:
            for suffix in reversed(SUFFIXES):
                write_bytes(self._folder / f"{stem}{suffix}", contents[suffix])
        except BaseException:
            # Room for the next one is worth more than a part of this one.
            for suffix in SUFFIXES:
                with contextlib.suppress(OSError):
                    (self._folder / f"{stem}{suffix}").unlink(missing_ok=True)
            raise
        self._own.add(size)
        self._rejects += 1

    def close(self) -> None:
        """Nothing is held; the folder goes if it was made here and nothing was judged."""
        if self._made and not self._judged:
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def describe(self) -> str:
        """How many rejects went into which folder, none too, and how many old ones had to go."""
        gone = f", the {self._own.deleted} oldest there deleted" if self._own.deleted else ""
        return f"{self._rejects} rejects in {self._folder}{gone}" if self._judged else ""

    def _free_stem(self, stem: str) -> str:
        """The stem, or one with a number where two names of a region or a part came out as the same word."""
        count = 1
        free = stem
        while any((self._folder / f"{free}{suffix}").exists() for suffix in SUFFIXES):
            count += 1
            free = f"{stem}_{count}"
        return free
