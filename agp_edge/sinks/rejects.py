"""Rejected frames as files: the frame without loss, the same with its heat map, and its verdict."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from agp_edge.clock import utc
from agp_edge.datasets.images import write_png
from agp_edge.files import translate_write_errors, write_json
from agp_edge.sinks.base import Judgement, Sink


def file_stem(judgement: Judgement) -> str:
    """A name that sorts by time: `20260203T040506.789012Z_camera_000042`."""
    moment = utc(judgement.wall_s).strftime("%Y%m%dT%H%M%S.%fZ")
    source = re.sub(r"[^A-Za-z0-9]+", "-", judgement.source).strip("-")[-40:] or "source"
    return f"{moment}_{source}_{judgement.frame:06d}"


class RejectsSink(Sink):
    """A folder with three files for every NG frame: `….png`, `….overlay.png`, `….json`.

    Each file is whole or absent, and the JSON comes last: where it is, the other two are.

    Args:
        folder: made if absent.

    Raises:
        InputError: it cannot be made.
    """

    name = "--rejects"
    wants = "rejects"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._judged = self._rejects = 0
        self._made = not folder.exists()
        with translate_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, judgement: Judgement) -> None:
        """Keep the frame if it is NG."""
        self._judged += 1
        if judgement.verdict != "NG":
            return
        assert judgement.pixels is not None, "a sink that wants rejects gets them"
        stem = file_stem(judgement)
        picture = judgement.annotated()
        write_png(self._folder / f"{stem}.png", judgement.pixels)
        write_png(self._folder / f"{stem}.overlay.png", picture)
        write_json(self._folder / f"{stem}.json", judgement.to_dict())
        self._rejects += 1

    def close(self) -> None:
        """Nothing is held; the folder goes if it was made here and nothing was judged."""
        if self._made and not self._judged:
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def describe(self) -> str:
        """How many rejects went into which folder, none too."""
        return f"{self._rejects} rejects in {self._folder}" if self._judged else ""
