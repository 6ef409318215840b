"""What a frame is, and what everything that gives frames has in common."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Clock = Literal["sensor", "arrival"]


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        pixels: [H, W, C] uint8, C-contiguous; BGR for C = 3, mono for C = 1.
        number: sequence number at the source, from 0; frames that the source lost leave a gap.
        captured_ns: monotonic clock (`time.monotonic_ns`) at capture.
        wall_s: seconds since the epoch at capture.
        clock: `sensor` where the camera stamps its frames, else `arrival`.
        source: the source's name, without any password.
        lost: frames since the one before that were read and dropped by the source, because nobody asked in time.
        file: the image that it is, of a folder or a glob.
    """

    pixels: NDArray[np.uint8]
    number: int
    captured_ns: int
    wall_s: float
    clock: Clock
    source: str
    lost: int = 0
    file: str | None = None


class Source(Protocol):
    """Something that gives frames one after another.

    Attributes:
        name: for logs and verdicts; a password in the URI is replaced.
        live: frames come whether they are read or not, so the newest wins; else nothing is dropped.
        endless: it has no end of itself, so that a stream of it is one for months: lost, it is opened again, live or not.
        fps: nominal frames a second; None where unknown, or before `open`.
        takes: the attributes of `SourceOptions` that this kind heeds; a source is made of its URI and options.
    """

    takes: ClassVar[frozenset[str]] = frozenset()
    name: str
    live: bool
    endless: bool = False
    fps: float | None

    def load(self) -> None:
        """Load what `open` needs, of libraries, so that a camera's time-out does not count it; `open` does it otherwise.

        Raises:
            MissingExtraError: a package is not installed.
        """
        return

    @property
    def lasting(self) -> bool:
        """Whether a stream of it is one for months: when it is lost it is opened again, and no error of a sink ends it."""
        return self.live or self.endless

    def open(self) -> None:
        """Connect.

        Raises:
            InputError: there is no such source.
            SourceLostError: it is there and gives nothing.
        """

    def read(self) -> Frame | None:
        """The next frame, or None at the end of a file or list.

        Raises:
            InputError: this one frame cannot be read; the next call goes on behind it.
            SourceLostError: a live or endless source ended; `close` and `open` may bring it back.
        """

    def interrupt(self) -> None:
        """Make a blocked `open` or `read`, and every later one, raise SourceLostError soon; safe from any thread.

        For good: the source is about to be closed. One whose library cannot be interrupted does nothing.
        """
        return

    def close(self) -> None:
        """Let go; safe to call twice."""

    def __enter__(self) -> Source:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
