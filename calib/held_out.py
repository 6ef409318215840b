"""The frames that a calibrated bundle carries: held-out good ones, or altered copies of a few shots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from agp_edge.bundle import SELF_TEST_FRAMES, Bundle, BundleFrame, Part, model_file
from agp_edge.datasets.images import write_png
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.files import sha256_file
from agp_edge.gate import Scores
from agp_edge.progress import Progress
from calib.images import GoodImages


def carried_over(bundle: Bundle) -> tuple[dict[str, Path | bytes], list[BundleFrame]]:
    """What a calibration leaves as it is: every graph but INT8, and frames that belong to no split."""
    frames = [entry for entry in bundle.manifest.frames if entry.part == "reference"]
    names = [model_file(p) for p in bundle.manifest.graphs if p != "int8"]
    names += [entry.file for entry in frames]
    return {name: bundle.path / name for name in names}, frames


def write_frames(images: GoodImages, splits: Mapping[str, list[str]], work: Path) -> list[BundleFrame]:
    """Write the frames of gate and threshold as PNG, and list them; a few of the gate's are the self-test."""
    entries = []
    parts: tuple[Part, ...] = ("gate", "threshold")
    for part in parts:
        for i, digest in enumerate(splits[part]):
            name = f"frames/{digest[:16]}.png"
            write_png(work / name, images.read(digest))
            self_test = part == "gate" and i < SELF_TEST_FRAMES
            entries.append(BundleFrame(name, images.samples[digest].name, digest, part, self_test, 0.0))
    return entries


def write_copies(
    bundle: Bundle, images: GoodImages, digests: list[str], work: Path, progress: Progress
) -> list[BundleFrame]:
    """Write an altered copy of each image as a threshold frame: what provisional scores are measured on."""
    from calib.provisional import MAX_SHOTS, median_copies  # It imports torch, which nothing else here needs.

    digests = digests[:MAX_SHOTS]
    frame = bundle.manifest.frame
    entries = []
    with OnnxRuntimeSession(bundle.path / model_file("fp32"), frame) as session:
        for digest, copy in zip(
            digests, median_copies(map(images.read, digests), digests, session, progress), strict=True
        ):
            name = f"frames/{digest[:16]}-{copy.number:02}.png"
            write_png(work / name, copy.pixels)
            of = f"{images.samples[digest].name}, altered copy {copy.number}"
            entries.append(BundleFrame(name, of, sha256_file(work / name), "threshold", False, 0.0))
    return sorted(entries, key=lambda entry: entry.sha256)


def with_scores(entries: list[BundleFrame], reference: Scores) -> Iterator[BundleFrame]:
    """The entries with what FP32 scored them, in their order."""
    values = {"gate": iter(reference.gate), "threshold": iter(reference.normal)}
    return (replace(entry, score=float(next(values[entry.part]))) for entry in entries)
