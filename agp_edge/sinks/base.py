"""What goes into a sink: a frame that was judged."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agp_edge.rendering import annotate
from agp_edge.verdict import Region, VerdictName


@dataclass(frozen=True)
class Judgement:
    """A frame and what was said of it.

    Attributes:
        pixels: [H, W, C] uint8, BGR or mono: what the engine saw.
        anomaly_map: [h, w] float32 at the network's own resolution, good while it is written: who wants it longer
            copies it. None of an OK frame, unless a sink needs maps.
        wall_s: seconds since the epoch at capture.
        clock: `sensor` or `arrival`.
        source: the source's name, without any password.
        frame: sequence number at the source.
        verdict, score, threshold, p_value: the verdict and what it rests on.
        regions: of an NG frame, in frame pixels, strongest first.
        latency_ms: capture, queue, transfer, compute, post and their total.
        engine: first 12 hex digits of the engine's hash.
    """

    pixels: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32] | None
    wall_s: float
    clock: str
    source: str
    frame: int
    verdict: VerdictName
    score: float
    threshold: float
    p_value: float
    regions: list[Region]
    latency_ms: dict[str, float]
    engine: str

    def annotated(self) -> NDArray[np.uint8]:
        """The frame with heat map, regions and verdict: [H, W, 3] uint8 BGR.

        Raises:
            ValueError: no map was brought.
        """
        if self.anomaly_map is None:
            raise ValueError("this frame has no map: a sink that draws OK frames needs maps")
        return annotate(self.pixels, self.anomaly_map, self.verdict, self.score, self.threshold, self.regions)

    def to_dict(self) -> dict[str, Any]:
        """The verdict's JSON object; a score that is no number becomes null, because JSON has none."""
        return {
            "time": rfc3339_ms(self.wall_s),
            "clock": self.clock,
            "source": self.source,
            "frame": self.frame,
            "verdict": self.verdict,
            "score": self.score if np.isfinite(self.score) else None,
            "threshold": self.threshold,
            "p_value": self.p_value,
            "regions": [region.as_list() for region in self.regions],
            "latency_ms": {stage: round(value, 4) for stage, value in self.latency_ms.items()},
            "engine": self.engine,
        }


class Sink(Protocol):
    """A place where verdicts go. Made open: what cannot be written is found before the first frame."""

    needs_maps: bool = False
    """Whether it looks at the maps of OK frames too: then every map is brought from the engine."""

    def write(self, judgement: Judgement) -> None:
        """Take one verdict.

        Raises:
            DiskFullError: no space left.
            InputError: it cannot be written for another reason.
        """

    def close(self) -> None:
        """Bring everything to where it can be read; safe to call twice. What was made for nothing is removed."""

    def describe(self) -> str:
        """What was written where, in one line; empty where that goes without saying."""
        return ""


def utc(wall_s: float) -> datetime.datetime:
    """A time stamp in seconds since the epoch as a date in UTC."""
    return datetime.datetime.fromtimestamp(wall_s, datetime.timezone.utc)


def rfc3339_ms(wall_s: float) -> str:
    """A time stamp as RFC 3339 in UTC with milliseconds, as in `2026-02-03T04:05:06.789Z`."""
    return utc(wall_s).isoformat(timespec="milliseconds").replace("+00:00", "Z")
