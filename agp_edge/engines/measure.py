"""Measure an artefact on held-out frames: its own normal scores, and what the gate compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agp_edge import gate
from agp_edge.bundle import Bundle, split_held_out
from agp_edge.datasets import content_hashes
from agp_edge.datasets.base import Dataset
from agp_edge.datasets.images import read_frame
from agp_edge.datasets.leaks import refuse_test_images, warn_of_another_part
from agp_edge.engines.base import Session
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import sha256_bytes
from agp_edge.frame import FrameSpec
from agp_edge.gate import GateReport, LabelledMetrics, Scores
from agp_edge.progress import Progress, silent

Labelled = Callable[[Session], LabelledMetrics]
"""Measures an artefact on labelled images: they are the caller's."""


@dataclass(frozen=True)
class HeldOut:
    """Good frames that no network was trained on, in their two parts.

    Attributes:
        threshold, gate: [N, H, W, C] uint8.
        names: of the gate frames.
        splits: part -> hash of its frame hashes.
        provisional: the threshold frames are altered copies of images that the network was trained on.
        warnings: what the user should know of them.
    """

    threshold: NDArray[np.uint8]
    gate: NDArray[np.uint8]
    names: list[str]
    splits: dict[str, str]
    provisional: bool = False
    warnings: tuple[str, ...] = ()


def frames_of_bundle(bundle: Bundle) -> HeldOut:
    """The frames that a calibrated bundle carries.

    Raises:
        InputError: it carries none.
    """
    _, threshold = bundle.load_frames("threshold")
    entries, gate_frames = bundle.load_frames("gate")
    if not len(threshold):
        outside = (
            "its frames are outside (--frames-outside): give good images, as in build-engine --data DATA"
        )
        raise InputError(
            f"bundle {bundle.path} carries no frames to measure on",
            outside if bundle.manifest.calibrated else f"run: agp-edge calibrate {bundle.path} DATA",
        )
    hashes = bundle.manifest.split_hashes()
    splits = {part: hashes[part] for part in ("gate", "threshold")}
    names = [entry.name for entry in entries]
    return HeldOut(threshold, gate_frames, names, splits, bundle.manifest.provisional)


def frames_of_dataset(
    dataset: Dataset, spec: FrameSpec, trained: set[str], known: set[str] | None = None
) -> HeldOut:
    """The good images of a data set that the network was not trained on, divided by hash.

    Args:
        dataset: good images.
        spec: the frame that they must be.
        trained: content hashes of the images that the network was made with.
        known: of all images that its training knew, those left out among them: to warn of another part.

    Raises:
        InputError: there are none, one has another size, or one is certainly a test image.
    """
    samples = [s for data in dataset.classes for s in (*data.train, *data.validation)]
    hashes = content_hashes(samples)
    by_hash = {h: s for h, s in zip(hashes, samples, strict=True) if h not in trained}
    warnings = refuse_test_images(dataset, by_hash, trained)
    if known:
        warnings += warn_of_another_part(hashes, known)
    if not by_hash:
        raise InputError(
            f"{dataset.root} has no good image that the network was not trained on",
            "give good images that it never saw",
        )
    parts = split_held_out(by_hash)
    frames = {
        part: np.stack(
            [read_frame(by_hash[h], spec) for h in parts[part]] or [np.zeros(spec.shape, np.uint8)]
        )
        for part in parts
    }
    gate_frames = frames["gate"][: len(parts["gate"])]
    names = [by_hash[h].name for h in parts["gate"]]
    splits = {part: sha256_bytes("\n".join(hashes).encode()) for part, hashes in parts.items()}
    return HeldOut(frames["threshold"], gate_frames, names, splits, warnings=tuple(warnings))


def has_good(dataset: Dataset) -> bool:
    """Whether a data set has good images outside its test images."""
    return any(data.train or data.validation for data in dataset.classes)


def measure(
    session: Session, frames: HeldOut, progress: Progress = silent, labelled: Labelled | None = None
) -> Scores:
    """Score the threshold and gate frames with a session.

    Args:
        session: the artefact.
        frames: the same for every artefact that is compared.
        progress: told of frames.
        labelled: measures it on labelled images, too.

    Raises:
        ArtefactError: a score is no finite number.
    """
    total = len(frames.threshold) + len(frames.gate)
    done = 0
    size = session.frame.batch
    parts = {}
    for part, pixels in (("threshold", frames.threshold), ("gate", frames.gate)):
        scores: list[float] = []
        maps = []
        for start in range(0, len(pixels), size):
            result = session.infer(pixels[start : start + size])
            scores += result.score.tolist()
            maps.append(result.anomaly_map)
            done += len(result.score)
            progress(done, total, f"measuring {session.precision}")
        if not np.isfinite(scores).all():
            raise ArtefactError(
                f"the {session.precision} graph gives scores that are no finite numbers",
                "take a higher precision, or export the run again",
            )
        parts[part] = scores, np.concatenate(maps) if maps else np.zeros((0, 1, 1), np.float32)
    return Scores(
        normal=parts["threshold"][0],
        gate=parts["gate"][0],
        maps=parts["gate"][1],
        precision=session.precision,
        labelled=labelled(session) if labelled is not None else None,
    )


def judge(reference: Scores, candidate: Scores, frames: HeldOut, *, prove: float | None = None) -> GateReport:
    """The gate between two artefacts that were measured on the same frames."""
    return gate.compare(reference, candidate, frames.names, frames.splits, prove=prove)
