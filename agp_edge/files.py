"""Files that are either whole or absent: atomic writing, hashes, strict reading of JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agp_edge.errors import ArtefactError, DiskFullError, InputError


def sha256_bytes(data: bytes | memoryview) -> str:
    """SHA-256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of the file at `path` as 64 hex digits, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """The one seam where the system's answer to a write becomes an error of ours.

    Raises:
        DiskFullError: no space or quota left at `path`.
        InputError: `path` cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no space left to write {path}",
                "free space there, or give another place; what was complete is kept",
            ) from error
        raise InputError(
            f"cannot write {path}: {error.strerror or error}", "give a path that this user can write"
        ) from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` that takes its place when the block ends well, and vanishes otherwise.

    The sibling is a file name that does not exist yet; the block may make a file or a folder there.
    An existing file at `path` is replaced; an existing folder too, which `rename` cannot do in one step:
    the old folder is moved aside first and removed last.

    Raises:
        DiskFullError, InputError: as `translate_write_errors`.
    """
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    work = holder / path.name
    try:
        with translate_write_errors(path):
            yield work
            flush(work)
            _take_place(work, path, holder / "replaced")
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _take_place(work: Path, path: Path, aside: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            path.rename(aside)
        work.replace(path)
    except BaseException:
        # Between the two renames (Ctrl-C) the old folder is only aside: it comes back.
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise


def flush(path: Path) -> None:
    """Bring a file, or every file of a folder, to the disk: a full disk speaks here, not after the rename."""
    for item in (path, *(path.rglob("*") if path.is_dir() else ())):
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as work:
        work.write_bytes(data)


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON with sorted keys, no NaN, and a last newline: the same value gives the same bytes."""
    return json.dumps(value, indent=indent, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, whole or not at all."""
    write_bytes(path, to_json(value).encode())


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def read_json(path: Path, what: str, *, limit_bytes: int = 64 << 20) -> dict[str, Any]:
    """Read a JSON object that is part of an artefact.

    Args:
        path: the file.
        what: what it is, for the error, as in `manifest of bundle X`.
        limit_bytes: a larger file is refused unread.

    Raises:
        ArtefactError: absent, too large, no JSON, or no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > limit_bytes:
            raise ArtefactError(
                f"{what} has {size} bytes, more than the {limit_bytes} allowed: {path}",
                "fetch or build it again",
            )
        value = json.loads(path.read_bytes(), parse_constant=_no_number)
    except FileNotFoundError as error:
        raise ArtefactError(f"{what} is missing: {path}", "fetch or build it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{what} cannot be read: {path}: {error}", "fetch or build it again") from error
    if not isinstance(value, dict):
        raise ArtefactError(f"{what} is no JSON object: {path}", "fetch or build it again")
    return value
