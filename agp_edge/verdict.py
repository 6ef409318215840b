"""From a score to OK or NG: split-conformal thresholds, p-values, and the regions of a map.

Source of the threshold: split conformal prediction (Vovk, Gammerman, Shafer, 2005; Lei et al., 2018).
For n scores of good frames that the network never saw, and a false-reject rate a, the threshold is the
ceil((n+1)(1-a))-th smallest. Over draws of those frames a good frame is rejected with probability at most
a, whatever the distribution, while good frames stay exchangeable. What one set of n promises follows
Beta(k, n + 1 - k), with k the rank taken.

Scores of images that the network was trained on are exchangeable with nothing. Where there are no others they are
`provisional`: a threshold over them works, promises nothing, and says so wherever it is shown.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from agp_edge.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VerdictName = Literal["OK", "NG"]

DEFAULT_FALSE_REJECT_RATE = 0.01


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it promises.

    Attributes:
        value: the score above which a frame is NG.
        false_reject_rate: the marginal promise a; where it is provisional, only the rate that the rank was taken for.
        bound_95: with 95 % confidence this one set of scores promises a true false-reject rate below this; 1 where it
            is provisional, since then nothing bounds it.
        n: how many scores of good frames it was taken from.
        chosen_by_n: the default rate could not be promised by n scores, so 1/(n+1) was taken.
        provisional: the scores are of images that the network was trained on.
    """

    value: float
    false_reject_rate: float
    bound_95: float
    n: int
    chosen_by_n: bool = False
    provisional: bool = False

    def describe(self) -> str:
        """One short line for a person: with a name before it, it fits a terminal of 80 columns."""
        if self.provisional:
            return f"{self.value:.6g} from n = {self.n}, PROVISIONAL: nothing is promised"
        return (
            f"{self.value:.6g} from n = {self.n}: false rejects <= {self.false_reject_rate:.2%}, "
            f"95 % bound {self.bound_95:.2%}"
        )

    def notes(self) -> list[str]:
        """What a person should know beyond that, a line each: why it promises nothing, or less than usual."""
        if self.provisional:
            return [
                f"provisional: from altered copies of {self.n} images that the network was trained on, so it may be far "
                "too low or too high. Calibrate again with good images that it never saw"
            ]
        if self.chosen_by_n:
            return [
                f"n = {self.n} promises false rejects of {self.false_reject_rate:.2%} at best; "
                f"{DEFAULT_FALSE_REJECT_RATE:.0%} needs n = {needed_for(DEFAULT_FALSE_REJECT_RATE)}"
            ]
        return []


def needed_for(false_reject_rate: float) -> int:
    """How many scores it takes to promise a false-reject rate: the least n with 1/(n+1) <= a."""
    return math.ceil(1 / false_reject_rate - 1 - 1e-9)


@lru_cache(maxsize=1024)
def beta_quantile(p: float, a: int, b: int) -> float:
    """The p-quantile of Beta(a, b) for whole a, b >= 1, by bisection on the binomial tail.

    P(Beta(a, b) <= x) = P(Binomial(a + b - 1, x) >= a): no special function is needed.
    """
    if not (0 < p < 1 and a >= 1 and b >= 1):
        raise ValueError(f"beta_quantile needs 0 < p < 1 and a, b >= 1, got p={p}, a={a}, b={b}")
    n = a + b - 1
    log_choose = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(n + 1)]

    def tail(x: float) -> float:
        log_x, log_rest = math.log(x), math.log1p(-x)
        # Sum the shorter side: fewer terms, and no loss of digits near 1.
        if a > n // 2:
            return math.fsum(
                math.exp(log_choose[i] + i * log_x + (n - i) * log_rest) for i in range(a, n + 1)
            )
        return 1 - math.fsum(math.exp(log_choose[i] + i * log_x + (n - i) * log_rest) for i in range(a))

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if tail(middle) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def upper_bound_95(events: int, n: int) -> float:
    """One-sided 95 % Clopper-Pearson upper bound of a rate, after `events` in `n` trials."""
    if n <= 0 or events >= n:
        return 1.0
    return beta_quantile(0.95, events + 1, n - events)


def choose_threshold(
    normal_scores: Sequence[float], false_reject_rate: float | None = None, *, provisional: bool = False
) -> Threshold:
    """The split-conformal threshold for a false-reject rate.

    Args:
        normal_scores: scores of held-out good frames, in any order.
        false_reject_rate: a in (0, 1); without it 1 %, or 1/(n+1) where n < 99.
        provisional: the scores are of images that the network was trained on.

    Raises:
        InputError: no scores, a rate outside (0, 1), or one that n scores cannot promise.
    """
    ordered = sorted(float(s) for s in normal_scores)
    n = len(ordered)
    if n == 0:
        raise InputError(
            "there are no scores of good frames to take a threshold from",
            "run: agp-edge calibrate BUNDLE DATA",
        )
    chosen_by_n = False
    if false_reject_rate is None:
        rate = DEFAULT_FALSE_REJECT_RATE
        if n < needed_for(rate):
            rate, chosen_by_n = 1 / (n + 1), True
    else:
        rate = false_reject_rate
        if not 0 < rate < 1:
            raise InputError(
                f"a false-reject rate of {rate:g} is no rate", "give one between 0 and 1, as in 0.01"
            )
    # The tiny term keeps (n+1)(1-a), exact on paper, from being rounded up to the next rank.
    k = math.ceil((n + 1) * (1 - rate) - 1e-9)
    if k > n:
        needed = needed_for(rate)
        raise InputError(
            f"{n} good frames cannot promise a false-reject rate of {rate:.3%}",
            f"calibrate with at least {needed} held-out good frames, or ask for {1 / (n + 1):.3%} or more",
        )
    k = max(k, 1)
    bound = 1.0 if provisional else beta_quantile(0.95, n + 1 - k, k)
    return Threshold(ordered[k - 1], rate, bound, n, chosen_by_n, provisional)


class Judge:
    """Turns scores into verdicts against one set of normal scores.

    Args:
        normal_scores: scores of held-out good frames; may be empty where a threshold is set by hand.
        false_reject_rate: as `choose_threshold`.
        threshold: a threshold set by hand, which then replaces the conformal one (p-values stay).
        provisional: the normal scores are of images that the network was trained on.

    Attributes:
        threshold: the score above which a frame is NG.
        conformal: what the normal scores promise; None where there are none.
        provisional: verdicts or p-values rest on provisional scores.

    Raises:
        InputError: as `choose_threshold`.
    """

    def __init__(
        self,
        normal_scores: Sequence[float],
        false_reject_rate: float | None = None,
        *,
        threshold: float | None = None,
        provisional: bool = False,
    ) -> None:
        self._ordered = sorted(float(s) for s in normal_scores)
        self.conformal: Threshold | None = None
        self.provisional = provisional and bool(self._ordered)
        if self._ordered or threshold is None:
            self.conformal = choose_threshold(self._ordered, false_reject_rate, provisional=provisional)
            self.threshold = self.conformal.value
        if threshold is not None:
            self.threshold = float(threshold)

    def at_rate(self, false_reject_rate: float | None) -> Judge:
        """The same scores with the threshold of another false-reject rate.

        Raises:
            InputError: as `choose_threshold`.
        """
        return Judge(self._ordered, false_reject_rate, provisional=self.provisional)

    def at_threshold(self, threshold: float) -> Judge:
        """The same scores with a threshold set by hand."""
        return Judge(self._ordered, threshold=threshold, provisional=self.provisional)

    @property
    def rates(self) -> tuple[float, float] | None:
        """The smallest false-reject rate that the scores can promise, and the largest that is of use; None without scores."""
        n = len(self._ordered)
        return (1 / (n + 1), max(0.5, 1 / (n + 1))) if n else None

    def p_value(self, score: float) -> float:
        """(1 + #{s_i >= score}) / (n + 1); without normal scores 1, which is no evidence of anything.

        A score that is no number counts as the largest, since its verdict is NG.
        """
        n = len(self._ordered)
        below = n if math.isnan(score) else bisect.bisect_left(self._ordered, score)
        return (1 + n - below) / (n + 1)

    def verdict(self, score: float) -> VerdictName:
        """NG above the threshold; a score that is no number is never OK."""
        return "OK" if score <= self.threshold else "NG"


@dataclass(frozen=True)
class Region:
    """One connected part of a map above the threshold: a box in frame pixels, and its highest value."""

    x: int
    y: int
    width: int
    height: int
    peak: float

    def shifted(self, x: int, y: int) -> Region:
        """The same, in pixels of a frame whose origin lies (x, y) before this one's."""
        return replace(self, x=self.x + x, y=self.y + y) if x or y else self

    def as_list(self) -> list[float]:
        """[x, y, w, h, peak], as the verdict's JSON line has it."""
        return [self.x, self.y, self.width, self.height, round(self.peak, 6)]


def find_regions(
    anomaly_map: NDArray[np.float32],
    threshold: float,
    frame_size_wh: tuple[int, int],
    counts: NDArray[np.bool_] | None = None,
    min_area: float = 0,
) -> list[Region]:
    """8-connected regions of an anomaly map above a threshold, strongest first.

    Args:
        anomaly_map: [h, w] float32; its resolution may differ from the frame's.
        threshold: the score's threshold; the score is the map's maximum, so an NG frame has a region.
        frame_size_wh: (width, height) of the frame, in whose pixels the boxes are given.
        counts: [h, w] bool, the cells that count: no other is part of a region. None for all.
        min_area: frame pixels; smaller regions are left out.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    import numpy as np

    from agp_edge.extras import import_cv2

    cv2 = import_cv2("finding regions")
    above = anomaly_map > threshold
    if counts is not None:
        above &= counts
    count, labels, stats, _ = cv2.connectedComponentsWithStats(above.astype(np.uint8), connectivity=8)
    (rows, columns), (frame_width, frame_height) = anomaly_map.shape, frame_size_wh
    cell_area = frame_width * frame_height / (rows * columns)
    regions = []
    for label in range(1, count):
        x, y, width, height, cells = (int(v) for v in stats[label])
        if cells * cell_area < min_area:
            continue
        inside = labels[y : y + height, x : x + width] == label
        peak = float(anomaly_map[y : y + height, x : x + width][inside].max())
        # In whole numbers, rounded outwards: a mask's cells are cut by the same edges.
        left, top = x * frame_width // columns, y * frame_height // rows
        right, bottom = -(-(x + width) * frame_width // columns), -(-(y + height) * frame_height // rows)
        regions.append(Region(left, top, right - left, bottom - top, peak))
    return sorted(regions, key=lambda region: -region.peak)


def score_under(anomaly_map: NDArray[np.float32], counts: NDArray[np.bool_]) -> float:
    """The largest value of the cells that count; no number if one of them is none.

    Of a graph of ours the score is the map's maximum, so with every cell this is the score, and with fewer it is never
    larger: a good frame that the threshold lets pass still passes, and the promised false-reject rate holds.

    Args:
        anomaly_map: [h, w] float32.
        counts: [h, w] bool, at least one of them true.
    """
    return float(anomaly_map[counts].max())


def decide(
    anomaly_map: NDArray[np.float32],
    threshold: float,
    frame_size_wh: tuple[int, int],
    counts: NDArray[np.bool_] | None = None,
    min_area: float = 0,
) -> tuple[VerdictName, float, list[Region]]:
    """The verdict of a map where some cells do not count, or small regions do not.

    NG takes a region that is left, and every such region is above the threshold. So both can turn NG into OK, never OK
    into NG, and what the threshold promises of good frames still holds; of defects neither promises anything.

    Args:
        anomaly_map, threshold, frame_size_wh, counts, min_area: as `find_regions`.

    Returns:
        Verdict; score, the largest value that counts, which may be above the threshold in an OK frame whose regions are
        all too small; regions. A score that is no number is NG, without regions.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    score = float(anomaly_map.max()) if counts is None else score_under(anomaly_map, counts)
    if score <= threshold:
        return "OK", score, []
    regions = find_regions(anomaly_map, threshold, frame_size_wh, counts, min_area)
    return ("NG" if regions or math.isnan(score) else "OK"), score, regions
