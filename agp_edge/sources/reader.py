"""One source read by one thread: the newest frame of a camera, every frame of a file, and the counts of both."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agp_edge.errors import AgpEdgeError, InputError, MissingExtraError, SourceLostError
from agp_edge.events import Event, OnEvent, nobody
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.triggering import Pending, TriggerQueue

_T = TypeVar("_T")

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
REMIND_S = 60.0
"""What went wrong before is not said again at each try, but it is said this often that there are still tries."""

MOST_TROUBLES = 16

LONGEST_CLOSE_S = 1.0
"""For a camera that does not let itself be interrupted: its thread is left behind, and ends with the process."""

READ_AHEAD = 2
"""Frames of a file that wait decoded: enough that decoding and judging overlap."""

MOST_PARTS = 8
"""Triggered frames of a camera that wait: each is a part, and a burst of them is no reason to miss one."""

THE_END = "the stream ended before"
"""Why a part has no verdict that waited then."""

FAILURE_TOLD_S = 10.0
"""Frames that cannot be read one after another are told this often."""


@dataclass(frozen=True)
class Taken:
    """A frame that was handed over.

    Attributes:
        frame: the frame.
        handed_ns: since when it waited (`time.monotonic_ns`).
        part: what its trigger called the part.
    """

    frame: Frame
    handed_ns: int
    part: str | None = None


class Reader:
    """Reads a source in a thread of its own and hands its frames over.

    A live source has one place: a newer frame takes it, and the older one counts as dropped. A source that is not
    live waits until there is room, so that nothing is dropped; its frames count as captured when they are taken,
    because those read ahead of a stop are still in the file.

    A live or endless source that is lost is opened again and again, with growing, capped and jittered delays. Each trouble is
    told once until there is a frame again.

    With triggers, only the first frame at or after each is captured, and up to `MOST_PARTS` of a camera's wait.

    Args:
        source: opened, read and closed in the thread only.
        changed: shared with whoever takes frames; notified when a frame or the end has come.
        every: take every N-th frame; those between are not captured.
        read_ahead: frames of a file that wait decoded at most.
        give_up_s: a camera that was lost for longer is lost for good; None tries for ever.
        trigger_wait_s: frames are captured when triggered alone, and a trigger waits so long for its frame; None
            captures all.
        patient: a camera, or a watched folder, that is not there at the start is waited for, too: as after a boot.
        on_event: told of what befalls the source.

    Attributes:
        captured, dropped, failed: frames; captured ones are among them that could not be read, and so failed.
        reconnects: how often a lost source gave frames again.
        connected: it is open, or a file.
        was_lost: it was away once, at the start or since.
        triggers, missed: triggers that came, and those for which there was no frame.
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
        give_up_s: float | None = None,
        trigger_wait_s: float | None = None,
        patient: bool = False,
        on_event: OnEvent = nobody,
    ) -> None:
        self.source = source
        self.captured = self.dropped = self.failed = 0
        self.reconnects = self.triggers = self.missed = 0
        self.connected = self.was_lost = False
        self.ended = False
        self.error: BaseException | None = None
        self.first_failure: InputError | None = None
        self._changed = changed
        self._every = every
        self._give_up_s = give_up_s
        self._patient = patient
        self._queue = None if trigger_wait_s is None else TriggerQueue(trigger_wait_s)
        self._most = read_ahead
        if source.live:
            self._most = 1 if self._queue is None else MOST_PARTS
        self._on_event = on_event
        self._waiting: deque[Taken] = deque()
        self._waiting_since = 0
        self._stop = threading.Event()
        self._delay_s = FIRST_DELAY_S
        self._lost_at: float | None = None
        self._troubles: set[str] = set()
        self._tries = 0
        self._gave_frames = False
        self._good_since = 0.0
        self._frame_at: float | None = None
        self._gap_from = 0.0
        self._missed_number = -1
        self._told_at = self._failure_told_at = float("-inf")
        # A daemon, because a camera's driver may never come back from a read; `close` waits for it all the same.
        self._thread = threading.Thread(target=self._run, name=f"read {source.name}", daemon=True)

    @property
    def waiting(self) -> int:
        """How many frames can be taken; hold `changed`."""
        return len(self._waiting)

    @property
    def triggered(self) -> bool:
        """Whether frames are captured on triggers alone."""
        return self._queue is not None

    @property
    def awaited(self) -> bool:
        """Whether a trigger waits for its frame."""
        return self._queue is not None and len(self._queue) > 0

    @property
    def may_bring_more(self) -> bool:
        """Whether more frames are to be expected before one is taken; hold `changed`.

        Not of a source that is lost: others would wait for it, for as long as it takes.
        """
        return self.connected and not self.ended and len(self._waiting) < self._most

    @property
    def oldest_ns(self) -> int:
        """Since when a frame waits (`time.monotonic_ns`), though a newer one may have taken its place; hold `changed`."""
        return self._waiting_since

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def take(self) -> Taken:
        """The frame that waits for longest; hold `changed`."""
        taken = self._waiting.popleft()
        if self._waiting:
            self._waiting_since = self._waiting[0].handed_ns
        if not self.source.live:
            self.captured += 1
            self._changed.notify_all()
        return taken

    def trigger(self, part: str | None, at_ns: int) -> None:
        """Have the first frame captured at or after a time taken.

        Args:
            part: the part's id.
            at_ns: `time.monotonic_ns`.
        """
        assert self._queue is not None, "a reader without triggers is given none"
        new = Pending(part, at_ns)
        with self._changed:
            self.triggers += 1
            over = self._stop.is_set()
            gone = new if over else self._queue.add(new)
            self._changed.notify_all()
        if gone is not None:
            self._miss(gone, THE_END if over else "too many triggers at once")

    def miss_frame(self, number: int, part: str | None, why: str) -> None:
        """Tell that a part's frame has no verdict, once for all of its regions; nothing without triggers."""
        if self._queue is not None and number != self._missed_number:
            self._missed_number = number
            self._miss(Pending(part, 0), why)

    def expire_triggers(self) -> None:
        """Give up the triggers that waited for a frame for too long."""
        if self._queue is None:
            return
        with self._changed:
            gone = self._queue.expire()
        for pending in gone:
            self._miss(pending, "no frame came")

    def request_stop(self) -> None:
        """Ask the thread to end, without waiting for it; what waits is dropped."""
        self._stop.set()
        self.source.interrupt()
        gone: list[Pending] = []
        with self._changed:
            if self._queue is not None:
                gone = [Pending(taken.part, taken.handed_ns) for taken in self._waiting] + self._queue.clear()
            if self.source.live:
                self.dropped += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for pending in gone:
            self._miss(pending, THE_END)

    def close(self, timeout_s: float = LONGEST_CLOSE_S) -> None:
        """End the thread and drop what waited; longer than that time it is not waited for."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

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
            if not self._await_trigger():
                return
            try:
                frame = self._guarded(self.source.read)
            except SourceLostError as error:
                if self._stop.is_set():
                    return
                if not self.source.lasting:
                    raise
                self._lose()
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
            if self._queue is None:
                self._count_lost(frame)
            if frame.number % self._every == 0:
                self._offer(frame)

    def _guarded(self, call: Callable[[], _T]) -> _T:
        """Call a source. What a library raises of itself loses a camera, as it does in a process of its own: opened anew it
        may give frames again, and other cameras go on.

        Raises:
            SourceLostError: of a source that comes back, for whatever was no error of ours. What the library said is not
                repeated: it may hold a password.
        """
        try:
            return call()
        except AgpEdgeError:
            raise
        except Exception as error:
            if not self.source.lasting:
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise SourceLostError(
                f"{self.source.name} broke off: {type(error).__name__} in {Path(where.filename).name}, line {where.lineno}",
                "it is opened anew; if it comes again, report this line",
            ) from error

    def _await_trigger(self) -> bool:
        """Before a file's next frame: wait for a trigger, if frames are taken on triggers; False if told to stop."""
        if self.source.live or self._queue is None:
            return True
        queue = self._queue
        with self._changed:
            self._changed.wait_for(lambda: len(queue) or self._stop.is_set())
        return not self._stop.is_set()

    def _lose(self) -> None:
        """Note when the source was lost first, and give it up for good if that is too long ago."""
        now = time.monotonic()
        self.was_lost = True
        if self._lost_at is None:
            self._lost_at = now
            # The gap begins at the last frame: a time-out says seconds later that there are none.
            self._gap_from = now if self._frame_at is None else self._frame_at
        if self._give_up_s is not None and now - self._lost_at > self._give_up_s:
            raise SourceLostError(
                f"{self.source.name} gave no frame for {now - self._lost_at:.0f} s",
                "see that it is on and reachable; without --give-up it is tried again for ever",
            )

    def _connect(self, *, first: bool) -> bool:
        """Open the source, however long it takes; False if told to stop meanwhile."""
        if not first and self._pause():
            return False
        while not self._stop.is_set():
            try:
                self._guarded(self.source.open)
                self._set_connected(True)
                return True
            except AgpEdgeError as error:
                if self._stop.is_set():
                    return False
                # What is wrong at the start is a mistake of the command; later it is a cable.
                mistaken = first and not self._patient and not isinstance(error, SourceLostError)
                if not self.source.lasting or mistaken or isinstance(error, MissingExtraError):
                    raise
                self._lose()
                self._tell_trouble(error)
                if self._pause():
                    return False
        return False

    def _set_connected(self, connected: bool) -> None:
        with self._changed:
            self.connected = connected
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
            # Bounded: an error that says something else each time is no reason to remember all of it.
            if len(self._troubles) >= MOST_TROUBLES:
                self._troubles.clear()
            self._troubles.add(error.what)
            until = "for ever, Ctrl-C ends it" if self._give_up_s is None else f"for {self._give_up_s:g} s"
            text = f"{error.what}: {error.hint}; it is tried again {until}"
        elif now - self._told_at >= REMIND_S:
            text = f"{error.what}: still trying, {self._tries} tries"
        else:
            return
        self._told_at = now
        self._on_event(Event("source-lost", text, self.source.name, "error", data={"tries": self._tries}))

    def _found_again(self) -> None:
        # Only a frame proves that a source is back: a server may accept and then send nothing. And one frame is no recovery:
        # a camera that gives some and goes, over and over, is asked less and less often.
        now = time.monotonic()
        if self._lost_at is not None or not self._gave_frames:
            self._good_since = now
        self._frame_at = now
        if now - self._good_since >= self._delay_s:
            self._delay_s = FIRST_DELAY_S
        self._troubles.clear()
        self._tries = 0
        if self._lost_at is not None:
            gap, self._lost_at = now - self._gap_from, None
            text = f"{self.source.name} gives frames after {gap:.1f} s"
            if self._gave_frames:
                text = f"{self.source.name} is back after {gap:.1f} s"
                with self._changed:
                    self.reconnects += 1
            self._on_event(
                Event("source-back", text, self.source.name, "info", data={"gap_s": round(gap, 3)})
            )
        self._gave_frames = True

    def _fail(self, error: InputError) -> None:
        self.first_failure = self.first_failure or error
        with self._changed:
            self.captured += 1
        self.failed += 1
        now = time.monotonic()
        # A camera that sends rubbish would fill the disk with what is said of it; of files each one is told.
        if self.source.live and now - self._failure_told_at < FAILURE_TOLD_S:
            return
        self._failure_told_at = now
        self._on_event(Event("frame-failed", error.what, self.source.name, data={"failed": self.failed}))

    def _miss(self, pending: Pending, why: str) -> None:
        with self._changed:
            self.missed += 1
        name = "a trigger" if pending.part is None else f"part {pending.part}"
        text = f"{name} has no verdict of {self.source.name}: {why}"
        self._on_event(Event("trigger-missed", text, self.source.name, "error", data={"part": pending.part}))

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
        given_way: list[Taken] = []
        with self._changed:
            if self._stop.is_set():
                return
            part = None
            if self._queue is not None:
                # A file's frame is for the trigger that it waited for, whenever it was recorded.
                pending = self._queue.match(frame.captured_ns if self.source.live else time.monotonic_ns())
                if pending is None:
                    return
                part = pending.part
            if self.source.live:
                self.captured += 1
            else:
                self._changed.wait_for(lambda: len(self._waiting) < self._most or self._stop.is_set())
            now = time.monotonic_ns()
            while self.source.live and len(self._waiting) >= self._most:
                given_way.append(self._waiting.popleft())
            if not self._waiting and not given_way:
                self._waiting_since = now
            elif self._waiting:
                self._waiting_since = self._waiting[0].handed_ns
            self.dropped += len(given_way)
            if self._stop.is_set() and not self.source.live:  # There was no room until the end.
                given_way.append(Taken(frame, now, part))
            else:
                self._waiting.append(Taken(frame, now, part))
            self._changed.notify_all()
        why = THE_END if self._stop.is_set() else "more parts came than the engine judges"
        for taken in given_way if self._queue is not None else ():
            self._miss(Pending(taken.part, taken.handed_ns), why)
