"""Does an engine that is built again answer as before?

A library's update, another driver or a builder that chooses its kernels by the clock may change what an engine says
(NVIDIA TensorRT issue 4798), and a gate against FP32 lets everything pass that is within the allowance. So whatever
replaces an engine of the same bundle, precision and backend is held against the scores which that one wrote down.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agp_edge.engines.measure import HeldOut
from agp_edge.engines.sidecar import Rebuilt, Sidecar, sidecar_path
from agp_edge.errors import ArtefactError, GateError
from agp_edge.files import read_json
from agp_edge.frame import Precision
from agp_edge.gate import ALLOWANCES, GateReport, Scores, threshold_and_gap
from agp_edge.verdict import choose_threshold

NOISE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.01, "bf16": 0.05, "int8": 0.1}
"""Precision -> how far, in gaps, two builds may lie apart that other kernels alone made different: a tenth of what the gate
allows against FP32, and for FP32 all of it, which is rounding already."""


def previous_sidecar(target: Path, sidecar: Sidecar) -> Sidecar | None:
    """The sidecar of the engine that is about to be replaced, if the two can be compared.

    Args:
        target: where the new one goes.
        sidecar: the new one's, measured.

    Returns:
        None where there is none that can be read, it is of another bundle, precision or backend, or was never measured
        or on other frames.
    """
    path = sidecar_path(target)
    try:
        before = Sidecar.from_dict(read_json(path, f"sidecar of engine {target}"), str(path))
    except ArtefactError:
        return None
    same = all(
        getattr(before, key) == getattr(sidecar, key)
        for key in ("bundle_sha256", "precision", "backend", "frame")
    )
    if not same or len(before.normal_scores) != len(sidecar.normal_scores) or not sidecar.normal_scores:
        return None
    gates = [part.gate.get("splits") for part in (before, sidecar) if part.gate is not None]
    return before if len(gates) == 2 and gates[0] == gates[1] else None


def compare_rebuilt(
    before: Sidecar, scores: Scores, reference: Scores, report: GateReport, frames: HeldOut
) -> Rebuilt | None:
    """Hold an engine against the one that it would replace.

    The earlier engine need not run any more. Its verdicts on the gate frames follow from what it left: they are the
    reference's but for the flips that its gate names. A verdict changed, too, where the frame's new score lies between the
    earlier threshold and the new one.

    Args:
        before: from `previous_sidecar`.
        scores: what the new engine measured.
        reference: what FP32 measured.
        report: the new engine's gate.
        frames: what all were measured on.

    Returns:
        None if it answers as before, up to the precision's noise.
    """
    threshold, gap = threshold_and_gap(before.normal_scores)
    moved = np.abs(np.sort(scores.normal) - np.sort(before.normal_scores)) / gap
    own = choose_threshold(scores.normal).value
    now = _verdicts(scores.gate, own)
    flipped = set((before.gate or {}).get("flips", []))
    told = [
        verdict != (name in flipped)
        for verdict, name in zip(
            _verdicts(reference.gate, report.reference_threshold), frames.names, strict=True
        )
    ]
    kept = _verdicts(scores.gate, threshold)
    flips = [name for name, a, b, c in zip(frames.names, now, told, kept, strict=True) if a != b or a != c]
    drift, noise = float(moved.max()), NOISE[scores.precision]
    if drift <= noise and not flips:
        return None
    return Rebuilt(before.plan_sha256, f"{before.backend} {before.backend_version}", drift, noise, flips)


def _verdicts(scores: Sequence[float], threshold: float) -> list[bool]:
    """Whether each is NG; a score that is no number is."""
    return [not score <= threshold for score in scores]


def refusal_of(rebuilt: Rebuilt | None, name: str, precision: Precision) -> GateError | None:
    """The error for an engine that answers too differently to take the place of the one before; None if it may.

    Args:
        rebuilt: from `compare_rebuilt`.
        name: of the engine.
        precision: its own.
    """
    allowed = ALLOWANCES[precision].drift
    if rebuilt is None or (not rebuilt.flips and rebuilt.drift_max <= allowed):
        return None
    return GateError(
        f"{name}: {rebuilt.describe()}; at most {allowed:g} gaps and no changed verdict are allowed for {precision}",
        "find out what changed since (library, driver, this machine); the engine that was here stays; "
        "to replace it all the same: --accept REASON",
    )
