"""The gate: two artefacts, the same frames, and what their difference does to verdicts.

Each artefact measures its own normal scores on the *threshold* part and has its own threshold. A flip is a
frame of the *gate* part on which candidate and reference, each at its own threshold, disagree. Tensors that
are close prove nothing; verdicts that are equal do, to the extent that n frames can, and n is printed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import GateError, InputError
from agp_edge.verdict import choose_threshold, upper_bound_95

MIN_FRAMES = 16
"""With fewer gate frames nothing can be said: INCONCLUSIVE."""

MIN_MAP_CORRELATION = 0.95
MAX_DRIFT = 1.0
"""An artefact that answers the same to everything flips no good frame: each has its own threshold. So its maps must
still look like the reference's, and no score may move by more than the gap between threshold and median."""

Outcome = Literal["passed", "refused", "inconclusive"]


@dataclass(frozen=True)
class Scores:
    """What one artefact measured on one machine.

    Attributes:
        normal: scores of the threshold part.
        gate: scores of the gate part, in the order of the frames.
        maps: [N, h, w] float32 maps of the gate part.
    """

    normal: Sequence[float]
    gate: Sequence[float]
    maps: NDArray[np.float32]


@dataclass(frozen=True)
class GateReport:
    """What a gate found.

    Attributes:
        outcome: passed, refused or inconclusive.
        n: gate frames.
        flips: names of the frames whose verdict changed.
        bound_95: 95 % upper bound of the flip rate.
        prove: the rate the bound had to be below, if one was asked for.
        drift_max, drift_mean: score differences in units of the reference's gap between threshold and median.
        map_correlation: mean Pearson correlation of the maps, frame by frame.
        reference_threshold, candidate_threshold: the two thresholds.
        splits: hash of the frame hashes of each part that was used.
    """

    outcome: Outcome
    n: int
    flips: list[str]
    bound_95: float
    prove: float | None
    drift_max: float
    drift_mean: float
    map_correlation: float
    reference_threshold: float
    candidate_threshold: float
    splits: dict[str, str]

    @property
    def changed(self) -> str | None:
        """What changed beyond the allowance although no verdict flipped, in words."""
        if self.map_correlation < MIN_MAP_CORRELATION:
            return f"its maps correlate with the reference's by {self.map_correlation:.3f}, at least {MIN_MAP_CORRELATION} is needed"
        if self.drift_max > MAX_DRIFT:
            return f"a score moved by {self.drift_max:.3g} times the gap between threshold and median, at most {MAX_DRIFT:g} is allowed"
        return None

    def to_dict(self) -> dict[str, Any]:
        """As a sidecar or `--json` keeps it."""
        return asdict(self)

    def describe(self) -> str:
        """One short line for a person: with `gate` before it, it fits a terminal of 80 columns."""
        return (
            f"{self.outcome.upper()}: {len(self.flips)} flips in n = {self.n} (95 % bound {self.bound_95:.1%}), "
            f"drift {self.drift_max:.2g}, maps {self.map_correlation:.3f}"
        )

    def check(self, name: str, *, can_accept: bool = True) -> None:
        """Raise unless the gate passed.

        Args:
            name: what was judged.
            can_accept: whether the command has `--accept`, so that the hint may name it.

        Raises:
            GateError: refused, or inconclusive.
        """
        hint = "take a higher precision, or calibrate with more frames"
        if can_accept:
            hint += "; to override for good: --accept REASON"
        if self.outcome == "inconclusive":
            raise GateError(
                f"the gate of {name} is INCONCLUSIVE: {self.n} gate frames, at least {MIN_FRAMES} are needed",
                "calibrate with more good frames that the network was not trained on",
            )
        if self.outcome == "refused" and self.flips:
            shown = ", ".join(self.flips[:8]) + (" …" if len(self.flips) > 8 else "")
            raise GateError(
                f"the gate refuses {name}: the verdict flipped on {len(self.flips)} of {self.n} frames: {shown}",
                hint,
            )
        if self.outcome == "refused" and self.changed:
            raise GateError(
                f"the gate refuses {name}: {self.changed}",
                hint,
            )
        if self.outcome == "refused":
            raise GateError(
                f"the gate of {name} proves a flip rate below {self.bound_95:.3%}, not below {self.prove:.3%}",
                f"{frames_to_prove(self.prove or 0.0) - self.n} more gate frames without a flip are needed",
            )


def frames_to_prove(rate: float) -> int:
    """How many frames without a flip bring the 95 % bound to at most `rate`: 1 - 0.05^(1/n) <= rate."""
    return int(np.ceil(np.log(0.05) / np.log1p(-rate)))


def parse_rate(text: str) -> float:
    """`0.5%` or `0.005` as a rate.

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    rate = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 < rate < 1:
        raise InputError(f"{text!r} is no rate", "write it as 0.5% or 0.005")
    return rate


def compare(
    reference: Scores,
    candidate: Scores,
    names: Sequence[str],
    splits: dict[str, str],
    *,
    false_reject_rate: float | None = None,
    prove: float | None = None,
) -> GateReport:
    """Judge a candidate by what it does to the reference's verdicts.

    Args:
        reference, candidate: both measured on the same threshold and gate frames.
        names: names of the gate frames.
        splits: hashes of the parts, for the record.
        false_reject_rate: for both thresholds; default as `choose_threshold`.
        prove: demand that the 95 % bound of the flip rate is at most this.
    """
    if not len(reference.gate) == len(candidate.gate) == len(names):
        raise ValueError(
            f"{len(reference.gate)}, {len(candidate.gate)} scores and {len(names)} names differ in number"
        )
    reference_threshold = choose_threshold(reference.normal, false_reject_rate).value
    candidate_threshold = choose_threshold(candidate.normal, false_reject_rate).value
    before, after = np.asarray(reference.gate, np.float64), np.asarray(candidate.gate, np.float64)
    # `not <=` rather than `>`: a score that is no number is a reject on either side.
    changed = ~(before <= reference_threshold) != ~(after <= candidate_threshold)
    flips = [name for name, flipped in zip(names, changed, strict=True) if flipped]
    n = len(names)
    bound = upper_bound_95(len(flips), n)
    gap = max(reference_threshold - float(np.median(reference.normal)), np.finfo(np.float32).tiny)
    drift = np.abs(after - before) / gap
    unsound = not (np.isfinite(after).all() and np.isfinite(np.asarray(candidate.normal, np.float64)).all())
    report = GateReport(
        outcome="passed",
        n=n,
        flips=flips if not unsound else flips or list(names),
        bound_95=bound,
        prove=prove,
        drift_max=_finite(drift.max(initial=0.0)),
        drift_mean=_finite(drift.mean()) if n else 0.0,
        map_correlation=_map_correlation(reference.maps, candidate.maps),
        reference_threshold=_finite(reference_threshold),
        candidate_threshold=_finite(candidate_threshold),
        splits=splits,
    )
    if n < MIN_FRAMES:
        return replace(report, outcome="inconclusive")
    if flips or unsound or report.changed or (prove is not None and bound > prove):
        return replace(report, outcome="refused")
    return report


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else float(np.finfo(np.float64).max)


def _map_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mean over frames of the Pearson correlation of two maps; 1 for frames that are equal and constant."""
    if a.shape != b.shape:
        raise ValueError(f"maps of {a.shape} and {b.shape} cannot be compared")
    if len(a) == 0:
        return 1.0
    x = a.reshape(len(a), -1).astype(np.float64)
    y = b.reshape(len(b), -1).astype(np.float64)
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean(axis=1, keepdims=True)
    norms = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    equal = np.abs(x - y).max(axis=1) == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where(norms > 0, (x * y).sum(axis=1) / norms, np.where(equal, 1.0, 0.0))
    return _finite(float(np.nan_to_num(correlation, nan=0.0).mean()))
