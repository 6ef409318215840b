"""Who is told of triggers, in place of a stream: it writes down what it was told."""

from __future__ import annotations

from agp_edge.errors import InputError
from agp_edge.events import Event

LONGEST_PART = 64


class Fired:
    """A stream of two cameras, as a trigger sees it.

    Attributes:
        all: (part, source, at_ns) of each trigger.
        events: what it was told beside them.
    """

    def __init__(self) -> None:
        self.all: list[tuple[str | None, str | None, int | None]] = []
        self.events: list[Event] = []

    def __call__(
        self, part: str | None = None, source: str | None = None, *, at_ns: int | None = None
    ) -> int:
        if source not in (None, "left", "right"):
            raise InputError(f"there is no source {source}", "take left or right")
        if part is not None and len(part) > LONGEST_PART:
            raise InputError("the part's id is too long", f"give {LONGEST_PART} characters at most")
        self.all.append((part, source, at_ns))
        return 2 if source is None else 1

    @property
    def parts(self) -> list[str | None]:
        return [part for part, _, _ in self.all]

    def kinds(self) -> list[str]:
        return [event.kind for event in list(self.events)]
