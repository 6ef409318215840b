"""What befalls a stream, beside its verdicts: one line for a person, a kind and figures for a program."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agp_edge.clock import rfc3339_ms

Level = Literal["info", "warning", "error"]

KINDS = {
    "source-lost": "a camera gives no more frames, or does not open; `tries`",
    "source-back": "it gives frames again; `gap_s`, how long it did not",
    "frame-failed": "one frame could not be read",
    "frozen": "a camera's picture does not change any more",
    "covered": "the lens is covered: dark or even where good frames are not",
    "blurred": "the picture is less sharp than good frames",
    "exposure": "the picture is brighter or darker than good frames",
    "scene-good": "what one of the four above said is over; `was`",
    "sink-failed": "a sink cannot write; what it was given is lost and counted",
    "sink-behind": "a sink is slower than the stream and loses its oldest entries; `lost`",
    "sink-back": "a sink writes again; `lost`, how many entries it did not get",
    "trigger-missed": "a trigger came for which no frame was judged; `part`",
    "trigger-refused": "a trigger came that makes no sense: no such source, or no words that are understood",
    "trigger-lost": "no trigger can come: what brings them is away",
    "trigger-back": "triggers can come again; `gap_s`, how long they could not",
    "threshold-set": "the threshold was changed while the stream ran; `before`, `now`",
    "engine-changed": "another engine judges from here on; `before`, `now`",
    "engine-refused": "another engine was to judge and does not; the old one goes on",
    "clock-set": "the wall clock was set while the stream ran; `step_s`",
    "stopping": "the stream was told to stop",
    "note": "what is said at the start and at the end: threshold, addresses, counts",
}
"""Kind -> what it means, and what is in `data` beside it."""


@dataclass(frozen=True)
class Event:
    """One thing that befell a stream.

    Attributes:
        kind: one of `KINDS`.
        text: one line for a person, without any password.
        source: the source's name, where it is about one.
        level: how bad it is.
        wall_s: seconds since the epoch.
        data: figures of the kind, each a JSON value.
    """

    kind: str
    text: str
    source: str | None = None
    level: Level = "warning"
    wall_s: float = field(default_factory=time.time)
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no kind of event {self.kind!r}")

    def to_dict(self) -> dict[str, Any]:
        """The event's JSON object."""
        return {
            "time": rfc3339_ms(self.wall_s),
            "event": self.kind,
            "level": self.level,
            "source": self.source,
            "text": self.text,
            **self.data,
        }


OnEvent = Callable[[Event], None]
"""Told of each event, from whatever thread it befell; must not block."""


def nobody(event: Event) -> None:
    """A listener that does not listen."""
