"""What went wrong, in a line that a result file may keep: a benchmark goes on where a part of it cannot, and says so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agp_edge.errors import AgpEdgeError, quote

FOLDERS = re.compile(r"(?<![\w:/.])(?:~|\.{1,2})?/(?:[^\s/:;,'\"()\[\]]+/)+")
"""The folders of a path; what follows `:` is an address of the web."""
LONGEST = 300


def reason_of(error: BaseException) -> str:
    """Why something did not go, in a line."""
    if isinstance(error, AgpEdgeError):
        return quote(error.what, LONGEST)
    said = quote(error, LONGEST)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def without_folders(value: Any, known: Iterable[Path] = ()) -> Any:
    """A result whose texts name files and no folders: where a machine keeps them is nobody's business.

    Args:
        value: as JSON has it.
        known: folders that may have names with spaces in them.
    """
    folders = [str(folder.absolute()) + "/" for folder in known]

    def clean(item: Any) -> Any:
        if isinstance(item, dict):
            return {clean(key): clean(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return [clean(inner) for inner in item]
        if not isinstance(item, str):
            return item
        for folder in folders:
            item = item.replace(folder, "")
        return FOLDERS.sub("", item)

    return clean(value)
