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
