"""Optional dependencies, each imported where it is used and named in the error when it is absent."""

from __future__ import annotations

import importlib
from typing import Any

from agp_edge.errors import MissingExtraError


def import_extra(package: str, extra: str, purpose: str) -> Any:
    """Import `package`, or say which extra brings it.

    Raises:
        MissingExtraError: it is not installed.
    """
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
