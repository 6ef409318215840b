"""What a library prints while it reads a camera: the only place where FFmpeg says why it was refused, and what is damaged.

Only a process that has nothing else to print may catch that: `agp_edge.sources.worker`. Anywhere else nothing is caught.
"""

from __future__ import annotations

import ctypes
import fcntl
import os

LONGEST = 1 << 16
"""Bytes of it that are kept at most, between two calls of `bound`."""

_caught_in: int | None = None


def catch() -> None:
    """From here on whatever this process prints, from C too, goes into memory, for `take`."""
    global _caught_in
    _caught_in = os.memfd_create("agp-edge-log", os.MFD_CLOEXEC)
    # What is printed after `take` begins at the front again.
    fcntl.fcntl(_caught_in, fcntl.F_SETFL, os.O_APPEND)
    for stream in (1, 2):
        os.dup2(_caught_in, stream)


def is_caught() -> bool:
    """Whether `take` can tell anything."""
    return _caught_in is not None


def take() -> str:
    """What was printed since the last call; it may hold passwords and is not for anyone to see."""
    if _caught_in is None:
        return ""
    # C keeps what it prints to a file in a buffer.
    ctypes.CDLL(None).fflush(None)
    size = os.fstat(_caught_in).st_size
    if not size:
        return ""
    text = os.pread(_caught_in, LONGEST, max(0, size - LONGEST)).decode(errors="replace")
    os.ftruncate(_caught_in, 0)
    return text


def bound() -> None:
    """Forget what nobody took, once it is much: a library that complains of every frame would fill the memory."""
    if _caught_in is not None and os.fstat(_caught_in).st_size > LONGEST:
        os.ftruncate(_caught_in, 0)
