"""A data set of good frames out of any source, without near-duplicates and blur."""

from __future__ import annotations

import contextlib
import math
import re
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agp_edge.clock import utc
from agp_edge.datasets.base import GOOD
from agp_edge.datasets.images import IMAGE_SUFFIXES, read_image, write_png
from agp_edge.errors import InputError
from agp_edge.events import OnEvent, nobody
from agp_edge.extras import import_cv2
from agp_edge.progress import Progress, silent
from agp_edge.roi import Roi
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.reader import Reader, Taken
from agp_edge.sources.triggering import check_part
from agp_edge.triggers import Trigger

Reason = Literal["duplicates", "blurred", "skipped"]
"""Why a frame is left out: what it is counted under."""

HASH_SIDE = 16
DUPLICATE_BITS = 5
"""Two frames are near-duplicates if at most 5 of their 256 bits differ (2 %): a part that has not moved."""

GREY_STEP = 2
"""Neighbours differ if by more than this many grey levels: in an even surface the noise is no pattern."""

BLUR_SHARE = 0.5
BLUR_WINDOW = 51
BLUR_LEAST = 5
"""A frame is blurred if it has less than half the sharpness of the median of the last 51, once 5 were seen."""

MOST_REMEMBERED = 1 << 16
"""Frames that were kept, of which later ones may be duplicates: the newest, in 2 MB."""
ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
"""Byte -> how many of its bits are set."""

LOOK_S = 0.25
"""How long nothing is waited for before it is seen whether to stop."""
TRIGGER_WAIT_S = 5.0
"""A trigger for which no frame came in this time is missed."""
LONGEST_PART_IN_NAME = 40


@dataclass
class CaptureReport:
    """What became of the frames: captured = kept + duplicates + blurred + skipped + dropped + failed.

    Attributes:
        folder: where the kept ones are.
        captured: frames that the source gave; where there are triggers, those that were triggered.
        kept: written.
        duplicates: left out, nearly the same as one that was kept.
        blurred: left out, much less sharp than those around it.
        skipped: left out by `every` or `interval_s`.
        dropped: of a camera, gone while an earlier frame was written: the newest wins.
        failed: could not be read, or written.
        missed: triggers for which there was no frame; they are no frames.
    """

    folder: str
    captured: int = 0
    kept: int = 0
    duplicates: int = 0
    blurred: int = 0
    skipped: int = 0
    dropped: int = 0
    failed: int = 0
    missed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        return asdict(self)

    def describe(self) -> str:
        """The counts in one line."""
        more = "".join(
            f" + {getattr(self, name)} {name}" for name in ("dropped", "failed") if getattr(self, name)
        )
        missed = f"; {self.missed} triggers missed" if self.missed else ""
        return (
            f"{self.captured} captured = {self.kept} kept + {self.duplicates} duplicates + {self.blurred} blurred "
            f"+ {self.skipped} skipped{more}: {self.folder}{missed}"
        )

    @property
    def looked_at(self) -> int:
        """Frames that were neither dropped nor failed."""
        return self.kept + self.duplicates + self.blurred + self.skipped


def difference_hash(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """dHash (N. Krawetz, 2013) with a dead band: where a small picture grows brighter from left to right.

    Args:
        grey: [H, W] uint8.

    Returns:
        [256] bool.
    """
    cv2 = import_cv2("capturing")
    small = cv2.resize(grey, (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits: NDArray[np.bool_] = (small[:, 1:] - small[:, :-1] > GREY_STEP).reshape(-1)
    return bits


def sharpness(grey: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., 2000) of [H, W] uint8."""
    cv2 = import_cv2("capturing")
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


class _Seen:
    """Hashes of the newest `MOST_REMEMBERED` frames that were kept."""

    def __init__(self) -> None:
        self._rows = np.zeros((64, HASH_SIDE * HASH_SIDE // 8), np.uint8)
        self._n = 0

    def add(self, bits: NDArray[np.bool_]) -> None:
        """Remember a hash, [256] bool."""
        if self._n == len(self._rows) < MOST_REMEMBERED:
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._n % len(self._rows)] = np.packbits(bits)
        self._n += 1

    def has_like(self, bits: NDArray[np.bool_]) -> bool:
        """Whether a hash is near one that is remembered."""
        differ = self._rows[: self._n] ^ np.packbits(bits)
        return bool((ONES[differ].sum(axis=1) <= DUPLICATE_BITS).any())


class FrameFilter:
    """Says of one frame after another whether it adds something to a data set.

    Args:
        keep_similar: keep near-duplicates: parts that lie in a fixture look alike, and are others all the same.
    """

    def __init__(self, *, keep_similar: bool = False) -> None:
        self._keep_similar = keep_similar
        self._kept = _Seen()
        self._sharpness: deque[float] = deque(maxlen=BLUR_WINDOW)

    def remember(self, pixels: NDArray[np.uint8]) -> None:
        """Take a frame, [H, W, C] uint8, as kept already: what is like it adds nothing."""
        self._kept.add(difference_hash(_grey(pixels)))

    def reason_against(self, pixels: NDArray[np.uint8]) -> Reason | None:
        """`blurred`, `duplicates`, or None if it should be kept, and is then remembered.

        Args:
            pixels: [H, W, C] uint8, BGR or mono.
        """
        grey = _grey(pixels)
        sharp = sharpness(grey)
        usual = statistics.median(self._sharpness) if len(self._sharpness) >= BLUR_LEAST else 0.0
        # Every frame is remembered, blurred ones too: after a change of scene the median follows.
        self._sharpness.append(sharp)
        if sharp < BLUR_SHARE * usual:
            return "blurred"
        if self._keep_similar:
            return None
        bits = difference_hash(grey)
        if self._kept.has_like(bits):
            return "duplicates"
        self._kept.add(bits)
        return None


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    cv2 = import_cv2("capturing")
    grey: NDArray[np.uint8] = (
        pixels[..., 0] if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    )
    return grey


@dataclass(frozen=True)
class Pace:
    """Which frames are looked at; all of them, or by one of the three.

    Attributes:
        every: every N-th frame.
        interval_s: no frame sooner than so many seconds after the last one that was looked at.
        trigger: the first frame after each trigger.
    """

    every: int = 1
    interval_s: float | None = None
    trigger: Trigger | None = None

    def check(self, source: Source) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: a number that is none, two of the three, or images with an interval.
        """
        if self.every < 1:
            raise InputError(f"--every {self.every} is no number of frames", "give 1 or more")
        if self.interval_s is not None and not 0 < self.interval_s < math.inf:
            raise InputError(f"--interval {self.interval_s:g} is no time", "give seconds, as in 0.5")
        if (self.every > 1) + (self.interval_s is not None) + (self.trigger is not None) > 1:
            raise InputError(
                "two of --every, --interval and --trigger were given", "one of them says which frames"
            )


EVERY_FRAME = Pace()


class _Due:
    """Says of one frame after another whether it is looked at."""

    def __init__(self, pace: Pace, source: Source) -> None:
        self._pace = pace
        self._source = source
        self._next: float | None = None
        self._before = -1

    def is_due(self, frame: Frame) -> bool:
        """Whether it is time; a camera that starts anew, and counts from 0 again, is due.

        Raises:
            InputError: an interval, and images that were taken at no time.
        """
        if self._pace.interval_s is None:
            now, step = float(frame.number), float(self._pace.every)
        else:
            now, step = self._time_s(frame), self._pace.interval_s
        again = frame.number <= self._before
        self._before = frame.number
        if self._next is not None and now < self._next and not again:
            return False
        # From one to the next, so that a rate is kept; from now on after a pause, so that no burst follows it.
        self._next = (
            now + step if self._next is None or now >= self._next + step or again else self._next + step
        )
        return True

    def _time_s(self, frame: Frame) -> float:
        """When a frame was captured; in a video file, when it is shown."""
        if self._source.live:
            return frame.captured_ns / 1e9
        if not self._source.fps:
            raise InputError(
                f"--interval does not apply to {self._source.name}: nobody knows when its images were taken",
                "give --every N",
            )
        return frame.number / self._source.fps


def capture(
    source: Source,
    data: Path,
    *,
    frames: int | None = None,
    pace: Pace = EVERY_FRAME,
    roi: Roi | None = None,
    keep_similar: bool = False,
    progress: Progress = silent,
    stopping: Callable[[], bool] = lambda: False,
    report: CaptureReport | None = None,
    on_event: OnEvent = nobody,
) -> CaptureReport:
    """Collect good frames into `data/train/good` as PNG, under names that sort by time; nothing is overwritten.

    What is like an image that is there already, from an earlier capture, is a duplicate too. A camera is read all the time, so
    that the newest frame is taken, and one that is lost is waited for.

    Args:
        source: opened and closed here.
        data: the data set's folder.
        frames: end after so many were kept; without it when the source ends.
        pace: which frames are looked at. Its trigger is started and closed here; the id of a part goes into the name.
        roi: this part of the frame alone.
        keep_similar: as `FrameFilter`.
        stopping: asked several times a second; true ends it.
        report: counted into, so that a caller has the counts after an error too.
        on_event: told of what befalls the source and the trigger.

    Raises:
        InputError: the source does not exist, gave nothing that could be read, or its frames are smaller than the region.
        SourceLostError: a source that is no camera broke off.
        DiskFullError: no space left; what was kept stays.
    """
    if frames is not None and frames < 1:
        raise InputError(f"--frames {frames} is no number of frames", "give 1 or more")
    pace.check(source)
    folder = data / "train" / GOOD
    report = report or CaptureReport(str(folder))
    report.folder = str(folder)
    chosen = FrameFilter(keep_similar=keep_similar)
    if not keep_similar:
        # Before the source is opened: a camera would send frames meanwhile.
        _remember_folder(chosen, folder, stopping)
    changed = threading.Condition()
    wait_s = None if pace.trigger is None else TRIGGER_WAIT_S
    reader = Reader(source, changed, trigger_wait_s=wait_s, on_event=on_event)
    due = _Due(pace, source)
    try:
        if pace.trigger is not None:
            pace.trigger.start(lambda *given, **named: _fire(reader, *given, **named), on_event)
        reader.start()
        while not stopping() and (frames is None or report.kept < frames):
            taken = _take(reader, changed)
            if taken is None:
                if reader.ended:
                    break
                continue
            became = _look_at(taken, chosen, due, roi, folder)
            setattr(report, became, getattr(report, became) + 1)
            progress(report.kept, frames or 0, f"kept of {reader.captured}")
    finally:
        if pace.trigger is not None:
            pace.trigger.close()
        reader.close()
        report.captured, report.dropped, report.missed = reader.captured, reader.dropped, reader.missed
        # What was captured and became nothing else failed, wherever it was when that ended.
        report.failed = reader.captured - reader.dropped - report.looked_at
    if reader.error is not None:
        raise reader.error
    if reader.first_failure is not None and report.failed == report.captured:
        raise reader.first_failure
    if report.captured == 0 and not stopping() and pace.trigger is None:
        raise InputError(f"{source.name} gave no frame", "see that the file is whole, as with: ffprobe FILE")
    return report


def _look_at(
    taken: Taken, chosen: FrameFilter, due: _Due, roi: Roi | None, folder: Path
) -> Reason | Literal["kept"]:
    """Keep a frame, or say why it is left out."""
    frame = taken.frame
    if not due.is_due(frame):
        return "skipped"
    pixels = frame.pixels if roi is None else roi.crop(frame.pixels, frame.source)
    reason = chosen.reason_against(pixels)
    if reason is None:
        # Written before it is counted: a full disk must not leave a kept frame that is not there.
        write_png(_free_path(folder, frame, taken.part), pixels)
    return reason or "kept"


def _fire(
    reader: Reader, part: str | None = None, source: str | None = None, *, at_ns: int | None = None
) -> int:
    """As `agp_edge.triggers.Fire`."""
    if source is not None and source != reader.source.name:
        raise InputError("there is no such source", f"there is {reader.source.name}")
    check_part(part)
    reader.trigger(part, time.monotonic_ns() if at_ns is None else at_ns)
    return 1


def _take(reader: Reader, changed: threading.Condition) -> Taken | None:
    """The frame that waits; None if there is none for a moment, or there will be none."""
    reader.expire_triggers()
    with changed:
        changed.wait_for(lambda: reader.waiting or reader.ended, timeout=LOOK_S)
        return reader.take() if reader.waiting else None


def _remember_folder(chosen: FrameFilter, folder: Path, stopping: Callable[[], bool]) -> None:
    for path in sorted(folder.glob("*")):
        if stopping():
            return
        if path.suffix.lower() in IMAGE_SUFFIXES:
            # One that cannot be read is found when the data set is checked; here it is like no other.
            with contextlib.suppress(InputError):
                chosen.remember(read_image(path))


def _free_path(folder: Path, frame: Frame, part: str | None) -> Path:
    """`20260203T040506.789012Z_000042.png`, or `…_000042_part-ID.png`, or with a further number if that exists."""
    stem = f"{utc(frame.wall_s):%Y%m%dT%H%M%S.%fZ}_{frame.number:06d}"
    if part is not None:
        # As the names of rejects have it, so that the two can be held together.
        word = re.sub(r"[^A-Za-z0-9]+", "-", part).strip("-")[-LONGEST_PART_IN_NAME:]
        stem += f"_part-{word or 'x'}"
    path, again = folder / f"{stem}.png", 0
    while path.exists():
        again += 1
        path = folder / f"{stem}_{again}.png"
    return path
