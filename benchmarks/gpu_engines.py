"""The engines to measure: those of a bundle, built here by the project's own builder, and those that are given as files.

What cannot be built is kept with its reason: a table without it would look as if nobody had tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agp_edge.bundle import Bundle
from agp_edge.engines import read_sidecar
from agp_edge.engines.builder import Workbench, check_bundle
from agp_edge.engines.choice import runs_here
from agp_edge.engines.onnxruntime import CUDA, choose_provider
from agp_edge.engines.sidecar import engine_name
from agp_edge.frame import GRAPHS, Precision
from agp_edge.progress import Progress, silent
from benchmarks.gpu_reasons import reason_of

BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime")
"""Those that run on an NVIDIA GPU."""
KEPT_FOR = "a benchmark measures what its gate refuses, too"


@dataclass(frozen=True)
class Candidate:
    """An engine to measure, or why there is none.

    Attributes:
        backend, precision, batch: which.
        path: where it is; None where it could not be built.
        reason: why not; None where it was.
    """

    backend: str
    precision: Precision
    batch: int
    path: Path | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the result file begins an engine."""
        return {"backend": self.backend, "precision": self.precision, "batch": self.batch}


def given_engine(path: Path) -> Candidate:
    """An engine that is there.

    Raises:
        InputError, ArtefactError: it is none, or was changed.
    """
    sidecar = read_sidecar(path)
    return Candidate(sidecar.backend, sidecar.precision, sidecar.frame.batch, path)


def not_here(backend: str) -> str | None:
    """Why a backend does not run on the GPU here; None if it does. A library that is there and broken is a reason, too."""
    try:
        reason = runs_here(backend)
    except Exception as error:  # Whatever it does on a machine that it was not tried on.
        return reason_of(error)
    if reason is None and backend == "onnxruntime" and choose_provider() != CUDA:
        return (
            "this ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu in the place of onnxruntime"
        )
    return reason


def build_engines(
    bundle: Bundle, backends: Sequence[str], folder: Path, progress: Progress = silent
) -> list[Candidate]:
    """Build every precision of a bundle with every backend into a folder.

    Args:
        bundle: calibrated.
        backends: names; see `BACKENDS`.
        folder: for the engines.
        progress: told of each build.

    Raises:
        InputError: the bundle is not calibrated.
    """
    check_bundle(bundle, KEPT_FOR)
    batch = bundle.manifest.frame.batch
    pairs = [(backend, precision) for backend in backends for precision in GRAPHS]
    reasons = {backend: not_here(backend) for backend in backends}
    made = []
    with Workbench(bundle, folder) as bench:
        for number, (backend, precision) in enumerate(pairs):
            progress(number, len(pairs), f"building {backend} {precision}, batch {batch}")
            reason = reasons[backend]
            if reason is None and precision not in bundle.manifest.precisions:
                reason = f"the bundle has no {precision} graph"
            target = folder / engine_name(bundle.manifest, precision, backend)
            if reason is None:
                try:
                    bench.finish(bench.draft(precision, backend, target), KEPT_FOR, None)
                except Exception as error:  # Whatever a builder does on a machine that it was not tried on.
                    reason = reason_of(error)
            made.append(Candidate(backend, precision, batch, target if reason is None else None, reason))
    progress(len(pairs), len(pairs))
    return made
