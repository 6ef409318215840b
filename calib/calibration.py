"""What a calibration did: what a person reads of it, what `--json` gives, and whether its gates passed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agp_edge.bundle import Bundle
from agp_edge.errors import GateError
from agp_edge.frame import Precision
from agp_edge.gate import GateReport
from agp_edge.verdict import Threshold
from calib.search import LayerChoice


@dataclass(frozen=True)
class Calibration:
    """What a calibration did.

    Attributes:
        bundle: the bundle as it is now.
        quantised, kept: names of the operators in INT8, and of those that were left as they are.
        splits: part -> number of frames.
        calibration: what the manifest says of it.
        layers: what the search of precisions found; None where it was not asked, or had too few frames.
        table: the layers, what each saves and, where it was measured, costs, for a person.
        thresholds: precision -> its own threshold.
        reports: precision -> its gate against FP32.
        shown: precision -> where the frames that its gate refused it for can be seen, in words.
        accepted: the reason for which a graph that its gate did not pass was kept.
        written: whether the bundle was; an earlier calibration is not replaced by one that a gate did not pass.
        warnings: what the user should know.
    """

    bundle: Bundle
    quantised: list[str]
    kept: list[str]
    splits: dict[str, int]
    calibration: dict[str, Any]
    layers: LayerChoice | None
    table: str
    thresholds: dict[Precision, Threshold]
    reports: dict[Precision, GateReport]
    shown: dict[Precision, str] = field(default_factory=dict)
    accepted: str | None = None
    written: bool = True
    warnings: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """What was done, for a person."""
        parts = ", ".join(f"{part} {n}" for part, n in self.splits.items())
        kept = f", {len(self.kept)} left as they are" if self.kept else ""
        lines = [f"{self.bundle.path}: {len(self.quantised)} layers in INT8{kept}; good frames: {parts}"]
        if self.layers is not None:
            lines.append(self.layers.describe())
        lines.append(self.table)
        if not self.written:
            lines.append("not written: the bundle keeps its earlier calibration")
        elif self.accepted is None and any(r.outcome == "inconclusive" for r in self.reports.values()):
            lines.append("written, with graphs that the gate could not judge: a build of them asks again")
        for precision, threshold in self.thresholds.items():
            lines.append(f"{precision}  threshold {threshold.describe()}")
            if precision in self.reports:
                lines.append(f"  gate {self.reports[precision].describe()}")
                lines += [f"    {line}" for line in self.reports[precision].describe_more()]
        lines += self.thresholds["fp32"].notes()
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` gives it."""
        return {
            "bundle": str(self.bundle.path),
            "quantised": len(self.quantised),
            "kept": self.kept,
            "splits": self.splits,
            "calibration": self.calibration,
            "search": self.layers.to_dict() if self.layers else None,
            "provisional": self.thresholds["fp32"].provisional,
            "thresholds": {p: vars(t) for p, t in self.thresholds.items()},
            "gates": {p: r.to_dict() for p, r in self.reports.items()},
            "written": self.written,
            "warnings": self.warnings,
        }

    def check(self) -> None:
        """Raise if a gate did not pass and nobody accepted that.

        Raises:
            GateError: refused, or inconclusive.
        """
        if self.accepted is not None:
            return
        try:
            for precision, report in self.reports.items():
                report.check(f"{self.bundle.manifest.name} {precision}", shown=self.shown.get(precision))
        except GateError as error:
            if self.written:
                raise
            kept = f"{error.hint}; {self.bundle.path} keeps its earlier calibration"
            raise GateError(error.what, kept) from error
