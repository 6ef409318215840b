"""The loop that brings frames to the engine and verdicts to the sinks.

For every source, always: captured = judged + dropped + failed.

While the engine computes, the frames of files are brought ahead, and what it said before is judged. A camera's frame is
taken when everything is free for it and not before: whatever waits in a queue gets old.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.control import Control, StreamStatus
from agp_edge.errors import AgpEdgeError, InputError
from agp_edge.events import Event, OnEvent, nobody
from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.machine import describe_machine
from agp_edge.progress import Progress, silent
from agp_edge.scene import SceneReference
from agp_edge.sinks import Judgement, Sink
from agp_edge.sinks.runner import SinkRunner
from agp_edge.sources.base import Source
from agp_edge.sources.reader import LONGEST_CLOSE_S, READ_AHEAD, THE_END, Reader
from agp_edge.stream.batch import Batch, Item, judge_batch
from agp_edge.stream.control import StreamControl
from agp_edge.stream.engine_change import EngineChange, as_ours
from agp_edge.stream.feed import Feed, View, check_feeds
from agp_edge.stream.watching import ClockWatch, Health

PROGRESS_INTERVAL_S = 0.1
LOOK_INTERVAL_S = 0.2
"""How often the loop looks whether it is to stop, and at what goes on beside the frames."""

BATCH_WAIT_MS = 5.0
"""How long a frame waits for others to share a batch with: cameras of one trigger are apart by less."""
LONGEST_BATCH_WAIT_MS = 1000.0

HEALTHY_WITHIN_S = 30.0
"""Without a verdict for longer a stream is not healthy."""

DRAIN_S = 1.0
"""How long sinks of a live stream may take to write what waits when it ends."""


def check_batch_wait(ms: float) -> None:
    """Refuse a time that no frame may wait for others.

    Raises:
        InputError: it is negative, or too long.
    """
    if not 0 <= ms <= LONGEST_BATCH_WAIT_MS:
        raise InputError(
            f"--batch-wait {ms:g} is no time that a frame may wait",
            f"give milliseconds from 0 to {LONGEST_BATCH_WAIT_MS:g}",
        )


class Stream:
    """Judges the frames of sources until they end, or until it is told to stop.

    The engine runs in the thread that calls `run`; every source and every sink has a thread of its own.

    Args:
        sources: constructed, not opened; the stream opens and closes them. A `Feed` says what of its frames is looked at.
        engine: stays the caller's to close; one that takes its place while the stream runs is the stream's.
        sinks: get every verdict, in order; the stream closes them.
        every: judge every N-th frame of a source.
        frames: stop after so many verdicts.
        batch_wait_ms: how long a frame waits for others, where the engine takes several at once.
        min_area: pixels; a region below it makes no frame NG.
        trigger_wait_s: judge triggered frames alone, and let a trigger wait so long for its frame; None judges all.
        give_up_s: a camera that was lost for longer ends the stream; None tries for ever.
        patient: a camera that is not there at the start is waited for as one that was lost.
        healthy_within_s: without a verdict for longer it is not healthy.
        open_engine: opens an engine that takes over, as the first one was opened: run alike, its threshold chosen alike.
        on_event: told of what befalls it; called from any of its threads.
        on_turn: called by the loop several times a second, as long as it turns.

    Attributes:
        control: the one way in while it runs.

    Raises:
        InputError: no source, the same one twice, or a number below 1.
    """

    def __init__(
        self,
        sources: Sequence[Source | Feed],
        engine: JudgingEngine,
        sinks: Sequence[Sink] = (),
        *,
        every: int = 1,
        frames: int | None = None,
        batch_wait_ms: float = BATCH_WAIT_MS,
        min_area: int = 0,
        trigger_wait_s: float | None = None,
        give_up_s: float | None = None,
        patient: bool = False,
        healthy_within_s: float = HEALTHY_WITHIN_S,
        open_engine: Callable[[Path], JudgingEngine] = open_judging_engine,
        on_event: OnEvent = nobody,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        feeds = [source if isinstance(source, Feed) else Feed(source) for source in sources]
        check_feeds(feeds)
        for value, flag in ((every, "--every"), (frames, "--frames")):
            if value is not None and value < 1:
                raise InputError(f"{flag} {value} is no number of frames", "give 1 or more")
        check_batch_wait(batch_wait_ms)
        self._engine = self._first_engine = engine
        self._frames = frames
        self._batch_wait_ns = int(batch_wait_ms * 1e6)
        self._min_area = min_area
        self._open_engine = open_engine
        self._listener = on_event
        self._on_turn = on_turn
        self._stopping = False
        self._changed = threading.Condition()
        self._live = any(feed.source.live for feed in feeds)
        endless = any(feed.source.lasting for feed in feeds)
        self._runners = [
            SinkRunner(
                sink,
                live=self._live,
                endless=endless,
                on_event=self.tell,
                stopping=lambda: self._stopping,
            )
            for sink in sinks
        ]
        self._readers: list[Reader] = []
        self._views: dict[Reader, list[View]] = {}
        spec = engine.session.frame
        scene = _scene_of(engine)
        for feed in feeds:
            reader = Reader(
                feed.source,
                self._changed,
                every=every,
                read_ahead=max(READ_AHEAD, spec.batch),
                give_up_s=give_up_s,
                patient=patient,
                trigger_wait_s=trigger_wait_s,
                on_event=self.tell,
            )
            self._readers.append(reader)
            self._views[reader] = [
                View(reader, roi, feed.mask_of(roi, spec), scene, self.tell) for roi in feed.rois or (None,)
            ]
        self._use_slots(engine)
        self._machine = describe_machine()
        self._under_way: deque[Batch] = deque()
        self._pending: deque[Item] = deque()
        self._refused: InputError | None = None
        self._taken = 0
        self._turn = 0
        self._started = self._ended = time.monotonic()
        self._shown = self._looked = 0.0
        self._last = ""
        self._verdicts_of: Counter[str] = Counter()
        self._change: EngineChange | None = None
        self._before: JudgingEngine | None = None
        self._clock = ClockWatch(self.tell)
        self._health = Health(healthy_within_s)
        self._missed_before = 0
        self._control = StreamControl(engine, self._readers, self._status, self.tell)

    @property
    def control(self) -> Control:
        """The one way in while it runs; safe from any thread."""
        return self._control

    @property
    def judged(self) -> int:
        """Verdicts so far, of all sources."""
        return sum(view.judged for view in self._all_views())

    def stop(self) -> None:
        """Finish the frame at hand and end `run`; may be called from any thread or a signal handler."""
        # No lock: a signal handler runs inside the very thread that may hold it. The loop looks several times a second.
        self._stopping = True

    def run(self, progress: Progress = silent) -> None:
        """Judge until every source has ended, `frames` is reached or `stop` is called.

        Raises:
            InputError: a source does not exist or gave nothing that could be judged; a frame of another size.
            SourceLostError: a source that is no camera broke off, or a camera was lost for too long.
            DiskFullError: a sink of a stream of files found no space; what was written before is whole.
        """
        self._started = self._ended = self._shown = time.monotonic()
        try:
            for runner in self._runners:
                runner.sink.attach(self.control)
                runner.start()
            for reader in self._readers:
                reader.start()
            while not self._stopping and not self._refused and not self._done():
                self._look()
                self._advance()
                self._show(progress)
            if self._stopping:
                self.tell(Event("stopping", "told to stop: what is in the engine is finished", level="info"))
            while self._under_way:
                self._finish()
            if self._refused is not None:
                raise self._refused
        finally:
            self._close()
        self._show(progress, last=True)
        self._raise_reader_errors()
        self._raise_if_nothing_was_read()

    def summary(self) -> dict[str, Any]:
        """What happened: per source the counts and latency percentiles; `elapsed_ms` is the time of `run`.

        `runtime` is that of the session, `machine` is the machine, as they were when the stream was made.
        """
        return {
            "engine": self._engine.id,
            "engines": dict(self._verdicts_of),
            "accepted": self._engine.accepted,
            "threshold": self._control.judge.threshold,
            "provisional": self._control.judge.provisional,
            "runtime": self._runtime,
            "machine": self._machine,
            "elapsed_ms": round((self._ended - self._started) * 1000, 3),
            "sources": [view.summary() for view in self._all_views()],
            "sinks": [runner.status() for runner in self._runners],
        }

    def _status(self) -> StreamStatus:
        judge = self._control.judge
        conformal = judge.conformal
        rate = conformal.false_reject_rate if conformal and conformal.value == judge.threshold else None
        missed = sum(reader.missed for reader in self._readers)
        # Parts that came and got no verdict are no idleness.
        idle = self._readers[0].triggered and missed == self._missed_before
        idle = idle and not any(reader.awaited for reader in self._readers)
        healthy, reason = self._health.state(idle, [r.source.name for r in self._readers if not r.connected])
        since = self._health.since_verdict_s
        return {
            "healthy": healthy,
            "reason": reason,
            "uptime_s": round(self._health.uptime_s, 3),
            "since_verdict_s": None if since is None else round(since, 3),
            "engine": self._engine.id,
            "threshold": judge.threshold,
            "false_reject_rate": rate,
            "rates": judge.rates,
            "provisional": judge.provisional,
            "sources": [view.status() for view in self._all_views()],
            "sinks": [runner.status() for runner in self._runners],
            "waits_for_trigger": self._readers[0].triggered,
            "triggers": sum(reader.triggers for reader in self._readers),
            "triggers_missed": missed,
        }

    def _all_views(self) -> list[View]:
        return [view for reader in self._readers for view in self._views[reader]]

    def tell(self, event: Event) -> None:
        """Have an event told to the listener and to the sinks, as from what brings triggers; from any thread."""
        self._listener(event)
        for runner in self._runners:
            runner.event(event)

    def _use_slots(self, engine: JudgingEngine) -> None:
        self._free = deque(engine.session.slots)
        self._runtime = engine.session.runtime
        # One slot is that of the batch whose verdicts are given.
        self._most_under_way = 1 if self._live else max(1, len(self._free) - 1)

    def _done(self) -> bool:
        if self._under_way:
            return False
        if self._frames is not None and self.judged >= self._frames:
            return True
        if self._pending:
            return False
        with self._changed:
            # What a source gave before it broke off is judged.
            broken = any(reader.error and not reader.waiting for reader in self._readers)
            return broken or all(reader.ended and not reader.waiting for reader in self._readers)

    def _look(self) -> None:
        """Now and then: at triggers, the clock, and another engine."""
        now = time.monotonic()
        if now - self._looked < LOOK_INTERVAL_S:
            return
        self._looked = now
        self._on_turn()
        self._clock.look()
        for reader in self._readers:
            reader.expire_triggers()
        if self._control.wanted is not None and self._change is None:
            path, self._control.wanted = self._control.wanted, None
            self._change = EngineChange(lambda: self._open_engine(path), self._engine)
        if self._change is not None and self._change.ready:
            self._take_over(self._change)

    def _take_over(self, change: EngineChange) -> None:
        """Let another engine judge from the next frame on, if it may."""
        while self._under_way:
            # Nothing new is brought: of files there is always more, and this would have no end.
            self._finish(ahead=False)
        self._change = None
        engine, error = change.engine, change.error
        judge_before = self._control.judge
        if engine is not None:
            try:
                engine = replace(engine, judge=self._control.take_over(engine))
            except InputError as refusal:
                engine.close()
                engine, error = None, refusal
        if engine is None:
            assert error is not None
            self._refuse_engine(error)
            return
        if self._before is None:
            self._before, self._judge_before = self._engine, judge_before
        else:
            # The one that judged since has given no verdict: nothing is known of it, and the one before it stays.
            self._engine.close()
        self._engine = engine
        self._use_slots(engine)

    def _refuse_engine(self, error: AgpEdgeError) -> None:
        text = f"the engine does not change, {self._engine.id} judges on: {error.what}: {error.hint}"
        self.tell(Event("engine-refused", text, level="error"))

    def _keep_engine(self) -> None:
        """The new engine has given its first verdicts: the one before it is not needed any more."""
        assert self._before is not None
        before, self._before = self._before, None
        before.close()
        for view in self._all_views():
            view.hold_against(_scene_of(self._engine))
        text = f"engine {self._engine.id} judges now, threshold {self._control.judge.threshold:.6g}; it was {before.id}"
        data = {"before": before.id, "now": self._engine.id}
        self.tell(Event("engine-changed", text, level="info", data=data))

    def _fall_back(self, error: Exception, items: list[Item]) -> None:
        """Let the engine before judge again, the frames on which the new one failed too."""
        assert self._before is not None
        failed, self._engine, self._before = self._engine, self._before, None
        self._control.give_back(self._judge_before)
        self._use_slots(self._engine)
        self._pending.extendleft(reversed(items))
        self._taken -= len(items)
        failed.close()
        self._refuse_engine(error if isinstance(error, AgpEdgeError) else as_ours(error))

    def _advance(self) -> None:
        """Bring frames to the engine, or finish a batch if it has enough to do."""
        most = 1 if self._before is not None else self._most_under_way
        if len(self._under_way) < most and self._bring(wait=not self._under_way):
            return
        if self._under_way:
            self._finish()

    def _bring(self, *, wait: bool) -> bool:
        """Send frames on their way, if there are any and a slot is free; whether it did."""
        taken = self._take(wait=wait) if self._free else []
        if not taken:
            return False
        begin = time.monotonic_ns()
        items, pixels = [], []
        try:
            for item in taken:
                seen = item.view.fit(item.frame, self._engine.session.frame, begin / 1e9)
                if seen is not None:
                    items.append(item)
                    pixels.append(seen)
                else:
                    item.view.reader.miss_frame(item.frame.number, item.part, "its frame cannot be judged")
            self._taken -= len(taken) - len(items)  # The others get no verdict.
            if not items:
                return True
            self._free[0].submit(pixels)
        except InputError as error:
            # It ends the stream, but not before those are judged that are under way.
            self._refused = error
            self._miss(taken, error.what)
            return False
        except Exception as error:
            if self._before is None:
                self._miss(taken, "the engine failed")
                raise
            self._fall_back(error, items)
            return True
        self._under_way.append(Batch(self._free.popleft(), items, pixels, begin, time.monotonic_ns()))
        return True

    def _finish(self, *, ahead: bool = True) -> None:
        """Wait for the oldest batch, judge it, and give the verdicts to the sinks.

        Args:
            ahead: bring the next frames of files meanwhile.
        """
        batch = self._under_way.popleft()
        judgements = None
        try:
            scores = batch.slot.wait()
            computed = time.monotonic_ns()
            if self._before is not None:
                judgements = self._judge(batch, scores, computed)
        except Exception as error:
            if self._before is None:
                self._miss(batch.items, "the engine failed")
                raise
            self._fall_back(error, batch.items)
            return
        failure: AgpEdgeError | None = None
        ahead = ahead and not self._live and not self._stopping and not self._refused
        if ahead and self._before is None:
            # The engine is free: whatever follows costs it nothing. A camera's frame would get old meanwhile.
            try:
                self._bring(wait=False)
            except AgpEdgeError as error:
                failure = error
        judgements = judgements or self._judge(batch, scores, computed)
        for item, judgement in zip(batch.items, judgements, strict=True):
            item.view.record(judgement)
            self._verdicts_of[judgement.engine] += 1
            self._health.verdict()
            self._missed_before = sum(reader.missed for reader in self._readers)
            self._last = f"{judgement.verdict} {judgement.score:.3g}"
            for runner in self._runners:
                runner.offer(judgement)
        for item, pixels in zip(batch.items, batch.pixels, strict=True):
            # After all verdicts are on their way: of a large picture it takes milliseconds.
            item.view.watch(pixels, item.frame.captured_ns)
        if failure is not None:
            raise failure
        self._free.append(batch.slot)
        if self._before is not None:
            self._keep_engine()

    def _take(self, *, wait: bool) -> list[Item]:
        """Frames that wait, at most a batch of them, each source in its turn.

        Args:
            wait: for a little until there is one; else only what is there.
        """
        limit = self._engine.session.frame.batch
        if self._frames is not None:
            limit = min(limit, self._frames - self._taken)
        taken: list[Item] = []
        while self._pending and len(taken) < limit:
            taken.append(self._pending.popleft())
        with self._changed:
            if wait and not taken:
                self._changed.wait_for(self._something_new, timeout=LOOK_INTERVAL_S)
                while (left_ns := self._wait_for_more_ns(limit)) > 0:
                    self._changed.wait(left_ns / 1e9)
            elif not taken and self._wait_for_more_ns(limit) > 0:
                return []
            passed_by = 0
            while len(taken) < limit and passed_by < len(self._readers):
                reader = self._readers[self._turn % len(self._readers)]
                self._turn += 1
                passed_by += 1
                if reader.waiting:
                    new = reader.take()
                    items = [Item(v, new.frame, new.handed_ns, new.part) for v in self._views[reader]]
                    room = limit - len(taken)
                    taken += items[:room]
                    # Regions of one frame that find no room in this batch are the first of the next one.
                    self._pending.extend(items[room:])
                    passed_by = 0
            self._taken += len(taken)
        return taken

    def _wait_for_more_ns(self, limit: int) -> int:
        """How long the frames that are here may still wait for others that would fit into their batch; 0 if not at all."""
        here = sum(reader.waiting * len(self._views[reader]) for reader in self._readers)
        if not 0 < here < limit or self._stopping or not any(r.may_bring_more for r in self._readers):
            return 0
        oldest = min(reader.oldest_ns for reader in self._readers if reader.waiting)
        return max(0, oldest + self._batch_wait_ns - time.monotonic_ns())

    def _something_new(self) -> bool:
        readers = self._readers
        return any(r.waiting or r.error for r in readers) or all(r.ended for r in readers)

    def _judge(self, batch: Batch, scores: NDArray[np.float32], computed: int) -> list[Judgement]:
        wanted = any(runner.sink.wants == "pictures" for runner in self._runners)
        return judge_batch(
            batch,
            scores,
            computed,
            self._engine,
            self._control.judge,
            min_area=self._min_area,
            all_maps=wanted,
        )

    def _miss(self, items: Iterable[Item], why: str) -> None:
        """Tell that the parts of triggered frames have no verdict."""
        for item in items:
            item.view.reader.miss_frame(item.frame.number, item.part, why)

    def _close(self) -> None:
        for batch in self._under_way:
            self._miss(batch.items, THE_END)
        self._miss(self._pending, THE_END)
        self._under_way.clear()
        self._pending.clear()
        for reader in self._readers:
            reader.request_stop()
        for runner in self._runners:
            runner.request_close()
        # One time for all, sources and sinks: those that hang do so side by side.
        now = time.monotonic()
        until, drained = now + LONGEST_CLOSE_S, now + DRAIN_S if self._live else None
        for reader in self._readers:
            reader.close(max(0.0, until - time.monotonic()))
        self._ended = time.monotonic()
        failure: BaseException | None = None
        for runner in self._runners:
            try:
                runner.close(drained)
            except Exception as error:
                failure = failure or error
        if self._change is not None:
            self._change.close(max(0.0, until - time.monotonic()))
        if self._before is not None:
            self._before.close()
        if self._engine.session is not self._first_engine.session:
            self._engine.close()
        if failure is not None:
            raise failure

    def _show(self, progress: Progress, *, last: bool = False) -> None:
        now = time.monotonic()
        if now - self._shown < PROGRESS_INTERVAL_S and not last:
            return
        self._shown = now
        judged = self.judged
        ng = sum(view.ng for view in self._all_views())
        dropped = sum(reader.dropped for reader in self._readers)
        rate = judged / max(now - self._started, 1e-9)
        text = "judged, no verdict yet"
        if self._last:
            text = f"judged, last {self._last}, {ng} NG, {dropped} dropped, {rate:.1f} frames/s"
        progress(judged, self._frames or 0, text)

    def _raise_reader_errors(self) -> None:
        for reader in self._readers:
            if reader.error is not None:
                raise reader.error

    def _raise_if_nothing_was_read(self) -> None:
        """A file or folder without one frame that could be read is bad input, though other sources went well."""
        if self._stopping:
            return
        for reader in self._readers:
            if reader.source.live or not reader.ended or any(view.judged for view in self._views[reader]):
                continue
            if reader.first_failure is not None:
                raise reader.first_failure
            if reader.captured == 0 and (self._frames is None or self.judged < self._frames):
                raise InputError(
                    f"{reader.source.name} gave no frame",
                    "see that the file is whole, as with: ffprobe FILE",
                )


def _scene_of(engine: JudgingEngine) -> SceneReference | None:
    """What good frames are like, as far as somebody measured them."""
    return None if engine.sidecar is None else engine.sidecar.scene
