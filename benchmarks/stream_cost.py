"""What a camera costs: CPU, memory and latency of `agp-edge stream` on a live camera, with and without sinks.

    python -m benchmarks.stream_cost brick.int8.onnxruntime.engine --fps 30 --seconds 20 --rounds 3 --json stream_cost.json

A server in another process sends JPEG pictures of the engine's frame size over HTTP at a steady rate; its own cost is not
counted. `agp-edge stream` runs in a process of its own, is left alone for some seconds, and then its CPU time is taken from
the kernel (utime and stime of the process and its children) over a span. Variants take turns, round by round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from agp_edge.cli.console import note, run_command, say, table, write_json_result
from agp_edge.engines import read_sidecar
from agp_edge.errors import InputError
from agp_edge.extras import import_cv2
from agp_edge.machine import describe_machine

WARM_UP_S = 4.0
TICKS = os.sysconf("SC_CLK_TCK")
AGP_EDGE = [sys.executable, "-c", "from agp_edge.cli import main; main()"]

VARIANTS = {
    "no sinks": (),
    "all the time": ("--jsonl", "{out}/v.jsonl", "--prometheus", "127.0.0.1:0", "--web", "127.0.0.1:0"),
    "and every frame a reject": ("--jsonl", "{out}/v.jsonl", "--rejects", "{out}/ng", "--rejects-limit", "200M", "--threshold", "-1"),
}  # fmt: skip
"""What is measured: a name, and the flags beside source and engine."""


def serve(width: int, height: int, fps: float, ready: Connection) -> None:
    """Send pictures over HTTP at a steady rate, each another one, to whoever asks; ends with the process."""
    import http.server

    import numpy as np

    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    cv2 = import_cv2("serving pictures")
    rng = np.random.default_rng(0)
    # Smooth blobs with a little noise: about as large as a camera's own JPEG pictures.
    base = cv2.resize(rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8), (width, height))
    pictures = []
    for shift in range(30):
        noisy = np.roll(base, 8 * shift, axis=1).astype(np.int16) + rng.normal(0, 2, base.shape).astype(
            np.int16
        )
        pictures.append(cv2.imencode(".jpg", np.clip(noisy, 0, 255).astype(np.uint8), [1, 85])[1].tobytes())

    class Camera(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            begin = time.monotonic()
            number = 0
            try:
                while True:
                    picture = pictures[number % len(pictures)]
                    head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
                    self.wfile.write(head + picture + b"\r\n")
                    number += 1
                    time.sleep(max(0.0, begin + number / fps - time.monotonic()))
            except OSError:
                pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    ready.send(server.server_port)
    server.serve_forever()


def processes_of(pid: int) -> Iterator[int]:
    """A process and those that it started, and they."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from processes_of(int(child))


def cpu_s(pid: int) -> float:
    """CPU time that a process and its children have used, in seconds."""
    total = 0
    for one in processes_of(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_bytes(pid: int) -> int:
    """Memory that they have in RAM."""
    pages = (int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in processes_of(pid))
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(engine: Path, port: int, flags: Sequence[str], seconds: float) -> dict[str, float]:
    """Run one stream for a while.

    Raises:
        InputError: it ended early.
    """
    with tempfile.TemporaryDirectory() as out:
        summary = Path(out) / "s.json"
        command = [
            *AGP_EDGE, "stream", "--source", f"http://127.0.0.1:{port}/", "--engine", str(engine),
            "--json", str(summary), "--log-format", "json", *(flag.format(out=out) for flag in flags),
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            time.sleep(WARM_UP_S)
            if process.poll() is not None:
                raise InputError(f"the stream ended: {process.communicate()[1]}", "see what it says")
            begin, used = time.monotonic(), cpu_s(process.pid)
            time.sleep(seconds)
            span, used = time.monotonic() - begin, cpu_s(process.pid) - used
            resident = resident_bytes(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
        told = json.loads(summary.read_text())
    (line,) = told["sources"]
    total = line["latency_ms"]["total"]
    return {
        "cpu_of_a_core": used / span,
        "resident_mib": resident / (1 << 20),
        "fps": line["judged"] / (told["elapsed_ms"] / 1000),
        "dropped_share": line["dropped"] / line["captured"],
        "p50_ms": total["p50"],
        "p99_ms": total["p99"],
        "max_ms": total["max"],
        "sink_entries_lost": float(sum(sink["lost"] for sink in told["sinks"])),
    }


def run(engine: Path, fps: float, seconds: float, rounds: int, json_file: str | None) -> None:
    """Measure every variant, in turns, and print the table."""
    spec = read_sidecar(engine).frame
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(spec.width, spec.height, fps, theirs), daemon=True)
    server.start()
    port = ours.recv()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    try:
        for number in range(rounds):
            for name, flags in VARIANTS.items():
                note(f"round {number + 1} of {rounds}: {name}")
                found[name].append(measure(engine, port, flags, seconds))
    finally:
        server.terminate()
        server.join()
    rows = []
    for name, results in found.items():
        middle = {key: statistics.median(r[key] for r in results) for key in results[0]}
        spread = [r["cpu_of_a_core"] for r in results]
        rows.append(
            (
                name,
                f"{middle['cpu_of_a_core']:.0%}",
                f"{min(spread):.0%} to {max(spread):.0%}",
                f"{middle['resident_mib']:.0f}",
                f"{middle['fps']:.1f}",
                f"{middle['p50_ms']:.1f}",
                f"{middle['p99_ms']:.1f}",
            )
        )
    say(table(rows, ("sinks", "CPU", "rounds", "MiB", "fps", "p50 ms", "p99 ms")), json_file)
    say(
        f"{spec} at {fps:g} frames/s over HTTP, {rounds} rounds of {seconds:g} s; CPU is of one core",
        json_file,
    )
    write_json_result(
        json_file,
        {
            "engine": engine.name, "frame": spec.to_dict(), "fps": fps, "seconds": seconds, "rounds": found,
            "machine": describe_machine(),
        },
    )  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", dest="json_file")
    arguments: Any = parser.parse_args()

    def command(**_: Any) -> None:
        run(arguments.engine, arguments.fps, arguments.seconds, arguments.rounds, arguments.json_file)

    sys.exit(run_command(command))


if __name__ == "__main__":
    main()
