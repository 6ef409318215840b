"""Triggers that wait for a frame of one source."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from agp_edge.errors import InputError

MOST_PENDING = 32
"""Triggers that wait for their frame; more at once are no parts on a line."""

LONGEST_PART = 200
"""Characters of a part's id."""


def check_part(part: str | None) -> None:
    """Refuse what is no id of a part.

    Raises:
        InputError: it is empty, too long, or holds what could steer a terminal.
    """
    if part is not None and not (0 < len(part) <= LONGEST_PART and part.isprintable()):
        raise InputError(
            f"a part's id of {len(part)} characters is none",
            f"give 1 to {LONGEST_PART} printable characters",
        )


@dataclass(frozen=True)
class Pending:
    """A trigger: the part's id, and when it came (`time.monotonic_ns`)."""

    part: str | None
    at_ns: int


class TriggerQueue:
    """The triggers of one source, oldest first; each takes the first frame captured at or after it.

    Not safe by itself: whoever uses it holds the reader's lock.

    Args:
        longest_wait_s: a trigger without a frame for longer is missed.
    """

    def __init__(self, longest_wait_s: float) -> None:
        self._longest_wait_ns = int(longest_wait_s * 1e9)
        self._pending: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, trigger: Pending) -> Pending | None:
        """Add one; that which has to give way for it, if there are too many."""
        self._pending.append(trigger)
        return self._pending.popleft() if len(self._pending) > MOST_PENDING else None

    def match(self, captured_ns: int) -> Pending | None:
        """The oldest trigger that a frame captured then is for; it waits no more."""
        if self._pending and self._pending[0].at_ns <= captured_ns:
            return self._pending.popleft()
        return None

    def clear(self) -> list[Pending]:
        """All of them; they wait no more."""
        gone = list(self._pending)
        self._pending.clear()
        return gone

    def expire(self) -> list[Pending]:
        """Those that waited for too long; they wait no more."""
        before = time.monotonic_ns() - self._longest_wait_ns
        missed = []
        while self._pending and self._pending[0].at_ns < before:
            missed.append(self._pending.popleft())
        return missed
