"""Build an engine: compile, measure on this machine, pass the gate, and only then put it in place."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from agp_edge import gate
from agp_edge.bundle import Bundle, refuse_inside_bundle
from agp_edge.engines import get_backend
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.measure import HeldOut, Labelled, frames_of_bundle, judge, measure
from agp_edge.engines.onnxruntime import open_graph
from agp_edge.engines.rebuild import compare_rebuilt, previous_sidecar, refusal_of
from agp_edge.engines.refusal import check_folder, refusal_folder, show_refusal
from agp_edge.engines.self_test import run_self_test
from agp_edge.engines.sidecar import SUFFIX, Sidecar, engine_name, sidecar_path
from agp_edge.errors import ArtefactError, DiskFullError, GateError, InputError
from agp_edge.files import flush, sha256_file, translate_write_errors, write_json
from agp_edge.frame import Precision, graph_of
from agp_edge.gate import GateReport, Scores, check_reason
from agp_edge.progress import Progress, silent
from agp_edge.scene import SceneReference
from agp_edge.trust import check_can_seal, seal_engine


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


def build_engine(
    bundle: Bundle,
    precision: Precision,
    backend_name: str = "onnxruntime",
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
        precision: what it counts in.
        backend_name: a key of `agp_edge.engines.BACKENDS`.
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
        GateError: the gate refused or was inconclusive, or the engine answers otherwise than the one in its place;
            nothing is put in place, and an earlier engine stays.
        ArtefactError: the graph or the machine does not suit the backend.
    """
    check_bundle(bundle, accept)
    get_backend(backend_name)
    bundle.model_path(graph_of(precision))
    target = engine_target(bundle, precision, backend_name, save_engine)
    check_folder(refusal_folder(target, flips))
    with Workbench(bundle, target.parent, options, prove, frames, labelled, progress) as bench:
        return bench.finish(bench.draft(precision, backend_name, target), accept, flips)


def check_bundle(bundle: Bundle, accept: str | None) -> None:
    """Before any work: can an engine be built from a bundle, judged, and sealed?

    Raises:
        InputError: an empty reason, or a bundle that is not calibrated.
        ArtefactError: a policy requires a seal that this device cannot make.
    """
    check_reason(accept)
    check_can_seal(bundle.signer)
    if not bundle.manifest.calibrated:
        raise InputError(
            f"bundle {bundle.path} is not calibrated: it has no thresholds",
            f"run: agp-edge calibrate {bundle.path} DATA",
        )


def engine_target(bundle: Bundle, precision: Precision, backend_name: str, save_engine: Path | None) -> Path:
    """Where an engine goes: beside its bundle under its proper name, or where it was asked for.

    Raises:
        InputError: what is there is no engine, or the name is none.
    """
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
    return target


@dataclass(frozen=True)
class Draft:
    """An engine that is compiled and judged, and not yet in place.

    Attributes:
        target: where it is to go.
        plan: where it is, hidden beside that.
        sidecar: what is known of it, but for `accepted` and `seal`.
        report: the gate's, or None where it cannot be run here.
        scores: what it measured; None as `report`.
        notes: what the builder wants the user to know.
    """

    target: Path
    plan: Path
    sidecar: Sidecar
    report: GateReport | None
    scores: Scores | None
    notes: tuple[str, ...] = ()

    def refusal(self, shown: str | None = None) -> GateError | None:
        """Why it may not be put in place without `--accept`; None if it may.

        Args:
            shown: where the refused frames can be seen, for the hint.
        """
        name = self.target.name
        if self.report is not None:
            try:
                self.report.check(name, shown=shown)
            except GateError as error:
                return error
        return refusal_of(self.sidecar.rebuilt, name, self.sidecar.precision)


class Workbench:
    """A hidden folder in which engines of one bundle are made and judged, before any of them has a name.

    Args:
        bundle: checked by `check_bundle`.
        beside: the folder that engines go to: a rename there needs no space.
        options, prove, frames, labelled, progress: as `build_engine`.
    """

    def __init__(
        self,
        bundle: Bundle,
        beside: Path,
        options: BuildOptions | None = None,
        prove: float | None = None,
        frames: HeldOut | None = None,
        labelled: Labelled | None = None,
        progress: Progress = silent,
    ) -> None:
        self.bundle = bundle
        self.progress = progress
        self._options = options or BuildOptions()
        self._prove = prove
        self._frames = frames
        self._labelled = labelled
        self._reference: Scores | None = None
        self._scene: SceneReference | None = None
        with translate_write_errors(beside):
            beside.mkdir(parents=True, exist_ok=True)
            self._scratch = tempfile.TemporaryDirectory(prefix=".agp-edge-build-", dir=beside)

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    @property
    def frames(self) -> HeldOut:
        """What everything is measured on.

        Raises:
            ArtefactError: the bundle carries none, and none were given.
        """
        self._frames = self._frames or frames_of_bundle(self.bundle)
        return self._frames

    def measure_reference(self) -> Scores:
        """What the bundle's FP32 graph says here, measured once.

        Raises:
            ArtefactError: it does not score as where the bundle was made: nothing can be held against it.
        """
        if self._reference is None:
            check_self_test(self.bundle)
            with open_graph(self.bundle) as session:
                self._reference = measure(session, self.frames, self.progress, self._labelled)
        return self._reference

    def measure_scene(self) -> SceneReference:
        """What the good frames are like as pictures, measured once."""
        if self._scene is None:
            self._scene = SceneReference.measure(chain(self.frames.threshold, self.frames.gate))
        return self._scene

    def draft(self, precision: Precision, backend_name: str, target: Path) -> Draft:
        """Compile an engine, and judge it if it runs here; nothing is put in place.

        Raises:
            InputError, ArtefactError, DiskFullError: as `build_engine`.
        """
        bundle, backend = self.bundle, get_backend(backend_name)
        model = bundle.model_path(graph_of(precision))
        folder = Path(tempfile.mkdtemp(dir=self._scratch.name))
        plan = folder / target.name
        graph = _own_graph(bundle, graph_of(precision), folder)
        start = time.monotonic()
        try:
            with translate_write_errors(target):
                options = replace(self._options, precision=precision, frame=bundle.manifest.frame)
                result = backend.build(graph, plan, options, self.progress)
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
        if not result.runs_here:
            return Draft(target, plan, sidecar, None, None, result.notes)
        reference = self.measure_reference()
        with backend.open(plan, sidecar) as session:
            scores = measure(session, self.frames, self.progress, self._labelled)
            self_test = run_self_test(session)
        report = judge(reference, scores, self.frames, prove=self._prove)
        sidecar = replace(
            sidecar,
            normal_scores=sorted(scores.normal),
            provisional=self.frames.provisional,
            gate=report.to_dict(),
            self_test=self_test,
            scene=self.measure_scene(),
        )
        before = previous_sidecar(target, sidecar)
        if before is not None:
            rebuilt = compare_rebuilt(before, scores, reference, report, self.frames)
            sidecar = replace(sidecar, rebuilt=rebuilt)
        return Draft(target, plan, sidecar, report, scores, result.notes)

    def show(self, draft: Draft, flips: Path | None) -> str | None:
        """As `show_refusal`: the frames that a draft is refused for, or clear away an earlier refusal's."""
        if draft.report is None or draft.scores is None:
            return None
        folder = refusal_folder(draft.target, flips)
        both = self.measure_reference(), draft.scores
        return show_refusal(folder, "build-engine", draft.target.name, draft.report, both, self.frames)

    def finish(self, draft: Draft, accept: str | None, flips: Path | None) -> Built:
        """Put a draft in place with its sidecar, if it may be.

        Raises:
            GateError: it may not, and no reason was given to accept it.
        """
        shown = self.show(draft, flips)
        refusal = draft.refusal(shown)
        if refusal is not None and accept is None:
            raise refusal
        passed = draft.report is not None and refusal is None
        sidecar = replace(
            draft.sidecar,
            accepted=_accepted(self.bundle, draft.sidecar.precision, None if passed else accept),
        )
        sidecar = replace(sidecar, seal=seal_engine(sidecar.unsealed, self.bundle.signer))
        _install(draft.plan, draft.target, sidecar)
        size = draft.target.stat().st_size
        return Built(draft.target, sidecar, size, draft.report, shown, draft.notes)


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
