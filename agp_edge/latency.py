"""Latency figures: nearest-rank percentiles of a list, and a recorder of constant memory for a stream.

Nearest rank: the p-th percentile of n values is the ceil(p / 100 * n)-th smallest. It is always a value that was
measured, and needs no assumption about what lies between two of them.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TypedDict

LatencySummary = TypedDict(
    "LatencySummary",
    {
        "n": int,
        "min": float | None,
        "p50": float | None,
        "p90": float | None,
        "p95": float | None,
        "p97": float | None,
        "p99": float | None,
        "p99.9": float | None,
        "max": float | None,
        "mean": float | None,
        "cv": float | None,
    },
)
"""Figures in milliseconds; `cv` is the coefficient of variation (population standard deviation / mean), no unit.

Every figure is None where `n` is 0; `cv` also where the mean is 0.
"""

PERCENTILES: dict[str, Fraction] = {
    "p50": Fraction(50),
    "p90": Fraction(90),
    "p95": Fraction(95),
    "p97": Fraction(97),
    "p99": Fraction(99),
    "p99.9": Fraction("99.9"),
}
"""The percentiles of every report, exact: as floats, 99.9 % of 1000 would round up to rank 1000."""


def nearest_rank(n: int, percent: Fraction) -> int:
    """The rank, from 1, of a percentile among n values in order."""
    if n < 1 or not 0 < percent <= 100:
        raise ValueError(f"nearest_rank needs n >= 1 and 0 < percent <= 100, got n={n}, percent={percent}")
    return math.ceil(percent * n / 100)


def percentile_ms(ordered_ms: Sequence[float], percent: Fraction) -> float:
    """A nearest-rank percentile of values in ascending order; ValueError if there are none."""
    return ordered_ms[nearest_rank(len(ordered_ms), percent) - 1]


def percentiles_ms(values_ms: Iterable[float]) -> LatencySummary:
    """The exact figures of a report.

    Args:
        values_ms: latencies in milliseconds, in any order; none at all gives `n` 0 and no figures.
    """
    ordered = sorted(values_ms)
    n = len(ordered)
    if n == 0:
        return _summary(0, None, None, {}, None, 0.0)
    mean = math.fsum(ordered) / n
    squares = math.fsum((value - mean) ** 2 for value in ordered)
    found = {name: percentile_ms(ordered, percent) for name, percent in PERCENTILES.items()}
    return _summary(n, ordered[0], ordered[-1], found, mean, squares)


def _summary(
    n: int,
    least: float | None,
    most: float | None,
    found: dict[str, float],
    mean: float | None,
    squares: float,
) -> LatencySummary:
    return {
        "n": n,
        "min": least,
        "p50": found.get("p50"),
        "p90": found.get("p90"),
        "p95": found.get("p95"),
        "p97": found.get("p97"),
        "p99": found.get("p99"),
        "p99.9": found.get("p99.9"),
        "max": most,
        "mean": mean,
        "cv": math.sqrt(squares / n) / mean if mean else None,
    }


class LatencyRecorder:
    """Latencies of a stream that runs for months, in constant memory (about 18 kB).

    A histogram of log-spaced buckets: bucket i holds (LOW * g^(i-1), LOW * g^i], with g = (1 + e) / (1 - e), and
    answers with the one value in it that is at most a relative e from both ends (DDSketch: Masson, Rim, Lee, 2019).
    So a percentile is within 0.5 % of the exact nearest-rank percentile, or within LOW_MS for values below it;
    `min`, `max` and `n` are exact, `mean` and `cv` running sums (Welford, 1962). Values beyond HIGH_MS, one hour, share
    the last bucket, which answers with the maximum.

    One thread may record while another reads.
    """

    RELATIVE_ERROR = 0.005
    LOW_MS = 0.001
    HIGH_MS = 3_600_000.0

    _GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
    _LOG_GROWTH = math.log(_GROWTH)
    _LAST = math.ceil(math.log(HIGH_MS / LOW_MS) / _LOG_GROWTH) + 1

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (self._LAST + 1)))
        self._lock = threading.Lock()
        self._n = 0
        self._min = math.inf
        self._max = 0.0
        self._mean = 0.0
        self._squares = 0.0

    def __len__(self) -> int:
        return self._n

    def record(self, value_ms: float) -> None:
        """Add one latency in milliseconds.

        Raises:
            ValueError: negative or not finite: two clocks were mixed up.
        """
        if not 0 <= value_ms < math.inf:
            raise ValueError(f"{value_ms} ms is no latency")
        index = self._index(value_ms)
        with self._lock:
            self._counts[index] += 1
            self._n += 1
            self._min = min(self._min, value_ms)
            self._max = max(self._max, value_ms)
            step = value_ms - self._mean
            self._mean += step / self._n
            self._squares += step * (value_ms - self._mean)

    def summary(self) -> LatencySummary:
        """The figures so far, as `percentiles_ms` gives them."""
        with self._lock:
            n, least, most = self._n, self._min, self._max
            mean, squares = self._mean, self._squares
            counts = self._counts[:]
        if n == 0:
            return percentiles_ms(())
        ranks = {name: nearest_rank(n, percent) for name, percent in PERCENTILES.items()}
        found: dict[str, float] = {}
        below = 0
        for index, count in enumerate(counts):
            if not count:
                continue
            below += count
            for name, rank in ranks.items():
                if name not in found and rank <= below:
                    found[name] = min(max(self._answer(index, most), least), most)
        return _summary(n, least, most, found, mean, squares)

    def histogram(self) -> list[tuple[float, float, int]]:
        """The buckets that are not empty: (above_ms, up_to_ms, count), for a plot or a file.

        The first bucket starts at 0 and includes it; the last one ends at the maximum.
        """
        with self._lock:
            counts, most = self._counts[:], self._max
        return [(*self._edges(index, most), count) for index, count in enumerate(counts) if count]

    @classmethod
    def _index(cls, value_ms: float) -> int:
        if value_ms <= cls.LOW_MS:
            return 0
        return min(math.ceil(math.log(value_ms / cls.LOW_MS) / cls._LOG_GROWTH), cls._LAST)

    @classmethod
    def _edges(cls, index: int, most: float) -> tuple[float, float]:
        if index == 0:
            return 0.0, cls.LOW_MS
        low = cls.LOW_MS * cls._GROWTH ** (index - 1)
        return low, most if index == cls._LAST else low * cls._GROWTH

    @classmethod
    def _answer(cls, index: int, most: float) -> float:
        low, high = cls._edges(index, most)
        if index in (0, cls._LAST):
            return high
        return 2 * low * high / (low + high)
