"""What tests of the stream share: sinks that remember, cameras that do as they are told, engines with several slots."""

from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agp_edge.engines import Inference, Session
from agp_edge.engines.slots import CallSlot
from agp_edge.errors import SourceLostError
from agp_edge.judging import JudgingEngine
from agp_edge.sinks import Judgement, Sink
from agp_edge.sinks.base import Wants
from agp_edge.sources import Frame, Source
from agp_edge.stream import Stream

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


class Collect(Sink):
    def __init__(self, pause_s: float = 0, *, wants: Wants = "verdicts") -> None:
        self.all: list[Judgement] = []
        self.wants = wants
        self.closed = False
        self._pause_s = pause_s

    def write(self, judgement: Judgement) -> None:
        time.sleep(self._pause_s)
        self.all.append(judgement)

    def close(self) -> None:
        self.closed = True


class Camera(Source):
    """A live source at about 500 frames a second; `losses` says after which frames it is lost."""

    def __init__(
        self, part: Part, total: int = 10**9, losses: Sequence[int] = (), name: str = "camera"
    ) -> None:
        self.name, self.live, self.fps = name, True, None
        self._part, self._total, self._losses = part, total, list(losses)
        self._number = 0

    def open(self) -> None:
        pass

    def read(self) -> Frame | None:
        if self._losses and self._number == self._losses[0]:
            self._losses.pop(0)
            raise SourceLostError(f"{self.name} gives no more frames", "see that it is on")
        if self._number >= self._total:
            return None
        time.sleep(0.002)
        number, self._number = self._number, self._number + 1
        return Frame(self._part(number), number, time.monotonic_ns(), time.time(), "arrival", self.name)

    def close(self) -> None:
        pass


class SeveralSlots(Session):
    """A session with more places than one for frames, as on a GPU; they compute when they are waited for."""

    def __init__(self, session: Session, count: int, pause_s: float = 0) -> None:
        self.frame = session.frame
        self._session = session
        self._pause_s = pause_s
        self.asked_for_maps = 0
        self.slots = tuple(self._Slot(self) for _ in range(count))

    class _Slot(CallSlot):
        def __init__(self, owner: SeveralSlots) -> None:
            super().__init__(owner.frame, owner.compute)
            self._owner = owner

        def _anomaly_map(self) -> NDArray[np.float32]:
            self._owner.asked_for_maps += 1
            return super()._anomaly_map()

    def compute(self, frames: NDArray[np.uint8]) -> Inference:
        time.sleep(self._pause_s)
        return self._session.infer(frames)

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        raise AssertionError("a stream uses slots")

    def close(self) -> None:
        pass


def with_slots(engine: JudgingEngine, count: int, pause_s: float = 0) -> JudgingEngine:
    return dataclasses.replace(engine, session=SeveralSlots(engine.session, count, pause_s))


def counts_of(stream: Stream) -> list[dict[str, int]]:
    lines: list[dict[str, int]] = stream.summary()["sources"]
    for line in lines:
        assert line["captured"] == line["judged"] + line["dropped"] + line["failed"]
        assert line["judged"] == line["ok"] + line["ng"]
    return lines


class Scripted(Source):
    """A live source that gives a frame when it is told to, and ends when it is told to."""

    def __init__(self, part: Part, name: str) -> None:
        self.name, self.live, self.fps = name, True, None
        self._part = part
        self._orders: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def open(self) -> None:
        pass

    def give(self, number: int | None) -> None:
        self._orders.put(number)

    def read(self) -> Frame | None:
        number = self._orders.get()
        if number is None:
            return None
        return Frame(self._part(number), number, time.monotonic_ns(), time.time(), "arrival", self.name)

    def close(self) -> None:
        pass
