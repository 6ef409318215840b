"""The two runtimes for CPUs side by side on one bundle: latencies as ratios, and what each does to verdicts.

    python -m benchmarks.cpu_backends cpu_backends.json --bundle part.bundle

ONNX Runtime in FP32 and INT8, OpenVINO in FP32, INT8 and, where the CPU has it, bfloat16, take turns within one run, in an
order drawn anew for every round, so that a machine that slows down slows all of them. A ratio is that of median times to ONNX
Runtime's FP32, with a bootstrap 95 % interval over the rounds. The gate's figures are of the bundle's own frames.

All of them are loaded at once and each has all the threads, but only one works at a time. These are times of this CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.bundle import Bundle
from agp_edge.cli.console import run_command, write_json_result
from agp_edge.engines import Session, get_backend
from agp_edge.engines.measure import frames_of_bundle, judge, measure
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.engines.openvino import OpenVinoSession
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import read_json
from agp_edge.frame import Precision, graph_of
from agp_edge.latency import percentiles_ms
from agp_edge.machine import describe_machine
from benchmarks.int8 import MIN_ROUNDS, THREADS, WARMUP_ROUNDS, noise_queries, time_in_turns
from benchmarks.session_overhead import ratio_of_medians

Row = tuple[str, Precision]

ROWS: tuple[Row, ...] = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
"""Backend and precision; the first is what the others are held against."""
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def open_row(bundle: Bundle, row: Row, threads: int | None = None) -> Session:
    """A session of a backend over a bundle's graph.

    Raises:
        InputError: the bundle has no such graph, or the backend is not installed.
    """
    backend, precision = row
    graph = graph_of(precision)
    model, data = bundle.model_path(graph), bundle.model_bytes(graph)
    if backend == "onnxruntime":
        return OnnxRuntimeSession(model, bundle.manifest.frame, precision, threads, data=data)
    return OpenVinoSession(data, str(model), bundle.manifest.frame, precision, threads)


def rows_here(bundle: Bundle) -> tuple[list[Row], dict[str, str]]:
    """What can be measured here, and why the rest cannot: `openvino bf16` -> reason.

    Raises:
        InputError: a backend is not installed, or the bundle has no INT8 graph.
    """
    missing = {}
    for backend in dict.fromkeys(name for name, _ in ROWS):
        reason = get_backend(backend).unavailable()
        if reason is not None:
            raise InputError(reason, f"install it: pip install 'agp-edge[{backend}]'")
    for backend, precision in ROWS:
        bundle.model_path(graph_of(precision))
        reason = get_backend(backend).refuses(precision)
        if reason is not None:
            missing[f"{backend} {precision}"] = reason
    return [row for row in ROWS if " ".join(row) not in missing], missing


def measure_bundle(bundle: Bundle, *, rounds: int = 200, seed: int = 0) -> dict[str, Any]:
    """Measure every row.

    Args:
        bundle: calibrated.
        rounds: calls of each.
        seed: of frames, order and bootstrap.

    Raises:
        InputError: too few rounds, or as `rows_here`.
    """
    if rounds < MIN_ROUNDS:
        raise InputError(f"{rounds} rounds say nothing about a ratio", f"give --rounds from {MIN_ROUNDS}")
    rows, missing = rows_here(bundle)
    rng = np.random.default_rng(seed)
    held_out = frames_of_bundle(bundle)
    gates, libraries = {}, {}
    reference = None
    for row in rows:
        with open_row(bundle, row) as session:
            scores = measure(session, held_out)
            libraries[row[0]] = session.runtime["library"]
        reference = reference or scores
        gates[" ".join(row)] = judge(reference, scores, held_out).to_dict()
    return {
        "benchmark": "cpu_backends",
        "name": bundle.manifest.name,
        "backbone": bundle.manifest.network["backbone"],
        "bundle_sha256": bundle.sha256,
        "frame": bundle.manifest.frame.to_dict(),
        "rounds": rounds,
        "seed": seed,
        "libraries": libraries,
        "machine": describe_machine(),
        "not_measured": missing,
        "gates": gates,
        "latency": {str(n): _latency(bundle, rows, n, rounds, rng) for n in THREADS},
    }


def _latency(
    bundle: Bundle, rows: Sequence[Row], threads: int, rounds: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Row -> percentiles of one call, and its ratio to the first row."""
    with ExitStack() as stack:
        calls: dict[Row, Callable[[NDArray[np.uint8]], object]] = {
            row: stack.enter_context(open_row(bundle, row, threads)).infer for row in rows
        }
        queries = noise_queries(bundle.manifest.frame, rng)
        time_in_turns(calls, queries, WARMUP_ROUNDS, rng)
        times = time_in_turns(calls, queries, rounds, rng)
    return {
        " ".join(row): {
            "ms": percentiles_ms(times[row].tolist()),
            "over_first": ratio_of_medians(np.column_stack([times[row], times[rows[0]]]), rng),
        }
        for row in rows
    }


def read_report(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ArtefactError: it is none of this benchmark.
    """
    report = read_json(path, "benchmark of CPU backends")
    if report.get("benchmark") != "cpu_backends":
        raise ArtefactError(f"{path} is no result of benchmarks.cpu_backends", "give the file that it wrote")
    return report


def describe(report: dict[str, Any]) -> str:
    """The document as a Markdown table."""
    latencies = [f"latency, {n} thread{'s' * (n > 1)}" for n in THREADS]
    heads = ["backend", "precision", *latencies, "flips", "largest drift", "map correlation"]
    lines = [heads, ["---"] * len(heads)]
    # A file's keys are sorted.
    for backend, precision in (row for row in ROWS if " ".join(row) in report["gates"]):
        key = f"{backend} {precision}"
        gate = report["gates"][key]
        first = len(lines) == 2
        lines.append(
            [
                TITLES[backend],
                precision,
                *(_describe_latency(report["latency"][str(n)][key], first) for n in THREADS),
                f"{len(gate['flips'])} of {gate['n']}",
                f"{gate['drift_max']:.2g}",
                f"{gate['map_correlation']:.5f}",
            ]
        )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    libraries = ", ".join(report["libraries"].values())
    return (
        f"{report['name']}: {libraries}, {report['rounds']} calls of each in turns. The first row is absolute, the "
        f"others ratios to it, with bootstrap 95 % intervals; drift is in gaps between threshold and median.\n\n{table}\n"
    )


def _describe_latency(latency: dict[str, Any], absolute: bool) -> str:
    if absolute:
        return f"{latency['ms']['p50']:.1f} ms"
    ratio = latency["over_first"]
    return f"{ratio['ratio']:.2f} ({ratio['low_95']:.2f} to {ratio['high_95']:.2f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu_backends", description=__doc__.splitlines()[0]
    )
    parser.add_argument("out", metavar="OUT.json")
    parser.add_argument("--bundle", type=Path, required=True, help="a calibrated bundle with an INT8 graph")
    parser.add_argument("--rounds", type=int, default=200, help="calls of each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of frames, order and bootstrap")
    given = parser.parse_args(arguments)

    def work(**_: object) -> None:
        report = measure_bundle(Bundle(given.bundle), rounds=given.rounds, seed=given.seed)
        write_json_result(given.out, report)
        print(describe(report), file=sys.stderr if given.out == "-" else sys.stdout)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
