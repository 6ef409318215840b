"""The gate: two artefacts, the same frames, and what their difference does to verdicts.

Each artefact measures its own normal scores on the *threshold* part and has its own threshold. A flip is a
frame of the *gate* part on which candidate and reference, each at its own threshold, disagree. Tensors that
are close prove nothing; verdicts that are equal do, to the extent that n frames can, and n is printed.

Good frames do not show how defects fare. So the gate also asks how far scores and maps moved, which `ALLOWANCES`
bounds, and where there are labelled images what became of the AUROC. Labels serve nothing else: no threshold is
taken from them. The reasons for each number are in docs/gate.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import GateError, InputError
from agp_edge.frame import PRECISIONS, Precision
from agp_edge.verdict import choose_threshold, upper_bound_95

MIN_FRAMES = 16
"""With fewer gate frames nothing can be said: INCONCLUSIVE."""


@dataclass(frozen=True)
class Allowance:
    """How far a candidate may be from its reference although no verdict flips.

    Attributes:
        drift: no score moves by more, in gaps between the reference's threshold and median.
        map_correlation: the maps correlate by at least this, mean over frames.
        auroc_loss: image AUROC falls by no more, where there are labelled images; with fewer images than can show so
            little, by no more than one pair of them costs.
    """

    drift: float
    map_correlation: float
    auroc_loss: float


ALLOWANCES: dict[Precision, Allowance] = {
    "fp32": Allowance(drift=1e-3, map_correlation=0.9999, auroc_loss=0.005),
    "fp16": Allowance(drift=0.1, map_correlation=0.99, auroc_loss=0.005),
    "bf16": Allowance(drift=0.5, map_correlation=0.99, auroc_loss=0.005),
    "int8": Allowance(drift=1.0, map_correlation=0.99, auroc_loss=0.005),
}
"""Precision of the candidate -> its allowance. An artefact that answers the same to everything flips no good frame,
since each has its own threshold: scores and maps are what gives it away."""

HINTS: dict[Precision, str] = {
    "fp32": "both should say the same: export and build it again, and compare what `agp-edge doctor` prints of both",
    "fp16": "take fp32, or int8, whose core is no half-precision one",
    "bf16": "take fp32: it keeps 24 bits of a number, bfloat16 keeps 8",
    "int8": "take fp16 or fp32, or calibrate with more frames",
}
"""Precision -> what to do about a refusal."""

SMALLEST_GAP = 0.01
"""A gap below this share of the threshold is no unit to measure in: one that falls to rounding would forbid rounding."""

ROUNDING = 1e-6
"""Maps that differ by no more than this share of their largest value are equal, and correlate by 1 even where they are flat."""

Outcome = Literal["passed", "refused", "inconclusive"]


@dataclass(frozen=True)
class LabelledMetrics:
    """What one artefact measured on labelled images.

    Attributes:
        image_auroc, aupro: mean over classes, None where the images allow no number.
        auroc_step: what one good image scored above one defect costs, the smallest loss that these images can show.
    """

    image_auroc: float | None
    aupro: float | None
    auroc_step: float = 0.0


@dataclass(frozen=True)
class Scores:
    """What one artefact measured on one machine.

    Attributes:
        normal: scores of the threshold part.
        gate: scores of the gate part, in the order of the frames.
        maps: [N, h, w] float32 maps of the gate part.
        precision: the artefact's: it says what the gate allows.
        labelled: on labelled images, where there are some.
    """

    normal: Sequence[float]
    gate: Sequence[float]
    maps: NDArray[np.float32]
    precision: Precision = "fp32"
    labelled: LabelledMetrics | None = None


@dataclass(frozen=True)
class Change:
    """A metric on labelled images, before and after.

    Attributes:
        reference, candidate: its value in [0, 1].
        change: candidate less reference.
    """

    reference: float
    candidate: float
    change: float

    def describe(self) -> str:
        """As in `0.9512 -> 0.9500 (-0.12 points)`."""
        points = round(100 * self.change, 2) + 0.0  # No -0.00.
        return f"{self.reference:.4f} -> {self.candidate:.4f} ({points:+.2f} points)"


@dataclass(frozen=True)
class GateReport:
    """What a gate found.

    Attributes:
        outcome: passed, refused or inconclusive.
        n: gate frames.
        flips: names of the frames whose verdict changed.
        bound_95: 95 % upper bound of the flip rate.
        prove: the rate the bound had to be below, if one was asked for.
        drift_max, drift_mean: score differences in units of the gap.
        gap: the reference's threshold less its median normal score: the unit of drift.
        rank_correlation: Spearman's, of the scores of the gate part; None where the reference has no order to keep.
        map_correlation, map_correlation_min: mean and smallest Pearson correlation of the maps, frame by frame.
        reference_threshold, candidate_threshold: the two thresholds.
        image_auroc, aupro: before and after; None without labelled images that allow the number.
        auroc_step: the smallest loss of AUROC that the labelled images can show; None without any.
        precision: the one whose allowance held.
        allowance: that allowance.
        reasons: what is beyond it, in words; empty when it passed.
        splits: hash of the frame hashes of each part that was used.
    """

    outcome: Outcome
    n: int
    flips: list[str]
    bound_95: float
    prove: float | None
    drift_max: float
    drift_mean: float
    gap: float
    rank_correlation: float | None
    map_correlation: float
    map_correlation_min: float
    reference_threshold: float
    candidate_threshold: float
    image_auroc: Change | None
    aupro: Change | None
    auroc_step: float | None
    precision: Precision
    allowance: Allowance
    reasons: list[str]
    splits: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As a sidecar or `--json` keeps it."""
        return asdict(self)

    def describe(self) -> str:
        """One short line for a person: with `gate` before it, it fits a terminal of 80 columns."""
        if not self.n:
            return f"{self.outcome.upper()}: there is no gate frame"
        return (
            f"{self.outcome.upper()}: {_flips(len(self.flips))} in n = {self.n} (95 % bound {self.bound_95:.1%}), "
            f"drift {self.drift_max:.2g}, maps {self.map_correlation:.3f}"
        )

    def describe_more(self) -> list[str]:
        """The other figures beside what is allowed, in short lines for a person."""
        ranks = "-" if self.rank_correlation is None else f"{self.rank_correlation:.4f}"
        lines = [
            f"scores moved by {self.drift_max:.2g} gaps at most, {self.drift_mean:.2g} on average "
            f"({self.precision}: {self.allowance.drift:g} allowed)",
            f"ranks correlate by {ranks}, maps by {self.map_correlation:.4f}, the least {self.map_correlation_min:.4f}",
        ]
        if not self.n:
            lines = []  # Without a frame these figures are what nothing comes to.
        if self.image_auroc is not None:
            lines.append(f"image AUROC {self.image_auroc.describe()}")
        if self.aupro is not None:
            lines.append(f"AUPRO {self.aupro.describe()}")
        return lines

    def check(self, name: str, *, can_accept: bool = True, shown: str | None = None) -> None:
        """Raise unless the gate passed.

        Args:
            name: what was judged.
            can_accept: whether the command has `--accept`, so that the hint may name it.
            shown: where the frames can be seen, for the hint.

        Raises:
            GateError: refused, or inconclusive.
        """
        if self.outcome == "passed":
            return
        hints = [shown] if shown else []
        missing = frames_to_prove(self.prove) - self.n if self.prove is not None else 0
        if self.outcome == "inconclusive":
            what = (
                f"the gate of {name} is INCONCLUSIVE: {self.n} gate frames, at least {MIN_FRAMES} are needed"
            )
            hints.append("give more good frames that the network was not trained on")
        elif self.reasons:
            what = f"the gate refuses {name}"
            hints.append(HINTS[self.precision])
        else:
            what = (
                f"the gate of {name} proves a flip rate below {self.bound_95:.3%}, not below {self.prove:.3%}"
            )
        if self.reasons:
            what += ": " + "; ".join(self.reasons)
        if missing > 0:
            hints.append(f"{missing} more gate frames without a flip are needed to prove {self.prove:.3%}")
        if can_accept:
            hints.append("to override for good: --accept REASON")
        raise GateError(what, "; ".join(hints))


def _flips(n: int) -> str:
    return "1 flip" if n == 1 else f"{n} flips"


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


def check_reason(accept: str | None) -> None:
    """Refuse an `--accept` that gives no reason.

    Raises:
        InputError: it is empty.
    """
    if accept is not None and not accept.strip():
        raise InputError("--accept was given no reason", "write why, as in --accept 'trial on line 3'")


def threshold_and_gap(normal: Sequence[float], false_reject_rate: float | None = None) -> tuple[float, float]:
    """The threshold of an artefact, and the gap between it and the median: the unit in which scores move.

    Args:
        normal: its scores of the threshold part.
        false_reject_rate: default as `choose_threshold`.
    """
    threshold = choose_threshold(normal, false_reject_rate).value
    gap = max(
        threshold - float(np.median(normal)),
        SMALLEST_GAP * abs(threshold),
        float(np.finfo(np.float32).tiny),
    )
    return threshold, gap


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
        reference, candidate: both measured on the same threshold and gate frames. The coarser precision of the two
            says what is allowed.
        names: names of the gate frames.
        splits: hashes of the parts, for the record.
        false_reject_rate: for both thresholds; default as `choose_threshold`.
        prove: demand that the 95 % bound of the flip rate is at most this.
    """
    if not len(reference.gate) == len(candidate.gate) == len(names):
        raise ValueError(
            f"{len(reference.gate)}, {len(candidate.gate)} scores and {len(names)} names differ in number"
        )
    reference_threshold, gap = threshold_and_gap(reference.normal, false_reject_rate)
    candidate_threshold = choose_threshold(candidate.normal, false_reject_rate).value
    before, after = np.asarray(reference.gate, np.float64), np.asarray(candidate.gate, np.float64)
    # `not <=` rather than `>`: a score that is no number is a reject on either side.
    changed = ~(before <= reference_threshold) != ~(after <= candidate_threshold)
    flips = [name for name, flipped in zip(names, changed, strict=True) if flipped]
    n = len(names)
    with np.errstate(over="ignore", invalid="ignore"):
        drift = np.abs(after - before) / gap
    correlations = map_correlations(reference.maps, candidate.maps)
    precision = max(reference.precision, candidate.precision, key=PRECISIONS.index)
    report = GateReport(
        outcome="passed",
        n=n,
        flips=flips,
        bound_95=upper_bound_95(len(flips), n),
        prove=prove,
        drift_max=_finite(drift.max(initial=0.0)),
        drift_mean=_finite(drift.mean()) if n else 0.0,
        gap=_finite(gap),
        rank_correlation=rank_correlation(before, after),
        map_correlation=float(correlations.mean()) if n else 1.0,
        map_correlation_min=float(correlations.min(initial=1.0)),
        reference_threshold=_finite(reference_threshold),
        candidate_threshold=_finite(candidate_threshold),
        **_changes(reference.labelled, candidate.labelled),
        precision=precision,
        allowance=ALLOWANCES[precision],
        reasons=[],
        splits=splits,
    )
    report = replace(report, reasons=_reasons(report, _is_finite(reference), _is_finite(candidate)))
    if n < MIN_FRAMES:
        return replace(report, outcome="inconclusive")
    if report.reasons or (prove is not None and report.bound_95 > prove):
        return replace(report, outcome="refused")
    return report


def drift_of(reference: Sequence[float], candidate: Sequence[float]) -> float:
    """The largest difference between two artefacts' normal scores, rank by rank, in gaps of the reference.

    Args:
        reference, candidate: scores of the same frames, in any order.

    Returns:
        It; infinite where they differ in number, or one is no finite number.
    """
    a, b = np.sort(np.asarray(reference, np.float64)), np.sort(np.asarray(candidate, np.float64))
    if len(a) != len(b) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max(initial=0.0)) / threshold_and_gap(reference)[1]


def _reasons(report: GateReport, reference_sound: bool, candidate_sound: bool) -> list[str]:
    """What is beyond the allowance, gravest first."""
    allowed = report.allowance
    reasons = []
    for whose, sound in (("the reference's", reference_sound), ("its", candidate_sound)):
        if not sound:
            reasons.append(f"{whose} scores or maps are no finite numbers")
    if report.flips:
        shown = ", ".join(report.flips[:8]) + (" …" if len(report.flips) > 8 else "")
        reasons.append(f"the verdict flipped on {len(report.flips)} of {report.n} frames: {shown}")
    if report.drift_max > allowed.drift:
        reasons.append(
            f"a score moved by {report.drift_max:.3g} times the gap between threshold and median, "
            f"at most {allowed.drift:g} is allowed for {report.precision}"
        )
    if report.map_correlation < allowed.map_correlation:
        reasons.append(
            f"its maps correlate with the reference's by {report.map_correlation:.4f}, "
            f"at least {allowed.map_correlation:g} is needed for {report.precision}"
        )
    loss = max(allowed.auroc_loss, report.auroc_step or 0.0)
    # The last term keeps a loss of exactly the allowance, as floats have it, from being more.
    if report.image_auroc is not None and report.image_auroc.change < -loss - 1e-9:
        why = "" if loss == allowed.auroc_loss else ", one pair of these images in the wrong order,"
        reasons.append(
            f"image AUROC fell by {-100 * report.image_auroc.change:.2f} points, "
            f"at most {100 * loss:.3g}{why} are allowed"
        )
    return reasons


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation of two series; ties share their mean rank.

    Returns:
        It; None where `a` has no order that `b` could keep: fewer than two values, or all of them equal. 0 where `b`
        alone has none, or a value is no finite number.
    """
    if len(a) < 2 or (a == a[0]).all():
        return None
    if (b == b[0]).all() or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    return float(np.corrcoef(_mean_ranks(a), _mean_ranks(b))[0, 1])


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def map_correlations(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pearson correlation of two artefacts' maps, frame by frame: [N] float64.

    1 for maps that are equal up to rounding, flat ones too; 0 where only one is flat, or one is not finite.

    Args:
        a, b: [N, h, w] float32.
    """
    if a.shape != b.shape:
        raise ValueError(f"maps of {a.shape} and {b.shape} cannot be compared")
    # One frame at a time: in float64 the maps of hundreds of frames would fill a small device's memory.
    return np.array([_correlation(x, y) for x, y in zip(a, b, strict=True)], np.float64)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return 0.0
    largest = np.abs(x).max(initial=0.0)
    x, y = x - x.mean(), y - y.mean()
    if np.abs(x - y).max(initial=0.0) <= ROUNDING * largest:
        return 1.0
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(np.clip((x @ y) / norm, -1, 1)) if norm > 0 else 0.0


def _changes(before: LabelledMetrics | None, after: LabelledMetrics | None) -> dict[str, Any]:
    """The report's fields on labelled images."""
    if before is None or after is None:
        return {"image_auroc": None, "aupro": None, "auroc_step": None}
    return {
        "image_auroc": _change(before.image_auroc, after.image_auroc),
        "aupro": _change(before.aupro, after.aupro),
        "auroc_step": before.auroc_step,
    }


def _change(before: float | None, after: float | None) -> Change | None:
    return Change(before, after, after - before) if before is not None and after is not None else None


def _is_finite(scores: Scores) -> bool:
    values = (np.asarray(scores.normal, np.float64), np.asarray(scores.gate, np.float64), scores.maps)
    return all(bool(np.isfinite(part).all()) for part in values)


def _finite(value: float) -> float:
    """A number that JSON has: what is none counts as the largest."""
    return float(value) if np.isfinite(value) else float(np.finfo(np.float64).max)
