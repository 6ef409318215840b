"""A data set of good frames out of any source, without near-duplicates and blur."""

from __future__ import annotations

import contextlib
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.clock import utc
from agp_edge.datasets.base import GOOD
from agp_edge.datasets.images import IMAGE_SUFFIXES, read_image, write_png
from agp_edge.errors import InputError, MissingExtraError
from agp_edge.extras import import_cv2
from agp_edge.progress import Progress, silent
from agp_edge.sources.base import Frame, Source

HASH_SIDE = 16
DUPLICATE_BITS = 5
"""Two frames are near-duplicates if at most 5 of their 256 bits differ (2 %): a part that has not moved."""

GREY_STEP = 2
"""Neighbours differ if by more than this many grey levels: in an even surface the noise is no pattern."""

BLUR_SHARE = 0.5
BLUR_WINDOW = 51
BLUR_LEAST = 5
"""A frame is blurred if it has less than half the sharpness of the median of the last 51, once 5 were seen."""


@dataclass
class CaptureReport:
    """What became of the frames: captured = kept + duplicates + blurred + skipped + failed.

    Attributes:
        folder: where the kept ones are.
        captured: frames that the source gave.
        kept: written.
        duplicates: left out, nearly the same as one that was kept.
        blurred: left out, much less sharp than those around it.
        skipped: left out by `every`.
        failed: could not be read.
    """

    folder: str
    captured: int = 0
    kept: int = 0
    duplicates: int = 0
    blurred: int = 0
    skipped: int = 0
    failed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        return asdict(self)

    def describe(self) -> str:
        """The counts in one line."""
        failed = f" + {self.failed} failed" if self.failed else ""
        return (
            f"{self.captured} captured = {self.kept} kept + {self.duplicates} duplicates + {self.blurred} blurred "
            f"+ {self.skipped} skipped{failed}: {self.folder}"
        )


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


class FrameFilter:
    """Says of one frame after another whether it adds something to a data set.

    Args:
        keep_similar: keep near-duplicates: parts that lie in a fixture look alike, and are others all the same.
    """

    def __init__(self, *, keep_similar: bool = False) -> None:
        self._keep_similar = keep_similar
        self._kept: list[NDArray[np.bool_]] = []
        self._sharpness: deque[float] = deque(maxlen=BLUR_WINDOW)

    def remember(self, pixels: NDArray[np.uint8]) -> None:
        """Take a frame, [H, W, C] uint8, as kept already: what is like it adds nothing."""
        self._kept.append(difference_hash(_grey(pixels)))

    def reason_against(self, pixels: NDArray[np.uint8]) -> str | None:
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
        if any(np.count_nonzero(bits != other) <= DUPLICATE_BITS for other in self._kept):
            return "duplicates"
        self._kept.append(bits)
        return None


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    cv2 = import_cv2("capturing")
    grey: NDArray[np.uint8] = (
        pixels[..., 0] if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    )
    return grey


def capture(
    source: Source,
    data: Path,
    *,
    frames: int | None = None,
    every: int = 1,
    keep_similar: bool = False,
    progress: Progress = silent,
    stopping: Callable[[], bool] = lambda: False,
    report: CaptureReport | None = None,
) -> CaptureReport:
    """Collect good frames into `data/train/good` as PNG, under names that sort by time; nothing is overwritten.

    What is like an image that is there already, from an earlier capture, is a duplicate too.

    Args:
        source: opened and closed here.
        data: the data set's folder.
        frames: end after so many were kept; without it when the source ends.
        every: look at every N-th frame only.
        keep_similar: as `FrameFilter`.
        stopping: asked before each frame; true ends it.
        report: counted into, so that a caller has the counts after an error too.

    Raises:
        InputError: the source does not exist, or gave nothing that could be read.
        SourceLostError: a camera was lost; what was kept stays.
        DiskFullError: no space left; what was kept stays.
    """
    for value, flag in ((every, "--every"), (frames, "--frames")):
        if value is not None and value < 1:
            raise InputError(f"{flag} {value} is no number of frames", "give 1 or more")
    folder = data / "train" / GOOD
    report = report or CaptureReport(str(folder))
    report.folder = str(folder)
    chosen = FrameFilter(keep_similar=keep_similar)
    if not keep_similar:
        # Before the source is opened: a camera would send frames meanwhile.
        _remember_folder(chosen, folder, stopping)
    first_failure: InputError | None = None
    with source:
        while not stopping() and (frames is None or report.kept < frames):
            try:
                frame = source.read()
            except MissingExtraError:
                raise
            except InputError as error:
                first_failure = first_failure or error
                report.captured += 1
                report.failed += 1
                continue
            if frame is None:
                break
            reason = "skipped" if report.captured % every else chosen.reason_against(frame.pixels)
            if reason is None:
                # Written before it is counted: a full disk must not leave a kept frame that is not there.
                write_png(_free_path(folder, frame), frame.pixels)
                reason = "kept"
            report.captured += 1
            setattr(report, reason, getattr(report, reason) + 1)
            progress(report.kept, frames or 0, f"kept of {report.captured}")
    if first_failure is not None and report.failed == report.captured:
        raise first_failure
    if report.captured == 0 and not stopping():
        raise InputError(f"{source.name} gave no frame", "see that the file is whole, as with: ffprobe FILE")
    return report


def _remember_folder(chosen: FrameFilter, folder: Path, stopping: Callable[[], bool]) -> None:
    for path in sorted(folder.glob("*")):
        if stopping():
            return
        if path.suffix.lower() in IMAGE_SUFFIXES:
            # One that cannot be read is found when the data set is checked; here it is like no other.
            with contextlib.suppress(InputError):
                chosen.remember(read_image(path))


def _free_path(folder: Path, frame: Frame) -> Path:
    """`20260203T040506.789012Z_000042.png`, or with a further number if that exists."""
    stem = f"{utc(frame.wall_s):%Y%m%dT%H%M%S.%fZ}_{frame.number:06d}"
    path, again = folder / f"{stem}.png", 0
    while path.exists():
        again += 1
        path = folder / f"{stem}_{again}.png"
    return path
