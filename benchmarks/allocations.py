"""What a frame asks of the allocator once a session runs: pieces of memory, their bytes, and what stays.

    python -m benchmarks.allocations part.fp32.onnxruntime.engine --json allocations.json

A small library stands before the C library's allocator and counts, and Python is told to take every object from there. So
the count has it all: Python's own objects, NumPy's arrays, the runtime's. Two calls are counted on the same engine: a frame
through `Slot.submit` and `wait`, and, for ONNX Runtime, the same frame through a bare `InferenceSession.run`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agp_edge.benchmark import noise_frames
from agp_edge.cli.console import run_command, write_json_result
from agp_edge.engines import open_engine
from agp_edge.errors import ArtefactError, InputError
from agp_edge.machine import describe_machine
from benchmarks.session_overhead import bare_session

SOURCE = Path(__file__).with_name("allocation_counter.c")
COUNTER = "AGP_EDGE_ALLOCATION_COUNTER"
WARM_UP_FRAMES = 50


def build_counter(folder: Path) -> Path:
    """Compile the counter into a folder.

    Raises:
        ArtefactError: there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise ArtefactError(
            "counting allocations needs a C compiler", "install one: apt install gcc libc6-dev"
        )
    library = folder / "allocation_counter.so"
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True
    )
    return library


def counted_environment(library: Path) -> dict[str, str]:
    """The environment of a process whose allocations are counted."""
    preload = ":".join(filter(None, [str(library), os.environ.get("LD_PRELOAD", "")]))
    return {**os.environ, "LD_PRELOAD": preload, "PYTHONMALLOC": "malloc", COUNTER: str(library)}


def count_calls(call: Callable[[], object], times: int) -> dict[str, float]:
    """What a call asks of the allocator, on average over many; in a process of `counted_environment`.

    Returns:
        `allocations`, `bytes` and `kept` (pieces that are not given back) for each call, and the largest piece, `largest_bytes`.
    """
    counts = ctypes.CDLL(os.environ[COUNTER]).allocation_counts
    before, after = (ctypes.c_long * 4)(), (ctypes.c_long * 4)()
    for _ in range(WARM_UP_FRAMES):
        call()
    rounds = range(times)
    counts(before)
    for _ in rounds:
        call()
    counts(after)
    asked, given_back, size = (after[i] - before[i] for i in range(3))
    return {
        "allocations": asked / times,
        "bytes": size / times,
        "kept": (asked - given_back) / times,
        "largest_bytes": after[3],
    }


def measure(engine: Path, frames: int = 2000) -> dict[str, Any]:
    """Count what frames ask for, in this process, which is one of `counted_environment`.

    Raises:
        InputError: too few frames.
        ArtefactError: the engine is corrupt or not for this machine.
    """
    if frames < 100:
        raise InputError(f"{frames} frames are too few to tell what stays", "give --frames from 100")
    session, sidecar = open_engine(engine)
    with session:
        batch = noise_frames(session.frame, 0).frames[: session.frame.batch]
        slot = session.slots[0]

        def ours() -> None:
            slot.submit(batch)
            slot.wait()

        calls: dict[str, Callable[[], object]] = {"ours": ours}
        if sidecar.backend == "onnxruntime" and session.runtime["device"] == "cpu":
            bare = bare_session(engine, session.runtime["threads"])
            calls["bare"] = lambda: bare(batch)
        counted = {name: count_calls(call, frames) for name, call in calls.items()}
        runtime = session.runtime
    return {
        "benchmark": "allocations",
        "engine": {"file": engine.name, "sha256": sidecar.plan_sha256, "precision": sidecar.precision},
        "frames": frames,
        "per_frame": counted,
        "runtime": runtime,
        "machine": describe_machine(),
    }


def describe(report: dict[str, Any]) -> str:
    """The report in a line a call."""
    titles = {"ours": "Slot.submit, wait", "bare": "bare ONNX Runtime"}
    counted = report["per_frame"]
    return "\n".join(
        f"{title:<18} {said['allocations']:7.2f} allocations a frame, {said['bytes']:9.0f} bytes, "
        f"the largest {said['largest_bytes']:.0f}, {said['kept']:.3f} kept"
        for title, said in ((title, counted[name]) for name, title in titles.items() if name in counted)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allocations", description=__doc__)
    parser.add_argument("engine", type=Path, help="an engine that runs here")
    parser.add_argument("--frames", type=int, default=2000, help="how many are counted (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    chosen = parser.parse_args(arguments)

    def work(**_: object) -> int:
        if COUNTER not in os.environ:
            with tempfile.TemporaryDirectory(prefix="agp-edge-allocations-") as folder:
                again = [sys.executable, "-m", "benchmarks.allocations", *(arguments or sys.argv[1:])]
                environment = counted_environment(build_counter(Path(folder)))
                return subprocess.run(again, env=environment, check=False).returncode
        report = measure(chosen.engine, chosen.frames)
        write_json_result(chosen.json, report)
        print(describe(report), file=sys.stderr if chosen.json == "-" else sys.stdout)
        return 0

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
