"""Latency objectives, as in `p99<15ms`: read, and held against what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from agp_edge.errors import InputError, ObjectiveMissedError
from agp_edge.latency import percentile_ms

UNITS_MS = {"s": Fraction(1000), "ms": Fraction(1), "us": Fraction(1, 1000)}


@dataclass(frozen=True)
class Objective:
    """A latency that must be kept, as in `p99<15ms`.

    Attributes:
        text: as it was written.
        figure: `mean`, `max`, `min`, or a percentile.
        limit_ms: the limit.
        inclusive: whether the limit itself is good enough (`<=`).
    """

    text: str
    figure: str | Fraction
    limit_ms: float
    inclusive: bool

    def check(self, values_ms: Iterable[float], unserved: int = 0) -> dict[str, Any]:
        """Hold it against at least one latency: `objective`, `measured_ms`, `met`.

        The latency of a query that was never served is a lower bound, which cannot show that a limit was kept:
        with any of them the objective is missed.
        """
        ordered = sorted(values_ms)
        if isinstance(self.figure, Fraction):
            measured = percentile_ms(ordered, self.figure)
        elif self.figure == "mean":
            measured = math.fsum(ordered) / len(ordered)
        else:
            measured = ordered[-1] if self.figure == "max" else ordered[0]
        kept = measured <= self.limit_ms if self.inclusive else measured < self.limit_ms
        return {"objective": self.text, "measured_ms": measured, "met": kept and not unserved}


def parse_objective(text: str) -> Objective:
    """Read `p99<15ms`: a percentile, mean, min or max; < or <=; a number in s, ms or us.

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(
        r"(?:p(\d{1,3}(?:\.\d+)?)|(mean|min|max))(<=?)(\d+(?:\.\d+)?)(s|ms|us)", text.replace(" ", "")
    )
    percent = Fraction(match[1]) if match and match[1] else None
    if not match or (percent is not None and not 0 < percent <= 100):
        raise InputError(
            f"{text!r} is no latency objective",
            "write FIGURE<LIMIT with p1 to p100, mean, min or max and s, ms or us, as in 'p99<15ms'",
        )
    limit_ms = float(Fraction(match[4]) * UNITS_MS[match[5]])
    return Objective(text, match[2] if percent is None else percent, limit_ms, match[3] == "<=")


def raise_if_missed(report: dict[str, Any]) -> None:
    """End a benchmark whose objectives were not all met.

    Raises:
        ObjectiveMissedError: the first one that was missed.
    """
    for objective in report["objectives"]:
        if not objective["met"]:
            unserved = report["unserved"]
            why = f" with {unserved} queries never served" if unserved else ""
            raise ObjectiveMissedError(
                f"objective {objective['objective']} missed: measured {objective['measured_ms']:.3f} ms{why}",
                "take a faster precision or a smaller frame, free the machine, or allow more",
            )
