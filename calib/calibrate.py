"""Calibrate a bundle: the four splits, the INT8 graph, and the normal scores that thresholds come from."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.bundle import (
    SELF_TEST_FRAMES,
    Bundle,
    BundleFrame,
    Manifest,
    Part,
    model_file,
    split_held_out,
    split_trained,
    write_bundle,
)
from agp_edge.datasets import content_hashes
from agp_edge.datasets.base import Dataset, Sample
from agp_edge.datasets.images import read_image, write_png
from agp_edge.engines.measure import frames_of_bundle, judge, measure
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import GateError, InputError
from agp_edge.frame import FrameSpec, Precision
from agp_edge.gate import GateReport, Scores
from agp_edge.progress import Progress, silent
from agp_edge.verdict import Threshold, choose_threshold
from calib.quantise import Method, quantise

ADVISED_FRAMES = 100
"""Below this many frames the INT8 ranges are a matter of luck: said, not refused."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration did.

    Attributes:
        bundle: the bundle as it is now.
        quantised: operators in INT8.
        splits: part -> number of frames.
        thresholds: precision -> its own threshold.
        reports: precision -> its gate against FP32.
        accepted: the reason for which a graph that its gate did not pass was kept.
        written: whether the bundle was; an earlier calibration is not replaced by one that a gate did not pass.
        warnings: what the user should know.
    """

    bundle: Bundle
    quantised: int
    splits: dict[str, int]
    thresholds: dict[Precision, Threshold]
    reports: dict[Precision, GateReport]
    accepted: str | None = None
    written: bool = True
    warnings: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """What was done, for a person."""
        parts = ", ".join(f"{part} {n}" for part, n in self.splits.items())
        lines = [f"{self.bundle.path}: {self.quantised} operators in INT8; good frames: {parts}"]
        if not self.written:
            lines.append("not written: the bundle keeps its earlier calibration")
        for precision, threshold in self.thresholds.items():
            lines.append(f"{precision}  threshold {threshold.describe()}")
            if precision in self.reports:
                lines.append(f"  gate {self.reports[precision].describe()}")
        reference = self.thresholds["fp32"]
        if reference.chosen_by_n:
            lines.append(
                f"n = {reference.n} promises false rejects of {reference.false_reject_rate:.2%} at best; 1% needs n = 99"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` gives it."""
        return {
            "bundle": str(self.bundle.path),
            "quantised": self.quantised,
            "splits": self.splits,
            "thresholds": {p: vars(t) for p, t in self.thresholds.items()},
            "gates": {p: r.to_dict() for p, r in self.reports.items()},
            "written": self.written,
            "warnings": self.warnings,
        }

    def check(self) -> None:
        """Raise if a gate did not pass and nobody accepted that.

        Raises:
            GateError: refused, or inconclusive.
        """
        if self.accepted is not None:
            return
        try:
            for precision, report in self.reports.items():
                report.check(f"{self.bundle.manifest.name} {precision}")
        except GateError as error:
            if self.written:
                raise
            kept = f"{error.hint}; {self.bundle.path} keeps its earlier calibration"
            raise GateError(error.what, kept) from error


def calibrate(
    path: Path,
    dataset: Dataset,
    *,
    frames: int = 128,
    method: Method = "max",
    accept: str | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Calibrate a bundle in place.

    A bundle that was not calibrated is written in every case: FP32 needs no gate, and a graph that the gate refuses is
    left out of it. One that was calibrated before is left as it was when a gate does not pass.

    Args:
        path: the bundle.
        dataset: good images: those the network was trained on serve the ranges, the others gate and threshold.
        frames: at most so many for the INT8 ranges.
        method: how INT8 ranges are taken.
        accept: a reason to keep a graph that its gate did not pass; it is written down.
        progress: told of frames.

    Raises:
        InputError: no good image that the network never saw, one of another size, or a wrong option.
        ArtefactError: the bundle cannot be read, or a graph's scores are no finite numbers.

    Returns:
        What was done; its `check` raises where a gate did not pass.
    """
    if frames < 1:
        raise InputError(f"{frames} frames cannot be chosen", "give --frames 100 or more")
    bundle = Bundle(path)
    manifest = bundle.manifest
    samples = [s for data in dataset.classes for s in (*data.train, *data.validation)]
    by_hash = dict(zip(content_hashes(samples), samples, strict=True))
    splits = choose_splits(list(by_hash), set(manifest.trained), frames)
    if not splits["threshold"] or not splits["ranges"]:
        source = "give the folder that it was trained on (training held some out), or new good images"
        if not manifest.held_out:
            source = "training held none out, as it does with --shots: collect good images that it never saw"
        raise InputError(
            f"{dataset.root} has no good image that the network was not trained on, or too few", source
        )
    warnings = _warn_of_other_images(manifest, set(by_hash))
    if len(splits["ranges"]) < ADVISED_FRAMES:
        warnings.append(
            f"INT8 ranges come from {len(splits['ranges'])} frames; {ADVISED_FRAMES} or more are advised"
        )

    with tempfile.TemporaryDirectory(prefix="agp-edge-calibrate-") as scratch:
        work = Path(scratch)
        ranges = np.stack([_read(by_hash[h], manifest.frame) for h in splits["ranges"]])
        int8 = work / model_file("int8")
        quantised = quantise(
            bundle.model_path("fp32"),
            int8,
            ranges,
            batch=manifest.frame.batch,
            method=method,
            progress=progress,
        )
        files: dict[str, Path | bytes] = {
            model_file(p): bundle.model_path(p) for p in manifest.precisions if p != "int8"
        }
        files[int8.name] = int8
        entries = _copy_frames(by_hash, splits, manifest.frame, work, files)
        draft = replace(manifest, splits=splits, frames=entries, artefacts={})
        staged = write_bundle(work / "staged.bundle", draft, files)
        held_out = frames_of_bundle(staged)
        scores: dict[Precision, Scores] = {}
        for precision in staged.manifest.precisions:
            with OnnxRuntimeSession(staged.model_path(precision), manifest.frame, precision) as session:
                scores[precision] = measure(session, held_out, progress)
        reports: dict[Precision, GateReport] = {
            p: judge(scores["fp32"], s, held_out) for p, s in scores.items() if p != "fp32"
        }
        refused: list[Precision] = [
            p for p, r in reports.items() if r.outcome == "refused" and accept is None
        ]
        for precision in refused:
            del files[model_file(precision)]
        passed = accept is not None or all(r.outcome == "passed" for r in reports.values())
        written = passed or not manifest.calibrated
        final = replace(
            draft,
            frames=_with_scores(entries, scores["fp32"]),
            artefacts=_artefacts(scores, reports, refused, accept, method),
        )
        if written:
            bundle = write_bundle(path, final, files)
    return Calibration(
        bundle=bundle,
        quantised=quantised,
        splits={part: len(hashes) for part, hashes in splits.items()},
        thresholds={p: choose_threshold(s.normal) for p, s in scores.items()},
        reports=reports,
        accepted=accept,
        written=written,
        warnings=warnings,
    )


def _warn_of_other_images(manifest: Manifest, hashes: set[str]) -> list[str]:
    """What hashes cannot tell of images that the training may not have known as they are now."""
    trained = manifest.network.get("trained_frame")
    size = (manifest.frame.width, manifest.frame.height)
    if isinstance(trained, dict) and (trained.get("width"), trained.get("height")) != size:
        return [
            f"trained on frames of {trained.get('width')}x{trained.get('height')}, this bundle takes {size[0]}x{size[1]}: "
            "whether these images were trained on cannot be told from their hashes; give frames that were not"
        ]
    if not hashes & {*manifest.trained, *manifest.held_out}:
        return [f"none of these {len(hashes)} images was among those of the training: is this the same part?"]
    return []


def _read(sample: Sample, frame: FrameSpec) -> NDArray[np.uint8]:
    """A sample as a frame of the bundle.

    Raises:
        InputError: it cannot be read, or has another size.
    """
    pixels = read_image(sample.path, mono=frame.channels == 1)
    if pixels.shape != frame.shape:
        raise InputError(
            f"image {sample.path} is {pixels.shape[1]}x{pixels.shape[0]}, "
            f"the bundle takes the camera's frames of {frame.width}x{frame.height}",
            "collect good frames at the camera's size (agp-edge capture --camera 0 --out DATA) and calibrate with "
            "them, or train on them",
        )
    return pixels


def choose_splits(hashes: list[str], trained: set[str], frames: int) -> dict[str, list[str]]:
    """The four disjoint parts.

    Images the network was trained on serve ranges and search. Where there are none (new images on the device), half
    of what it never saw does.
    """
    known = [h for h in hashes if h in trained]
    unseen = [h for h in hashes if h not in trained]
    if not known:
        halves = split_held_out(unseen)
        known, unseen = halves["gate"], halves["threshold"]
    return {**split_trained(known, at_most=frames), **split_held_out(unseen)}


def _copy_frames(
    by_hash: dict[str, Sample],
    splits: dict[str, list[str]],
    frame: FrameSpec,
    work: Path,
    files: dict[str, Path | bytes],
) -> list[BundleFrame]:
    """Write the frames of gate and threshold as PNG, and list them; a few of the gate's are the self-test."""
    entries = []
    parts: tuple[Part, ...] = ("gate", "threshold")
    for part in parts:
        for i, digest in enumerate(splits[part]):
            sample = by_hash[digest]
            name = f"frames/{digest[:16]}.png"
            files[name] = work / name
            write_png(work / name, _read(sample, frame))
            self_test = part == "gate" and i < SELF_TEST_FRAMES
            entries.append(BundleFrame(name, sample.name, digest, part, self_test, 0.0))
    return entries


def _with_scores(entries: list[BundleFrame], reference: Scores) -> list[BundleFrame]:
    values = {"gate": iter(reference.gate), "threshold": iter(reference.normal)}
    return [replace(entry, score=float(next(values[entry.part]))) for entry in entries]


def _artefacts(
    scores: dict[Precision, Scores],
    reports: dict[Precision, GateReport],
    refused: list[Precision],
    accept: str | None,
    method: Method,
) -> dict[str, dict[str, Any]]:
    """What the manifest keeps of each precision."""
    artefacts: dict[str, dict[str, Any]] = {}
    for precision, measured in scores.items():
        entry: dict[str, Any] = {}
        if precision not in refused:
            entry["normal_scores"] = sorted(measured.normal)
        if precision in reports:
            report = reports[precision]
            entry["gate"] = report.to_dict()
            if accept is not None and report.outcome != "passed":
                entry["accepted"] = accept
        if precision == "int8":
            entry["method"] = method
        artefacts[precision] = entry
    return artefacts
