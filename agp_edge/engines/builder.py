"""Build an engine: compile, measure on this machine, pass the gate, and only then put it in place."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from agp_edge import gate
from agp_edge.bundle import Bundle, refuse_inside_bundle
from agp_edge.engines import get_backend
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.measure import HeldOut, Labelled, frames_of_bundle, judge, measure
from agp_edge.engines.onnxruntime import open_graph
from agp_edge.engines.refusal import check_folder, refusal_folder, show_refusal
from agp_edge.engines.sidecar import SUFFIX, Sidecar, engine_name, sidecar_path
from agp_edge.errors import ArtefactError, DiskFullError, InputError
from agp_edge.files import flush, sha256_file, translate_write_errors, write_json
from agp_edge.frame import Precision, graph_of
from agp_edge.gate import GateReport, Scores, check_reason
from agp_edge.progress import Progress, silent
from agp_edge.trust import check_can_seal, seal_engine

AUTO_ORDER = ("tensorrt", "onnxruntime")
"""What `auto` tries: a GPU that is here first. TensorRT-RTX is asked for by name: its GPU may be elsewhere."""


@dataclass(frozen=True)
class Built:
    """An engine that is in place.

    Attributes:
        path: the plan.
        sidecar: what is known of it.
        size_bytes: of the plan.
        report: the gate's, or None where the plan could not be run here.
        shown: where the frames of a gate that was overridden can be seen, in words; None where it passed.
        notes: what the builder wants the user to know.
    """

    path: Path
    sidecar: Sidecar
    size_bytes: int
    report: GateReport | None
    shown: str | None = None
    notes: tuple[str, ...] = ()


def choose_backend(name: str) -> str:
    """The backend that `auto` means here, or the one that is named.

    Raises:
        InputError: it does not exist, or none is available.
    """
    if name != "auto":
        get_backend(name)
        return name
    reasons = []
    for candidate in AUTO_ORDER:
        reason = get_backend(candidate).unavailable()
        if reason is None:
            return candidate
        reasons.append(f"{candidate}: {reason}")
    raise InputError(
        f"no backend is available here ({'; '.join(reasons)})",
        "install one: pip install 'agp-edge[onnxruntime]'",
    )


def build_engine(
    bundle: Bundle,
    precision: Precision,
    backend_name: str = "auto",
    *,
    options: BuildOptions | None = None,
    save_engine: Path | None = None,
    accept: str | None = None,
    prove: float | None = None,
    frames: HeldOut | None = None,
    labelled: Labelled | None = None,
    flips: Path | None = None,
    progress: Progress = silent,
) -> Built:
    """Build an engine from a bundle, judge it, and write it with its sidecar.

    Args:
        bundle: verified, and calibrated: without normal scores there are no verdicts to keep.
        precision: which of its graphs.
        backend_name: a key of `agp_edge.engines.BACKENDS`, or `auto`.
        options: of the build.
        save_engine: where to put the plan; by default beside the bundle, under its proper name.
        accept: a reason for which an engine that the gate does not pass is put in place all the same.
        prove: as `gate.compare`.
        frames: to judge on; by default those that the bundle carries.
        labelled: measures an artefact on labelled images, for the gate's AUROC.
        flips: as `refusal_folder`: where to show the frames for which the gate refuses the engine.
        progress: told of the build and of the frames measured.

    Raises:
        InputError: a bundle without this precision, an empty reason, or a wrong option.
        GateError: the gate refused or was inconclusive; nothing is put in place, and an earlier engine stays.
        ArtefactError: the graph or the machine does not suit the backend.
    """
    check_reason(accept)
    check_can_seal(bundle.signer)
    backend_name = choose_backend(backend_name)
    backend = get_backend(backend_name)
    if not bundle.manifest.calibrated:
        raise InputError(
            f"bundle {bundle.path} is not calibrated: it has no thresholds",
            f"run: agp-edge calibrate {bundle.path} DATA",
        )
    model = bundle.model_path(graph_of(precision))
    options = replace(options or BuildOptions(), precision=precision)
    target = save_engine or bundle.path.parent / engine_name(bundle.manifest, precision, backend_name)
    if target.is_dir():
        raise InputError(f"{target} is a folder", "give --save-engine a file name")
    refuse_inside_bundle(target)
    if not target.name.endswith(SUFFIX):
        raise InputError(f"{target} does not end in {SUFFIX}", f"give --save-engine {target}{SUFFIX}")
    if save_engine is not None and target.exists() and not sidecar_path(target).is_file():
        raise InputError(
            f"{target} is there without {sidecar_path(target).name}: it may be no engine, and would be lost",
            "give --save-engine another name",
        )
    shown_in = refusal_folder(target, flips)
    check_folder(shown_in)
    with translate_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".agp-edge-build-", dir=target.parent)
    with scratch as folder:
        plan = Path(folder) / target.name
        graph = _own_graph(bundle, graph_of(precision), Path(folder))
        start = time.monotonic()
        try:
            with translate_write_errors(target):
                result = backend.build(graph, plan, options, progress)
        except ArtefactError as error:
            # A library that could not write its plan says anything but that.
            if shutil.disk_usage(folder).free < model.stat().st_size:
                raise DiskFullError(
                    f"no space left to write {target}", "free space there, or give another --save-engine"
                ) from error
            raise ArtefactError(error.what.replace(str(graph), str(model)), error.hint) from error
        sidecar = Sidecar(
            name=bundle.manifest.name,
            precision=precision,
            backend=backend_name,
            backend_version=result.backend_version,
            frame=bundle.manifest.frame,
            plan_sha256=sha256_file(plan),
            bundle_sha256=bundle.sha256,
            device=result.device,
            build_seconds=round(time.monotonic() - start, 3),
            normal_scores=[],
            gate=None,
            layers=result.layers,
        )
        report = shown = None
        if result.runs_here:
            frames = frames or frames_of_bundle(bundle)
            both = _measure(bundle, plan, sidecar, frames, labelled, progress)
            report = judge(*both, frames, prove=prove)
            shown = show_refusal(shown_in, "build-engine", target.name, report, both, frames)
            if accept is None:
                report.check(target.name, shown=shown)
            sidecar = replace(
                sidecar,
                normal_scores=sorted(both[1].normal),
                provisional=frames.provisional,
                gate=report.to_dict(),
            )
        passed = report is not None and report.outcome == "passed"
        sidecar = replace(sidecar, accepted=_accepted(bundle, precision, None if passed else accept))
        sidecar = replace(sidecar, seal=seal_engine(sidecar.unsealed, bundle.signer))
        _install(plan, target, sidecar)
    return Built(target, sidecar, target.stat().st_size, report, shown, result.notes)


def _own_graph(bundle: Bundle, precision: Precision, folder: Path) -> Path:
    """The graph to build from: the bundle's file, or of a signed bundle a private copy of the bytes that were verified.

    A builder opens its graph by path, and between our look at that path and its own the file may change.
    """
    model = bundle.model_path(precision)
    if bundle.signer is None:
        return model
    own = folder / model.name
    with translate_write_errors(own):
        own.write_bytes(bundle.model_bytes(precision))
    return own


def _accepted(bundle: Bundle, precision: Precision, here: str | None) -> str | None:
    """The reasons for which this precision was kept although a gate did not pass: in the bundle, and here."""
    before = bundle.manifest.artefacts.get(graph_of(precision), {}).get("accepted")
    reasons = [f"in the bundle: {before}"] if before else []
    return "; ".join([*reasons, *([here] if here else [])]) or None


def _measure(
    bundle: Bundle,
    plan: Path,
    sidecar: Sidecar,
    frames: HeldOut,
    labelled: Labelled | None,
    progress: Progress,
) -> tuple[Scores, Scores]:
    """Measure the FP32 reference and the plan, both here and now.

    Raises:
        ArtefactError: the reference does not score here as where the bundle was made; nothing can be held against it.
    """
    check_self_test(bundle)
    with open_graph(bundle) as session:
        reference = measure(session, frames, progress, labelled)
    with get_backend(sidecar.backend).open(plan, sidecar) as session:
        return reference, measure(session, frames, progress, labelled)


def _install(plan: Path, target: Path, sidecar: Sidecar) -> None:
    """Put plan and sidecar in place, once both are whole on the same disk: a rename needs no space.

    The old sidecar goes first: a plan without one is never taken for an engine.
    """
    write_json(sidecar_path(plan), sidecar.to_dict())
    with translate_write_errors(target):
        flush(plan)
        sidecar_path(target).unlink(missing_ok=True)
        plan.replace(target)
        sidecar_path(plan).replace(sidecar_path(target))


def check_scores(bundle: Bundle, progress: Progress = silent) -> int:
    """Hold each graph's scores of the threshold frames against those that the manifest has, as far as the frames are there.

    Returns:
        How many frames each graph scored; 0 where they are outside.

    Raises:
        ArtefactError: a score moved by more than the gate allows that precision; then the graph, or what is said of it, was changed.
    """
    entries, frames = bundle.load_frames("threshold")
    for precision in bundle.manifest.precisions if entries else ():
        recorded = bundle.manifest.artefacts.get(precision, {}).get("normal_scores")
        if not recorded:
            continue
        with open_graph(bundle, precision) as session:
            scores = []
            for start in range(0, len(frames), session.frame.batch):
                scores += session.infer(frames[start : start + session.frame.batch]).score.tolist()
                progress(len(scores), len(frames), f"scoring {precision}")
        moved = gate.drift_of(recorded, scores)
        allowed = gate.ALLOWANCES[precision].drift
        if not moved <= allowed:
            raise ArtefactError(
                f"bundle {bundle.path}: its {precision} graph scores the threshold's frames otherwise than the manifest says: "
                f"by {moved:.3g} gaps, {allowed:g} allowed",
                "fetch the bundle again, or calibrate it again",
            )
    return len(entries)


def check_self_test(bundle: Bundle) -> None:
    """Score the bundle's self-test frames with its FP32 graph and hold them against what it recorded.

    Raises:
        ArtefactError: a score differs by more than 1e-3 relative.
    """
    entries, frames = bundle.load_frames(self_test=True)
    if not entries:
        return
    with open_graph(bundle) as session:
        scores = session.infer(frames).score
    for entry, score in zip(entries, scores.tolist(), strict=True):
        if not abs(score - entry.score) <= 1e-3 * max(abs(entry.score), 1e-12):
            raise ArtefactError(
                f"bundle {bundle.path}: {entry.file} scores {score:.6g} here, {entry.score:.6g} where it was made",
                "compare the versions that `agp-edge doctor` prints on both machines",
            )
