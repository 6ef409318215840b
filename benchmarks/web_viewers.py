"""Do viewers of the live page slow the line?

    python -m benchmarks.web_viewers part.fp32.onnxruntime.engine --json viewers.json

One stream of 30 frames a second runs all the time. Rounds without the page's viewers, with one and with fifty follow each other
in an order drawn anew each time; the viewers are HTTP clients in another process, and ask as the page does: again as soon as an answer is
there. Given are the ratios of each round with viewers to the round without of the same turn, their median, and an
interval of 95 % from 2,000 bootstrap samples of the turns.

Viewers cost something themselves, and here they share the processor with the line: the share of the stream's process, of the page's two
threads in it and of the viewers' process is given beside.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agp_edge.cli.console import run_command, write_json_result
from agp_edge.engines import open_engine
from agp_edge.engines.sidecar import read_sidecar
from agp_edge.errors import ArtefactError, InputError, WorkStoppedError
from agp_edge.files import read_json
from agp_edge.frame import FrameSpec
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.latency import percentiles_ms
from agp_edge.machine import describe_machine
from agp_edge.sinks import Judgement, Sink
from agp_edge.sinks.web import WebSink
from agp_edge.sources import Frame, Source
from agp_edge.stream import Stream

VIEWERS = (0, 1, 50)
FPS = 30.0
SETTLE_S = 2.0
LEAST_ROUNDS = 3
FIGURES = ("p50_ms", "p99_ms", "frames_per_s")
SAMPLES = 2000
READY = "all look\n"
THREADS = ("web server", "web pictures")


class Camera(Source):
    """A live source of frames that move: a texture, and a bright speck in every 30th frame.

    Args:
        frame: what the engine takes.

    Attributes:
        frames: all that there are, each [H, W, C] uint8.
    """

    def __init__(self, frame: FrameSpec) -> None:
        self.name, self.live, self.fps = "camera", True, FPS
        width, height, channels = frame.width, frame.height, frame.channels
        rng = np.random.default_rng(0)
        coarse = rng.integers(60, 120, (height // 8 + 1, width // 8 + 1, channels), np.uint8)
        texture = np.repeat(np.repeat(coarse, 8, 0), 8, 1)[:height, :width]
        self.frames = [np.ascontiguousarray(np.roll(texture, 16 * i, axis=1)) for i in range(30)]
        self.frames[0][height // 2 : height // 2 + 40, width // 2 : width // 2 + 40] = 250
        self._number = 0
        self._next = 0.0

    def open(self) -> None:
        """Begin now."""
        self._next = time.monotonic()

    def read(self) -> Frame | None:
        """The next frame when it is due; those that nobody asked for in time are left out."""
        self._next = max(self._next + 1 / FPS, time.monotonic())
        time.sleep(max(0.0, self._next - time.monotonic()))
        number, self._number = self._number, self._number + 1
        pixels = self.frames[number % len(self.frames)].copy()
        return Frame(pixels, number, time.monotonic_ns(), time.time(), "arrival", self.name)

    def close(self) -> None:
        """Nothing is held."""


class Recorder(Sink):
    """Keeps the latency of each verdict while it is asked to."""

    name = "recorder"

    def __init__(self) -> None:
        self.kept: list[float] | None = None

    def write(self, judgement: Judgement) -> None:
        """Keep one."""
        if (kept := self.kept) is not None:
            kept.append(judgement.latency_ms["total"])

    def close(self) -> None:
        """Nothing is held."""


class Viewers:
    """Viewers in a process of their own; made when each has had its first answer.

    Args:
        url: the page.
        count: how many.

    Raises:
        WorkStoppedError: one of them failed.
    """

    def __init__(self, url: str, count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.web_viewers", "--look-at", url, str(count)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != READY:
            self.close()

    def close(self) -> dict[str, float]:
        """End them: answers and bytes that they got, seconds of the processor that they took, seconds that they looked.

        Raises:
            WorkStoppedError: one of them failed.
        """
        out, _ = self._process.communicate("", timeout=60)
        if self._process.returncode or not out:
            raise WorkStoppedError("a viewer failed", "see what it printed")
        names = ("answers", "pictures", "bytes", "cpu_s", "seconds")
        return dict(zip(names, map(float, out.split()), strict=True))


async def look(url: str, count: int) -> None:
    """Be so many viewers until stdin ends; print what `Viewers.close` reads."""
    import json
    import struct

    import aiohttp

    got = {"answers": 0, "pictures": 0, "bytes": 0}
    answered: set[int] = set()
    all_look = asyncio.Event()

    async def view(number: int) -> None:
        seen = ""
        # A connection each, as browsers have.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            while True:
                async with session.get(f"{url}api/live", params={"seen": seen}) as response:
                    response.raise_for_status()
                    body = await response.read()
                header = json.loads(body[4 : 4 + struct.unpack_from(">I", body)[0]])
                seen = header["seen"]
                got["answers"] += 1
                got["pictures"] += len(header["pictures"])
                got["bytes"] += len(body)
                answered.add(number)
                if len(answered) == count:
                    all_look.set()

    viewers = [asyncio.create_task(view(number)) for number in range(count)]
    looking = asyncio.create_task(all_look.wait())
    await asyncio.wait([looking, *viewers], return_when=asyncio.FIRST_COMPLETED)
    looking.cancel()
    begin, cpu_s = time.monotonic(), _cpu_seconds()
    got.update(dict.fromkeys(got, 0))
    if all_look.is_set():
        print(READY, end="", flush=True)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    done, _ = await asyncio.wait([ended, *viewers], return_when=asyncio.FIRST_COMPLETED)
    for viewer in viewers:
        viewer.cancel()
    await asyncio.gather(*viewers, return_exceptions=True)
    for task in done:
        task.result()
    print(*got.values(), _cpu_seconds() - cpu_s, time.monotonic() - begin)


def _cpu_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def thread_seconds() -> dict[str, float]:
    """Thread -> seconds of the processor that it took so far, of the page's own threads; `process` is all of them."""
    found = {"process": _cpu_seconds()}
    names = {thread.native_id: thread.name for thread in threading.enumerate() if thread.name in THREADS}
    for number, name in names.items():
        words = Path(f"/proc/self/task/{number}/stat").read_text().rpartition(")")[2].split()
        found[name] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return found


def measure_round(recorder: Recorder, url: str, viewers: int, seconds: float) -> dict[str, Any]:
    """One round: so many viewers, settled, then measured."""
    looking = Viewers(url, viewers) if viewers else None
    try:
        time.sleep(SETTLE_S)
        before = thread_seconds()
        kept: list[float] = []
        recorder.kept = kept
        begin = time.monotonic()
        time.sleep(seconds)
        recorder.kept = None
        took = time.monotonic() - begin
        after = thread_seconds()
    finally:
        seen = looking.close() if looking else None
    if not kept:
        raise WorkStoppedError("no verdict came in a round", "take a smaller engine, or longer rounds")
    latency = percentiles_ms(kept)
    figures: dict[str, Any] = {
        "viewers": viewers,
        "n": len(kept),
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "frames_per_s": len(kept) / took,
        "cores": {name: (after[name] - before[name]) / took for name in before},
    }
    if seen:
        figures["viewers_cores"] = seen["cpu_s"] / seen["seconds"]
        for name in ("answers", "pictures", "bytes"):
            figures[f"{name}_per_s"] = seen[name] / seen["seconds"]
    return figures


def interval(ratios: Sequence[float], rng: random.Random) -> dict[str, float]:
    """Median of the ratios, and 95 % of the medians of as many drawn with replacement."""
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(SAMPLES))
    return {
        "median": statistics.median(ratios),
        "low": medians[int(0.025 * SAMPLES)],
        "high": medians[int(0.975 * SAMPLES) - 1],
    }


def compare(turns: Sequence[dict[int, dict[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Viewers -> figure -> ratio to the round without viewers of the same turn."""
    rng = random.Random(0)
    return {
        str(viewers): {
            name: interval([turn[viewers][name] / turn[0][name] for turn in turns], rng) for name in FIGURES
        }
        for viewers in VIEWERS
        if viewers
    }


def _open(path: Path, camera: Camera) -> JudgingEngine:
    """The engine with a threshold at which the frame with the speck is NG, or else the one with the highest score."""
    session, _ = open_engine(path)
    with session:
        scores = sorted(float(session.infer(frame[np.newaxis]).score[0]) for frame in camera.frames)
    return open_judging_engine(path, threshold=scores[-2])


def measure(path: Path, rounds: int, seconds: float, rng: random.Random) -> dict[str, Any]:
    """Run a stream, and rounds over it.

    Raises:
        InputError: no such engine, or too few rounds.
        WorkStoppedError: the stream ended, or viewers failed.
    """
    if rounds < LEAST_ROUNDS or not seconds > 0:
        raise InputError(
            f"{rounds} rounds of {seconds:g} s say nothing", f"give --rounds from {LEAST_ROUNDS}"
        )
    camera = Camera(read_sidecar(path).frame)
    with _open(path, camera) as engine:
        recorder, page = Recorder(), WebSink("127.0.0.1:0")
        stream = Stream([camera], engine, [recorder, page])
        failures: list[BaseException] = []

        def run() -> None:
            try:
                stream.run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="line")
        thread.start()
        turns: list[dict[int, dict[str, Any]]] = []
        try:
            time.sleep(SETTLE_S)
            for turn in range(rounds):
                turns.append(
                    {
                        n: measure_round(recorder, page.url, n, seconds)
                        for n in rng.sample(VIEWERS, len(VIEWERS))
                    }
                )
                print(describe_turn(turn, turns[-1]), file=sys.stderr)
        finally:
            stream.stop()
            thread.join()
        if failures:
            raise failures[0]
        return {
            "benchmark": "web_viewers",
            "engine": {"file": path.name, "frame": str(engine.session.frame), "id": engine.id},
            "fps": FPS,
            "rounds": rounds,
            "seconds": seconds,
            "ratios": compare(turns),
            "turns": [list(turn.values()) for turn in turns],
            "stream": {
                name: stream.summary()["sources"][0][name]
                for name in ("captured", "judged", "dropped", "failed")
            },
            "runtime": engine.session.runtime,
            "machine": describe_machine(),
        }


def describe_turn(number: int, turn: dict[int, dict[str, Any]]) -> str:
    """One line for whoever waits."""
    parts = [
        f"{n}: p50 {turn[n]['p50_ms']:.1f}, p99 {turn[n]['p99_ms']:.1f} ms, {turn[n]['frames_per_s']:.1f}/s"
        for n in VIEWERS
    ]
    return f"turn {number + 1}: {'; '.join(parts)}"


def read_report(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ArtefactError: it is none of this benchmark.
    """
    report = read_json(path, "benchmark of viewers")
    if report.get("benchmark") != "web_viewers":
        raise ArtefactError(f"{path} is no result of benchmarks.web_viewers", "give the file that it wrote")
    return report


def describe(report: dict[str, Any]) -> str:
    """The report as a table of Markdown."""

    def middle(viewers: int, *names: str) -> float:
        values = []
        for turn in report["turns"]:
            for figures in turn:
                if figures["viewers"] == viewers:
                    value: Any = figures
                    for name in names:
                        value = value.get(name, 0.0)
                    values.append(float(value))
        return statistics.median(values)

    n = sum(figures["n"] for turn in report["turns"] for figures in turn)
    lines = [
        f"{report['engine']['frame']}, {report['fps']:g} frames/s, {report['rounds']} turns of {report['seconds']:g} s each, "
        f"{n} verdicts; medians, and ratios to no viewer with their 95 % intervals.",
        "",
        "| viewers | p50 ms | p99 ms | frames/s | p50 ratio | p99 ratio | frames/s ratio | pictures/s each | cores: stream's process | page's server | page's pictures | viewers' process |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for viewers in VIEWERS:
        row = [str(viewers), *(f"{middle(viewers, name):.1f}" for name in FIGURES)]
        for name in FIGURES:
            ratio = report["ratios"].get(str(viewers), {}).get(name)
            row.append(f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else "1")
        row.append(f"{middle(viewers, 'pictures_per_s') / viewers:.1f}" if viewers else "–")
        row += [f"{middle(viewers, 'cores', name):.2f}" for name in ("process", *THREADS)]
        row.append(f"{middle(viewers, 'viewers_cores'):.2f}" if viewers else "–")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.web_viewers", description=__doc__)
    parser.add_argument("engine", type=Path, nargs="?", help="an engine that runs here")
    parser.add_argument(
        "--rounds", type=int, default=9, help="turns, each with every number of viewers (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=6, help="that a round is measured (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    parser.add_argument("--look-at", nargs=2, metavar=("URL", "N"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.look_at:
        asyncio.run(look(chosen.look_at[0], int(chosen.look_at[1])))
        return 0

    def work(**_: object) -> None:
        if chosen.engine is None:
            raise InputError("there is no engine", "give one: python -m benchmarks.web_viewers ENGINE")
        report = measure(chosen.engine, chosen.rounds, chosen.seconds, random.Random(chosen.seed))
        write_json_result(chosen.json, report)
        print(describe(report), file=sys.stderr if chosen.json == "-" else sys.stdout)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
