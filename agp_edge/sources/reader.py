"""One source read by one thread: the newest frame of a camera, every frame of a file, and the counts of both."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

from agp_edge.errors import AgpEdgeError, InputError, MissingExtraError, SourceLostError
from agp_edge.sources.base import Frame, Source

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
REMIND_S = 60.0
"""What went wrong before is not said again at each try, but it is said this often that there are still tries."""

LONGEST_CLOSE_S = 12.0
"""Longer than a network camera's time-outs."""

READ_AHEAD = 2
"""Frames of a file that wait decoded: enough that decoding and judging overlap."""


class Reader:
    """Reads a source in a thread of its own and hands its frames over.

    A live source has one place: a newer frame takes it, and the older one counts as dropped. A source that is not
    live waits until there is room, so that nothing is dropped; its frames count as captured when they are taken,
    because those read ahead of a stop are still in the file.

    A live source that is lost is opened again and again, with growing, capped and jittered delays. Each trouble is
    told once until there is a frame again.

    Args:
        source: opened, read and closed in the thread only.
        changed: shared with whoever takes frames; notified when a frame or the end has come.
        every: take every N-th frame; those between are not captured.
        read_ahead: frames of a file that wait decoded at most.
        on_event: told in one line of what befalls the source.

    Attributes:
        captured, dropped: frames; captured ones that could not be read are among them.
        reconnects: how often a lost source gave frames again.
        ended: there will be no more frames.
        error: what ended it, if that was no end of a file.
        first_failure: why the first of those that could not be read could not.
    """

    def __init__(
        self,
        source: Source,
        changed: threading.Condition,
        *,
        every: int = 1,
        read_ahead: int = READ_AHEAD,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.source = source
        self.captured = self.dropped = self.reconnects = 0
        self.ended = False
        self.error: BaseException | None = None
        self.first_failure: InputError | None = None
        self._changed = changed
        self._every = every
        self._most = 1 if source.live else read_ahead
        self._on_event = on_event
        self._waiting: deque[tuple[Frame, int]] = deque()
        self._waiting_since = 0
        self._connected = False
        self._stop = threading.Event()
        self._delay_s = FIRST_DELAY_S
        self._lost_at: float | None = None
        self._troubles: set[str] = set()
        self._tries = 0
        self._told_at = 0.0
        # A daemon, because a camera's driver may never come back from a read; `close` waits for it all the same.
        self._thread = threading.Thread(target=self._run, name=f"read {source.name}", daemon=True)

    @property
    def waiting(self) -> int:
        """How many frames can be taken; hold `changed`."""
        return len(self._waiting)

    @property
    def may_bring_more(self) -> bool:
        """Whether more frames are to be expected before one is taken; hold `changed`.

        Not of a source that is lost: others would wait for it, for as long as it takes.
        """
        return self._connected and not self.ended and len(self._waiting) < self._most

    @property
    def oldest_ns(self) -> int:
        """Since when a frame waits (`time.monotonic_ns`), though a newer one may have taken its place; hold `changed`."""
        return self._waiting_since

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def take(self) -> tuple[Frame, int]:
        """The frame that waits, and when it was handed over (`time.monotonic_ns`); hold `changed`."""
        taken = self._waiting.popleft()
        if self._waiting:
            self._waiting_since = self._waiting[0][1]
        if not self.source.live:
            self.captured += 1
            self._changed.notify_all()
        return taken

    def request_stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        self._stop.set()
        self.source.interrupt()
        with self._changed:
            self._changed.notify_all()

    def close(self, timeout_s: float = LONGEST_CLOSE_S) -> None:
        """End the thread and count what waited; longer than that time it is not waited for."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._changed:
            if self.source.live:
                self.dropped += len(self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        try:
            if self._connect(first=True):
                self._read_all()
        except BaseException as error:
            self.error = error
        finally:
            self.source.close()
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _read_all(self) -> None:
        while not self._stop.is_set():
            try:
                frame = self.source.read()
            except SourceLostError as error:
                if not self.source.live:
                    raise
                if self._stop.is_set():
                    return
                self._lost_at = self._lost_at or time.monotonic()
                self._set_connected(False)
                self._tell_trouble(error)
                self.source.close()
                if not self._connect(first=False):
                    return
                continue
            except MissingExtraError:
                raise
            except InputError as error:
                self._fail(error)
                continue
            if frame is None:
                return
            self._found_again()
            self._count_lost(frame)
            if frame.number % self._every == 0:
                self._offer(frame)

    def _connect(self, *, first: bool) -> bool:
        """Open the source, however long it takes; False if told to stop meanwhile."""
        if not first and self._pause():
            return False
        while not self._stop.is_set():
            try:
                self.source.open()
                self._set_connected(True)
                return True
            except AgpEdgeError as error:
                if self._stop.is_set():
                    return False
                # What is wrong at the start is a mistake of the command; later it is a cable.
                if not self.source.live or (first and not isinstance(error, SourceLostError)):
                    raise
                self._tell_trouble(error)
                if self._pause():
                    return False
        return False

    def _set_connected(self, connected: bool) -> None:
        with self._changed:
            self._connected = connected
            self._changed.notify_all()

    def _pause(self) -> bool:
        """Wait before the next try; jittered, so that fifty cameras do not come back in one instant."""
        delay = self._delay_s * random.uniform(0.5, 1.0)
        self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
        return self._stop.wait(delay)

    def _tell_trouble(self, error: AgpEdgeError) -> None:
        """Say what is wrong and what to do, but not again at every try: a night without a camera is no full disk."""
        self._tries += 1
        now = time.monotonic()
        if error.what not in self._troubles:
            self._troubles.add(error.what)
            self._on_event(f"{error.what}: {error.hint}; it is tried again for ever, Ctrl-C ends it")
        elif now - self._told_at >= REMIND_S:
            self._on_event(f"{error.what}: still trying, {self._tries} tries")
        else:
            return
        self._told_at = now

    def _found_again(self) -> None:
        # Only a frame proves that a source is back: a server may accept and then send nothing.
        self._delay_s = FIRST_DELAY_S
        self._troubles.clear()
        self._tries = 0
        if self._lost_at is not None:
            gap, self._lost_at = time.monotonic() - self._lost_at, None
            with self._changed:
                self.reconnects += 1
            self._on_event(f"{self.source.name} is back after {gap:.1f} s")

    def _fail(self, error: InputError) -> None:
        self.first_failure = self.first_failure or error
        with self._changed:
            self.captured += 1
        self._on_event(error.what)

    def _count_lost(self, frame: Frame) -> None:
        """Frames that the source dropped before this one are captured and dropped, as if it had been done here."""
        first = frame.number - frame.lost
        # How many of [first, number) are multiples of `every`: the others would not have been captured.
        lost = -(-frame.number // self._every) - -(-first // self._every)
        if lost:
            with self._changed:
                self.captured += lost
                self.dropped += lost

    def _offer(self, frame: Frame) -> None:
        with self._changed:
            if self.source.live:
                if self._stop.is_set():
                    return
                self.captured += 1
            else:
                self._changed.wait_for(lambda: len(self._waiting) < self._most or self._stop.is_set())
                if self._stop.is_set():
                    return
            now = time.monotonic_ns()
            if not self._waiting:
                self._waiting_since = now
            if self.source.live:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            self._waiting.append((frame, now))
            self._changed.notify_all()
