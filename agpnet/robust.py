"""Bad images among the good ones: which training images look unlike all the others, and how to learn less from them.

The EMA decoder rebuilds what most images have in common well, and early; what only one image has, badly. So each image
carries a running score: the logarithm of the mean error of its worst tokens, on clean features. An image is an outlier
where its score lies more than `mads` median absolute deviations above the median of all images. Median and MAD
because a few bad images must not widen the very limit that is to find them; a logarithm because errors are skewed.

`images` gives an outlier no weight in the loss. `patches` keeps the image and gives no weight to the tokens whose own error is
beyond the limit: a good image has places that are hard to rebuild, too, and the limit comes from the hardest places of
all images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agpnet.config import Robust

MIN_IMAGES = 10
"""Below this many images, none of them can be told to be unlike the others."""
WORST_SHARE = 0.01
"""Of an image's tokens, the share that its score is taken from; a small flaw covers no more."""
MOMENTUM = 0.5
MIN_DEVIATION = 0.05
"""Images nearer to each other than 5 % are alike: without a floor, copies would make outliers of each other."""
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Suspect:
    """A training image that looks unlike the others.

    Attributes:
        name: of the image, relative to the data set.
        sha256: its content.
        error: of its worst places, as a multiple of the median image's.
    """

    name: str
    sha256: str
    error: float


class ImageScores:
    """The running score of every training image.

    Args:
        count: images N.

    Attributes:
        values: [N] float64, log errors; NaN for an image that was not seen yet.
    """

    def __init__(self, count: int) -> None:
        self.values = torch.full((count,), math.nan, dtype=torch.float64)

    def update(self, rows: Tensor, errors: Tensor) -> None:
        """Take in what a step saw.

        Args:
            rows: [B] which images.
            errors: [B, T] mean squared error of each token, as the EMA decoder rebuilds clean features.
        """
        worst = errors.topk(max(1, round(WORST_SHARE * errors.shape[1])), dim=1).values.mean(dim=1)
        new = worst.double().clamp_min(1e-30).log().cpu()
        for row, value in zip(rows.tolist(), new.tolist(), strict=True):
            before = float(self.values[row])
            self.values[row] = value if math.isnan(before) else MOMENTUM * before + (1 - MOMENTUM) * value

    def limit(self, mads: float) -> float | None:
        """The score beyond which an image is an outlier; None while too few images are known."""
        if len(self.values) < MIN_IMAGES or bool(self.values.isnan().any()):
            return None
        median = self.values.median()
        deviation = float((self.values - median).abs().median()) * MAD_TO_SIGMA
        return float(median) + mads * max(deviation, MIN_DEVIATION)

    def outliers(self, mads: float) -> list[tuple[int, float]]:
        """Rows of the outliers with their error as a multiple of the median image's, the worst first."""
        limit = self.limit(mads)
        if limit is None:
            return []
        rows = (self.values > limit).nonzero().flatten().tolist()
        ratios = (self.values - self.values.median()).exp()
        return sorted(((row, float(ratios[row])) for row in rows), key=lambda pair: -pair[1])


def token_weights(
    scores: ImageScores, rows: Tensor, errors: Tensor, mode: Robust, mads: float
) -> Tensor | None:
    """The weight of each token in the loss, 0 or 1.

    Args:
        scores: of all images.
        rows: [B] which images.
        errors: [B, T] of their tokens, as for `ImageScores.update`.
        mode: `images` or `patches`; `off` weighs nothing.
        mads: as `ImageScores.limit`.

    Returns:
        [B, T] on the device of `errors`; None where every token counts.
    """
    limit = scores.limit(mads) if mode != "off" else None
    if limit is None:
        return None
    if mode == "images":
        keep = (scores.values[rows.cpu()] <= limit).to(errors)
        return keep.unsqueeze(1).expand_as(errors)
    return (errors <= math.exp(limit)).to(errors)
