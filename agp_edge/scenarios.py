"""The ways of asking an engine: one frame after another, as fast as it can, or as the world sends them.

single-stream, multi-stream and offline ask as MLPerf Inference's edge suite does; `server` and `camera` are ours.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MIN_FRAMES = 10
MULTI_STREAM_SAMPLES = 8


@dataclass(frozen=True)
class Plan:
    """What a scenario is told: the call, its queries in turn, and when to stop."""

    infer: Callable[[NDArray[np.uint8]], object]
    queries: Sequence[NDArray[np.uint8]]
    duration_s: float
    rate: float = 0.0
    seed: int = 0

    def goes_on(self, seconds: float, frames: int) -> bool:
        """Whether the measurement goes on: for its duration, and until there are at least MIN_FRAMES."""
        return seconds < self.duration_s or frames < MIN_FRAMES


@dataclass
class Times:
    """What a scenario measured. A double a query, not a Python float: an hour must fit into memory."""

    latency_ms: array[float] = field(default_factory=lambda: array("d"))
    queue_ms: array[float] = field(default_factory=lambda: array("d"))
    call_ms: array[float] = field(default_factory=lambda: array("d"))
    seconds: float = 0.0
    unserved: int = 0
    dropped: int = 0


def _back_to_back(plan: Plan) -> Times:
    """The next query starts when the last one ended."""
    times = Times()
    size = len(plan.queries[0])
    start = time.perf_counter()
    end = start
    while plan.goes_on(end - start, len(times.call_ms) * size):
        begin = time.perf_counter()
        plan.infer(plan.queries[len(times.call_ms) % len(plan.queries)])
        end = time.perf_counter()
        times.call_ms.append((end - begin) * 1e3)
    times.seconds = end - start
    times.latency_ms = times.call_ms
    return times


def _server(plan: Plan) -> Times:
    """Queries arrive on a schedule drawn beforehand, whether the engine is free or not, and wait in order.

    Latency counts from the scheduled arrival, so that a slow query makes those behind it late too. When one has
    waited for as long as the whole measurement, the engine is overloaded: the rest is not served any more, and
    each counts with its wait so far, a lower bound.
    """
    times = Times()
    gaps = random.Random(plan.seed)
    start = time.perf_counter()
    due = end = start + gaps.expovariate(plan.rate)
    while plan.goes_on(due - start, len(times.latency_ms)):
        _sleep_until(due)
        begin = time.perf_counter()
        if times.unserved or begin - due > plan.duration_s:
            times.unserved += 1
            times.latency_ms.append((begin - due) * 1e3)
        else:
            plan.infer(plan.queries[len(times.call_ms) % len(plan.queries)])
            end = time.perf_counter()
            times.latency_ms.append((end - due) * 1e3)
            times.queue_ms.append((begin - due) * 1e3)
            times.call_ms.append((end - begin) * 1e3)
        due += gaps.expovariate(plan.rate)
    times.seconds = end - start
    return times


def _camera(plan: Plan) -> Times:
    """Frames arrive at a fixed rate; a free engine takes the newest one, and those passed over are dropped.

    Latency counts from the frame's arrival in memory: exposure, cable and decoding are not in it.
    """
    times = Times()
    start = end = time.perf_counter()
    number = 0
    while plan.goes_on(number / plan.rate, len(times.call_ms)):
        _sleep_until(start + number / plan.rate)
        begin = time.perf_counter()
        newest = max(number, int((begin - start) * plan.rate))
        times.dropped += newest - number
        arrived = start + newest / plan.rate
        plan.infer(plan.queries[newest % len(plan.queries)])
        end = time.perf_counter()
        times.latency_ms.append((end - arrived) * 1e3)
        times.queue_ms.append(max(0.0, begin - arrived) * 1e3)
        times.call_ms.append((end - begin) * 1e3)
        number = newest + 1
    times.seconds = end - start
    return times


def _sleep_until(moment: float) -> None:
    # A timer that wakes late is part of what such a service has: it counts as queue, and no core spins for it.
    wait = moment - time.perf_counter()
    if wait > 0:
        time.sleep(wait)


@dataclass(frozen=True)
class Scenario:
    """A way of asking.

    Attributes:
        about: what it is, in a few words.
        samples: frames a query; 0 is the engine's batch.
        rate: what `rate` means in it, or None where it takes none.
        from_mlperf: whether the way of asking is MLPerf's (the statistical rules are not, in quick mode).
        run: asks, and measures.
    """

    about: str
    samples: int
    rate: str | None
    from_mlperf: bool
    run: Callable[[Plan], Times]


SCENARIOS: dict[str, Scenario] = {
    "single-stream": Scenario("one frame a query, one after another", 1, None, True, _back_to_back),
    "multi-stream": Scenario(
        f"queries of {MULTI_STREAM_SAMPLES} frames, one after another", MULTI_STREAM_SAMPLES, None, True, _back_to_back
    ),
    "offline": Scenario("as fast as possible at the engine's batch", 0, None, True, _back_to_back),
    "server": Scenario("Poisson arrivals; latency from the scheduled arrival", 1, "queries a second", False, _server),
    "camera": Scenario("fixed rate, newest frame wins; latency from its arrival", 1, "frames a second", False, _camera),
}  # fmt: skip
