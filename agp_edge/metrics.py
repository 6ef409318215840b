"""Metrics of anomaly detection in numpy: AUROC, average precision, F1-max, AUPRO.

Each is exact over all distinct thresholds, with ties handled, and is None where the labels allow no number.
Positive scores and negative scores are sorted apart: that costs no index arrays, and one sort serves them all.

AUPRO: Bergmann et al., "Uninformed Students", CVPR 2020, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agp_edge.extras import import_cv2

DEFAULT_AUPRO_LIMIT = 0.3


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


def ranking_metrics(positive: ArrayLike, negative: ArrayLike) -> RankingMetrics:
    """AUROC, average precision and F1-max from one sort.

    Args:
        positive: scores of what is anomalous (images or pixels), any shape.
        negative: scores of what is normal, any shape.

    Raises:
        ValueError: a score is NaN, which has no place in an order.
    """
    positives, negatives = _sorted(positive), _sorted(negative)
    P, N = len(positives), len(negatives)
    if P == 0 or N == 0:
        return RankingMetrics(None, None, None)
    # Recall changes only at the scores of positives, and a threshold between two of them is never better.
    values, counts = np.unique(positives, return_counts=True)
    fp = N - np.searchsorted(negatives, values, side="left")  # negatives >= value
    fp_above = N - np.searchsorted(negatives, values, side="right")
    tp = np.cumsum(counts[::-1])[::-1]  # positives >= value
    auroc = float(np.sum(counts * (N - (fp + fp_above) / 2)) / (float(P) * N))
    average_precision = float(np.sum(counts * (tp / (tp + fp))) / P)
    f1_max = float(np.max(2 * tp / (tp + fp + P)))
    return RankingMetrics(auroc, average_precision, f1_max)


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


def aupro(
    maps: Iterable[NDArray[np.floating[Any]]],
    masks: Iterable[NDArray[np.bool_]],
    limit: float = DEFAULT_AUPRO_LIMIT,
) -> float | None:
    """Area under the per-region overlap, up to a false-positive rate, divided by that rate.

    Per threshold: the mean, over the 8-connected regions of all masks, of the share of the region at or above
    it; against the share of all normal pixels at or above it. Between thresholds, and at the limit, the curve is
    interpolated linearly.

    Args:
        maps: anomaly maps, each [h, w]; of all test images, the good ones too.
        masks: their truth, each [h, w], true where anomalous.
        limit: the false-positive rate to integrate to, in (0, 1].

    Returns:
        A number in [0, 1]; None without a region or without a normal pixel.

    Raises:
        ValueError: a value is NaN, shapes differ, or the limit is no rate.
        MissingExtraError: OpenCV, which finds the regions, is not installed.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"the limit of AUPRO is a rate in (0, 1], got {limit}")
    cv2 = import_cv2("AUPRO")
    normal_parts, inside_parts, weight_parts = [], [], []
    regions = 0
    for values, truth in zip(maps, masks, strict=True):
        mask = np.asarray(truth, bool)
        if values.shape != mask.shape:
            raise ValueError(f"a map of {values.shape} and a mask of {mask.shape} are no pair")
        normal_parts.append(values[~mask])
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        regions += count - 1  # 0 is the background
        region = labels[mask]
        inside_parts.append(values[mask])
        weight_parts.append(1 / np.bincount(region, minlength=1)[region])
    normal = _sorted(np.concatenate(normal_parts) if normal_parts else [])
    inside = np.concatenate(inside_parts) if inside_parts else np.empty(0)
    if regions == 0 or len(normal) == 0:
        return None
    if np.isnan(inside).any():
        raise ValueError("an anomaly map holds NaN")
    order = np.argsort(inside)
    inside, weights = inside[order], np.concatenate(weight_parts)[order] / regions
    # overlap[i]: the mean region overlap if all but the i smallest region values are at or above the threshold.
    overlap = np.append(np.cumsum(weights[::-1])[::-1], 0.0)

    # One segment for each distinct value of a normal pixel, from the highest: only there does the rate grow.
    # Regions' values between two of them are a vertical rise, without area.
    values, counts = np.unique(normal, return_counts=True)
    values, counts = values[::-1], counts[::-1]
    start = overlap[np.searchsorted(inside, values, side="right")]
    end = overlap[np.searchsorted(inside, values, side="left")]
    rate = np.cumsum(counts) / len(normal)
    width = counts / len(normal)
    # The share of each segment that lies below the limit: 1, then one in between, then 0.
    share = np.clip((limit - (rate - width)) / width, 0, 1)
    area = np.sum(width * share * (start + share * (end - start) / 2))
    return min(float(area / limit), 1.0)


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
