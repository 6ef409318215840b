"""Sources -> newest frame -> engine -> verdict -> sinks: owns the threads and the counts.

For every source, always: captured = judged + dropped + failed.

While the engine computes, the frames of files are brought ahead, and what it said before is written. A camera's frame is
taken when everything is free for it and not before: whatever waits in a queue gets old.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.engines.slots import Slot
from agp_edge.errors import AgpEdgeError, InputError
from agp_edge.judging import JudgingEngine
from agp_edge.latency import LatencyRecorder
from agp_edge.machine import describe_machine
from agp_edge.progress import Progress, silent
from agp_edge.sinks import Judgement, Sink
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.conform import conform
from agp_edge.sources.reader import LONGEST_CLOSE_S, READ_AHEAD, Reader
from agp_edge.verdict import find_regions

STAGES = ("capture", "queue", "transfer", "compute", "post", "total")
"""Parts of a latency: from capture to hand-over (decoding); waiting; into the engine's input; the network; verdict
and regions. Sinks are not in it."""

PROGRESS_INTERVAL_S = 0.1
BATCH_WAIT_MS = 5.0
"""How long a frame waits for others to share a batch with: cameras of one trigger are apart by less."""
LONGEST_BATCH_WAIT_MS = 1000.0


class _Line:
    """One source on its way through the stream: its reader, and what became of the frames taken from it."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.judged = self.ng = 0
        self.latency = {stage: LatencyRecorder() for stage in STAGES}

    def summary(self) -> dict[str, Any]:
        reader = self.reader
        return {
            "source": reader.source.name,
            "captured": reader.captured,
            "judged": self.judged,
            "dropped": reader.dropped,
            # What was captured and has no verdict failed, wherever it was when that ended.
            "failed": reader.captured - reader.dropped - self.judged,
            "reconnects": reader.reconnects,
            "ok": self.judged - self.ng,
            "ng": self.ng,
            "latency_ms": {stage: dict(recorder.summary()) for stage, recorder in self.latency.items()},
        }


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


@dataclass(frozen=True)
class _Batch:
    """Frames on their way through the engine.

    Attributes:
        slot: where.
        taken: each frame with its line and when it was handed over.
        pixels: what the engine sees of each.
        begin, ready: when they were taken, and when the engine had them.
    """

    slot: Slot
    taken: list[tuple[_Line, Frame, int]]
    pixels: list[NDArray[np.uint8]]
    begin: int
    ready: int


class Stream:
    """Judges the frames of sources until they end, or until it is told to stop.

    The engine runs in the thread that calls `run`; every source has a thread of its own.

    Args:
        sources: constructed, not opened; the stream opens and closes them.
        engine: stays the caller's to close.
        sinks: get every verdict, in order; the stream closes them.
        every: judge every N-th frame of a source.
        frames: stop after so many verdicts.
        batch_wait_ms: how long a frame waits for others, where the engine takes several at once.
        on_event: told in one line of what befalls a source; called from its thread.

    Raises:
        InputError: no source, the same one twice, or a number below 1.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        engine: JudgingEngine,
        sinks: Sequence[Sink] = (),
        *,
        every: int = 1,
        frames: int | None = None,
        batch_wait_ms: float = BATCH_WAIT_MS,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        names = [source.name for source in sources]
        if not names:
            raise InputError("the stream has no source", "give --camera 0 or --source URI")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"source {twice[0]} was given twice", "give each source once")
        for value, flag in ((every, "--every"), (frames, "--frames")):
            if value is not None and value < 1:
                raise InputError(f"{flag} {value} is no number of frames", "give 1 or more")
        check_batch_wait(batch_wait_ms)
        self._engine = engine
        self._sinks = list(sinks)
        self._frames = frames
        self._batch_wait_ns = int(batch_wait_ms * 1e6)
        self._stopping = False
        self._changed = threading.Condition()
        ahead = max(READ_AHEAD, engine.session.frame.batch)
        self._lines = [
            _Line(Reader(s, self._changed, every=every, read_ahead=ahead, on_event=on_event)) for s in sources
        ]
        self._free = deque(engine.session.slots)
        self._runtime = engine.session.runtime
        self._machine = describe_machine()
        self._under_way: deque[_Batch] = deque()
        self._refused: InputError | None = None
        self._taken = 0
        # One slot is that of the batch whose verdicts are written.
        self._live = any(source.live for source in sources)
        self._most_under_way = 1 if self._live else max(1, len(self._free) - 1)
        self._all_maps = any(sink.wants == "pictures" for sink in self._sinks)
        self._turn = 0
        self._started = self._ended = time.monotonic()
        self._shown = 0.0
        self._last = ""

    @property
    def judged(self) -> int:
        """Verdicts so far, of all sources."""
        return sum(line.judged for line in self._lines)

    def stop(self) -> None:
        """Finish the frame at hand and end `run`; may be called from any thread or a signal handler."""
        # No lock: a signal handler runs inside the very thread that may hold it. The loop looks twice a second.
        self._stopping = True

    def run(self, progress: Progress = silent) -> None:
        """Judge until every source has ended, `frames` is reached or `stop` is called.

        Raises:
            InputError: a source does not exist or gave nothing that could be judged; a frame of another size.
            SourceLostError: a source that is no camera broke off.
            DiskFullError: a sink found no space; what was written before is whole.
        """
        self._started = self._ended = self._shown = time.monotonic()
        try:
            for line in self._lines:
                line.reader.start()
            while not self._stopping and not self._refused and not self._done():
                self._advance()
                self._show(progress)
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
            "accepted": self._engine.accepted,
            "threshold": self._engine.judge.threshold,
            "provisional": self._engine.judge.provisional,
            "runtime": self._runtime,
            "machine": self._machine,
            "elapsed_ms": round((self._ended - self._started) * 1000, 3),
            "sources": [line.summary() for line in self._lines],
        }

    def _done(self) -> bool:
        if self._under_way:
            return False
        if self._frames is not None and self.judged >= self._frames:
            return True
        with self._changed:
            readers = [line.reader for line in self._lines]
            # What a source gave before it broke off is judged.
            broken = any(reader.error and not reader.waiting for reader in readers)
            return broken or all(reader.ended and not reader.waiting for reader in readers)

    def _advance(self) -> None:
        """Bring frames to the engine, or finish a batch if it has enough to do."""
        if len(self._under_way) < self._most_under_way and self._bring(wait=not self._under_way):
            return
        if self._under_way:
            self._finish()

    def _bring(self, *, wait: bool) -> bool:
        """Send frames on their way, if there are any and a slot is free; whether it did."""
        taken = self._take(wait=wait) if self._free else []
        if not taken:
            return False
        begin = time.monotonic_ns()
        try:
            pixels = [
                conform(frame.pixels, self._engine.session.frame, frame.source) for _, frame, _ in taken
            ]
            self._free[0].submit(pixels)
        except InputError as error:
            # It ends the stream, but not before those are judged that are under way.
            self._refused = error
            return False
        self._under_way.append(_Batch(self._free.popleft(), taken, pixels, begin, time.monotonic_ns()))
        return True

    def _finish(self) -> None:
        """Wait for the oldest batch, judge it, and give the verdicts to the sinks."""
        batch = self._under_way.popleft()
        scores = batch.slot.wait()
        computed = time.monotonic_ns()
        failure: AgpEdgeError | None = None
        if not self._live and not self._stopping and not self._refused:
            # The engine is free: whatever follows costs it nothing. A camera's frame would get old meanwhile.
            try:
                self._bring(wait=False)
            except AgpEdgeError as error:
                failure = error
        for (line, _, _), judgement in zip(batch.taken, self._judge(batch, scores, computed), strict=True):
            line.judged += 1
            line.ng += judgement.verdict == "NG"
            for stage, value in judgement.latency_ms.items():
                line.latency[stage].record(value)
            self._last = f"{judgement.verdict} {judgement.score:.3g}"
            for sink in self._sinks:
                sink.write(judgement)
        if failure is not None:
            raise failure
        self._free.append(batch.slot)

    def _take(self, *, wait: bool) -> list[tuple[_Line, Frame, int]]:
        """Frames that wait, at most a batch of them, each source in its turn.

        Args:
            wait: for up to half a second until there is one; else only what is there.
        """
        limit = self._engine.session.frame.batch
        if self._frames is not None:
            limit = min(limit, self._frames - self._taken)
        taken: list[tuple[_Line, Frame, int]] = []
        with self._changed:
            if wait:
                self._changed.wait_for(self._something_new, timeout=0.5)
                while (left_ns := self._wait_for_more_ns(limit)) > 0:
                    self._changed.wait(left_ns / 1e9)
            elif self._wait_for_more_ns(limit) > 0:
                return []
            passed_by = 0
            while len(taken) < limit and passed_by < len(self._lines):
                line = self._lines[self._turn % len(self._lines)]
                self._turn += 1
                passed_by += 1
                if line.reader.waiting:
                    taken.append((line, *line.reader.take()))
                    passed_by = 0
            self._taken += len(taken)
        return taken

    def _wait_for_more_ns(self, limit: int) -> int:
        """How long the frames that are here may still wait for others that would fit into their batch; 0 if not at all."""
        readers = [line.reader for line in self._lines]
        here = sum(reader.waiting for reader in readers)
        if not 0 < here < limit or self._stopping or not any(reader.may_bring_more for reader in readers):
            return 0
        oldest = min(reader.oldest_ns for reader in readers if reader.waiting)
        return max(0, oldest + self._batch_wait_ns - time.monotonic_ns())

    def _something_new(self) -> bool:
        readers = [line.reader for line in self._lines]
        return any(r.waiting or r.error for r in readers) or all(r.ended for r in readers)

    def _judge(self, batch: _Batch, scores: NDArray[np.float32], computed: int) -> list[Judgement]:
        """What the engine says of a batch; the maps are views of its slot."""
        session, judge = self._engine.session, self._engine.judge
        size = (session.frame.width, session.frame.height)
        judgements = []
        for i, (_, frame, handed) in enumerate(batch.taken):
            score = float(scores[i])
            verdict = judge.verdict(score)
            # A map is brought from the engine only for those who look at it.
            anomaly_map = batch.slot.anomaly_map()[i] if self._all_maps or verdict == "NG" else None
            regions = []
            if verdict == "NG" and anomaly_map is not None:
                regions = find_regions(anomaly_map, judge.threshold, size)
            p_value = judge.p_value(score)
            # A sensor's clock may be a little ahead of ours.
            captured = min(frame.captured_ns, handed)
            marks = (captured, handed, batch.begin, batch.ready, computed, time.monotonic_ns())
            spans = [(after - before) / 1e6 for before, after in itertools.pairwise(marks)]
            judgements.append(
                Judgement(
                    pixels=batch.pixels[i],
                    anomaly_map=anomaly_map,
                    wall_s=frame.wall_s,
                    clock=frame.clock,
                    source=frame.source,
                    frame=frame.number,
                    verdict=verdict,
                    score=score,
                    threshold=judge.threshold,
                    p_value=p_value,
                    regions=regions,
                    latency_ms=dict(zip(STAGES, [*spans, sum(spans)], strict=True)),
                    engine=self._engine.id,
                )
            )
        return judgements

    def _close(self) -> None:
        self._under_way.clear()
        for line in self._lines:
            line.reader.request_stop()
        # One time for all: those that hang do so side by side.
        until = time.monotonic() + LONGEST_CLOSE_S
        for line in self._lines:
            line.reader.close(max(0.0, until - time.monotonic()))
        self._ended = time.monotonic()
        failure: BaseException | None = None
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _show(self, progress: Progress, *, last: bool = False) -> None:
        now = time.monotonic()
        if now - self._shown < PROGRESS_INTERVAL_S and not last:
            return
        self._shown = now
        judged = self.judged
        ng = sum(line.ng for line in self._lines)
        dropped = sum(line.reader.dropped for line in self._lines)
        rate = judged / max(now - self._started, 1e-9)
        text = "judged, no verdict yet"
        if self._last:
            text = f"judged, last {self._last}, {ng} NG, {dropped} dropped, {rate:.1f} frames/s"
        progress(judged, self._frames or 0, text)

    def _raise_reader_errors(self) -> None:
        for line in self._lines:
            if line.reader.error is not None:
                raise line.reader.error

    def _raise_if_nothing_was_read(self) -> None:
        """A file or folder without one frame that could be read is bad input, though other sources went well."""
        if self._stopping:
            return
        for line in self._lines:
            reader = line.reader
            if reader.source.live or not reader.ended or line.judged:
                continue
            if reader.first_failure is not None:
                raise reader.first_failure
            if reader.captured == 0 and (self._frames is None or self.judged < self._frames):
                raise InputError(
                    f"{reader.source.name} gave no frame",
                    "see that the file is whole, as with: ffprobe FILE",
                )
