"""The one way into a running stream, as `agp_edge.control` describes it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.control import Control, StreamStatus
from agp_edge.errors import InputError
from agp_edge.events import Event, OnEvent
from agp_edge.judging import JudgingEngine
from agp_edge.sources.triggering import check_part
from agp_edge.verdict import Judge

if TYPE_CHECKING:
    from agp_edge.sources.reader import Reader

Rule = Callable[[Judge], Judge]
"""How a judge's threshold is chosen: what was asked for holds for the next engine too."""


class StreamControl(Control):
    """What a page, a broker or a signal may ask of a stream. It keeps the judge and the wish for another engine.

    Args:
        engine: judges first.
        readers: of the sources.
        status: gives the rest of what `status` says.
        on_event: told of each change.
    """

    def __init__(
        self,
        engine: JudgingEngine,
        readers: Sequence[Reader],
        status: Callable[[], StreamStatus],
        on_event: OnEvent,
    ) -> None:
        self.judge = engine.judge
        self.wanted: Path | None = None
        """The engine that is to take over; the stream's loop takes it from here."""
        self.rule: Rule | None = None
        self._readers = readers
        self._status = status
        self._on_event = on_event
        self._lock = threading.Lock()
        self._engine_path = engine.path

    def status(self) -> StreamStatus:
        """Counts and latencies up to now."""
        return self._status()

    def set_false_reject_rate(self, rate: float) -> float:
        """Take the threshold that promises this rate."""
        if self.judge.rates is None:
            raise InputError(
                "this engine has no normal scores to take a threshold from",
                "give a threshold instead, or build the engine on this machine",
            )
        self._set(lambda judge: judge.at_rate(rate), f"for a false-reject rate of {rate:.3%}")
        return self.judge.threshold

    def set_threshold(self, threshold: float) -> None:
        """Take a threshold by hand."""
        if not math.isfinite(threshold):
            raise InputError(f"{threshold} is no threshold", "give a number, as in 0.5")
        self._set(lambda judge: judge.at_threshold(threshold), "by hand")

    def trigger(self, part: str | None = None, source: str | None = None, *, at_ns: int | None = None) -> int:
        """Have the first frame judged that was captured after it."""
        if not self._readers[0].triggered:
            raise InputError("this stream waits for no trigger", "start it with --trigger")
        check_part(part)
        chosen = [r for r in self._readers if source is None or r.source.name == source]
        if not chosen:
            raise InputError("there is no such source", "give the source's name as verdicts have it")
        at_ns = time.monotonic_ns() if at_ns is None else at_ns
        for reader in chosen:
            reader.trigger(part, at_ns)
        return len(chosen)

    def change_engine(self, path: Path | None = None) -> None:
        """Have another engine take over; only a note is left here, so that a signal handler may call it."""
        self.wanted = self._engine_path if path is None else path

    def take_over(self, engine: JudgingEngine) -> Judge:
        """Judge by another engine's scores from now on, the threshold chosen as was asked for last; the judge.

        Raises:
            InputError: its normal scores cannot promise that; the judge before stays.
        """
        with self._lock:
            self.judge = engine.judge if self.rule is None else self.rule(engine.judge)
            return self.judge

    def give_back(self, judge: Judge) -> None:
        """Judge by the scores of an engine before again; what was asked for meanwhile holds, where they can promise it."""
        with self._lock:
            self.judge = judge
            if self.rule is not None:
                with contextlib.suppress(InputError):
                    self.judge = self.rule(judge)

    def _set(self, rule: Rule, how: str) -> None:
        with self._lock:
            before, self.judge, self.rule = self.judge, rule(self.judge), rule
        now = self.judge.threshold
        text = f"the threshold is {now:.6g} now, {how}; it was {before.threshold:.6g}"
        self._on_event(
            Event("threshold-set", text, level="info", data={"before": before.threshold, "now": now})
        )
