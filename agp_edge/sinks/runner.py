"""A sink in a thread of its own: whatever it does, the stream goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from agp_edge.control import SinkStatus
from agp_edge.errors import AgpEdgeError
from agp_edge.events import Event, OnEvent, nobody
from agp_edge.sinks.base import Judgement, Sink

MOST_ENTRIES = 4096
MOST_BYTES = 64 << 20
"""What waits for one sink at most: verdicts by their number, frames and maps by their size."""

VERDICT_BYTES = 1024
"""What a verdict without pixels is taken to weigh."""

MOST_EVENTS = 256
LOOK_S = 0.2
"""Waiting is done in pieces, so that an interrupt is heard."""

HUNG_S = 5.0
"""A sink of files that was told to stop is waited for as long as it moves; one that does not for so long hangs."""


TOLD_S = 10.0
"""A sink that fails and writes by turns is told this often at most: a log of each turn would fill a disk in days."""


class SinkRunner:
    """Gives verdicts and events to a sink, in order, from a thread that is the sink's own.

    A live stream never waits for it: where more waits than may, the oldest entry is lost and counted, and after an
    error of the sink the next entry is given to it all the same. A stream of files waits instead, and the sink's first
    error ends it: either all its verdicts are there, or the command says that they are not.

    Args:
        sink: closed by the thread at its end.
        live: whether the stream must not wait.
        endless: whether it is one for months all the same, as of a folder that is watched: it waits, and no error ends it.
        stopping: whether the stream was told to stop; a stream of files then waits for no sink that hangs.
        on_event: told when the sink begins to lose entries, and when it no longer does; from either thread.

    Attributes:
        written, lost: verdicts.
        error: what went wrong last; None again after an entry that went well.
        moves: how many entries the sink took.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        live: bool,
        endless: bool = False,
        on_event: OnEvent = nobody,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.sink = sink
        self.written = self.lost = 0
        self.error: str | None = None
        self._live = live
        self._lasting = live or endless
        self._told_to_stop = stopping
        self.moves = 0
        self._on_event = on_event
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Judgement | Event, int]] = deque()
        self._bytes = self._events = 0
        self._closing = self._ended = self._left_behind = False
        self._behind = self._troubled = self._told_failing = False
        self._failing_told_at = self._trouble_told_at = float("-inf")
        self._failure: BaseException | None = None
        # A daemon: a sink may hang in a library for ever, and the process has to end all the same.
        self._thread = threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether the stream was told to stop."""
        return self._told_to_stop()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, judgement: Judgement) -> None:
        """Have a verdict written; its map must not change any more.

        Raises:
            Exception: what the sink raised, if that ends the stream.
        """
        wants = self.sink.wants
        if wants == "rejects" and judgement.verdict != "NG":
            return
        if wants == "verdicts":
            judgement = judgement.without_pixels()
        size = VERDICT_BYTES + sum(
            a.nbytes for a in (judgement.pixels, judgement.anomaly_map) if a is not None
        )
        with self._changed:
            patience = _Patience(self)
            while not self._live and self._is_full(size) and not self._ended and not patience.is_over():
                self._changed.wait(LOOK_S)
            if self._failure is not None:
                raise self._failure
            if self._ended:
                self.lost += 1
                return
            lost = 0
            while self._is_full(size):
                self._drop_oldest()
                lost += 1
            self.lost += lost
            tell = lost > 0 and not self._behind
            self._behind = self._behind or lost > 0
            self._put(judgement, size)
        if tell:
            text = f"{self.sink.name} is slower than the stream: its oldest entries are lost, no verdict is"
            self._on_event(Event("sink-behind", text, data={"lost": self.lost}))

    def event(self, event: Event) -> None:
        """Have an event written; where too many wait, this one is left out."""
        with self._changed:
            if not self._ended and self._events < MOST_EVENTS:
                self._events += 1
                self._put(event, 0)

    def status(self) -> SinkStatus:
        """Its counts up to now."""
        with self._changed:
            return {
                "sink": self.sink.name,
                "written": self.written,
                "lost": self.lost + self.sink.lost,
                "waiting": len(self._waiting) - self._events,
                "error": self.error or self.sink.trouble,
            }

    def request_close(self) -> None:
        """Have it write what waits and close, without waiting for that."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self, until: float | None = None) -> None:
        """Wait until everything is written and the sink is closed; safe to call twice.

        Args:
            until: `time.monotonic` after which nobody waits: what is left then is lost and counted. None waits for as
                long as it takes, or, where the stream was told to stop, as long as the sink moves.

        Raises:
            Exception: what the sink raised, where the stream is not live.
        """
        self.request_close()
        if self._thread.ident is None:
            self.sink.close()
            return
        patience = _Patience(self)
        while self._thread.is_alive() and (
            time.monotonic() < until if until is not None else not patience.is_over()
        ):
            left_s = LOOK_S if until is None else until - time.monotonic()
            self._thread.join(max(0.0, min(LOOK_S, left_s)))
        with self._changed:
            left = 0 if self._ended else len(self._waiting) - self._events
            left_behind, self._left_behind = self._left_behind, not self._ended
            self.lost += left
            self._waiting.clear()
            self._bytes = self._events = 0
            failure, self._failure = self._failure, None
        if self._left_behind and not left_behind:
            text = (
                f"{self.sink.name} does not come to its end: it is left behind, and {left} entries are lost"
            )
            self._on_event(Event("sink-failed", text, level="error", data={"lost": self.lost}))
        if failure is not None:
            raise failure

    def _is_full(self, size: int) -> bool:
        entries = len(self._waiting) - self._events
        return entries > 0 and (entries >= MOST_ENTRIES or self._bytes + size > MOST_BYTES)

    def _put(self, entry: Judgement | Event, size: int) -> None:
        self._waiting.append((entry, size))
        self._bytes += size
        self._changed.notify_all()

    def _drop_oldest(self) -> None:
        """Drop the oldest verdict; events before it stay."""
        for i, (entry, size) in enumerate(self._waiting):
            if isinstance(entry, Judgement):
                del self._waiting[i]
                self._bytes -= size
                return

    def _run(self) -> None:
        try:
            while (entry := self._next()) is not None:
                self._write(entry)
        finally:
            try:
                self.sink.close()
            except BaseException as error:
                self._fail(error, lost=0)
            finally:
                with self._changed:
                    self.lost += len(self._waiting) - self._events
                    self._ended = True
                    self._changed.notify_all()

    def _next(self) -> Judgement | Event | None:
        """What is to be written next; None when all is and no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting or (self._failure is not None and not self._lasting):
                return None
            entry, size = self._waiting.popleft()
            self.moves += 1
            self._bytes -= size
            self._events -= isinstance(entry, Event)
            caught_up = self._behind and not self._waiting
            self._behind = self._behind and not caught_up
            self._changed.notify_all()
        if caught_up:
            self._tell_back()
        return entry

    def _write(self, entry: Judgement | Event) -> None:
        is_verdict = isinstance(entry, Judgement)
        try:
            self.sink.write(entry) if isinstance(entry, Judgement) else self.sink.event(entry)
        except BaseException as error:
            # Whatever it is (a library may raise what is no `Exception`), it is this sink's: its thread lives on.
            self._fail(error, lost=int(is_verdict))
            return
        if is_verdict:
            with self._changed:
                self.written += 1
                self.error = None
            if self._told_failing:
                self._told_failing = False
                self._tell_back()
        self._tell_trouble()

    def _fail(self, error: BaseException, *, lost: int) -> None:
        what = error.what if isinstance(error, AgpEdgeError) else f"{type(error).__name__}: {error}"
        with self._changed:
            self.lost += lost
            self.error = what
            # Whoever read along went away: that ends a stream of cameras too, as it ends every filter.
            if not self._lasting or (self.sink.is_filter and isinstance(error, BrokenPipeError)):
                self._failure = self._failure or error
            self._changed.notify_all()
        now = time.monotonic()
        if self._lasting and not self._told_failing and now - self._failing_told_at >= TOLD_S:
            self._told_failing, self._failing_told_at = True, now
            text = f"{self.sink.name} cannot write: {what}; the stream goes on without it, and tries it again"
            self._on_event(Event("sink-failed", text, level="error", data={"lost": self.lost}))

    def _tell_trouble(self) -> None:
        """Tell when what the sink took no longer gets where it belongs, and when it does again."""
        trouble = self.sink.trouble
        if (trouble is not None) == self._troubled:
            return
        if trouble is not None:
            now = time.monotonic()
            if now - self._trouble_told_at < TOLD_S:
                return  # One that lasts is told with a later entry.
            self._trouble_told_at = now
        self._troubled = trouble is not None
        data = {"lost": self.lost + self.sink.lost}
        if trouble is None:
            text = f"{self.sink.name} delivers again; {data['lost']} entries were lost so far"
            self._on_event(Event("sink-back", text, level="info", data=data))
        else:
            text = f"{self.sink.name} keeps what it is given: {trouble}"
            self._on_event(Event("sink-failed", text, data=data))

    def _tell_back(self) -> None:
        text = f"{self.sink.name} writes again; {self.lost} entries were lost so far"
        self._on_event(Event("sink-back", text, level="info", data={"lost": self.lost}))


class _Patience:
    """How long a sink of a stream is waited for that was told to stop.

    Args:
        runner: of the sink.
    """

    def __init__(self, runner: SinkRunner) -> None:
        self._runner = runner
        self._moves = -1
        self._since = 0.0

    def is_over(self) -> bool:
        """Whether the stream was told to stop and the sink has not moved for `HUNG_S` since."""
        now = time.monotonic()
        if not self._runner.stopping or self._moves != self._runner.moves:
            self._moves, self._since = self._runner.moves, now
        return now - self._since >= HUNG_S
