"""Where a batch's time goes: into page-locked memory, to the GPU, the run, the ways back, and the verdict on the host.

What the GPU does is timed by its own marks in the bare loop's stream, the rest by the host's clock. The marks stand between the
parts of a batch, so that nothing overlaps and no CUDA graph hides a part: the sum is more than a batch takes.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.engines import Sidecar
from agp_edge.frame import FrameSpec
from agp_edge.latency import percentiles_ms
from agp_edge.verdict import Judge, find_regions
from benchmarks.gpu_floor import MAP, SCORE, WARM_UP_RUNS, Buffers, Floor

PARTS = ("copy_in", "run", "copy_score", "copy_map")
"""What lies between the marks."""
LEAST_ROUNDS = 20
BRIGHT = 0.99
"""Regions are looked for in a map of which one pixel in a hundred is above the threshold, as of a part with a defect."""


def time_stages(floor: Floor, queries: Sequence[NDArray[np.uint8]], seconds: float) -> dict[str, Any]:
    """Part -> percentiles in milliseconds; `to_pinned` is the host's copy into page-locked memory."""
    device, stream = floor.device, floor.stream
    device.use()
    driver = device.driver
    times: dict[str, list[float]] = {name: [] for name in ("to_pinned", *PARTS)}
    with ExitStack() as held:
        buffers = Buffers(driver, floor.library.shapes, stream, held)
        held.callback(driver.synchronize, stream)
        marks = []
        for _ in range(len(PARTS) + 1):
            marks.append(driver.create_event(timing=True, sleeps=True))
            held.callback(driver.destroy_event, marks[-1])
        run = floor.library.new_run(graph=False)
        run.bind(buffers.addresses)
        score, anomaly_map = buffers.copies_out(anomaly_map=True)
        (copy_in,) = buffers.copy_in
        record = [driver.prepare("record_event", mark, stream) for mark in marks]
        parts: tuple[Callable[[], None], ...] = (copy_in, run.queue, score, anomaly_map)

        def go(frames: NDArray[np.uint8]) -> float:
            begin = time.perf_counter()
            np.copyto(buffers.entry, frames)
            took = (time.perf_counter() - begin) * 1e3
            record[0]()
            for part, mark in zip(parts, record[1:], strict=True):
                part()
                mark()
            driver.synchronize(stream)
            return took

        for frames in itertools.islice(itertools.cycle(queries), WARM_UP_RUNS):
            go(frames)
        until = time.perf_counter() + seconds
        for frames in itertools.cycle(queries):
            if len(times["to_pinned"]) >= LEAST_ROUNDS and time.perf_counter() > until:
                break
            times["to_pinned"].append(go(frames))
            for name, (before, after) in zip(PARTS, itertools.pairwise(marks), strict=True):
                times[name].append(driver.elapsed_ms(before, after))
    sizes = {
        name: np.dtype(kind).itemsize * int(np.prod(shape))
        for name, (kind, shape) in floor.library.shapes.items()
    }
    entry = next(name for name in sizes if name not in (SCORE, MAP))
    return {
        "ms": {name: percentiles_ms(values) for name, values in times.items()},
        "bytes": {"frames": sizes[entry], "score": sizes[SCORE], "anomaly_map": sizes[MAP]},
    }


def time_post(
    sidecar: Sidecar,
    frame: FrameSpec,
    scores: NDArray[np.float32],
    anomaly_map: NDArray[np.float32],
    rounds: int = 200,
) -> dict[str, Any]:
    """What the host does afterwards: the verdicts of a batch, and for one that is NG the regions of its map.

    Args:
        sidecar: of the engine: its normal scores are what p-values are taken of.
        frame: what it takes.
        scores: [N] of a batch.
        anomaly_map: [h, w] of one frame.
        rounds: how often.

    Raises:
        MissingExtraError: there is no OpenCV, which regions are found with.
    """
    judge = Judge(
        sidecar.normal_scores, threshold=None if sidecar.normal_scores else float(np.median(scores))
    )
    bright = float(np.quantile(anomaly_map, BRIGHT))
    size_wh = (frame.width, frame.height)

    def verdicts() -> None:
        for score in scores.tolist():
            judge.verdict(score)
            judge.p_value(score)

    def regions() -> None:
        find_regions(anomaly_map, bright, size_wh)

    return {
        "verdicts_ms": _median(verdicts, rounds),
        "regions_ms": _median(regions, rounds),
        "normal_scores": len(sidecar.normal_scores),
        "regions": len(find_regions(anomaly_map, bright, size_wh)),
    }


def _median(call: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)
