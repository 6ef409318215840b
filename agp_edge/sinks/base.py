"""What goes into a sink: a frame that was judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from agp_edge.clock import rfc3339_ms
from agp_edge.control import Control
from agp_edge.events import Event
from agp_edge.rendering import annotate
from agp_edge.verdict import Region, VerdictName

Wants = Literal["verdicts", "rejects", "frames", "pictures"]
"""What a sink looks at: verdicts without pixels and maps; of NG frames alone, with both; all with pixels, and maps of NG frames;
or all of it. It may change while the stream runs."""


@dataclass(frozen=True)
class Judgement:
    """A frame and what was said of it.

    Attributes:
        pixels: [H, W, C] uint8, BGR or mono: what the engine saw. None where only the verdict is wanted.
        anomaly_map: [h, w] float32 at the network's own resolution; None of an OK frame, unless a sink wants pictures.
        wall_s: seconds since the epoch at capture.
        clock: `sensor` or `arrival`.
        source: the source's name, without any password.
        frame: sequence number at the source.
        verdict, score, threshold, p_value: the verdict and what it rests on.
        regions: of an NG frame, in the pixels of what the engine saw, strongest first.
        latency_ms: capture, queue, transfer, compute, post and their total.
        engine: first 12 hex digits of the engine's hash.
        part: the part's id, where a trigger brought one.
        roi: the region of interest that this is of, its name and [x, y, w, h] in the camera's frame; None for the whole.
        file: the image that was judged, of a folder or a glob.
    """

    pixels: NDArray[np.uint8] | None
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
    part: str | None = None
    roi: tuple[str, tuple[int, int, int, int]] | None = None
    file: str | None = None

    def without_pixels(self) -> Judgement:
        """The verdict alone: some hundred bytes in place of a frame."""
        return replace(self, pixels=None, anomaly_map=None)

    def annotated(self) -> NDArray[np.uint8]:
        """The frame with heat map, regions and verdict: [H, W, 3] uint8 BGR.

        Raises:
            ValueError: no map was brought.
        """
        if self.pixels is None or self.anomaly_map is None:
            raise ValueError("this frame has no map: a sink that draws OK frames wants pictures")
        return annotate(self.pixels, self.anomaly_map, self.verdict, self.score, self.threshold, self.regions)

    def to_dict(self) -> dict[str, Any]:
        """The verdict's JSON object; a score that is no number becomes null, because JSON has none.

        Regions are in the pixels of the camera's whole frame. `file`, `part` and `roi` are there where they say something.
        """
        name, (left, top, *_) = self.roi or ("", (0, 0, 0, 0))
        said: dict[str, Any] = {
            "time": rfc3339_ms(self.wall_s),
            "clock": self.clock,
            "source": self.source,
            "frame": self.frame,
            "verdict": self.verdict,
            "score": self.score if np.isfinite(self.score) else None,
            "threshold": self.threshold,
            "p_value": self.p_value,
            "regions": [region.shifted(left, top).as_list() for region in self.regions],
            "latency_ms": {stage: round(value, 4) for stage, value in self.latency_ms.items()},
            "engine": self.engine,
        }
        if self.file is not None:
            said["file"] = self.file
        if self.part is not None:
            said["part"] = self.part
        if self.roi is not None:
            said |= {"roi": name}
        return said


class Sink(Protocol):
    """A place where verdicts go. Made open: what cannot be written is found before the first frame.

    A stream calls a sink from one thread that is the sink's own, so that a slow one holds up nobody else.

    Attributes:
        name: the flag that it came from, as in `--jsonl`.
        wants: what it looks at.
        trouble: why what it took is not where it belongs yet, as when a broker is away; None while all is well. Without any
            password.
        lost: entries that it took and lost of itself, as from a buffer that was full.
        is_filter: what it writes is read along, as from stdout: the reader's going away ends the stream.
    """

    name: str = "sink"
    wants: Wants = "verdicts"
    trouble: str | None = None
    lost: int = 0
    is_filter: bool = False

    def attach(self, control: Control) -> None:
        """Be given the running stream, before the first verdict."""
        return

    def write(self, judgement: Judgement) -> None:
        """Take one verdict.

        Raises:
            DiskFullError: no space left.
            InputError, WorkStoppedError: it cannot be written for another reason.
        """

    def event(self, event: Event) -> None:
        """Take an event of the stream; what `write` raises, it may raise."""
        return

    def close(self) -> None:
        """Bring everything to where it can be read; safe to call twice. What was made for nothing is removed."""

    def describe(self) -> str:
        """What was written where, in one line; empty where that goes without saying."""
        return ""
