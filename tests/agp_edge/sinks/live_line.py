"""A stream as a line has it, for tests of what looks at one: a camera that a test can change, and a real engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import SourceLostError
from agp_edge.judging import open_judging_engine
from agp_edge.sinks import Sink
from agp_edge.sources import Frame, Source
from agp_edge.stream import Stream

FPS = 30.0


class LiveCamera(Source):
    """A camera of 30 frames a second.

    Args:
        name: the source's.
        draw: gives its frames by their number.
        fps: frames a second.

    Attributes:
        draw: may be exchanged at any time.
        lost: while it is true, there is no frame.
    """

    def __init__(self, name: str, draw: Callable[[int], NDArray[np.uint8]], fps: float = FPS) -> None:
        self.name, self.live, self.fps = name, True, fps
        self.draw = draw
        self.lost = False
        self._interval_s = 1 / fps
        self._number = -1
        self._next = 0.0

    def open(self) -> None:
        if self.lost:
            raise SourceLostError(f"{self.name} does not answer", "see that it is on")
        self._next = time.monotonic()

    def read(self) -> Frame | None:
        self._next = max(self._next + self._interval_s, time.monotonic())
        time.sleep(max(0.0, self._next - time.monotonic()))
        if self.lost:
            raise SourceLostError(f"{self.name} gives no more frames", "see that it is on")
        self._number += 1
        pixels = self.draw(self._number)
        return Frame(pixels, self._number, time.monotonic_ns(), time.time(), "arrival", self.name)

    def close(self) -> None:
        pass


class Line:
    """A running stream; ends with the `with`.

    Args:
        engine: judges.
        cameras: its sources.
        sink: gets verdicts and events.
        options: of the stream.
    """

    def __init__(self, engine: Path, cameras: Sequence[LiveCamera], sink: Sink, **options: Any) -> None:
        self._engine = open_judging_engine(engine)
        self.stream = Stream(cameras, self._engine, [sink], **options)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="line")

    def _run(self) -> None:
        try:
            self.stream.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Line:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.stop()
        self._thread.join()
        self._engine.close()
        if self.error is not None and value is None:
            raise self.error

    @property
    def threshold(self) -> float:
        return float(self.stream.summary()["threshold"])
