"""An engine together with the judge that its own normal scores make: what gives verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from agp_edge.engines import RunOptions, Session, open_engine
from agp_edge.engines.run_options import RUN_AS_USUAL
from agp_edge.engines.sidecar import Sidecar
from agp_edge.errors import ArtefactError, InputError
from agp_edge.verdict import Judge


@dataclass(frozen=True)
class JudgingEngine:
    """A loaded engine that can judge; closing it frees the session.

    Attributes:
        path: the engine's file.
        session: runs it.
        judge: its threshold and p-values.
        sha256: hash of the plan.
        accepted: the reason for which it was kept although a gate did not pass.
        sidecar: what else is known of it; None of an engine that was not opened from a file.
    """

    path: Path
    session: Session
    judge: Judge
    sha256: str
    accepted: str | None = None
    sidecar: Sidecar | None = None

    @property
    def id(self) -> str:
        """What a verdict names it by: the first 12 hex digits of its hash."""
        return self.sha256[:12]

    def close(self) -> None:
        """Free the session; safe to call twice."""
        self.session.close()

    def __enter__(self) -> JudgingEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_judge(
    engine: Path, sidecar: Sidecar, false_reject_rate: float | None = None, threshold: float | None = None
) -> Judge:
    """The judge of an engine.

    Args:
        engine: its path, for the error.
        sidecar: has the normal scores, measured with this engine on this machine.
        false_reject_rate: as `choose_threshold`.
        threshold: a threshold set by hand instead.

    Raises:
        ArtefactError: the engine has no normal scores, and no threshold was set by hand.
        InputError: both were given, a threshold that is no number, or a rate that cannot be promised.
    """
    if threshold is not None and false_reject_rate is not None:
        raise InputError("a threshold and a false-reject rate were given", "give only one of the two")
    if threshold is not None and not math.isfinite(threshold):
        raise InputError(f"{threshold} is no threshold", "give a number, as in 0.5")
    if not sidecar.normal_scores and threshold is None:
        raise ArtefactError(
            f"engine {engine} has no normal scores to take a threshold from: it was not measured where it runs",
            "build it on this machine: agp-edge build-engine BUNDLE, or set --threshold by hand",
        )
    return Judge(
        sidecar.normal_scores, false_reject_rate, threshold=threshold, provisional=sidecar.provisional
    )


def open_judging_engine(
    path: Path,
    false_reject_rate: float | None = None,
    threshold: float | None = None,
    options: RunOptions = RUN_AS_USUAL,
) -> JudgingEngine:
    """Open an engine and its judge.

    Args:
        path: the engine.
        false_reject_rate, threshold: as `make_judge`.
        options: how it is run.

    Raises:
        InputError, ArtefactError: as `open_engine` and `make_judge`.
    """
    session, sidecar = open_engine(path, options)
    try:
        judge = make_judge(path, sidecar, false_reject_rate, threshold)
    except BaseException:
        session.close()
        raise
    return JudgingEngine(path, session, judge, sidecar.plan_sha256, sidecar.accepted, sidecar)
