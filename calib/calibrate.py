"""Calibrate a bundle: the four splits, the INT8 graph, and the normal scores that thresholds come from.

A calibration belongs to one FP32 graph and one set of frames; the manifest has the hashes of both. Nothing of an earlier
one is taken over: ranges, scales and scores are measured anew each time, and a bundle whose calibration belongs to another
graph is refused wherever it would be used, until it is calibrated again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from agp_edge.bundle import (
    Bundle,
    Manifest,
    model_file,
    write_bundle,
)
from agp_edge.datasets.base import Dataset
from agp_edge.datasets.findings import count
from agp_edge.datasets.leaks import refuse_test_images, warn_of_another_part
from agp_edge.engines.measure import HeldOut, Labelled, frames_of_bundle, judge, measure
from agp_edge.engines.onnxruntime import open_graph
from agp_edge.engines.refusal import check_folder, refusal_folder, show_refusal
from agp_edge.errors import InputError
from agp_edge.evaluation import labelled_metrics
from agp_edge.files import sha256_file
from agp_edge.frame import GRAPHS, FrameSpec, Precision
from agp_edge.gate import GateReport, Scores, check_reason
from agp_edge.progress import Progress, silent
from agp_edge.trust import SIGNATURE
from agp_edge.verdict import choose_threshold
from calib.calibration import Calibration
from calib.choose import CHOICES, Choice, choose_frames, choose_splits
from calib.features import Features, measure_features
from calib.held_out import carried_over, with_scores, write_copies, write_frames
from calib.images import GoodImages
from calib.layers import select_layers
from calib.quantise import METHODS, Method, Quantiser
from calib.search import LayerChoice, search_precision
from calib.sensitivity import MIN_FRAMES as MIN_SEARCH_FRAMES
from calib.sensitivity import describe_layers, measure_sensitivity

Quantise = Literal["search", "all"]
"""Layers that INT8 takes: as many as the gate's allowance permits on the search frames, or all."""
MAX_SEED = 2**32 - 1
ADVISED_FRAMES = 100
"""Below this many frames the INT8 ranges are a matter of luck: said, not refused."""


def calibrate(
    path: Path,
    dataset: Dataset,
    *,
    frames: int = 128,
    choice: Choice = "random",
    seed: int = 0,
    method: Method = "max",
    frames_outside: bool = False,
    quantise: Quantise = "search",
    keep: Collection[str] = (),
    sensitivity: bool = False,
    accept: str | None = None,
    prove: float | None = None,
    flips: Path | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Calibrate a bundle in place.

    A bundle that was not calibrated is written in every case: FP32 needs no gate, and a graph that the gate refuses is
    left out of it. One that was calibrated before is left as it was when a gate does not pass, unless that calibration
    was provisional or is not of this FP32 graph.

    Args:
        path: the bundle.
        dataset: good images: those the network was trained on serve the ranges, the others gate and threshold. Its
            test images serve the gate's AUROC, and nothing else.
        frames: at most so many for the INT8 ranges, and at most so many for the search of precisions.
        choice: how the frames for the ranges are chosen, see `calib.choose`.
        seed: of that choice.
        method: how INT8 ranges are taken.
        frames_outside: the bundle carries hashes of gate and threshold frames, and not the frames.
        quantise: layers that INT8 takes: as many as the gate's allowance permits on the search frames, or all.
        keep: names of layers that are left as they are, see `calib.layers.select_layers`.
        sensitivity: measure what each layer costs alone, although nothing has to be left out.
        accept: a reason to keep a graph that its gate did not pass; it is written down.
        prove: as `gate.compare`.
        flips: folder for the frames that a gate refuses a graph for; by default beside the bundle.
        progress: told of frames.

    Raises:
        InputError: test images among the good ones, no good image that the network never saw although training held
            some out, one of another size, or a wrong option.
        ArtefactError: the bundle cannot be read, or a graph's scores are no finite numbers.

    Returns:
        What was done; its `check` raises where a gate did not pass.
    """
    _check_options(frames, choice, seed, method, quantise)
    check_reason(accept)
    bundle = Bundle(path)
    manifest = bundle.manifest
    for precision in GRAPHS:
        check_folder(_refusal(path, precision, flips))
    images = GoodImages.of(dataset, manifest.frame)
    known = {*manifest.trained, *manifest.held_out}
    warnings = refuse_test_images(dataset, images.samples, known)
    splits = choose_splits(list(images.samples), set(manifest.trained))
    provisional = not splits["threshold"] and not manifest.held_out
    if not splits["ranges"] or not (splits["threshold"] or provisional):
        raise InputError(
            f"{dataset.root} has no good image that the network was not trained on, or too few",
            "give the folder that it was trained on (training held some out), or new good images",
        )
    if provisional and frames_outside:
        raise InputError(
            f"{dataset.root} has no good image that the network was not trained on, and provisional scores need "
            "altered copies, which only the bundle has",
            "leave out --frames-outside, or give new good images",
        )
    warnings += images.warnings + _warn_of_other_images(manifest, set(images.samples))

    # Not `model_path`, which refuses a stale calibration: this is where it is mended.
    fp32 = bundle.path / model_file("fp32")

    def features_of(hashes: list[str]) -> Features:
        return measure_features(fp32, manifest.frame, map(images.read, hashes), len(hashes), progress)

    splits["ranges"] = choose_frames(splits["ranges"], frames, choice, seed, features_of)
    splits["search"] = splits["search"][:frames]
    if len(splits["ranges"]) < ADVISED_FRAMES:
        warnings.append(
            f"INT8 ranges come from {count(len(splits['ranges']), 'frame')}; {ADVISED_FRAMES} or more are advised"
        )

    with tempfile.TemporaryDirectory(prefix="agp-edge-calibrate-") as scratch:
        work = Path(scratch)
        int8 = work / model_file("int8")
        ranges = np.stack([images.read(h) for h in splits["ranges"]])
        # What INT8 leaves is FP16 where there is such a graph: see docs/decisions/0010-int8-rest.md.
        fp16 = bundle.path / model_file("fp16")
        # But for one that changes verdicts itself, as an earlier gate found.
        half = "fp16" in manifest.graphs and not manifest.breaks_allowance("fp16")
        base = fp16 if half else fp32
        quantiser = Quantiser(base, ranges, batch=manifest.frame.batch, method=method, progress=progress)
        searched = [images.read(h) for h in splits["search"]]
        if len(searched) < MIN_SEARCH_FRAMES and (quantise == "search" or sensitivity):
            warnings.append(
                f"{len(searched)} frames are too few to search which layers INT8 may have, {MIN_SEARCH_FRAMES} are needed: "
                "all were quantised, and the gate alone decides"
            )
            quantise, sensitivity = "all", False
        kept, layers, table = _choose_layers(
            quantiser,
            fp32,
            manifest.frame,
            searched,
            quantise,
            select_layers(quantiser.layers, keep),
            sensitivity,
            progress,
        )
        files, entries = carried_over(bundle)
        quantised = [node for node in quantiser.nodes if node not in kept]
        if quantised:
            quantiser.write(int8, kept)
            files[int8.name] = int8
        else:
            warnings.append("no layer may be in INT8: the bundle has no INT8 graph")
        if provisional:
            copied = write_copies(bundle, images, sorted(images.samples), work, progress)
            splits["threshold"] = [entry.sha256 for entry in copied]
        else:
            copied = write_frames(images, splits, work)
        held_out_files: dict[str, Path | bytes] = {entry.file: work / entry.file for entry in copied}
        draft = replace(
            manifest,
            splits=splits,
            frames=[*entries, *copied],
            artefacts={},
            calibration={},
        )
        calibration = {
            "model_sha256": sha256_file(fp32),
            "set_sha256": draft.split_hashes()["ranges"],
            "frames": [{"name": images.samples[h].name, "sha256": h} for h in splits["ranges"]],
            "choice": choice,
            "seed": seed,
            "method": method,
            "int8": {"quantised": quantised, "kept": kept},
        }
        draft = replace(draft, calibration=calibration)
        staged = write_bundle(work / "staged.bundle", draft, {**files, **held_out_files})
        held_out = frames_of_bundle(staged)
        scores = _measure_all(staged, held_out, labelled_metrics(dataset, progress), progress)
        reports: dict[Precision, GateReport] = {
            p: judge(scores["fp32"], s, held_out, prove=prove) for p, s in scores.items() if p != "fp32"
        }
        shown: dict[Precision, str] = {}
        for precision, report in reports.items():
            both = scores["fp32"], scores[precision]
            name = f"{manifest.name} {precision}"
            text = show_refusal(_refusal(path, precision, flips), "calibrate", name, report, both, held_out)
            if text is not None:
                shown[precision] = text
        refused: list[Precision] = [
            p for p, r in reports.items() if r.outcome == "refused" and accept is None
        ]
        # The FP16 graph is the export's, and stays for the next calibration; what was refused is built by nobody.
        if "int8" in refused:
            del files[model_file("int8")]
        passed = accept is not None or all(r.outcome == "passed" for r in reports.values())
        written = passed or not _is_worth_keeping(manifest)
        if written:
            final = replace(
                draft,
                frames=entries if frames_outside else [*entries, *with_scores(copied, scores["fp32"])],
                artefacts=_artefacts(scores, reports, refused, accept, method, provisional=provisional),
            )
            if (path / SIGNATURE).is_file():
                warnings.append(
                    f"{path} was signed, and is not any more: it is another bundle now. Sign it again: agp-edge sign {path} --key FILE"
                )
            bundle = write_bundle(path, final, files if frames_outside else {**files, **held_out_files})
    return Calibration(
        bundle=bundle,
        quantised=quantised,
        kept=kept,
        splits={part: len(hashes) for part, hashes in splits.items()},
        calibration=calibration,
        layers=layers,
        table=table,
        thresholds={p: choose_threshold(s.normal, provisional=provisional) for p, s in scores.items()},
        reports=reports,
        shown=shown,
        accepted=accept,
        written=written,
        warnings=warnings,
    )


def _check_options(frames: int, choice: str, seed: int, method: str, quantise: str) -> None:
    """Refuse a wrong option before anything is read.

    Raises:
        InputError: one is wrong.
    """
    if frames < 1:
        raise InputError(f"{frames} frames cannot be chosen", "give --frames 100 or more")
    if choice not in CHOICES:
        raise InputError(f"there is no choice {choice!r} of frames", f"take one of: {', '.join(CHOICES)}")
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"{seed} is no seed", f"give --seed 0 to {MAX_SEED}")
    if method not in METHODS:
        raise InputError(f"there is no calibration method {method!r}", f"take one of: {', '.join(METHODS)}")
    if quantise not in get_args(Quantise):
        raise InputError(f"{quantise!r} layers cannot be quantised", "give --quantise search or all")


def _choose_layers(
    quantiser: Quantiser,
    reference: Path,
    frame: FrameSpec,
    frames: list[NDArray[np.uint8]],
    quantise: Quantise,
    keep: list[str],
    sensitivity: bool,
    progress: Progress,
) -> tuple[list[str], LayerChoice | None, str]:
    """The nodes to keep, what the search found where it was asked, and the table of layers."""
    if quantise == "search":
        found = search_precision(
            quantiser,
            reference,
            frame,
            np.stack(frames),
            keep=keep,
            sensitivity=sensitivity,
            progress=progress,
        )
        return found.kept, found, found.table()
    effects = (
        measure_sensitivity(quantiser, frame, np.stack(frames), progress=progress) if sensitivity else None
    )
    chosen = [node for node in quantiser.nodes if node not in keep]
    return keep, None, describe_layers(quantiser.layers, chosen, effects, rest=quantiser.rest)


def _refusal(path: Path, precision: Precision, flips: Path | None) -> Path:
    """Where the frames are shown that the gate of one of a bundle's graphs refused it for."""
    whole = path.resolve()
    return refusal_folder(whole.with_name(f"{whole.name}.{precision}"), flips)


def _warn_of_other_images(manifest: Manifest, hashes: set[str]) -> list[str]:
    """What hashes cannot tell of images that the training may not have known as they are now."""
    trained = manifest.network.get("trained_frame")
    size = (manifest.frame.width, manifest.frame.height)
    if isinstance(trained, dict) and (trained.get("width"), trained.get("height")) != size:
        return [
            f"trained on frames of {trained.get('width')}x{trained.get('height')}, this bundle takes {size[0]}x{size[1]}: "
            "whether these images were trained on cannot be told from their hashes; give frames that were not"
        ]
    return warn_of_another_part(hashes, {*manifest.trained, *manifest.held_out})


def _measure_all(
    bundle: Bundle, held_out: HeldOut, labelled: Labelled | None, progress: Progress
) -> dict[Precision, Scores]:
    """What each of a bundle's graphs measures on the same frames."""
    scores: dict[Precision, Scores] = {}
    for precision in bundle.manifest.graphs:
        with open_graph(bundle, precision) as session:
            scores[precision] = measure(session, held_out, progress, labelled)
    return scores


def _is_worth_keeping(manifest: Manifest) -> bool:
    """Whether an earlier calibration is better than a new one that a gate did not pass."""
    return manifest.calibrated and not manifest.provisional and manifest.find_stale() is None


def _artefacts(
    scores: dict[Precision, Scores],
    reports: dict[Precision, GateReport],
    refused: list[Precision],
    accept: str | None,
    method: Method,
    *,
    provisional: bool,
) -> dict[str, dict[str, Any]]:
    """What the manifest keeps of each precision."""
    artefacts: dict[str, dict[str, Any]] = {}
    for precision, measured in scores.items():
        entry: dict[str, Any] = {}
        if precision not in refused:
            entry["normal_scores"] = sorted(measured.normal)
            if provisional:
                entry["provisional"] = True
        if precision in reports:
            report = reports[precision]
            entry["gate"] = report.to_dict()
            if accept is not None and report.outcome != "passed":
                entry["accepted"] = accept
        if precision == "int8":
            entry["method"] = method
        artefacts[precision] = entry
    return artefacts
