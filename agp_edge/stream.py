"""Sources -> newest frame -> engine -> verdict -> sinks: owns the threads and the counts.

For every source, always: captured = judged + dropped + failed.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agp_edge.errors import InputError
from agp_edge.judging import JudgingEngine
from agp_edge.latency import LatencyRecorder
from agp_edge.progress import Progress, silent
from agp_edge.sinks import Judgement, Sink
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.conform import conform
from agp_edge.sources.reader import Reader
from agp_edge.verdict import find_regions

STAGES = ("capture", "queue", "transfer", "compute", "post", "total")
"""Parts of a latency: from capture to hand-over (decoding); waiting; into the engine's input; the network; verdict
and regions. Sinks are not in it."""

PROGRESS_INTERVAL_S = 0.1


class _Line:
    """One source on its way through the stream: its reader, and what became of the frames taken from it."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.judged = self.failed = self.ng = 0
        self.latency = {stage: LatencyRecorder() for stage in STAGES}

    def summary(self) -> dict[str, Any]:
        reader = self.reader
        return {
            "source": reader.source.name,
            "captured": reader.captured,
            "judged": self.judged,
            "dropped": reader.dropped,
            "failed": reader.failed + self.failed,
            "reconnects": reader.reconnects,
            "ok": self.judged - self.ng,
            "ng": self.ng,
            "latency_ms": {stage: dict(recorder.summary()) for stage, recorder in self.latency.items()},
        }


class Stream:
    """Judges the frames of sources until they end, or until it is told to stop.

    The engine runs in the thread that calls `run`; every source has a thread of its own.

    Args:
        sources: constructed, not opened; the stream opens and closes them.
        engine: stays the caller's to close.
        sinks: get every verdict, in order; the stream closes them.
        every: judge every N-th frame of a source.
        frames: stop after so many verdicts.
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
        self._engine = engine
        self._sinks = list(sinks)
        self._frames = frames
        self._stopping = False
        self._changed = threading.Condition()
        self._lines = [_Line(Reader(s, self._changed, every=every, on_event=on_event)) for s in sources]
        self._turn = 0
        self._started = self._ended = time.monotonic()
        self._shown = 0.0
        self._last: Judgement | None = None

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
            while not self._stopping and not self._done():
                self._raise_reader_errors()
                taken = self._take()
                if taken:
                    self._judge(taken)
                self._show(progress)
        finally:
            self._close()
        self._show(progress, last=True)
        self._raise_reader_errors()
        self._raise_if_nothing_was_read()

    def summary(self) -> dict[str, Any]:
        """What happened: per source the counts and latency percentiles; `elapsed_ms` is the time of `run`."""
        return {
            "engine": self._engine.id,
            "accepted": self._engine.accepted,
            "threshold": self._engine.judge.threshold,
            "provisional": self._engine.judge.provisional,
            "elapsed_ms": round((self._ended - self._started) * 1000, 3),
            "sources": [line.summary() for line in self._lines],
        }

    def _done(self) -> bool:
        if self._frames is not None and self.judged >= self._frames:
            return True
        with self._changed:
            return all(line.reader.ended and not line.reader.waiting for line in self._lines)

    def _take(self) -> list[tuple[_Line, Frame, int]]:
        """Frames that wait, at most a batch of them, each source in its turn; none after half a second without."""
        limit = self._engine.session.frame.batch
        if self._frames is not None:
            limit = min(limit, self._frames - self.judged)
        taken: list[tuple[_Line, Frame, int]] = []
        with self._changed:
            self._changed.wait_for(self._something_new, timeout=0.5)
            for _ in range(limit * len(self._lines)):
                line = self._lines[self._turn % len(self._lines)]
                self._turn += 1
                if line.reader.waiting and len(taken) < limit:
                    taken.append((line, *line.reader.take()))
        return taken

    def _something_new(self) -> bool:
        readers = [line.reader for line in self._lines]
        return any(r.waiting or r.error for r in readers) or all(r.ended for r in readers)

    def _judge(self, taken: list[tuple[_Line, Frame, int]]) -> None:
        """Judge frames and give the verdicts to the sinks."""
        session, judge = self._engine.session, self._engine.judge
        begin = time.monotonic_ns()
        unjudged = [line for line, _, _ in taken]
        try:
            pixels = [conform(frame.pixels, session.frame, frame.source) for _, frame, _ in taken]
            batch = pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)
            ready = time.monotonic_ns()
            result = session.infer(batch)
            computed = time.monotonic_ns()
            for i, (line, frame, handed) in enumerate(taken):
                score = float(result.score[i])
                verdict = judge.verdict(score)
                regions = []
                if verdict == "NG":
                    size = (session.frame.width, session.frame.height)
                    regions = find_regions(result.anomaly_map[i], judge.threshold, size)
                p_value = judge.p_value(score)
                end = time.monotonic_ns()
                marks = (frame.captured_ns, handed, begin, ready, computed, end)
                spans = [(after - before) / 1e6 for before, after in itertools.pairwise(marks)]
                latency_ms = dict(zip(STAGES, [*spans, sum(spans)], strict=True))
                line.judged += 1
                line.ng += verdict == "NG"
                unjudged.pop(0)
                for stage, value in latency_ms.items():
                    line.latency[stage].record(value)
                self._last = Judgement(
                    pixels=pixels[i],
                    anomaly_map=result.anomaly_map[i],
                    wall_s=frame.wall_s,
                    clock=frame.clock,
                    source=frame.source,
                    frame=frame.number,
                    verdict=verdict,
                    score=score,
                    threshold=judge.threshold,
                    p_value=p_value,
                    regions=regions,
                    latency_ms=latency_ms,
                    engine=self._engine.id,
                )
                for sink in self._sinks:
                    sink.write(self._last)
        finally:
            # What was taken and got no verdict failed, whatever the reason.
            for line in unjudged:
                line.failed += 1

    def _close(self) -> None:
        for line in self._lines:
            line.reader.request_stop()
        for line in self._lines:
            line.reader.close()
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
            verdict = f"{self._last.verdict} {self._last.score:.3g}"
            text = f"judged, last {verdict}, {ng} NG, {dropped} dropped, {rate:.1f} frames/s"
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
