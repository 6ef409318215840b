"""What happens to a stream when something around it fails, with real peers on loopback.

    python -m benchmarks.faults --rounds 5 --json faults.json

A stream with a tiny engine runs all the time. A peer is killed, stalled, torn away or started anew; measured is how long
it takes until the stream says so, and how long from the moment at which the peer is back until the first verdict of a frame that
was captured after it. The pauses between tries are the stream's own: a camera that was away for 3 s is tried about every second, one
that was away for a night every 15 to 30 s. In every row the counts are held against captured = judged + dropped + failed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agp_edge.cli.console import note, run_command, say, table, write_json_result
from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.extras import import_cv2
from agp_edge.frame import FrameSpec
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.machine import describe_machine
from agp_edge.sinks import Sink
from agp_edge.sinks.jsonl import JsonlSink
from agp_edge.sinks.mqtt import MqttSink
from agp_edge.sources import SourceOptions, open_source
from agp_edge.sources.base import Source
from agp_edge.stream import Stream
from benchmarks.reconnects import children
from tests.conftest import TINY, TINY_NORMAL_SCORES, build_engine, write_brightness_model
from tests.servers.gige import fake_camera
from tests.servers.mjpeg import MjpegServer, part
from tests.servers.mosquitto import Mosquitto
from tests.servers.relay import Relay
from tests.servers.rtsp import RtspServer, missing

LONGEST_WAIT_S = 90.0
AWAY_S = 3.0
TIMEOUT_S = 2.0
"""`--timeout` of the sources: the stream's default is 5."""


@dataclass
class Row:
    """What was measured of one fault.

    Attributes:
        fault: what was done.
        told_s: from the fault until the stream told it, each round.
        verdict_s: from the moment at which the peer was back until the first verdict after it, each round.
        kinds: events in the order in which they were told first.
        counts: of the source, at the end.
        remark: what else was seen.
    """

    fault: str
    told_s: list[float] = field(default_factory=list)
    verdict_s: list[float] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    remark: str = ""


class Line:
    """A stream in a thread, and what it tells.

    Args:
        source: what it judges.
        engine: judges.
        sinks: as the stream takes them.
    """

    def __init__(self, source: Source, engine: JudgingEngine, *sinks: Sink) -> None:
        self.events: list[tuple[float, Event]] = []
        self.stream = Stream(
            [source], engine, sinks, on_event=lambda event: self.events.append((time.monotonic(), event))
        )
        self._thread = threading.Thread(target=self.stream.run)

    def __enter__(self) -> Line:
        self._thread.start()
        self.wait(lambda: self.stream.judged >= 5)
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.stop()
        self._thread.join()

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Until something is so."""
        end = time.monotonic() + LONGEST_WAIT_S
        while not (found := condition()):
            if time.monotonic() > end or not self._thread.is_alive():
                raise InputError(
                    "what had to happen did not", f"told so far: {[e.text for _, e in self.events]}"
                )
            time.sleep(0.005)
        return found

    def until_told(self, kind: str, since: float) -> float:
        """Seconds from a moment until an event of a kind was told."""
        told = self.wait(lambda: [at for at, event in self.events if event.kind == kind and at >= since])
        return float(told[0] - since)

    def until_verdict(self, since: float) -> float:
        """Seconds from a moment until the first verdict of a frame that was captured after it."""
        view = self.stream._all_views()[0]
        wall = time.time() - (time.monotonic() - since)
        self.wait(lambda: view.last is not None and view.last.wall_s >= wall)
        return time.monotonic() - since

    def finish(self, row: Row) -> Row:
        """Take the counts, which must add up."""
        (line,) = self.stream.summary()["sources"]
        row.counts = {k: line[k] for k in ("captured", "judged", "dropped", "failed", "reconnects")}
        if line["captured"] != line["judged"] + line["dropped"] + line["failed"]:
            raise InputError(f"{row.fault}: the counts do not add up: {row.counts}", "report it")
        row.kinds = list(dict.fromkeys(event.kind for _, event in self.events if event.kind != "stopping"))
        return row


def over_rounds(
    row: Row, line: Line, rounds: int, fault: Callable[[], None], mend: Callable[[], None] | None = None
) -> Row:
    """Fail and mend a peer some times, and see how long each takes; without `mend` it is well again at once."""
    with line:
        for _ in range(rounds):
            begin = time.monotonic()
            fault()
            row.told_s.append(line.until_told("source-lost", begin))
            if mend is not None:
                time.sleep(max(0.0, AWAY_S - (time.monotonic() - begin)))
                mend()
                begin = time.monotonic()
            line.until_told("source-back", begin)
            row.verdict_s.append(line.until_verdict(begin))
            # Until the pauses between tries begin anew: one that comes and goes is asked less and less often.
            time.sleep(5)
    return line.finish(row)


def rtsp_rows(engine: JudgingEngine, rounds: int) -> Iterator[Row]:
    """Faults of an RTSP camera."""
    lacks = missing()
    if lacks:
        note(f"left out: {lacks}")
        return
    server = RtspServer("64x48")
    options = SourceOptions(timeout_s=TIMEOUT_S)

    def line() -> Line:
        return Line(open_source(f"rtsp://{server.address}", options), engine)

    try:
        yield over_rounds(Row("RTSP server killed, started again"), line(), rounds, server.kill, server.start)
        yield over_rounds(Row("RTSP server stalls, goes on"), line(), rounds, server.stall, server.go_on)
        yield other_size(line(), server, rounds)
        relay = Relay(server.port)
        try:
            torn = Line(open_source(f"rtsp://127.0.0.1:{relay.port}/live", options), engine)
            yield over_rounds(Row("RTSP connection torn"), torn, rounds, relay.cut)
        finally:
            relay.close()
        alive = server.pids()

        def kill_reader() -> None:
            for pid in set(children()) - alive:
                os.kill(pid, signal.SIGKILL)

        yield over_rounds(Row("process that reads RTSP killed"), line(), rounds, kill_reader)
    finally:
        server.kill()


def other_size(line: Line, server: RtspServer, rounds: int) -> Row:
    """It comes back in another size, and later in the right one."""
    row = Row("RTSP server back in another size, then in the right one")
    with line:
        for _ in range(rounds):
            begin = time.monotonic()
            server.kill()
            server.start("128x96")
            row.told_s.append(line.until_told("frame-failed", begin))
            server.kill()
            server.start("64x48")
            row.verdict_s.append(line.until_verdict(time.monotonic()))
            # An event of the same kind is told every 10 s.
            time.sleep(10.5)
    return line.finish(row)


def http_rows(engine: JudgingEngine, rounds: int) -> Iterator[Row]:
    """Faults of a camera that sends MJPEG over HTTP."""
    cv2 = import_cv2("serving pictures")
    grey = np.full((48, 64, 3), 76, np.uint8)
    picture = cv2.imencode(".jpg", grey)[1].tobytes()
    rng = np.random.default_rng(0)

    def rubbish() -> Iterator[bytes]:
        for number in itertools.count():
            time.sleep(0.01)
            yield part(picture)
            yield rng.bytes(int(rng.integers(1, 5000)))
            if number % 5 == 0:
                yield part(picture[: len(picture) // 2])

    def good() -> Iterator[bytes]:
        while True:
            time.sleep(0.01)
            yield part(picture)

    options = SourceOptions(timeout_s=TIMEOUT_S)
    with MjpegServer(rubbish) as server:
        line = Line(open_source(f"http://127.0.0.1:{server.port}/", options), engine)
        row = Row("HTTP: rubbish between pictures, every fifth one cut off")
        with line:
            line.wait(lambda: line.stream.judged >= 200)
        yield line.finish(row)
    held = [MjpegServer(good)]
    port = held[0].port

    def again() -> None:
        held.append(MjpegServer(good, port=port))

    try:
        line = Line(open_source(f"http://127.0.0.1:{port}/", options), engine)
        yield over_rounds(Row("HTTP server gone, back"), line, rounds, lambda: held[-1].close(), again)
    finally:
        held[-1].close()


def gige_rows(folder: Path, rounds: int) -> Iterator[Row]:
    """Faults of a GigE Vision camera."""
    frame = FrameSpec(512, 512, 1)
    folder = folder / "gige"
    folder.mkdir()
    plan = build_engine(write_brightness_model(folder / "model.onnx", frame), frame, TINY_NORMAL_SCORES)
    with open_judging_engine(plan) as engine, fake_camera() as camera:
        for name, fault in (("killed", camera.kill), ("stalls", camera.stall)):
            source = open_source(camera.uri, SourceOptions(timeout_s=TIMEOUT_S))
            yield over_rounds(
                Row(f"GigE camera {name}, switched on again"),
                Line(source, engine),
                rounds,
                fault,
                camera.restart,
            )


def sink_rows(engine: JudgingEngine, folder: Path, rounds: int) -> Iterator[Row]:
    """Faults of sinks, under a camera that goes on."""
    cv2 = import_cv2("serving pictures")
    picture = cv2.imencode(".jpg", np.full((48, 64, 3), 76, np.uint8))[1].tobytes()

    def good() -> Iterator[bytes]:
        while True:
            time.sleep(0.005)
            yield part(picture)

    with MjpegServer(good) as server:
        uri = f"http://127.0.0.1:{server.port}/"
        fifo = folder / "fifo"
        os.mkfifo(fifo)
        # Nobody reads: its buffer of 64 KiB is full after some hundred verdicts.
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            line = Line(open_source(uri), engine, JsonlSink(str(fifo)))
            with line:
                time.sleep(2)
                before = line.stream.judged
                time.sleep(5)
                rate = (line.stream.judged - before) / 5
        finally:
            os.close(reader)
        row = line.finish(Row("JSON lines into a pipe that nobody reads"))
        total = line.stream.summary()["sources"][0]["latency_ms"]["total"]
        (status,) = line.stream.summary()["sinks"]
        row.remark = f"{rate:.0f} verdicts/s go on, p99 {total['p99']:.1f} ms; {status['lost']} entries lost"
        yield row
        yield broker_row(Line, uri, engine, folder, rounds)


def broker_row(make: Callable[..., Line], uri: str, engine: JudgingEngine, folder: Path, rounds: int) -> Row:
    """A broker that goes away and comes back."""
    broker = Mosquitto(folder)
    broker.start()
    row = Row("MQTT broker killed, started again")
    try:
        line = make(open_source(uri), engine, MqttSink(f"mqtt://127.0.0.1:{broker.port}/line"))
        with line:
            for _ in range(rounds):
                begin = time.monotonic()
                broker.kill()
                row.told_s.append(line.until_told("sink-failed", begin))
                time.sleep(max(0.0, AWAY_S - (time.monotonic() - begin)))
                broker.start()
                since = time.monotonic()
                line.until_told("sink-back", since)
                row.verdict_s.append(time.monotonic() - since)
        line.finish(row)
        (status,) = line.stream.summary()["sinks"]
        row.remark = f"{status['lost']} of {status['written'] + status['lost']} verdicts lost; the second figure is until the broker had all"
    finally:
        broker.kill()
    return row


def described(seconds: list[float]) -> str:
    """Median and range."""
    if not seconds:
        return "-"
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"


def run(rounds: int, json_file: str | None) -> None:
    """Do it all, and print the table."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as opened:
        folder = Path(place)
        plan = build_engine(write_brightness_model(folder / "model.onnx", TINY), TINY, TINY_NORMAL_SCORES)
        engine = opened.enter_context(open_judging_engine(plan))
        for some in (
            rtsp_rows(engine, rounds), http_rows(engine, rounds), gige_rows(folder, rounds),
            sink_rows(engine, folder, rounds),
        ):  # fmt: skip
            for row in some:
                note(
                    f"{row.fault}: told {described(row.told_s)}, verdict {described(row.verdict_s)} {row.remark}"
                )
                rows.append(row)
    shown = [(row.fault[:42], described(row.told_s), described(row.verdict_s)) for row in rows]
    say(table(shown, ("fault", "told, s", "back, s")), json_file)
    say(f"median and range of {rounds} rounds; captured = judged + dropped + failed in all", json_file)
    write_json_result(
        json_file,
        {
            "rounds": rounds, "timeout_s": TIMEOUT_S, "away_s": AWAY_S, "rows": [vars(row) for row in rows],
            "machine": describe_machine(),
        },
    )  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", dest="json_file")
    arguments: Any = parser.parse_args()

    def command(**_: Any) -> None:
        run(arguments.rounds, arguments.json_file)

    sys.exit(run_command(command))


if __name__ == "__main__":
    main()
