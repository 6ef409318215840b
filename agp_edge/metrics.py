"""Metrics of anomaly detection in numpy: AUROC, average precision, F1-max, AUPRO, and the curves behind them.

Each is exact over all distinct thresholds, with ties handled, and is None where the labels allow no number.

Every one of them changes only where a positive scores: it is enough to know, for each distinct score of a positive, how
many negatives lie above it and how many at it. Pixels are therefore counted in pieces of a fixed size, against the
positives alone: the negatives are never gathered, sorted or widened as a whole.

AUPRO: Bergmann et al., "Uninformed Students", CVPR 2020, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agp_edge.extras import import_cv2

DEFAULT_AUPRO_LIMIT = 0.3

PIECE = 1 << 21
"""Pixels that are counted at a time: 8 MiB as float32."""

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class RankingMetrics:
    """What an order of scores is worth; each None where only one kind of label is there.

    Attributes:
        auroc: area under the ROC curve: the chance that a positive scores above a negative, a tie counting half.
        average_precision: area under precision over recall, as a sum of steps, not of trapezoids.
        f1_max: the best F1 over all thresholds. It takes its threshold from the labels: an oracle.
    """

    auroc: float | None
    average_precision: float | None
    f1_max: float | None


@dataclass(frozen=True)
class Curve:
    """A rate over the false-positive rate, a polyline from (0, 0), the highest threshold, to (1, 1), the lowest.

    Attributes:
        x: [M] false-positive rate, never falling.
        y: [M] recall (ROC) or mean overlap of the regions (PRO), never falling.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def area(self, limit: float = 1.0) -> float:
        """The area below the curve from 0 to a false-positive rate, divided by that rate.

        At the limit the curve is interpolated linearly, so the result lies in [0, 1].

        Raises:
            ValueError: the limit is no rate in (0, 1].
        """
        _check_limit(limit)
        left, width = self.x[:-1], np.diff(self.x)
        low, rise = self.y[:-1], np.diff(self.y)
        # The share of each segment that lies below the limit: 1, then one in between, then 0. A vertical one has no area.
        share = np.clip((limit - left) / np.where(width > 0, width, 1), 0, 1)
        area = np.sum(width * share * (low + share * rise / 2))
        return min(float(area / limit), 1.0)

    def thinned(self, points: int = 200, upto: float = 1.0) -> Curve:
        """A curve of a few hundred points that looks the same, for drawing; its area is not exact any more.

        Args:
            points: steps of each axis that are told apart.
            upto: the false-positive rate up to which the horizontal steps are shared out; beyond it they are coarse.
        """
        if len(self.x) <= 4 * points:
            return self
        across, up = np.linspace(0, upto, points), np.linspace(0, 1, points)
        found = np.concatenate(
            [np.searchsorted(self.x, across), np.searchsorted(self.x, up), np.searchsorted(self.y, up)]
        )
        # The point before a step belongs to it: without it a corner would become a slope.
        last = len(self.x) - 1
        chosen = np.unique(np.clip(np.concatenate([found, found - 1, [0, last]]), 0, last))
        return Curve(self.x[chosen], self.y[chosen])


def ranking_metrics(positive: ArrayLike, negative: ArrayLike) -> RankingMetrics:
    """AUROC, average precision and F1-max at once.

    Args:
        positive: scores of what is anomalous (images or pixels), any shape.
        negative: scores of what is normal, any shape.

    Raises:
        ValueError: a score is NaN, which has no place in an order.
    """
    return _metrics(_count(positive, negative))


def roc_curve(positive: ArrayLike, negative: ArrayLike) -> Curve | None:
    """Recall over the false-positive rate, exact at every threshold; None where only one kind of label is there.

    Args:
        positive: scores of what is anomalous, any shape.
        negative: scores of what is normal, any shape.

    Raises:
        ValueError: a score is NaN.
    """
    steps = _count(positive, negative)
    return _curve(steps, steps.positives) if steps else None


def image_auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """AUROC of [N] scores under [N] labels, true where anomalous; None if only one label is there.

    Raises:
        ValueError: a score is NaN.
    """
    return ranking_metrics(*_split(scores, labels)).auroc


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Average precision of [N] scores under [N] labels; None if only one label is there.

    Raises:
        ValueError: a score is NaN.
    """
    return ranking_metrics(*_split(scores, labels)).average_precision


def f1_max(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """The best F1 of [N] scores under [N] labels over all thresholds; None if only one label is there.

    Raises:
        ValueError: a score is NaN.
    """
    return ranking_metrics(*_split(scores, labels)).f1_max


class PixelScores:
    """The pixels of many images, added one image at a time: exact metrics over all of them together.

    Held are the maps themselves, which are not copied and must not be changed, and some 20 bytes for each anomalous
    pixel: 4 bytes a pixel for float32 maps. What is made on the way to a metric grows with the anomalous pixels alone.
    """

    def __init__(self) -> None:
        self._maps: list[Floats] = []
        self._inside: list[Floats] = []
        self._shares: list[NDArray[np.float64]] = []
        self._found: _PixelSteps | None = None

    def add(self, anomaly_map: Floats, truth: NDArray[np.bool_]) -> None:
        """Add an image; good ones too, for theirs are normal pixels like any others.

        Args:
            anomaly_map: [h, w].
            truth: [h, w], true where anomalous; its 8-connected parts are the regions of AUPRO.

        Raises:
            ValueError: a value is NaN, or the shapes differ.
            MissingExtraError: OpenCV, which finds the regions, is not installed.
        """
        mask = np.asarray(truth, bool)
        if anomaly_map.shape != mask.shape:
            raise ValueError(f"a map of {anomaly_map.shape} and a mask of {mask.shape} are no pair")
        if np.isnan(anomaly_map).any():
            raise ValueError("an anomaly map holds NaN")
        self._found = None
        self._maps.append(anomaly_map)
        if mask.any():
            cv2 = import_cv2("AUPRO")
            _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            region = labels[mask]
            self._inside.append(anomaly_map[mask])
            self._shares.append(1 / np.bincount(region)[region])

    def ranking(self) -> RankingMetrics:
        """Pixel AUROC, average precision and F1-max."""
        found = self._steps()
        return _metrics(found.steps if found else None)

    def roc_curve(self) -> Curve | None:
        """Share of the anomalous pixels over the share of the normal ones; None where only one kind is there."""
        found = self._steps()
        return _curve(found.steps, found.steps.positives) if found else None

    def pro_curve(self) -> Curve | None:
        """Mean share of the regions over the share of the normal pixels of all images; None where only one kind is there.

        Per threshold: the mean, over the 8-connected regions of all masks, of the share of the region at or above
        it. Every region counts alike, whatever its size.
        """
        found = self._steps()
        return _curve(found.steps, found.overlap) if found else None

    def _steps(self) -> _PixelSteps | None:
        """The counts behind every metric, made once."""
        pixels = sum(m.size for m in self._maps)
        if self._found is None and self._inside:
            inside = np.concatenate(self._inside)
            order = np.argsort(inside)
            inside = inside[order]
            # Where each distinct value begins among the anomalous pixels.
            begin = np.flatnonzero(np.append(True, inside[1:] != inside[:-1]))
            values = inside[begin]
            overlap = np.add.reduceat(np.concatenate(self._shares)[order], begin)
            n_negative = pixels - len(inside)
            if n_negative == 0:
                return None
            positives = np.diff(np.append(begin, len(inside)))
            # Normal pixels are all pixels less the anomalous ones: so no mask has to be kept.
            at_or_above, above = np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
            for piece in _sorted_pieces(self._maps):
                at_or_above += len(piece) - np.searchsorted(piece, values, side="left")
                above += len(piece) - np.searchsorted(piece, values, side="right")
            reached = np.cumsum(positives[::-1])[::-1]
            at_or_above -= reached
            above -= reached - positives
            self._found = _PixelSteps(_Steps(positives, at_or_above, above, n_negative), overlap)
        return self._found


def aupro(
    maps: Iterable[Floats], masks: Iterable[NDArray[np.bool_]], limit: float = DEFAULT_AUPRO_LIMIT
) -> float | None:
    """Area under the per-region overlap, up to a false-positive rate, divided by that rate.

    The curve is `PixelScores.pro_curve`. Between thresholds, and at the limit, it is interpolated linearly.

    Args:
        maps: anomaly maps, each [h, w]; of all test images, the good ones too.
        masks: their truth, each [h, w], true where anomalous.
        limit: the false-positive rate to integrate to, in (0, 1].

    Returns:
        A number in [0, 1]; None without a region or without a normal pixel.

    Raises:
        ValueError: a value is NaN, shapes or numbers differ, or the limit is no rate.
        MissingExtraError: OpenCV, which finds the regions, is not installed.
    """
    _check_limit(limit)
    pixels = PixelScores()
    for anomaly_map, truth in zip(maps, masks, strict=True):
        pixels.add(anomaly_map, truth)
    curve = pixels.pro_curve()
    return curve.area(limit) if curve else None


@dataclass(frozen=True)
class _Steps:
    """What lies at and above each distinct score of a positive, in rising order of that score.

    Attributes:
        positives: [K] positives with this very score.
        at_or_above: [K] negatives with this score or a higher one.
        above: [K] negatives with a higher one.
        n_negative: all negatives.
    """

    positives: Counts
    at_or_above: Counts
    above: Counts
    n_negative: int


@dataclass(frozen=True)
class _PixelSteps:
    """Counts of pixels, and [K] the overlap that the anomalous ones with each score bring, summed over regions."""

    steps: _Steps
    overlap: NDArray[np.float64]


def _count(positive: ArrayLike, negative: ArrayLike) -> _Steps | None:
    positives, negatives = _sorted(positive), _sorted(negative)
    if not (len(positives) and len(negatives)):
        return None
    values, counts = np.unique(positives, return_counts=True)
    N = len(negatives)
    at_or_above = N - np.searchsorted(negatives, values, side="left")
    return _Steps(counts, at_or_above, N - np.searchsorted(negatives, values, side="right"), N)


def _metrics(steps: _Steps | None) -> RankingMetrics:
    if steps is None:
        return RankingMetrics(None, None, None)
    # Recall changes only at the scores of positives, and a threshold between two of them is never better.
    counts, fp, N = steps.positives, steps.at_or_above, steps.n_negative
    tp = np.cumsum(counts[::-1])[::-1]
    P = int(tp[0])
    auroc = float(np.sum(counts * (N - (fp + steps.above) / 2)) / (float(P) * N))
    average_precision = float(np.sum(counts * (tp / (tp + fp))) / P)
    return RankingMetrics(auroc, average_precision, float(np.max(2 * tp / (tp + fp + P))))


def _curve(steps: _Steps, mass: NDArray[Any]) -> Curve:
    """The polyline through every threshold at which recall changes.

    Args:
        steps: the counts.
        mass: [K] what the positives with each score add to y, in units of its whole.
    """
    reached = np.cumsum(mass[::-1], dtype=np.float64)
    reached /= reached[-1]
    K = len(mass)
    x, y = np.zeros(2 * K + 2), np.zeros(2 * K + 2)
    # From the highest threshold down: first the negatives above a score, then those at it, together with its positives.
    x[1:-1:2], x[2:-1:2] = steps.above[::-1], steps.at_or_above[::-1]
    y[3:-1:2], y[2:-1:2] = reached[:-1], reached
    x /= steps.n_negative
    x[-1] = y[-1] = 1
    return Curve(x, y)


def _sorted_pieces(maps: Sequence[Floats]) -> Iterator[Floats]:
    """All values of maps, sorted in pieces of at most `PIECE` values; each a new array."""
    parts: list[Floats] = []
    waiting = 0
    for anomaly_map in maps:
        flat = anomaly_map.ravel()
        while len(flat):
            parts.append(flat[: PIECE - waiting])
            flat = flat[PIECE - waiting :]
            waiting += len(parts[-1])
            if waiting == PIECE:
                yield _joined(parts)
                parts, waiting = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[Floats]) -> Floats:
    piece: Floats = np.concatenate(parts)
    piece.sort()
    return piece


def _check_limit(limit: float) -> None:
    if not 0 < limit <= 1:
        raise ValueError(f"the limit of AUPRO is a rate in (0, 1], got {limit}")


def _split(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    scores, labels = np.asarray(scores), np.asarray(labels, bool)
    if scores.shape != labels.shape:
        raise ValueError(f"{scores.shape} scores and {labels.shape} labels differ in number")
    return scores[labels], scores[~labels]


def _sorted(scores: ArrayLike) -> NDArray[Any]:
    ordered = np.sort(np.asarray(scores), axis=None)
    # A sort puts NaN last.
    if len(ordered) and np.isnan(ordered[-1]):
        raise ValueError("a score is NaN: it has no place in an order")
    return ordered
