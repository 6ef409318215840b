"""What commands share that run until they are told to stop: signals, the summary at the end, what is written over what."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.cli.console import note, say, write_json_result
from agp_edge.errors import AgpEdgeError, InputError

if TYPE_CHECKING:
    from agp_edge.judging import JudgingEngine
    from agp_edge.sinks import Sink
    from agp_edge.verdict import Judge

IMPATIENT_S = 1.0
"""A second Ctrl-C within this time is the first one's echo: `timeout` and shells signal a process and its group."""


def uris_of(camera: str | None, sources: list[str]) -> list[str]:
    """What `--camera` and `--source` name.

    Raises:
        InputError: a camera's number that is none, or nothing at all.
    """
    from agp_edge.sources import redact

    if camera is not None and not re.fullmatch("[0-9]+", camera):
        raise InputError(
            f"--camera {redact(camera)} is no camera's number",
            "give 0 for /dev/video0; a URL or a path goes to --source",
        )
    uris = ([camera] if camera is not None else []) + sources
    if not uris:
        raise InputError("no camera and no source was given", "give --camera 0 or --source URI")
    return uris


def rate_of(text: str | None) -> float | None:
    """A false-reject rate, as in `0.01` or `1%`."""
    from agp_edge.gate import parse_rate

    return None if text is None else parse_rate(text)


def introduce(judging: JudgingEngine, note: Callable[[str], None] = note) -> None:
    """Say what judges: its threshold and what that lacks, and that a gate did not pass it, each time it is used."""
    judge = judging.judge
    note(f"threshold {_describe(judge)}")
    if judge.conformal is not None and judge.threshold == judge.conformal.value:
        for line in judge.conformal.notes():
            note(f"warning: {line}" if judge.provisional else line)
    if judging.accepted is not None:
        note(f"warning: the gate did not pass this engine; accepted by hand: {judging.accepted}")


def _describe(judge: Judge) -> str:
    if judge.conformal is None or judge.threshold != judge.conformal.value:
        return f"{judge.threshold:.6g}, set by hand"
    return judge.conformal.describe()


def check_outputs(outputs: list[tuple[str, str | None]], engine: Path, inputs: list[str]) -> None:
    """Refuse to write over what is read, or twice into one file.

    Raises:
        InputError: an output is the engine, its sidecar, an input, or another output.
    """
    from agp_edge.engines.sidecar import sidecar_path

    taken = {engine.resolve(): "the engine", sidecar_path(engine).resolve(): "the engine's description"}
    # A URL is no path, but no file has its name either.
    taken |= {Path(uri).resolve(): "what is judged" for uri in inputs}
    for flag, output in outputs:
        if output is None or output == "-":
            continue
        path = Path(output).resolve()
        same = next((what for other, what in taken.items() if _same_file(path, other)), None)
        if same is not None:
            raise InputError(f"{flag} {output} is {same}", "give it another file")
        taken[path] = f"that of {flag} too"


def _same_file(path: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return path == other or path.samefile(other)  # By another name too, as of a hard link.
    return False


@contextlib.contextmanager
def stopping(stop: Callable[[], Any], *, ends_well: tuple[signal.Signals, ...] = ()) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets the frame at hand be finished, a later one does not wait; both end in 130.

    Once one came, the process is on its way out: none is let through to what is still written then.

    Args:
        stop: called at the first, inside the signal's handler.
        ends_well: signals that are the usual end, after which the command goes on to its summary and exits with 0.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}
    first: tuple[float, int] | None = None

    def on_signal(number: int, frame: object) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now, number
            stop()
        elif now - first[0] > IMPATIENT_S:
            raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, before[number] if first is None else signal.SIG_IGN)
    if first is not None and first[1] not in ends_well:
        raise KeyboardInterrupt


@contextlib.contextmanager
def summary_at_end(
    summary: Callable[[], dict[str, Any]],
    describe: Callable[[dict[str, Any]], str],
    json_file: str | None,
    to_stdout: str | None,
    began: Callable[[], bool],
) -> Iterator[None]:
    """Print the summary however the work ended; what ended it is what the command ends with.

    An error before anything `began` stands alone: a table of zeros would only hide it.
    """
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(AgpEdgeError, OSError):
            if isinstance(error, AgpEdgeError) and not began():
                write_json_result(json_file, summary())
            else:
                _report(summary(), describe, json_file, to_stdout)
        raise
    _report(summary(), describe, json_file, to_stdout)


@contextlib.contextmanager
def told_at_end(sinks: list[Sink], note: Callable[[str], None] = note) -> Iterator[None]:
    """Say at the end what was written where."""
    try:
        yield
    finally:
        for sink in sinks:
            if text := sink.describe():
                note(text)


def _report(
    summary: dict[str, Any],
    describe: Callable[[dict[str, Any]], str],
    json_file: str | None,
    to_stdout: str | None,
) -> None:
    say(describe(summary), to_stdout)
    write_json_result(json_file, summary)
