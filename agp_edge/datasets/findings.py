"""What can be wrong with a data set, and how it is said: one line, a count, a few names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FindingKind = Literal[
    "unreadable", "several-sizes", "mask-missing", "mask-unpaired", "mask-size", "mask-empty", "mask-on-good",
    "mask-orientation", "leak", "duplicate", "empty-class", "few-good", "unlabelled", "unlisted",
]  # fmt: skip
"""In the order in which a class's findings are given."""

AT_MOST = 3
"""So many names stand in a message; `names` has them all."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: what sort of thing.
        class_name: the class it was found in; empty where it is in none.
        message: what it is, with its count and a few names; one line.
        count: how often.
        names: all files it is about, relative to the data set's root.
    """

    kind: FindingKind
    class_name: str
    message: str
    count: int = 1
    names: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` gives it."""
        return asdict(self)

    def describe(self) -> str:
        """One line for a person."""
        place = f"{self.class_name}: " if self.class_name else ""
        return f"{place}{self.kind}: {self.message}"


def some(items: Sequence[str]) -> str:
    """A few of them and the number of the others, as in `a.png, b.png, c.png and 4 more`."""
    shown = ", ".join(items[:AT_MOST])
    return shown if len(items) <= AT_MOST else f"{shown} and {len(items) - AT_MOST} more"


def count(n: int, one: str, many: str | None = None) -> str:
    """`1 mask`, `2 masks`; `many` where an s does not do."""
    return f"{n} {one if n == 1 else many or one + 's'}"
