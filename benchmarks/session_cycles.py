"""Does a process grow when engines are opened and closed, over and over, as a supervisor or an update does?

    python -m benchmarks.session_cycles part.fp32.onnxruntime.engine --cycles 10000 --json cycles.json

Every cycle opens the engine, judges one frame and closes it. The memory that the process has in RAM is read as it goes; the
slope of a straight line through it, after the first tenth, is what a cycle leaves behind.
"""

from __future__ import annotations

import argparse
import gc
import resource
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
from agp_edge.machine import describe_machine

SAMPLES = 200
LEAST_CYCLES = 50


def resident_bytes() -> int:
    """Memory that this process has in RAM now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def grow(cycle: Callable[[], object], cycles: int) -> NDArray[np.float64]:
    """Run cycles, and look at the process's memory meanwhile.

    Returns:
        [samples, 2]: cycles so far, bytes in RAM.
    """
    every = max(1, cycles // SAMPLES)
    seen = []
    for number in range(1, cycles + 1):
        cycle()
        if number % every == 0:
            # What only the collector finds is not left behind.
            gc.collect()
            seen.append((number, resident_bytes()))
    return np.array(seen, float)


def slope(seen: NDArray[np.float64]) -> dict[str, float]:
    """Bytes that a cycle leaves behind: least squares after the first tenth, with the standard error of residuals as they are.

    Args:
        seen: [samples, 2], as `grow` gives it.
    """
    settled = seen[len(seen) // 10 :]
    x = settled[:, 0] - settled[:, 0].mean()
    y = settled[:, 1] - settled[:, 1].mean()
    spread = float((x**2).sum())
    bytes_a_cycle = float((x * y).sum()) / spread
    residual = y - bytes_a_cycle * x
    error = float(np.sqrt((residual**2).sum() / max(len(x) - 2, 1) / spread))
    return {
        "bytes_a_cycle": bytes_a_cycle,
        "standard_error": error,
        "begin_bytes": float(settled[0, 1]),
        "end_bytes": float(settled[-1, 1]),
    }


def measure(engine: Path, cycles: int = 10_000) -> dict[str, Any]:
    """Open, use and close an engine over and over.

    Raises:
        InputError: no such engine, or too few cycles.
        ArtefactError: it is corrupt or not for this machine.
    """
    if cycles < LEAST_CYCLES:
        raise InputError(f"{cycles} cycles say nothing of a slope", f"give --cycles from {LEAST_CYCLES}")
    session, sidecar = open_engine(engine)
    with session:
        frames = noise_frames(session.frame, 0).frames[: session.frame.batch]
        runtime = session.runtime

    def cycle() -> None:
        opened, _ = open_engine(engine)
        with opened:
            (slot, *_rest) = opened.slots
            slot.submit(frames)
            slot.wait()

    begin = time.perf_counter()
    seen = grow(cycle, cycles)
    return {
        "benchmark": "session_cycles",
        "engine": {"file": engine.name, "sha256": sidecar.plan_sha256, "precision": sidecar.precision},
        "cycles": cycles,
        "seconds": time.perf_counter() - begin,
        "memory": slope(seen),
        "runtime": runtime,
        "machine": describe_machine(),
    }


def describe(report: dict[str, Any]) -> str:
    """The report in two lines."""
    memory = report["memory"]
    begin, end = (memory[name] / 2**20 for name in ("begin_bytes", "end_bytes"))
    return (
        f"{report['cycles']} cycles in {report['seconds']:.0f} s, {begin:.1f} MiB in RAM after a tenth, "
        f"{end:.1f} at the end\n"
        f"slope {memory['bytes_a_cycle']:.1f} bytes a cycle (standard error {memory['standard_error']:.1f})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.session_cycles", description=__doc__)
    parser.add_argument("engine", type=Path, help="an engine that runs here")
    parser.add_argument("--cycles", type=int, default=10_000, help="how often it is opened (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    chosen = parser.parse_args(arguments)

    def work(**_: object) -> None:
        report = measure(chosen.engine, chosen.cycles)
        write_json_result(chosen.json, report)
        print(describe(report), file=sys.stderr if chosen.json == "-" else sys.stdout)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
