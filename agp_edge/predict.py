"""Verdicts for images on disk, with their heat maps."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.datasets.images import read_image, write_png
from agp_edge.errors import InputError, MissingExtraError
from agp_edge.files import write_bytes
from agp_edge.judging import JudgingEngine
from agp_edge.progress import Progress, silent
from agp_edge.rendering import annotate
from agp_edge.sources.conform import conform
from agp_edge.sources.images import find_images
from agp_edge.sources.uri import redact, scheme_of
from agp_edge.sources.video import VIDEO_SUFFIXES
from agp_edge.verdict import Region, VerdictName, find_regions

FAILED_SHOWN = 3
"""Images that failed are seldom few: when one has the wrong size, all have."""


@dataclass(frozen=True)
class Prediction:
    """What was said of one image.

    Attributes:
        file: the image.
        verdict, score, p_value: the verdict and what it rests on.
        regions: of an NG image, in its pixels, strongest first.
        overlay, map: the files written for it; None without an output folder.
    """

    file: Path
    verdict: VerdictName
    score: float
    p_value: float
    regions: list[Region]
    overlay: Path | None = None
    map: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        return {
            "file": str(self.file),
            "verdict": self.verdict,
            "score": self.score if np.isfinite(self.score) else None,
            "p_value": self.p_value,
            "regions": [region.as_list() for region in self.regions],
            "overlay": str(self.overlay) if self.overlay else None,
            "map": str(self.map) if self.map else None,
        }


@dataclass
class Predictions:
    """What was said of all images.

    Attributes:
        engine: first 12 hex digits of its hash.
        threshold: the score above which an image is NG.
        provisional: the threshold's or the p-values' normal scores are of images that the network was trained on.
        images: those that were judged, in the order given.
        failed: (image, why it was not judged).
    """

    engine: str
    threshold: float
    provisional: bool = False
    images: list[Prediction] = field(default_factory=list)
    failed: list[tuple[Path, InputError]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        return {
            "engine": self.engine,
            "threshold": self.threshold,
            "provisional": self.provisional,
            "images": [image.to_dict() for image in self.images],
            "failed": [{"file": str(file), "error": error.what} for file, error in self.failed],
        }

    def rows(self) -> list[tuple[str, ...]]:
        """(file, verdict, score, p-value) for a table; last come the first few that failed, and how many more."""
        judged = [(str(p.file), p.verdict, f"{p.score:.4g}", f"{p.p_value:.3f}") for p in self.images]
        failed = [str(file) for file, _ in self.failed]
        if len(failed) > FAILED_SHOWN + 1:
            failed[FAILED_SHOWN:] = [f"… and {len(failed) - FAILED_SHOWN} more"]
        return judged + [(name, "failed", "-", "-") for name in failed]

    def raise_failures(self) -> None:
        """Say what could not be judged.

        Raises:
            InputError: an image could not be read, or has another size.
        """
        if self.failed:
            _, first = self.failed[0]
            total = len(self.images) + len(self.failed)
            raise InputError(
                f"{len(self.failed)} of {total} images were not judged: {first.what}", first.hint
            )


def predict(
    engine: JudgingEngine, patterns: Sequence[str], out: Path | None = None, progress: Progress = silent
) -> Predictions:
    """Judge images one by one; one that cannot be judged does not keep the others from it.

    Args:
        engine: judges.
        patterns: image files, folders, globs; an image that several of them name is judged once.
        out: folder for `IMAGE.overlay.png` (heat, regions, verdict) and `IMAGE.map.npy` (the raw map: float32
            [h, w] at the network's resolution; a PNG would need a scale, and scores would no longer compare).
            It mirrors the images' folders below the one that all have in common.

    Raises:
        InputError: a pattern names no image, but a video or a URL; or `out` cannot be written.
        DiskFullError: no space left in `out`.
    """
    for pattern in patterns:
        _refuse_moving(pattern)
    paths = list(dict.fromkeys(path for pattern in patterns for path in find_images(pattern)))
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    found = Predictions(engine.id, engine.judge.threshold, engine.judge.provisional)
    for done, path in enumerate(paths):
        try:
            pixels = conform(read_image(path), engine.session.frame, str(path))
        except MissingExtraError:
            raise
        except InputError as error:
            found.failed.append((path, error))
        else:
            target = None if out is None else out / path.absolute().relative_to(root)
            found.images.append(_judge(engine, path, pixels, target))
        progress(done + 1, len(paths))
    return found


def _refuse_moving(pattern: str) -> None:
    path, shown = Path(pattern), redact(pattern)
    is_video = path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
    is_url = scheme_of(pattern) is not None or (shown != pattern and not path.exists())
    if is_video or is_url:
        raise InputError(
            f"{shown} is {'a video' if is_video else 'no file'}, predict takes images",
            f"judge videos and cameras with: agp-edge stream --engine ENGINE --source {shown}",
        )


def _judge(engine: JudgingEngine, path: Path, pixels: NDArray[np.uint8], target: Path | None) -> Prediction:
    judge = engine.judge
    result = engine.session.infer(pixels[np.newaxis])
    score, anomaly_map = float(result.score[0]), result.anomaly_map[0]
    verdict = judge.verdict(score)
    height, width = pixels.shape[:2]
    regions = find_regions(anomaly_map, judge.threshold, (width, height)) if verdict == "NG" else []
    overlay = raw = None
    if target is not None:
        # After the whole name: `a.png` and `a.jpg` may lie side by side.
        overlay, raw = Path(f"{target}.overlay.png"), Path(f"{target}.map.npy")
        write_png(overlay, annotate(pixels, anomaly_map, verdict, score, judge.threshold, regions))
        buffer = io.BytesIO()
        np.save(buffer, anomaly_map, allow_pickle=False)
        write_bytes(raw, buffer.getvalue())
    return Prediction(path, verdict, score, judge.p_value(score), regions, overlay, raw)
