"""What every command shares: errors and exit codes, progress on stderr, results on stdout, `--json`."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.errors import INTERRUPTED, AgpEdgeError, InputError, is_no_memory, no_memory

if TYPE_CHECKING:
    from agp_edge.progress import Progress


def run_command(app: Callable[..., Any], *, debug: bool = False) -> int:
    """Run the command line and give its exit code."""
    import typer

    # A supervisor stops with SIGTERM: it closes files the same way as Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result = app(standalone_mode=False)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
        if code == INTERRUPTED:
            # Some typers turn Ctrl-C into this result on their own.
            print("interrupted", file=sys.stderr)
        return code
    except AgpEdgeError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {_one_line(error.what)}\n  {_one_line(error.hint)}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output went away; there is nobody left to tell.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return 0
    except Exception as error:
        if isinstance(error, _usage_error_of_typer()):
            return _say_usage(error)
        if debug:
            traceback.print_exc()
        if is_no_memory(error):
            lack = no_memory("go on")
            print(f"error: {lack.what}\n  {lack.hint}", file=sys.stderr)
            return lack.exit_code
        print(f"error: unexpected {type(error).__name__}: {_one_line(str(error))}", file=sys.stderr)
        hint = (
            "report what is above"
            if debug
            else "run it again with --debug before the command and report what it shows"
        )
        print(f"  {hint}", file=sys.stderr)
        return 1


def _usage_error_of_typer() -> type[Exception]:
    """click's `ClickException`. Newer typers carry a click of their own, older ones use the package; both give this one."""
    import typer

    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _say_usage(error: Any) -> int:
    """Say what is wrong with the command line; without any arguments, show the help. Give the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        from agp_edge.sources.uri import redact

        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "agp-edge"
        # The parser repeats a stray argument as it is, and that may be a camera's URL with its password.
        message = re.sub(r"(\(?)(\S+)", lambda m: m[1] + redact(m[2]), _one_line(error.format_message()))
        print(f"error: {message}\n  see: {path} --help", file=sys.stderr)
    return InputError.exit_code


def _one_line(text: str) -> str:
    """An error is one line and a hint, whatever a library's message or a file's name has in it."""
    return " ".join(text.splitlines())


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def write_json_result(target: str | None, value: Any) -> None:
    """Serve `--json`: a file, `-` for stdout, or nothing.

    Raises:
        InputError: the file is there and is no result, or cannot be written.
        DiskFullError: no space left.
    """
    from agp_edge.files import to_json, translate_write_errors, write_json

    if target == "-":
        sys.stdout.write(to_json(value))
        return
    check_json_target(target)
    if target is None:
        return
    path = Path(target)
    if path.exists() and not path.is_file():
        # A pipe or a device (/dev/stderr, /dev/null) is written to; a file is replaced whole.
        with translate_write_errors(path):
            path.write_text(to_json(value), encoding="utf-8")
    else:
        write_json(path, value)


def check_json_target(target: str | None) -> str | None:
    """Refuse a `--json` file that is there and is no earlier result; give the target back, as typer's callbacks do.

    Raises:
        InputError: a folder, a file that is no JSON, or one that belongs to an artefact.
    """
    if target is None or target == "-":
        return target
    from agp_edge.bundle import refuse_inside_bundle

    path = Path(target)
    if path.is_dir():
        raise InputError(f"--json {target} is a folder", "give a file, or - for stdout")
    if path.is_file() and not _is_result(path):
        raise InputError(
            f"--json {target} is there and is no result: it would be lost",
            "give another file, or - for stdout",
        )
    refuse_inside_bundle(path)
    return target


ARTEFACT_FORMATS = ("agp-edge-run", "agp-edge-bundle", "agp-edge-engine")
"""What `format` says in a file that belongs to an artefact; results, as of `benchmark`, have formats of their own."""


def _is_result(path: Path) -> bool:
    """Whether a file may be replaced by a result: it is empty or JSON, and is not part of a run, bundle or engine."""
    import json

    try:
        with path.open("rb") as file:
            if file.read(1) not in (b"", b"{", b"["):
                return False  # A video need not be read to its end.
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if text else None
    except (OSError, ValueError, RecursionError):
        return False
    return not (isinstance(value, dict) and value.get("format") in ARTEFACT_FORMATS)


def say(text: str, json_target: str | None = None) -> None:
    """A result for a person on stdout; on stderr when stdout carries the JSON."""
    print(text, file=sys.stderr if json_target == "-" else sys.stdout)


def note(text: str) -> None:
    """Anything that is no result: stderr."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress_bar(title: str, say: Callable[[str], None] = note) -> Iterator[Progress]:
    """A progress bar on a terminal; a plain line now and then in a pipe. Both on stderr.

    Args:
        title: what is done.
        say: says a line in a pipe.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with RichProgress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=None, note="")

            def on_terminal(done: int, total: int, note: str = "") -> None:
                bar.update(task, completed=done, total=total or None, note=note)

            yield on_terminal
        return

    last = [time.monotonic(), -1.0]
    first: list[float] = []

    def in_pipe(done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        first[:] = first or [now, done]
        if now - last[0] < 5 and done != total:
            return
        if last[1] == done:
            return
        last[:] = [now, done]
        of = f"/{total}" if total else ""
        left = ""
        if 0 < done < total and done > first[1]:
            # From the first call on: work that goes on from a checkpoint did not do what lies before.
            left = f" {describe_seconds((total - done) * (now - first[0]) / (done - first[1]))} left"
        say(f"{title}: {done}{of} {note}".rstrip() + left)

    yield in_pipe


def describe_seconds(seconds: float) -> str:
    """A time to wait: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...] | None = None) -> str:
    """Columns lined up for a terminal of 80 columns or a pipe; the first column left, the others right if numbers."""
    every = [header, *rows] if header else rows
    if not every:
        return ""
    widths = [max(len(row[i]) for row in every) for i in range(len(every[0]))]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(widths))]

    def line(row: tuple[str, ...]) -> str:
        cells = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        return "  ".join(cells).rstrip()

    lines = [line(row) for row in rows]
    if header:
        lines[:0] = [line(header), "  ".join("-" * w for w in widths)]
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    stripped = text.strip().rstrip("%x").replace(",", "")
    if stripped in ("", "-"):
        return True
    try:
        float(stripped.split()[0])
    except ValueError:
        return False
    return True


def require_host(package: str, command: str) -> Any:
    """Import a host package by name: the one place where `agp_edge` reaches up to the host.

    Raises:
        InputError: this is a device, where the wheel alone is installed, or the host extra is missing.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = error.name or package
        raise InputError(
            f"agp-edge {command} works on a host: {missing} is not installed here",
            "in a checkout of agp-edge, run: pip install -e '.[host]'",
        ) from error
