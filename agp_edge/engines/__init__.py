"""Engines: a bundle's graph compiled for one machine, and how to run it.

An engine is `NAME.<precision>.<backend>.engine`, a plain plan that other tools can read, and beside it
`….engine.json`, the sidecar. Backends are found by name in one table.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from agp_edge.engines.base import Backend, Inference, Session
from agp_edge.engines.run_options import RUN_AS_USUAL, RunOptions
from agp_edge.engines.sidecar import Sidecar, read_engine, read_sidecar
from agp_edge.errors import ArtefactError, InputError, no_memory, quote
from agp_edge.trust import check_engine

__all__ = [
    "BACKENDS",
    "Backend",
    "Inference",
    "RunOptions",
    "Session",
    "Sidecar",
    "get_backend",
    "open_engine",
    "read_sidecar",
]

BACKENDS = {
    "onnxruntime": "agp_edge.engines.onnxruntime",
    "openvino": "agp_edge.engines.openvino",
    "tensorrt": "agp_edge.engines.tensorrt",
    "tensorrt-rtx": "agp_edge.engines.tensorrt",
}
"""Backend -> the module whose `get_backend(name)` gives it."""


def get_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        InputError: there is none.
    """
    if name not in BACKENDS:
        raise InputError(f"there is no backend {name!r}", f"take one of: auto, {', '.join(BACKENDS)}")
    backend: Backend = importlib.import_module(BACKENDS[name]).get_backend(name)
    return backend


def open_engine(path: Path, options: RunOptions = RUN_AS_USUAL) -> tuple[Session, Sidecar]:
    """Open an engine: sidecar, hash and this machine's policy first, and only then does a runtime see those very bytes.

    Args:
        path: the engine.
        options: how it is run.

    Raises:
        InputError: there is no such engine, or an option is not for the device that it runs on.
        ArtefactError: corrupt, changed, not for this machine, or not accepted by its policy.
    """
    try:
        options.check()
        return _open(path, options)
    except MemoryError as error:
        raise no_memory(f"open {path}") from error


def _open(path: Path, options: RunOptions) -> tuple[Session, Sidecar]:
    sidecar, plan = read_engine(path)
    check_engine(path, sidecar.unsealed, sidecar.seal)
    if sidecar.backend not in BACKENDS:
        raise ArtefactError(
            f"engine {path} is for backend {quote(sidecar.backend)!r}, which this version does not have",
            "build it again: agp-edge build-engine BUNDLE",
        )
    return get_backend(sidecar.backend).open(path, sidecar, plan, options), sidecar
