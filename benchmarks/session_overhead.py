"""What a frame through a session costs above a bare ONNX Runtime session on the same graph, frames and threads.

    python -m benchmarks.session_overhead part.int8.onnxruntime.engine --json overhead.json

Ours is what a stream does: `Slot.submit` and `wait`. The two take turns within one run, in an order drawn anew for every pair, so that a machine that slows down slows
both. The ratio is that of the median times, with a bootstrap 95 % interval over the pairs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.benchmark import noise_frames
from agp_edge.cli.console import run_command, write_json_result
from agp_edge.engines import open_engine
from agp_edge.errors import InputError
from agp_edge.extras import import_extra
from agp_edge.latency import percentiles_ms
from agp_edge.machine import describe_machine

WARMUP_PAIRS = 20


def time_pairs(
    ours: Callable[[NDArray[np.uint8]], object],
    bare: Callable[[NDArray[np.uint8]], object],
    queries: Sequence[NDArray[np.uint8]],
    pairs: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Time both calls on the same frames, in turns.

    Returns:
        [pairs, 2] milliseconds: ours, bare.
    """
    calls = (ours, bare)
    times = np.empty((pairs, 2))
    first = rng.integers(0, 2, pairs)
    for pair in range(pairs):
        frames = queries[pair % len(queries)]
        for turn in range(2):
            which = int(first[pair]) ^ turn
            begin = time.perf_counter()
            calls[which](frames)
            times[pair, which] = (time.perf_counter() - begin) * 1e3
    return times


def ratio_of_medians(
    times: NDArray[np.float64], rng: np.random.Generator, draws: int = 2000
) -> dict[str, float]:
    """Median of ours over median of bare, with the percentile bootstrap's 95 % interval over pairs.

    Args:
        times: [pairs, 2] milliseconds.
        rng: draws the pairs.
        draws: bootstrap samples.
    """
    ratios = np.empty(draws)
    for draw in range(draws):
        ours, bare = np.median(times[rng.integers(0, len(times), len(times))], axis=0)
        ratios[draw] = ours / bare
    ours, bare = np.median(times, axis=0)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {"ratio": float(ours / bare), "low_95": float(low), "high_95": float(high)}


def measure(engine: Path, pairs: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Compare the two on one engine.

    Raises:
        InputError: the engine is not ONNX Runtime's, or there are too few pairs.
        ArtefactError: the engine is corrupt or not for this machine.
    """
    if pairs < 10:
        raise InputError(f"{pairs} pairs say nothing about a ratio", "give --pairs from 10")
    session, sidecar = open_engine(engine)
    if sidecar.backend != "onnxruntime":
        session.close()
        raise InputError(
            f"engine {engine} is {sidecar.backend}'s, this compares with bare ONNX Runtime",
            "give an engine built with --backend onnxruntime",
        )
    with session:
        run = bare_session(engine, session.runtime["threads"])
        # Every query is one full batch: both then do one call.
        frames = noise_frames(session.frame, seed).frames
        size = session.frame.batch
        queries = [
            np.ascontiguousarray(np.take(frames, range(n, n + size), axis=0, mode="wrap")) for n in range(8)
        ]
        rng = np.random.default_rng(seed)
        (slot,) = session.slots

        def ours(frames: NDArray[np.uint8]) -> None:
            slot.submit(frames)
            slot.wait()

        time_pairs(ours, run, queries, WARMUP_PAIRS, rng)
        machine = describe_machine()
        times = time_pairs(ours, run, queries, pairs, rng)
        runtime = session.runtime
    return {
        "benchmark": "session_overhead",
        "engine": {"file": engine.name, "sha256": sidecar.plan_sha256, "precision": sidecar.precision},
        "pairs": pairs,
        "seed": seed,
        "ours_ms": percentiles_ms(times[:, 0].tolist()),
        "bare_ms": percentiles_ms(times[:, 1].tolist()),
        "ours_over_bare": ratio_of_medians(times, rng),
        "runtime": runtime,
        "machine": machine,
    }


def bare_session(engine: Path, threads: int) -> Callable[[NDArray[np.uint8]], object]:
    """A call of the graph in a session as ONNX Runtime's own documentation makes it, with the same threads and no spinning."""
    ort = import_extra("onnxruntime", "onnxruntime", "running ONNX graphs")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda frames: session.run(["score", "anomaly_map"], {name: frames})


def describe(report: dict[str, Any]) -> str:
    """The report in three lines."""
    ratio = report["ours_over_bare"]
    return (
        f"Slot.submit, wait p50 {report['ours_ms']['p50']:.4f} ms\n"
        f"bare ONNX Runtime p50 {report['bare_ms']['p50']:.4f} ms\n"
        f"ratio of medians  {ratio['ratio']:.4f} (95 % interval {ratio['low_95']:.4f} to {ratio['high_95']:.4f}, "
        f"{report['pairs']} pairs)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.session_overhead", description=__doc__)
    parser.add_argument("engine", type=Path, help="an engine of the backend onnxruntime")
    parser.add_argument(
        "--pairs", type=int, default=1000, help="how often each of the two runs (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the frames, the order and the bootstrap")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    chosen = parser.parse_args(arguments)

    def work(**_: object) -> None:
        report = measure(chosen.engine, chosen.pairs, chosen.seed)
        write_json_result(chosen.json, report)
        print(describe(report), file=sys.stderr if chosen.json == "-" else sys.stdout)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
