"""What a library prints while it opens a camera: of a refusal, the only place where FFmpeg says the reason.

Only a process that has nothing else to print may catch that: `agp_edge.sources.worker`. Anywhere else nothing is caught.
"""

from __future__ import annotations

import ctypes
import os

LONGEST = 1 << 16

_caught_in: int | None = None


def catch() -> None:
    """From here on whatever this process prints, from C too, goes into memory, for `caught`."""
    global _caught_in
    _caught_in = os.memfd_create("agp-edge-log", os.MFD_CLOEXEC)
    os.set_blocking(_caught_in, False)
    for stream in (1, 2):
        os.dup2(_caught_in, stream)


def drop() -> None:
    """From here on it goes nowhere: a library that complains of every frame would fill the memory."""
    global _caught_in
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    if _caught_in is not None:
        os.close(_caught_in)
        _caught_in = None


def is_caught() -> bool:
    """Whether `caught` can tell anything."""
    return _caught_in is not None


def caught() -> str:
    """What was printed since `catch`, its last part; it may hold passwords and is not for anyone to see."""
    if _caught_in is None:
        return ""
    # C keeps what it prints to a file in a buffer.
    ctypes.CDLL(None).fflush(None)
    size = os.fstat(_caught_in).st_size
    return os.pread(_caught_in, LONGEST, max(0, size - LONGEST)).decode(errors="replace")
