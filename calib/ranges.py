"""How far the activations of a graph reach over good frames: what INT8's 127 steps are laid over.

`max` takes the largest magnitude. `percentile` leaves out the largest of 100,000 values. `entropy` takes the limit under
which the quantised distribution loses least information, by Kullback and Leibler's measure (Migacz, "8-bit Inference with
TensorRT", GTC 2017). The last two work on histograms of magnitudes: ranges are symmetric, so signs say nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from agp_edge.errors import ArtefactError, InputError
from agp_edge.progress import Progress, silent

Method = Literal["max", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)

LEVELS = 128
"""Magnitudes that symmetric int8 tells apart."""
PERCENTILE = 99.999
BINS = 4096
"""A histogram keeps between half of them and all in use."""
LIMITS = 256
"""How many limits `entropy` tries between `LEVELS` bins and all."""


class MagnitudeHistogram:
    """Counts of magnitudes, in bins of one width from 0 up; what does not fit doubles the width.

    Bins merge in pairs, so that no count is ever shared out by guess: the histogram is that of all values at once.

    Attributes:
        largest: the largest magnitude.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self._counts = np.zeros(BINS, np.int64)
        self._top = 0.0

    def add(self, values: NDArray[np.floating[Any]]) -> None:
        """Count the magnitudes of a tensor of any shape."""
        magnitudes = np.abs(values.astype(np.float32, copy=False)).ravel()
        largest = float(magnitudes.max(initial=0.0))
        self.largest = max(self.largest, largest) if np.isfinite(largest) else largest
        if not np.isfinite(self.largest) or self.largest == 0:
            return
        self._top = self._top or largest
        while self._top < largest:
            self._counts = np.concatenate(
                [self._counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)]
            )
            self._top *= 2
        self._counts += np.histogram(magnitudes, BINS, (0, self._top))[0]

    def percentile(self, percent: float = PERCENTILE) -> float:
        """The upper edge of the bin in which the percentile lies; never above the largest value."""
        if self.largest == 0:
            return 0.0
        cumulative = np.cumsum(self._counts)
        bin_ = int(np.searchsorted(cumulative, percent / 100 * cumulative[-1]))
        return min((bin_ + 1) * self._top / BINS, self.largest)

    def entropy(self) -> float:
        """The limit under which `LEVELS` steps lose least information; never above the largest value."""
        used = int(np.flatnonzero(self._counts)[-1]) + 1 if self._counts.any() else 0
        if used <= LEVELS:
            return self.largest
        counts = self._counts[:used].copy()
        # After a ReLU most values are 0, which every limit keeps: they would drown what the limits differ in.
        counts[0] = counts[1]
        best, limit = np.inf, used
        for candidate in np.unique(np.linspace(LEVELS, used, LIMITS).round().astype(int)):
            loss = _information_lost(counts, int(candidate))
            if loss < best:
                best, limit = loss, int(candidate)
        return min(limit * self._top / BINS, self.largest)


def _information_lost(counts: NDArray[np.int64], limit: int) -> float:
    """Kullback-Leibler divergence of the distribution that is clipped at bin `limit` from its `LEVELS` steps."""
    inside = counts[:limit].astype(np.float64)
    clipped = inside.copy()
    clipped[-1] += counts[limit:].sum()
    starts = np.arange(LEVELS) * limit // LEVELS
    filled = clipped > 0
    shares = np.add.reduceat(filled.astype(np.float64), starts)
    sums = np.add.reduceat(inside, starts)
    # A step's counts are spread evenly over those of its bins that hold anything.
    step = np.repeat(
        np.divide(sums, shares, out=np.zeros(LEVELS), where=shares > 0), np.diff([*starts, limit])
    )
    quantised = np.where(filled, step, 0.0)
    p, q = clipped / clipped.sum(), quantised / max(quantised.sum(), 1e-300)
    # Where clipping put mass into an empty bin the measure is infinite; a floor keeps limits comparable.
    return float(np.sum(p[filled] * np.log(p[filled] / np.maximum(q[filled], 1e-12))))


def activation_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    frames: NDArray[np.uint8],
    *,
    batch: int,
    method: Method = "max",
    progress: Progress = silent,
) -> dict[str, float]:
    """How far each tensor reaches to either side of 0.

    Args:
        model: the graph before it is quantised.
        tensors: names of activations in it.
        frames: [N, H, W, C] uint8 good frames; a last batch that is not full is left out.
        batch: the graph's batch.
        method: how a range is taken.
        progress: told of batches.

    Returns:
        Tensor -> range; 0 for one that was 0 throughout.

    Raises:
        InputError: an unknown method, or fewer frames than one batch.
        ArtefactError: ONNX Runtime does not take the graph, or an activation is no finite number.
    """
    check_request(method, len(frames), batch)
    session = open_with_outputs(model, tensors)
    histograms = {name: MagnitudeHistogram() for name in tensors}
    largest = dict.fromkeys(tensors, 0.0)
    batches = len(frames) // batch
    for i in range(batches):
        values = session.run(list(tensors), {"frames": frames[i * batch : (i + 1) * batch]})
        for name, value in zip(tensors, values, strict=True):
            if method == "max":
                # `np.maximum` passes a NaN on, which `max` may swallow.
                largest[name] = float(np.maximum(largest[name], np.abs(value).max(initial=0)))
            else:
                histograms[name].add(value)
                largest[name] = histograms[name].largest
        progress(i + 1, batches, "ranges")
    wrong = [name for name, value in largest.items() if not np.isfinite(value)]
    if wrong:
        raise ArtefactError(
            f"activation {wrong[0]} is no finite number on good frames",
            "export the run again, or train it again",
        )
    if method == "percentile":
        return {name: histogram.percentile() for name, histogram in histograms.items()}
    if method == "entropy":
        return {name: histogram.entropy() for name, histogram in histograms.items()}
    return largest


def check_request(method: str, frames: int, batch: int) -> None:
    """Refuse what `activation_ranges` cannot do.

    Raises:
        InputError: an unknown method, or fewer frames than one batch.
    """
    if method not in METHODS:
        raise InputError(f"there is no calibration method {method!r}", f"take one of: {', '.join(METHODS)}")
    if frames < batch:
        raise InputError(f"{frames} frames are fewer than one batch of {batch}", "give more good frames")


def open_with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    """An ONNX Runtime session that can also be asked for activations by name.

    Raises:
        ArtefactError: ONNX Runtime does not take the graph.
    """
    import onnxruntime as ort

    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    known = {output.name for output in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no public base class.
        raise ArtefactError(
            f"ONNX Runtime {ort.__version__} does not take the graph: {str(error).splitlines()[0]}",
            "export the run again",
        ) from error
