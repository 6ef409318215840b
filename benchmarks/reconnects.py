"""Does a process grow when a camera is lost and comes back, over and over, as on a line with a bad cable?

    python -m benchmarks.reconnects --cycles 1000 --json reconnects.json

Real servers on loopback, the stream's own reader with shortened delays. Of RTSP three losses take turns: the connection is
torn, the process that reads the camera is killed, and, one in twenty, the server is killed and started again. Of MJPEG over
HTTP the camera ends its answer. A camera of GigE Vision is switched off and on, and, one in twenty, the process that reads it
is killed. What the process holds is counted while the camera gives frames; the slope of a straight
line through that, after the first tenth, is what a reconnect leaves behind; the second half's is told beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.cli.console import run_command, write_json_result
from agp_edge.errors import InputError, SourceLostError
from agp_edge.machine import describe_machine
from agp_edge.sources import SourceOptions, open_source, reader
from agp_edge.sources.base import Source
from benchmarks.session_cycles import resident_bytes, slope
from tests.servers import gige
from tests.servers.http_camera import HttpCamera
from tests.servers.relay import Relay
from tests.servers.rtsp import RtspServer, missing

SAMPLES = 200
LEAST_CYCLES = 40
COURSE = 20
"""How many of the samples the result file keeps: a slope does not say whether a process grows, or has settled in one step."""

EVERY_RESTART = 20
FIRST_DELAY_S, LONGEST_DELAY_S = 0.02, 0.2
FRAMES_A_CYCLE = 3
LONGEST_CYCLE_S = 60.0
SIZE = "640x480"

HELD = ("memory_bytes", "memory_of_children_bytes", "threads", "descriptors", "children")
"""What is counted of the process."""


def children() -> list[int]:
    """Processes that any thread of this one started and that are not reaped, dead ones too."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def held(but: set[int]) -> list[float]:
    """Each of `HELD`, now.

    Args:
        but: children that are not the cameras'.
    """
    # What only the collector finds is not left behind.
    gc.collect()
    own = [pid for pid in children() if pid not in but]
    memory = 0
    for pid in own:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            memory += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    threads, descriptors = (len(os.listdir(f"/proc/self/{what}")) for what in ("task", "fd"))  # noqa: PTH208
    return [float(resident_bytes()), float(memory), float(threads), float(descriptors), float(len(own))]


def lose(
    source: Source, break_it: Callable[[int], None], cycles: int, but: set[int], told: Callable[[str], None]
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, int]]:
    """Have a source lost so many times, each time after some frames.

    Returns:
        [samples, 1 + HELD]: reconnects so far, and what the process holds; [cycles]: seconds from loss to the next frame;
        the reader's counts.

    Raises:
        SourceLostError: it did not come back within `LONGEST_CYCLE_S`.
    """
    every = max(1, cycles // SAMPLES)
    changed = threading.Condition()
    reading = reader.Reader(source, changed)
    # Filled in place: a list that grows would be taken for what a reconnect leaves behind.
    seen = np.full((cycles // every, 1 + len(HELD)), -1.0)
    gaps = np.full(cycles, -1.0)
    taken = 0

    def take(count: int) -> None:
        nonlocal taken
        for _ in range(count):
            with changed:
                if not changed.wait_for(lambda: reading.waiting or reading.ended, LONGEST_CYCLE_S):
                    raise SourceLostError(f"{source.name} did not come back", "see what the servers print")
                if reading.error is not None:
                    raise reading.error
                reading.take()
                taken += 1

    reading.start()
    try:
        take(FRAMES_A_CYCLE)
        for cycle in range(1, cycles + 1):
            before = reading.reconnects
            begin = time.monotonic()
            break_it(cycle)
            while reading.reconnects == before:
                take(1)
                if time.monotonic() - begin > LONGEST_CYCLE_S:
                    raise SourceLostError(f"{source.name} was not lost", "see what the servers print")
            gaps[cycle - 1] = time.monotonic() - begin
            take(FRAMES_A_CYCLE)
            if cycle % every == 0:
                seen[cycle // every - 1] = [cycle, *held(but)]
                told(f"{cycle} of {cycles} reconnects")
    finally:
        reading.close()
    counts = {
        "captured": reading.captured,
        "taken": taken,
        "dropped": reading.dropped,
        "reconnects": reading.reconnects,
    }
    return seen, gaps, counts


def summary(seen: NDArray[np.float64], gaps: NDArray[np.float64], counts: dict[str, int]) -> dict[str, Any]:
    """What `lose` saw, as the result file keeps it."""
    lines = {}
    for column, name in enumerate(HELD, start=1):
        line = slope(seen[:, [0, column]])
        # `slope` leaves out the first tenth of what it is given.
        half = slope(seen[len(seen) * 4 // 9 :, [0, column]])
        lines[name] = {
            "a_reconnect": line["bytes_a_cycle"],
            "standard_error": line["standard_error"],
            "a_reconnect_of_second_half": half["bytes_a_cycle"],
            "begin": line["begin_bytes"],
            "end": line["end_bytes"],
            "most": float(seen[:, column].max()),
            "course": seen[:: max(1, len(seen) // COURSE), column].tolist(),
        }
    quantiles = dict(zip(("p50", "p99", "max"), np.quantile(gaps, [0.5, 0.99, 1.0]).tolist(), strict=True))
    return {**counts, "held": lines, "until_next_frame_s": quantiles}


@contextlib.contextmanager
def rtsp_camera() -> Iterator[tuple[Source, Callable[[int], None], set[int]]]:
    """An RTSP camera behind a relay, what loses it, and processes that are not the camera's."""
    lacks = missing()
    if lacks:
        raise InputError("there is no RTSP server here", lacks)
    server = RtspServer(SIZE)
    relay = Relay(server.port)
    but = set(children())
    uri = f"rtsp://admin:secret@127.0.0.1:{relay.port}/live"

    def break_it(cycle: int) -> None:
        if cycle % EVERY_RESTART == 0:
            server.kill()
            server.start(SIZE)
            but.clear()
            but.update(server.pids() | relay.pids())
        elif cycle % 2:
            relay.cut()
        else:
            for pid in children():
                if pid not in but:
                    os.kill(pid, signal.SIGKILL)

    try:
        yield open_source(uri, SourceOptions(decode="software")), break_it, but
    finally:
        relay.close()
        server.kill()


@contextlib.contextmanager
def http_camera() -> Iterator[tuple[Source, Callable[[int], None], set[int]]]:
    """A camera of MJPEG over HTTP, what loses it, and its process."""
    camera = HttpCamera(SIZE)
    try:
        source = open_source(f"http://admin:secret@127.0.0.1:{camera.port}/")
        yield source, lambda cycle: camera.cut(), camera.pids()
    finally:
        camera.kill()


@contextlib.contextmanager
def gige_camera() -> Iterator[tuple[Source, Callable[[int], None], set[int]]]:
    """A camera of GigE Vision, what loses it, and its own process."""
    lacks = gige.missing()
    if lacks:
        raise InputError("there is no camera of GigE Vision here", lacks)
    with gige.fake_camera() as camera:
        but = camera.pids()

        def break_it(cycle: int) -> None:
            if cycle % EVERY_RESTART == 0:
                # The camera is still this process's, until its heartbeat is missed for 3 s.
                for pid in set(children()) - but:
                    os.kill(pid, signal.SIGKILL)
            else:
                camera.restart()
                but.clear()
                but.update(camera.pids())

        yield open_source(camera.uri, SourceOptions(timeout_s=1.0, fps=50.0)), break_it, but


CAMERAS = {"rtsp": rtsp_camera, "http": http_camera, "gige": gige_camera}


def measure(
    cycles: int = 1000, names: Sequence[str] = tuple(CAMERAS), told: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Lose each of these kinds of camera so many times.

    Raises:
        InputError: too few cycles, or there is no RTSP server.
        SourceLostError: a camera did not come back.
    """
    if cycles < LEAST_CYCLES:
        raise InputError(f"{cycles} reconnects say nothing of a slope", f"give --cycles from {LEAST_CYCLES}")
    delays = reader.FIRST_DELAY_S, reader.LONGEST_DELAY_S
    reader.FIRST_DELAY_S, reader.LONGEST_DELAY_S = FIRST_DELAY_S, LONGEST_DELAY_S
    results = {}
    try:
        for name in names:
            begin = time.perf_counter()
            with CAMERAS[name]() as (source, break_it, but):
                result = summary(*lose(source, break_it, cycles, but, told))
            results[name] = {"cycles": cycles, "seconds": time.perf_counter() - begin, **result}
    finally:
        reader.FIRST_DELAY_S, reader.LONGEST_DELAY_S = delays
    return {"benchmark": "reconnects", "size": SIZE, "cameras": results, "machine": describe_machine()}


def describe(report: dict[str, Any]) -> str:
    """The report as a table."""
    rows = []
    for name, result in report["cameras"].items():
        gap = result["until_next_frame_s"]
        rows.append(
            f"{name}: {result['reconnects']} reconnects in {result['seconds']:.0f} s; "
            f"next frame after {gap['p50']:.2f} s (median), {gap['max']:.2f} s (longest)"
        )
        rows.append(
            f"  {'':26}{'first':>14}{'last':>14}{'a reconnect':>16}{'standard error':>16}{'second half':>16}"
        )
        for what, line in result["held"].items():
            rows.append(
                f"  {what:26}{line['begin']:14.0f}{line['end']:14.0f}{line['a_reconnect']:16.4f}"
                f"{line['standard_error']:16.4f}{line['a_reconnect_of_second_half']:16.4f}"
            )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reconnects", description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000, help="how often each is lost (%(default)s)")
    parser.add_argument(
        "--camera", action="append", choices=CAMERAS, help="this kind alone; may be repeated (all)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    chosen = parser.parse_args(arguments)

    def work(**_: object) -> None:
        report = measure(
            chosen.cycles, chosen.camera or tuple(CAMERAS), lambda text: print(text, file=sys.stderr)
        )
        write_json_result(chosen.json, report)
        print(describe(report), file=sys.stderr if chosen.json == "-" else sys.stdout)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
