"""Files that are either whole or absent: atomic writing, hashes, strict reading of JSON."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agp_edge.errors import ArtefactError, DiskFullError, InputError, no_memory


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
def translate_read_errors(path: Path) -> Iterator[None]:
    """The same for reading.

    Raises:
        InputError: this user may not read what is at `path`, or the disk does not give it.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}", "give a path that this user can read"
        ) from error


@contextlib.contextmanager
def translate_load_errors(path: Path) -> Iterator[None]:
    """The same for what is read whole into memory.

    Raises:
        ArtefactError: there is too little memory for it.
        InputError: as `translate_read_errors`.
    """
    try:
        with translate_read_errors(path):
            yield
    except (MemoryError, OverflowError) as error:
        raise no_memory(f"load {path}") from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` that takes its place when the block ends well, and vanishes otherwise.

    The sibling is a file name that does not exist yet; the block may make a file or a folder there. Whatever stops the
    work, be it a kill or a power cut, `path` is the old one or the new one, and a hidden sibling may stay behind. A folder
    that is there is exchanged for the new one in one step; only where the file system cannot do that (some network
    drives) it is moved aside first, and a kill between the two steps leaves it in the hidden sibling.

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
        # A folder cannot be renamed over a folder. After an exchange the old one is removed with the holder.
        if not (path.is_dir() and not path.is_symlink() and exchange(work, path)):
            if path.is_dir() and not path.is_symlink():
                path.rename(aside)
            work.replace(path)
    except BaseException:
        # Between the two renames (Ctrl-C) the old folder is only aside: it comes back.
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise
    sync(path.parent)


AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""From Linux's fcntl.h and fs.h."""


def exchange(a: Path, b: Path) -> bool:
    """Let two paths change places in one step, by Linux's `renameat2`.

    Returns:
        False where the C library, the kernel or the file system cannot; then nothing has changed.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    done: int = renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), ctypes.c_uint(RENAME_EXCHANGE))
    return done == 0


def flush(path: Path) -> None:
    """Bring a file, or every file of a folder, to the disk: a full disk speaks here, not after the rename."""
    for item in (path, *(path.rglob("*") if path.is_dir() else ())):
        sync(item)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
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


READ_BYTES = 1 << 20
MAX_JSON_DEPTH = 64
"""No artefact nests deeper; what does would only serve to exhaust whoever walks through it."""
MAX_JSON_BYTES = 64 << 20
"""The hashes of a million images."""


def read_json(path: Path, what: str, *, limit_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object that is part of an artefact.

    Args:
        path: the file.
        what: what it is, for the error, as in `manifest of bundle X`.
        limit_bytes: a larger file is refused unread.

    Raises:
        ArtefactError: absent, too large, or as `parse_json`.
    """
    return parse_json(read_limited(path, what, limit_bytes=limit_bytes), f"{what}: {path}")


def read_limited(
    path: Path, what: str, *, limit_bytes: int = MAX_JSON_BYTES, follow_links: bool = True
) -> bytes:
    """Read a file of an artefact that has to be small.

    Args:
        path: the file.
        what: what it is, for the error.
        limit_bytes: a larger file is refused unread.
        follow_links: whether it may be a link.

    Raises:
        ArtefactError: absent, no plain file, too large, a link that may not be, or not readable.
    """
    again = "fetch or build it again"
    try:
        # Not blocking: whoever opens a pipe for reading waits for somebody who writes.
        flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123  # a descriptor, no path
            size = os.fstat(file.fileno()).st_size
            if size > limit_bytes:
                raise ArtefactError(
                    f"{what} has {size:,} bytes, more than the {limit_bytes:,} allowed: {path}", again
                )
            # By its size, not by the limit: that many bytes would be taken for the shortest file.
            data = file.read(size + 1)
            while len(data) <= limit_bytes and (more := file.read(READ_BYTES)):
                data += more
    except FileNotFoundError as error:
        raise ArtefactError(f"{what} is missing: {path}", again) from error
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise ArtefactError(f"{what} cannot be read: {path}: {reason}", again) from error
    if len(data) > limit_bytes:
        raise ArtefactError(f"{what} has more than the {limit_bytes:,} bytes allowed: {path}", again)
    return data


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object, as strictly as RFC 8259 lets one: what two readers could understand differently is refused.

    Args:
        data: UTF-8.
        what: what it is, for the error.

    Raises:
        ArtefactError: no UTF-8, no JSON, no JSON object, a key twice, a number that is no finite double, half a
            surrogate pair, or a depth beyond `MAX_JSON_DEPTH`.
    """
    again = "fetch or build it again"
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_integer,
        )
        if isinstance(value, dict):
            _check_plain(value, MAX_JSON_DEPTH)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{what} cannot be read: {error}", again) from error
    if not isinstance(value, dict):
        raise ArtefactError(f"{what} is no JSON object", again)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        # In one pass over a million keys, not in one for each of them.
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"key {twice[:60]!r} is there twice")
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:60]} is no finite number")
    return value


def _integer(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"{text[:19]}… is too large an integer")
    return int(text)


def _check_plain(value: Any, depth: int) -> None:
    """Raise a `ValueError` for what is nested too deep, and for text that cannot be printed or written again."""
    if depth < 0:
        raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH}")
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for key, item in value.items():
            key.encode()
            _check_plain(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, depth - 1)
