"""Slots: where batches of frames are on their way through an engine. Nothing is allocated for a frame.

    slot.submit(frames)      # into the engine's own memory, and on the way
    score = slot.wait()      # until the scores are there
    slot.anomaly_map()       # only if somebody wants to see it

A session has one slot or several. What is submitted to several is done in that order, and while one computes, the frames of
the next are brought and the verdicts of the one before are drawn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import InputError
from agp_edge.frame import FrameSpec

Frames: TypeAlias = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
"""[N, H, W, C] uint8, or N of [H, W, C], as views of whatever memory they are in."""


_BYTE = np.dtype(np.uint8)


class Slot(ABC):
    """A place for one batch: its frames, its scores, its maps.

    Args:
        frame: what the engine takes.
    """

    def __init__(self, frame: FrameSpec) -> None:
        self._frame = frame
        self._size = frame.batch
        self._shape = frame.shape
        self._count = 0

    def submit(self, frames: Frames) -> None:
        """Send frames on their way. They must stay as they are until `wait` returns.

        Args:
            frames: from one to as many as the engine's batch.

        Raises:
            InputError: another size, number of channels or type, none, or more than a batch.
            ValueError: the session is closed.
            WorkStoppedError: the engine does not take work any more.
        """
        self._count = 0
        count = len(frames)
        # What is right is seen at once; what is wrong is looked at again for its error.
        for frame in frames:
            if frame.shape != self._shape or frame.dtype is not _BYTE:
                check_frames(frames, self._frame)
        if not 1 <= count <= self._size:
            check_frames(frames, self._frame)
        self._submit(frames, count)
        self._count = count

    def wait(self) -> NDArray[np.float32]:
        """Wait for the scores.

        Returns:
            [N] float32: a view, good until the next `submit` and while the session is open.

        Raises:
            ValueError: nothing was submitted, or the session is closed.
            WorkStoppedError: the engine failed.
        """
        self._check_busy()
        score = self._wait()
        return score if self._count == self._size else score[: self._count]

    def anomaly_map(self) -> NDArray[np.float32]:
        """The anomaly maps of what was waited for; brought here when first asked for.

        Returns:
            [N, h, w] float32 at the network's own resolution: a view, as that of `wait`.

        Raises:
            ValueError: nothing was submitted, or the session is closed.
            WorkStoppedError: the engine failed.
        """
        self._check_busy()
        anomaly_map = self._anomaly_map()
        return anomaly_map if self._count == self._size else anomaly_map[: self._count]

    def _check_busy(self) -> None:
        if not self._count:
            raise ValueError("nothing was submitted to this slot")

    @abstractmethod
    def _submit(self, frames: Frames, count: int) -> None:
        """Send checked frames on their way."""

    @abstractmethod
    def _wait(self) -> NDArray[np.float32]:
        """The scores of a whole batch."""

    @abstractmethod
    def _anomaly_map(self) -> NDArray[np.float32]:
        """The maps of a whole batch."""


def check_frames(frames: Frames, spec: FrameSpec) -> None:
    """Hold frames against what an engine takes.

    Raises:
        InputError: another size, number of channels or type, none, or more than a batch.
    """
    count = len(frames)
    if not 1 <= count <= spec.batch:
        raise InputError(
            f"{count} frames were given at once, the engine takes {spec.batch}",
            "give from 1 to that many",
        )
    for frame in frames:
        if frame.shape != spec.shape or frame.dtype != np.uint8:
            raise InputError(
                f"expected frames of {list(spec.shape)} uint8, got {list(frame.shape)} {frame.dtype}",
                f"give frames of {spec}, or export again with --frame-size",
            )


class Answer(Protocol):
    """What an engine says of a batch."""

    @property
    def score(self) -> NDArray[np.float32]:
        """[N] float32."""

    @property
    def anomaly_map(self) -> NDArray[np.float32]:
        """[N, h, w] float32."""


class CallSlot(Slot):
    """The slot of an engine that is called and answers: it computes while it is waited for.

    Args:
        frame: what the engine takes.
        call: takes exactly a batch of contiguous frames.
    """

    def __init__(self, frame: FrameSpec, call: Callable[[NDArray[np.uint8]], Answer]) -> None:
        super().__init__(frame)
        self._call = call
        self._batch = Batch(frame)
        self._answer: Answer | None = None

    def _submit(self, frames: Frames, count: int) -> None:
        self._answer = None
        self._batch.take(frames)

    def _wait(self) -> NDArray[np.float32]:
        return self._said().score

    def _anomaly_map(self) -> NDArray[np.float32]:
        return self._said().anomaly_map

    def _said(self) -> Answer:
        if self._answer is None:
            self._answer = self._call(self._batch.frames)
        return self._answer


class Batch:
    """A whole batch in one piece of the host's memory: the frames themselves where they are one, else copies.

    Args:
        frame: what the engine takes.

    Attributes:
        frames: [batch, H, W, C] uint8, contiguous.
    """

    def __init__(self, frame: FrameSpec) -> None:
        self._size = frame.batch
        # Pages of it become real when they are first written: never, where frames come one at a time and whole.
        self._own = np.zeros((frame.batch, *frame.shape), np.uint8)
        self.frames = self._own

    def take(self, frames: Frames) -> None:
        """Hold these frames; where they are fewer than a batch, the rest is what it was before."""
        if len(frames) == self._size:
            whole: Any = frames if isinstance(frames, np.ndarray) else frames[0][np.newaxis]
            if (self._size == 1 or whole is frames) and whole.flags.c_contiguous:
                self.frames = whole
                return
        self.frames = self._own
        for place, frame in zip(self._own, frames, strict=False):
            np.copyto(place, frame)
