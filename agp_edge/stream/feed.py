"""What a stream is made of: a source with what of its frames is looked at, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.control import SourceStatus
from agp_edge.errors import InputError
from agp_edge.events import Event, OnEvent
from agp_edge.frame import FrameSpec
from agp_edge.latency import LatencyRecorder
from agp_edge.masks import Mask
from agp_edge.roi import Roi
from agp_edge.scene import SceneReference, SceneWatch
from agp_edge.sinks import Judgement
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.conform import conform
from agp_edge.sources.reader import FAILURE_TOLD_S, Reader

STAGES = ("capture", "queue", "transfer", "compute", "post", "total")
"""Parts of a latency: from capture to hand-over (decoding); waiting; into the engine's input; the network; verdict
and regions. Sinks are not in it."""


@dataclass(frozen=True)
class Feed:
    """A source, and what of its frames is looked at.

    Attributes:
        source: constructed, not opened.
        rois: each is judged for itself; none is the whole frame.
        mask: what never counts of the camera's whole frame.
    """

    source: Source
    rois: Sequence[Roi] = ()
    mask: Mask | None = None

    def mask_of(self, roi: Roi | None, spec: FrameSpec) -> Mask | None:
        """What never counts of the engine's frame.

        Args:
            roi: the region that is looked at.
            spec: the frame that the engine takes.

        Raises:
            InputError: the mask has another size, or masks all of it.
        """
        if self.mask is None:
            return None
        mask = self.mask if roi is None else self.mask.crop(*roi.box)
        mask.check_size((spec.width, spec.height))
        return mask


def check_feeds(feeds: Sequence[Feed]) -> None:
    """Refuse sources that make no stream.

    Raises:
        InputError: there is none, or one is there twice.
    """
    names = [feed.source.name for feed in feeds]
    if not names:
        raise InputError("the stream has no source", "give --camera 0 or --source URI")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"source {twice[0]} was given twice", "give each source once")


class View:
    """The frames of one source as the engine sees them, whole or a region of them, and what became of them.

    Args:
        reader: the source's; several views may share it.
        roi: the region; None for the whole frame.
        mask: what of the engine's frame never counts.
        scene: what good frames are like; None where nobody measured them.
        on_event: told of frames that cannot be judged, and of what is wrong with the picture.
    """

    def __init__(
        self,
        reader: Reader,
        roi: Roi | None,
        mask: Mask | None,
        scene: SceneReference | None,
        on_event: OnEvent,
    ) -> None:
        self.reader = reader
        self.roi = roi
        self.mask = mask
        self.judged = self.ng = 0
        self.latency = {stage: LatencyRecorder() for stage in STAGES}
        self.last: Judgement | None = None
        self._on_event = on_event
        self._unfit = 0
        self._unfit_told_at = float("-inf")
        # Of a camera alone: files repeat and change as they like.
        self._watch = SceneWatch(scene, on_event, self.name) if reader.source.live else None

    @property
    def name(self) -> str:
        """The source's name, and the region's."""
        return self.reader.source.name + ("" if self.roi is None else f" {self.roi.name}")

    def fit(self, frame: Frame, spec: FrameSpec, now_s: float) -> NDArray[np.uint8] | None:
        """What the engine sees of a frame: [H, W, C] uint8; None where that cannot be, and it then failed.

        Args:
            frame: the source's.
            spec: the frame that the engine takes.
            now_s: `time.monotonic`.

        Raises:
            InputError: as `conform`, for a file, and for a camera's first frame: then the command is wrong. A camera
                that comes late or back with other frames is waited for: somebody may set it right, and the other
                cameras go on.
        """
        name = frame.source
        try:
            pixels = frame.pixels if self.roi is None else self.roi.crop(frame.pixels, name)
            return conform(pixels, spec, name)
        except InputError as error:
            if not (self.reader.source.live and (self.judged or self.reader.was_lost)):
                raise
            self._unfit += 1
            if now_s - self._unfit_told_at >= FAILURE_TOLD_S:
                self._unfit_told_at = now_s
                text = f"{error.what}: {error.hint}; no frame of it is judged"
                self._on_event(Event("frame-failed", text, name, "error", data={"failed": self._unfit}))
            return None

    def record(self, judgement: Judgement) -> None:
        """Count a verdict."""
        self.judged += 1
        self.ng += judgement.verdict == "NG"
        for stage, value in judgement.latency_ms.items():
            self.latency[stage].record(value)
        self.last = judgement.without_pixels()

    def hold_against(self, scene: SceneReference | None) -> None:
        """Another engine's good frames are what its picture is held against from here on."""
        if self._watch is not None:
            self._watch.reference = scene

    def watch(self, pixels: NDArray[np.uint8], captured_ns: int) -> None:
        """Look whether the picture is still one of the scene that the engine was made for."""
        if self._watch is not None:
            self._watch.look(pixels, captured_ns)

    def counts(self) -> dict[str, int]:
        """captured = judged + dropped + failed."""
        reader = self.reader
        return {
            "captured": reader.captured,
            "judged": self.judged,
            "dropped": reader.dropped,
            # What was captured and has no verdict failed, wherever it was when that ended.
            "failed": reader.captured - reader.dropped - self.judged,
            "reconnects": reader.reconnects,
            "ok": self.judged - self.ng,
            "ng": self.ng,
        }

    def latencies(self) -> dict[str, dict[str, Any]]:
        """Percentiles by stage, in milliseconds."""
        return {stage: dict(recorder.summary()) for stage, recorder in self.latency.items()}

    def summary(self) -> dict[str, Any]:
        """The counts and latencies for a report; with triggers, how many came and how many have no verdict."""
        said: dict[str, Any] = {"source": self.reader.source.name}
        if self.roi is not None:
            said["roi"] = self.roi.name
        said |= self.counts()
        if self.reader.triggered:
            said |= {"triggers": self.reader.triggers, "missed": self.reader.missed}
        return said | {"latency_ms": self.latencies()}

    def status(self) -> SourceStatus:
        """The same while the stream runs: what waits or is in the engine is neither judged nor failed yet."""
        counts = self.counts()
        last = self.last
        return {
            "source": self.reader.source.name,
            "roi": None if self.roi is None else self.roi.name,
            "connected": self.reader.connected,
            "captured": counts["captured"],
            "judged": counts["judged"],
            "dropped": counts["dropped"],
            "failed": min(counts["failed"], self.reader.failed + self._unfit),
            "reconnects": counts["reconnects"],
            "ok": counts["ok"],
            "ng": counts["ng"],
            "frame_age_ms": None if last is None else round(last.latency_ms["total"], 3),
            "latency_ms": self.latencies(),
            "last": None if last is None else last.to_dict(),
        }
