"""What a long run says on stderr, from a thread of its own: whoever reads it may be slow or gone, and the work goes on."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType

from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.files import to_json

MOST_LINES = 1024
"""What waits at most; then the oldest are lost, and that is said when there is room again."""

CLOSE_S = 0.5
"""How long the end waits for whoever reads. Who reads takes a line in microseconds."""


class Teller:
    """Tells events as lines for a person, or as JSON objects for a log.

    A pipe that nobody empties (a log service that hangs, a terminal that is stopped) would else hold up whoever has
    something to say, and that is the loop that judges; one whose reader went away would end it.

    Args:
        log_format: `text` or `json`.

    Raises:
        InputError: it is neither.
    """

    def __init__(self, log_format: str) -> None:
        if log_format not in ("text", "json"):
            raise InputError(f"--log-format {log_format} is none", "take text or json")
        self._json = log_format == "json"
        self._lines: deque[str] = deque()
        self._lost = 0
        self._changed = threading.Condition()
        self._closing = self._gone = False
        self._fd = _descriptor()
        self._thread = threading.Thread(target=self._run, name="tell", daemon=True)

    def __enter__(self) -> Teller:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def event(self, event: Event) -> None:
        """Tell an event; returns at once, from any thread."""
        if self._json:
            self.say(self._line(event))
        else:
            # Whoever keeps it in a file wants to know when it was.
            self.say(f"{time.strftime('%H:%M:%S', time.localtime(event.wall_s))} {event.text}")

    def note(self, text: str) -> None:
        """Say what is no event, past the thread: at the start or the end, when there is nothing to hold up."""
        with contextlib.suppress(BrokenPipeError):
            print(
                self._line(Event("note", text, level="info")) if self._json else text,
                file=sys.stderr,
                flush=True,
            )

    @staticmethod
    def _line(event: Event) -> str:
        return to_json(event.to_dict(), indent=None).rstrip("\n")

    def say(self, text: str) -> None:
        """Say one line; returns at once, from any thread."""
        with self._changed:
            if self._closing or self._gone:
                return
            if len(self._lines) >= MOST_LINES:
                self._lines.popleft()
                self._lost += 1
            self._lines.append(text)
            self._changed.notify_all()

    def close(self) -> None:
        """Say what waits, if somebody reads; safe to call twice.

        Where nobody does, what is said at the end would hang there or end in an error: it goes nowhere instead.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_S)
        if self._fd is None:
            return
        if self._thread.is_alive() or self._gone or not _takes(self._fd):
            sys.stderr = _nowhere()
        try:
            hangs = not _takes(sys.stdout.fileno())
        except (OSError, ValueError):
            return
        if hangs:
            sys.stdout = _nowhere()

    def _run(self) -> None:
        while (line := self._next()) is not None:
            try:
                self._write(line + "\n")
            except (OSError, ValueError):
                # Nobody reads any more, now or ever.
                with self._changed:
                    self._gone = True
                return

    def _next(self) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closing)
            if self._lost:
                lost, self._lost = self._lost, 0
                text = f"{lost} lines were lost here: they were not read in time"
                return (
                    to_json({"text": text, "level": "warning"}, indent=None).rstrip("\n")
                    if self._json
                    else text
                )
            return self._lines.popleft() if self._lines else None

    def _write(self, text: str) -> None:
        if self._fd is None:
            sys.stderr.write(text)
            return
        # Past Python's buffer: a thread that hangs with the buffer's lock would let no process end.
        data = text.encode("utf-8", "backslashreplace")
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                # Some other process that has the same pipe set it so.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()


def _descriptor() -> int | None:
    """Where stderr can be written past Python; None where it is a terminal, on which a bar is drawn, or no file at all."""
    try:
        return None if sys.stderr.isatty() else sys.stderr.fileno()
    except (OSError, ValueError):
        return None


def _takes(fd: int) -> bool:
    """Whether a write would not block, and somebody would read it."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return any(state == select.POLLOUT for _, state in poll.poll(0))


def _nowhere() -> io.TextIOWrapper:
    return Path(os.devnull).open("w", encoding="utf-8")
