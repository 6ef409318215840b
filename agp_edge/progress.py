"""How long work tells how far it is, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called by long work as it advances: `progress(done, total, note)`.

    `done` and `total` count the work's own units (steps, frames, images); `total` is 0 where it is unknown;
    `note` is a few words that may change, such as a loss.
    """

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Tell how far it is."""


def silent(done: int, total: int, note: str = "") -> None:
    """A listener that says nothing."""
