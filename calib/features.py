"""What a frame does to the ranges of a graph: the features over which a calibration set is chosen.

An INT8 range is taken from the magnitudes of what goes into an operator that is quantised. So a frame is described by just
that, for each such activation: its largest magnitude, which `max` takes, and its root mean square, which says how magnitudes
spread, as `entropy` and `percentile` ask. Two frames with the same numbers teach a calibration the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from agp_edge.errors import ArtefactError
from agp_edge.frame import FrameSpec
from agp_edge.progress import Progress, silent
from calib.layers import quantisable
from calib.ranges import open_with_outputs

NUMBERS = 2
"""Of each activation: largest magnitude, root mean square."""

Features = NDArray[np.float64]
"""[N, F], a row a frame."""


def measure_features(
    model: Path,
    frame: FrameSpec,
    frames: Iterable[NDArray[np.uint8]],
    total: int,
    progress: Progress = silent,
) -> Features:
    """The magnitudes of every activation that INT8 would take a range of, frame by frame, by ONNX Runtime.

    Args:
        model: the FP32 graph.
        frame: the frames it takes.
        frames: each [H, W, C] uint8; one batch of them is held at a time.
        total: how many there are, for `progress`.
        progress: told of frames.

    Returns:
        [N, F] float64, two numbers an activation.

    Raises:
        ArtefactError: ONNX Runtime does not take the graph, or an activation is no finite number.
    """
    graph = onnx.load(model)
    chosen = set(quantisable(graph))
    names = list(dict.fromkeys(node.input[0] for node in graph.graph.node if node.name in chosen))
    session = open_with_outputs(graph, names)
    rows = [np.zeros((0, NUMBERS * len(names)))]
    done = 0
    for batch in _batches(frames, frame.batch):
        n = len(batch)
        # A last batch that is not full is filled up with its last frame, which is then left out again.
        full = np.concatenate([batch, np.repeat(batch[-1:], frame.batch - n, axis=0)])
        activations = session.run(names, {"frames": full})
        rows.append(np.concatenate([_describe(a, frame.batch) for a in activations], axis=1)[:n])
        done += n
        progress(done, total, "candidates")
    features = np.concatenate(rows)
    if not np.isfinite(features).all():
        raise ArtefactError(
            f"{model.name} has activations that are no finite numbers on good frames",
            "export the run again, or train it again",
        )
    return features


def _batches(frames: Iterable[NDArray[np.uint8]], size: int) -> Iterator[NDArray[np.uint8]]:
    held: list[NDArray[np.uint8]] = []
    for pixels in frames:
        held.append(pixels)
        if len(held) == size:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def _describe(activation: NDArray[np.float32], batch: int) -> Features:
    """[batch, 2] of an activation whose outermost axis counts frames, or frames and their tokens."""
    magnitudes = np.abs(activation.reshape(batch, -1).astype(np.float64))
    return np.stack([magnitudes.max(axis=1), np.sqrt(np.square(magnitudes).mean(axis=1))], axis=1)
