"""95 % intervals by Student's t over a handful of values, without scipy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval.

    Attributes:
        mean: of the values.
        half: half the width of the interval; None for a single value, which has no spread.
        n: how many values.
    """

    mean: float
    half: float | None
    n: int

    def describe(self, *, signed: bool = False) -> str:
        """`0.895 ± 0.004`; with `signed` the mean has its sign, as a difference needs."""
        rounded = round(self.mean, 3) + 0.0  # Never -0.000.
        mean = f"{rounded:+.3f}" if signed else f"{rounded:.3f}"
        return mean if self.half is None else f"{mean} ± {self.half:.3f}"


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The mean of the values with its 95 % interval; None where there is no value."""
    n = len(values)
    if n == 0:
        return None
    mean = statistics.fmean(values)
    if n == 1:
        return Interval(mean, None, 1)
    return Interval(mean, student_t_975(n - 1) * statistics.stdev(values) / math.sqrt(n), n)


@cache
def student_t_975(freedom: int) -> float:
    """The 97.5 % point of Student's t with `freedom` degrees of freedom.

    Raises:
        ValueError: less than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom")
    low, high = 0.0, 13.0  # The point for one degree of freedom, the largest there is, is 12.71.
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def _inside(t: float, freedom: int) -> float:
    """Probability that |T| < t: the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 if odd else 1, freedom, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
