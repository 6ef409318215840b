"""Optional dependencies, each imported where it is used and named in the error when it is absent."""

from __future__ import annotations

import importlib
import resource
import sys
from pathlib import Path
from typing import Any

from agp_edge.errors import MissingExtraError, no_memory

ROOM_MIB = {"cv2": 384, "onnxruntime": 96, "tensorrt": 1024, "tensorrt_rtx": 320}
"""Package -> address space that it takes to load, rounded up, in MiB.

Where a limit (`ulimit -v`) leaves less, some of these end the process while they load (OpenCV 5.0 with 180 to 300 MiB,
TensorRT-RTX 1.7 with 240), before there is anyone to tell why. So that is asked first.
"""


def check_room_of(package: str) -> None:
    """Refuse to load a package where this process's limit of address space has no room for it.

    Raises:
        ArtefactError: naming the room that it takes.
    """
    if package in ROOM_MIB and package not in sys.modules:
        check_room(ROOM_MIB[package], f"load {package}")


def check_room(mib: int, work: str) -> None:
    """Refuse work for which this process's limit of address space, if it has one, leaves no room.

    Args:
        mib: what the work takes, in MiB.
        work: what it is, for the error, as in `load cv2`.

    Raises:
        ArtefactError: the limit leaves less.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    left_mib = (limit - pages * resource.getpagesize()) >> 20
    if left_mib < mib:
        raise no_memory(f"{work}: it takes {mib} MiB, and the limit leaves {left_mib}")


def import_extra(package: str, extra: str, purpose: str) -> Any:
    """Import `package`, or say which extra brings it.

    Raises:
        MissingExtraError: it is not installed.
        ArtefactError: there is too little memory for it.
    """
    check_room_of(package)
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package.split(".")[0]:
            raise
        raise MissingExtraError(package, extra, purpose) from error


def import_cv2(purpose: str) -> Any:
    """OpenCV, from the `camera` extra or from JetPack."""
    return import_extra("cv2", "camera", purpose)


CV2_SILENT = 0
"""OpenCV's number of the log level that prints nothing, in every version."""


def set_cv2_log_level(cv2: Any, level: int) -> int:
    """Set how much OpenCV prints to stderr on its own; give the level before.

    Args:
        cv2: the module.
        level: `CV2_SILENT`, or what an earlier call gave.
    """
    # OpenCV 4.8 has it at the top, 5 in a module of its own.
    set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
    before: int = set_level(level)
    return before
