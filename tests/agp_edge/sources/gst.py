"""What the tests of GStreamer share."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources.gst_binding import load_gst, missing_element
from agp_edge.sources.gstreamer import GstSource


def need(*elements: str) -> None:
    """Skip a test where GStreamer or one of these elements is not here."""
    try:
        missing = missing_element(load_gst(), *elements)
    except InputError as error:
        missing = error
    if missing is not None:
        pytest.skip(f"{missing.what}: {missing.hint}")


def held() -> tuple[int, int, int]:
    """(resident KiB, file descriptors, threads) of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files, threads = (len(list(Path(f"/proc/self/{what}").iterdir())) for what in ("fd", "task"))
    return pages * 4, files, threads


def read_until_lost(source: GstSource, timeout_s: float = 60) -> SourceLostError:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            source.read()
        except SourceLostError as error:
            return error
    raise AssertionError("it was not lost")
