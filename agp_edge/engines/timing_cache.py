"""The timing cache: what TensorRT measured of kernels on this GPU, kept between builds.

It makes the next build of a like network many times shorter, and lets it choose the same kernels again. It is good for one
GPU and one version of TensorRT: the default file is named after both. The file itself is TensorRT's own, which trtexec reads
and writes as well; beside it `FILE.json` says what it is of, and its hash, so that a damaged one is found before TensorRT
sees it.

A build holds `FILE.lock` from start to end. Two builds at a time would write over each other's measurements, and worse:
each would measure a GPU that the other keeps busy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.engines.gpu import Gpu
from agp_edge.errors import AgpEdgeError, ArtefactError, InputError
from agp_edge.files import (
    read_json,
    read_limited,
    sha256_bytes,
    translate_write_errors,
    write_bytes,
    write_json,
)
from agp_edge.progress import Progress, silent

if TYPE_CHECKING:
    import tensorrt as trt

FORMAT = "agp-edge-timing-cache"
VERSION = 1
LIMIT_BYTES = 1 << 30
ANOTHER_FILE = "give another file, which is made if it is not there"
POLL_S = 0.2


@dataclass(frozen=True)
class CacheKey:
    """What measurements are of.

    Attributes:
        gpu: its name, as the driver says it.
        compute_capability: as in `8.7`.
        version: of TensorRT.
    """

    gpu: str
    compute_capability: str
    version: str

    @classmethod
    def of(cls, gpu: Gpu, version: str) -> CacheKey:
        """Of a GPU and a version of TensorRT."""
        return cls(gpu.name, gpu.compute_capability, version)

    def describe(self) -> str:
        """As in `Orin (8.7), TensorRT 10.3.0`."""
        return f"{self.gpu} ({self.compute_capability}), TensorRT {self.version}"


def default_file(key: CacheKey) -> Path:
    """Where measurements are kept unless somebody says otherwise: below `$XDG_CACHE_HOME`, or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{key.gpu}-{key.compute_capability}-tensorrt-{key.version}")
    return Path(base).expanduser() / "agp-edge" / "timing" / f"{name}.cache"


@contextlib.contextmanager
def locked(file: Path, progress: Progress = silent) -> Iterator[None]:
    """Hold a timing cache for one build; waits while another build holds it.

    Args:
        file: the cache; its folder is made if need be.
        progress: told while it waits.

    Raises:
        DiskFullError, InputError: the lock cannot be made there.
    """
    lock = file.with_name(f"{file.name}.lock")
    with translate_write_errors(lock):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _try_lock(descriptor):
            progress(0, 100, f"waiting for another build that uses {file.name}")
            time.sleep(POLL_S)
        yield
    finally:
        # The file stays: who removes a lock may remove the one that somebody has just taken.
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_cache(file: Path, key: CacheKey) -> bytes:
    """A cache's bytes; none where there is no file yet.

    A file without `FILE.json`, as trtexec leaves it, is left to TensorRT's own check.

    Raises:
        InputError: it cannot be read.
        ArtefactError: it is damaged, or of another GPU or version.
    """
    if not file.exists():
        return b""
    try:
        data = read_limited(file, "timing cache", limit_bytes=LIMIT_BYTES)
    except ArtefactError as error:
        raise InputError(f"cannot read timing cache {file}: {error.what}", ANOTHER_FILE) from error
    about = _about(file)
    if not about.exists():
        return data
    record = read_json(about, "record of a timing cache")
    told = {name: record.get(name) for name in ("gpu", "compute_capability", "version")}
    if record.get("format") != FORMAT or any(not isinstance(value, str) for value in told.values()):
        raise ArtefactError(f"{about} is no record of a timing cache", ANOTHER_FILE)
    if record.get("sha256") != sha256_bytes(data):
        raise ArtefactError(f"timing cache {file} is damaged: its hash is not the one recorded", ANOTHER_FILE)
    of = CacheKey(**{name: str(value) for name, value in told.items()})
    if of != key:
        raise ArtefactError(
            f"timing cache {file} is of {of.describe()}, this build of {key.describe()}", ANOTHER_FILE
        )
    return data


def load_timing_cache(config: trt.IBuilderConfig, file: Path, key: CacheKey) -> None:
    """Let a build start from the kernels that earlier builds measured; a file that is not there yet is empty.

    Args:
        config: of the build.
        file: what `save_timing_cache` or trtexec wrote.
        key: of this build.

    Raises:
        InputError, ArtefactError: as `read_cache`; or TensorRT does not take it.
    """
    _give(config, read_cache(file, key), file)


def load_default(config: trt.IBuilderConfig, file: Path, key: CacheKey) -> str | None:
    """The same for the file that nobody asked for: a bad one is set aside, and the build starts anew.

    Returns:
        What the user should know; None if all is well.
    """
    try:
        load_timing_cache(config, file, key)
    except AgpEdgeError as error:
        for path in (file, _about(file)):
            with contextlib.suppress(OSError):
                path.replace(path.with_name(f"{path.name}.damaged"))
        _give(config, b"", file)
        return f"{error.what}; it was set aside as {file.name}.damaged"
    return None


def save_timing_cache(config: trt.IBuilderConfig, file: Path, key: CacheKey) -> None:
    """Keep what the build measured, whole or not at all.

    Args:
        config: that was built with.
        file: replaced if it is there.
        key: of this build.

    Raises:
        DiskFullError, InputError: it cannot be written.
    """
    data = bytes(memoryview(config.get_timing_cache().serialize()))
    # A record that is not of this file would make it a damaged one; without any it is one that trtexec may have left.
    with translate_write_errors(file):
        _about(file).unlink(missing_ok=True)
    write_bytes(file, data)
    write_json(
        _about(file), {"format": FORMAT, "format_version": VERSION, "sha256": sha256_bytes(data), **vars(key)}
    )


def _give(config: trt.IBuilderConfig, data: bytes, file: Path) -> None:
    cache = config.create_timing_cache(data)
    taken = False
    if cache is not None:
        # ignore_mismatch stays False: what another GPU measured would choose this one's kernels.
        taken = config.set_timing_cache(cache, False)
    if not taken:
        raise ArtefactError(
            f"timing cache {file} is damaged, or of another GPU or version of TensorRT", ANOTHER_FILE
        )


def _about(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")
