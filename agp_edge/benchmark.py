"""How fast an engine is on this machine: measure it in a scenario, and report what a result file keeps.

What is timed is `Session.score`, from frames in the host's memory to scores in the host's memory, which is what a stream
does for a frame that is OK: the map of a rejected one is another matter. Quick mode warms up for 200 ms, then measures for 3 s and at least 10 frames: good for comparing two engines on one desk,
no figure that MLPerf would call valid.
"""

from __future__ import annotations

import math
import platform
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge import __version__
from agp_edge.datasets import load_dataset
from agp_edge.datasets.images import read_image
from agp_edge.engines import RunOptions, Session, Sidecar, open_engine
from agp_edge.engines.run_options import RUN_AS_USUAL
from agp_edge.errors import InputError
from agp_edge.frame import FrameSpec
from agp_edge.latency import LatencyRecorder, percentiles_ms
from agp_edge.machine import describe_machine, load_average
from agp_edge.objective import Objective
from agp_edge.scenarios import SCENARIOS, Plan, Scenario
from agp_edge.sources import kind_of, open_source
from agp_edge.sources.conform import conform

FORMAT = "agp-edge-benchmark"
VERSION = 1
FRAMES_LIMIT_BYTES = 256 << 20
QUICK_WARNING = "quick mode: good for comparing on one machine, not a figure that MLPerf would call valid"


@dataclass(frozen=True)
class BenchmarkResult:
    """What was measured.

    Attributes:
        scenario: its name.
        samples_per_query: frames a query.
        rate: queries or frames a second that were asked for, or None.
        latency_ms: one value a query.
        queue_ms: how long each query waited for the engine; empty where none can wait.
        call_ms: how long each call of the engine took.
        seconds: from the first query to the end of the last.
        unserved: queries that an overloaded engine never took; their latencies are lower bounds.
        dropped: frames that a newer one replaced.
        warmup_queries: calls before the measurement.
    """

    scenario: str
    samples_per_query: int
    rate: float | None
    latency_ms: array[float]
    queue_ms: array[float]
    call_ms: array[float]
    seconds: float
    unserved: int
    dropped: int
    warmup_queries: int

    @property
    def frames(self) -> int:
        """Frames that were judged."""
        return len(self.call_ms) * self.samples_per_query

    @property
    def throughput_fps(self) -> float:
        """Frames judged a second."""
        return self.frames / self.seconds


def run_benchmark(
    session: Session,
    frames: NDArray[np.uint8],
    scenario: str = "single-stream",
    *,
    duration_s: float = 3.0,
    warmup_ms: float = 200.0,
    rate: float | None = None,
    seed: int = 0,
) -> BenchmarkResult:
    """Measure a session in one scenario.

    Args:
        session: what to measure.
        frames: [N, H, W, C] uint8 as the session takes them; asked about in turn, over and over.
        scenario: one of SCENARIOS.
        duration_s: how long to measure; it goes on until there are at least 10 frames.
        warmup_ms: how long to run before; 0 for a cold start.
        rate: queries a second (`server`) or frames a second (`camera`).
        seed: of the arrivals of `server`.

    Raises:
        InputError: there is no such scenario, or a number does not suit it.
    """
    if scenario not in SCENARIOS:
        raise InputError(f"there is no scenario {scenario!r}", f"take one of: {', '.join(SCENARIOS)}")
    chosen = SCENARIOS[scenario]
    _check_numbers(scenario, chosen, duration_s, warmup_ms, rate)
    size = chosen.samples or session.frame.batch
    # Queries are cut before the clock starts: gathering frames is no part of the engine's time.
    count = math.ceil(len(frames) / size)
    picks = np.arange(count * size).reshape(count, size) % len(frames)
    queries = [np.ascontiguousarray(frames[pick]) for pick in picks]

    warmup_queries = 0
    until = time.perf_counter() + warmup_ms / 1e3
    while time.perf_counter() < until:
        session.score(queries[warmup_queries % count])
        warmup_queries += 1
    times = chosen.run(Plan(session.score, queries, duration_s, rate or 0.0, seed))
    return BenchmarkResult(
        scenario=scenario,
        samples_per_query=size,
        rate=rate,
        latency_ms=times.latency_ms,
        queue_ms=times.queue_ms,
        call_ms=times.call_ms,
        seconds=times.seconds,
        unserved=times.unserved,
        dropped=times.dropped,
        warmup_queries=warmup_queries,
    )


def _check_numbers(
    scenario: str, chosen: Scenario, duration_s: float, warmup_ms: float, rate: float | None
) -> None:
    if not 0 < duration_s < math.inf:
        raise InputError(f"a measurement cannot last {duration_s} s", "give --duration-s above 0, as in 3")
    if not 0 <= warmup_ms < math.inf:
        raise InputError(f"a warm-up cannot last {warmup_ms} ms", "give --warmup-ms from 0, as in 200")
    if chosen.rate is None and rate is not None:
        takers = ", ".join(name for name, other in SCENARIOS.items() if other.rate)
        raise InputError(f"scenario {scenario} takes no rate", f"leave --rate out, or take one of: {takers}")
    if chosen.rate is not None and (rate is None or not 0 < rate <= 1e5):
        got = "none was given" if rate is None else f"got {rate}"
        raise InputError(
            f"scenario {scenario} needs its rate in {chosen.rate}, {got}", "give --rate, as in --rate 30"
        )


@dataclass(frozen=True)
class FrameSupply:
    """Frames to ask about, and where they are from.

    Attributes:
        frames: [N, H, W, C] uint8.
        source: for the result: `kind` (`noise`, `images` or `video`), how many `frames`, and which.
    """

    frames: NDArray[np.uint8]
    source: dict[str, Any]


def noise_frames(spec: FrameSpec, seed: int = 0) -> FrameSupply:
    """Uniform noise: the arithmetic of a dense network costs the same whatever the picture shows."""
    count = min(8, _how_many(spec))
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *spec.shape), dtype=np.uint8)
    return FrameSupply(pixels, {"kind": "noise", "seed": seed, "frames": count})


def recorded_frames(path: Path, spec: FrameSpec) -> FrameSupply:
    """Frames from an image, a video, or a data set or folder of images: its test images where it has any.

    Raises:
        InputError: there is none, one cannot be read, or one has another size than the engine takes.
        MissingExtraError: OpenCV is not installed.
    """
    if path.is_file():
        # The whole path: a file called `0` is not camera 0.
        uri = str(path.resolve())
        kind = kind_of(uri)
        with open_source(uri) as source:
            pixels = [frame.pixels for frame in islice(iter(source.read, None), _how_many(spec))]
        frames = [conform(each, spec, str(path)) for each in pixels]
    else:
        kind = "images"
        classes = load_dataset(path).classes
        samples = [sample for c in classes for sample in c.test or c.validation or c.train][: _how_many(spec)]
        frames = [conform(read_image(sample.path), spec, str(sample.path)) for sample in samples]
    if not frames:
        raise InputError(
            f"{path} gives no frames", "give an image, a video, a data set or a folder of images"
        )
    return FrameSupply(np.stack(frames), {"kind": kind, "path": str(path), "frames": len(frames)})


def _how_many(spec: FrameSpec) -> int:
    """How many frames may lie in memory; a query that needs more repeats them."""
    return max(1, FRAMES_LIMIT_BYTES // math.prod(spec.shape))


def benchmark_engine(
    engine: Path,
    scenario: str = "single-stream",
    *,
    data: Path | None = None,
    objectives: Sequence[Objective] = (),
    duration_s: float = 3.0,
    warmup_ms: float = 200.0,
    rate: float | None = None,
    seed: int = 0,
    options: RunOptions = RUN_AS_USUAL,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Open an engine, measure it, and report what a result file keeps.

    There is no progress to listen to: whatever redraws a bar takes part of the cores that are being measured.

    Args:
        engine: the engine's path.
        data: an image, a video, a data set or a folder of images; noise without it.
        objectives: held against the latencies; see `objective.raise_if_missed`.
        scenario, duration_s, warmup_ms, rate, seed: as in `run_benchmark`.
        options: how the engine is run.
        begin: told when engine and frames are there and the measurement begins.

    Raises:
        InputError: no such engine, scenario or data.
        ArtefactError: the engine is corrupt or not for this machine.
    """
    session, sidecar = open_engine(engine, options)
    with session:
        supply = noise_frames(session.frame, seed) if data is None else recorded_frames(data, session.frame)
        machine = describe_machine()
        began = datetime.now(timezone.utc)
        begin()
        result = run_benchmark(
            session,
            supply.frames,
            scenario,
            duration_s=duration_s,
            warmup_ms=warmup_ms,
            rate=rate,
            seed=seed,
        )
        runtime = session.runtime
    return {
        "format": FORMAT,
        "version": VERSION,
        "time": began.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "mode": "quick",
        "warning": QUICK_WARNING,
        **_figures(result, runtime),
        "warmup_ms": warmup_ms,
        "duration_s": duration_s,
        "frames_from": supply.source,
        "objectives": [objective.check(result.latency_ms, result.unserved) for objective in objectives],
        "engine": _engine(engine, sidecar),
        "runtime": runtime,
        "versions": {"agp_edge": __version__, "python": platform.python_version(), "numpy": np.__version__},
        "machine": machine,
        "load_average_after": load_average(),
    }


def _figures(result: BenchmarkResult, runtime: dict[str, Any]) -> dict[str, Any]:
    recorder = LatencyRecorder()
    for value in result.latency_ms:
        recorder.record(value)
    # Where nothing is transferred the call is all compute; where it is, this clock cannot tell the two apart.
    call = "compute" if runtime.get("transfers") is False else "transfer_and_compute"
    stages = {"queue": result.queue_ms, call: result.call_ms}
    return {
        "scenario": result.scenario,
        "scenario_from": "MLPerf Inference" if SCENARIOS[result.scenario].from_mlperf else "agp-edge",
        "samples_per_query": result.samples_per_query,
        "rate": result.rate,
        "queries": len(result.latency_ms),
        "frames": result.frames,
        "unserved": result.unserved,
        "dropped": result.dropped,
        "warmup_queries": result.warmup_queries,
        "seconds": result.seconds,
        "throughput_fps": result.throughput_fps,
        "latency_ms": percentiles_ms(result.latency_ms),
        "stages_ms": {name: percentiles_ms(values) for name, values in stages.items() if values},
        "histogram_ms": recorder.histogram(),
    }


def _engine(path: Path, sidecar: Sidecar) -> dict[str, Any]:
    return {
        "file": path.name,
        "name": sidecar.name,
        "sha256": sidecar.plan_sha256,
        "precision": sidecar.precision,
        "backend": sidecar.backend,
        "built_with": sidecar.backend_version,
        "frame": sidecar.frame.to_dict(),
    }
