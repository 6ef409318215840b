"""Which of some engines is the fastest here: all run in turns, on the same frames, in an order drawn anew for each round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from agp_edge.engines import get_backend
from agp_edge.engines.base import Session
from agp_edge.engines.builder import Draft
from agp_edge.engines.measure import HeldOut
from agp_edge.progress import Progress, silent

TIMING_SECONDS = 3.0
"""For all candidates together; a median over so many rounds tells apart what differs by some percent."""
WARMUP_ROUNDS = 3
MIN_ROUNDS = 5


def time_drafts(
    drafts: Sequence[Draft], frames: HeldOut, progress: Progress = silent, seed: int | None = None
) -> list[float]:
    """Time engines side by side.

    Args:
        drafts: engines that run here.
        frames: the gate's are used, or without any the threshold's.
        progress: told of milliseconds.
        seed: of the order of turns.

    Returns:
        The median of each in milliseconds, from frames to scores, as a stream waits for them.
    """
    pixels = frames.gate if len(frames.gate) else frames.threshold
    with ExitStack() as stack:
        sessions: list[Session] = []
        for draft in drafts:
            backend = get_backend(draft.sidecar.backend)
            sessions.append(stack.enter_context(backend.open(draft.plan, draft.sidecar)))
        size = sessions[0].frame.batch
        queries = [
            np.ascontiguousarray(np.take(pixels, range(n, n + size), axis=0, mode="wrap"))
            for n in range(len(pixels))
        ]
        times = time_in_turns(
            [session.score for session in sessions], queries, np.random.default_rng(seed), progress=progress
        )
    return [float(value) for value in np.median(times, axis=0)]


def time_in_turns(
    calls: Sequence[Callable[[NDArray[np.uint8]], object]],
    queries: Sequence[NDArray[np.uint8]],
    rng: np.random.Generator,
    *,
    seconds: float | None = None,
    progress: Progress = silent,
) -> NDArray[np.float64]:
    """Time every call once a round on the same frames, in an order drawn anew for each round, after a warm-up.

    A machine that slows down so slows all of them.

    Args:
        calls: what is timed.
        queries: [N, H, W, C] uint8 each; the rounds go through them.
        rng: draws the orders.
        seconds: how long, by default `TIMING_SECONDS`; at least `MIN_ROUNDS` rounds are made.
        progress: told of milliseconds.

    Returns:
        [rounds, calls] milliseconds.
    """
    rows: list[list[float]] = []
    seconds = TIMING_SECONDS if seconds is None else seconds
    total = round(seconds * 1e3)
    start = time.perf_counter()
    turn = 0
    while len(rows) < MIN_ROUNDS or time.perf_counter() - start < seconds:
        row = [0.0] * len(calls)
        for i in rng.permutation(len(calls)):
            begin = time.perf_counter()
            calls[i](queries[turn % len(queries)])
            row[i] = (time.perf_counter() - begin) * 1e3
        turn += 1
        if turn == WARMUP_ROUNDS:
            start = time.perf_counter()
        if turn > WARMUP_ROUNDS:
            rows.append(row)
            progress(min(round((time.perf_counter() - start) * 1e3), total), total, "timing, ms")
    return np.array(rows)
