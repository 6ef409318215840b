"""Build an engine: compile, measure on this machine, pass the gate, and only then put it in place."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from agp_edge.bundle import Bundle
from agp_edge.engines import get_backend
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.measure import frames_of_bundle, judge, measure
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.engines.sidecar import SUFFIX, Sidecar, engine_name, sidecar_path
from agp_edge.errors import ArtefactError, DiskFullError, InputError
from agp_edge.files import flush, sha256_file, translate_write_errors, write_json
from agp_edge.frame import Precision
from agp_edge.gate import GateReport
from agp_edge.progress import Progress, silent

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
    """

    path: Path
    sidecar: Sidecar
    size_bytes: int
    report: GateReport | None


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
        progress: told of the build and of the frames measured.

    Raises:
        InputError: a bundle without this precision, or a wrong option.
        GateError: the gate refused or was inconclusive; nothing is put in place.
        ArtefactError: the graph or the machine does not suit the backend.
    """
    backend_name = choose_backend(backend_name)
    backend = get_backend(backend_name)
    if not bundle.manifest.calibrated:
        raise InputError(
            f"bundle {bundle.path} is not calibrated: it has no thresholds",
            f"run: agp-edge calibrate {bundle.path} DATA",
        )
    model = bundle.model_path(precision)
    target = save_engine or bundle.path.parent / engine_name(bundle.manifest, precision, backend_name)
    if target.is_dir():
        raise InputError(f"{target} is a folder", "give --save-engine a file name")
    if not target.name.endswith(SUFFIX):
        raise InputError(f"{target} does not end in {SUFFIX}", f"give --save-engine {target}{SUFFIX}")
    if save_engine is not None and target.exists() and not sidecar_path(target).is_file():
        raise InputError(
            f"{target} is there without {sidecar_path(target).name}: it may be no engine, and would be lost",
            "give --save-engine another name",
        )
    with translate_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".agp-edge-build-", dir=target.parent)
    with scratch as folder:
        plan = Path(folder) / target.name
        start = time.monotonic()
        try:
            with translate_write_errors(target):
                result = backend.build(model, plan, options or BuildOptions(), progress)
        except ArtefactError as error:
            # A library that could not write its plan says anything but that.
            if shutil.disk_usage(folder).free < model.stat().st_size:
                raise DiskFullError(
                    f"no space left to write {target}", "free space there, or give another --save-engine"
                ) from error
            raise
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
            accepted=accept,
        )
        report = None
        if result.runs_here:
            sidecar, report = _judge(bundle, plan, sidecar, prove, progress)
            if accept is None:
                report.check(target.name)
        _install(plan, target, sidecar)
    return Built(target, sidecar, target.stat().st_size, report)


def _judge(
    bundle: Bundle, plan: Path, sidecar: Sidecar, prove: float | None, progress: Progress
) -> tuple[Sidecar, GateReport]:
    """Measure the plan and the FP32 reference, both here and now, and compare."""
    frames = frames_of_bundle(bundle)
    with OnnxRuntimeSession(bundle.model_path("fp32"), bundle.manifest.frame) as session:
        reference = measure(session, frames, progress)
    with get_backend(sidecar.backend).open(plan, sidecar) as session:
        candidate = measure(session, frames, progress)
    report = judge(reference, candidate, frames, prove=prove)
    return replace(sidecar, normal_scores=sorted(candidate.normal), gate=report.to_dict()), report


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


def check_self_test(bundle: Bundle) -> None:
    """Score the bundle's self-test frames with its FP32 graph and hold them against what it recorded.

    Raises:
        ArtefactError: a score differs by more than 1e-3 relative.
    """
    entries, frames = bundle.load_frames(self_test=True)
    if not entries:
        return
    with OnnxRuntimeSession(bundle.model_path("fp32"), bundle.manifest.frame) as session:
        scores = session.infer(frames).score
    for entry, score in zip(entries, scores.tolist(), strict=True):
        if not abs(score - entry.score) <= 1e-3 * max(abs(entry.score), 1e-12):
            raise ArtefactError(
                f"bundle {bundle.path}: {entry.file} scores {score:.6g} here, {entry.score:.6g} where it was made",
                "compare the versions that `agp-edge doctor` prints on both machines",
            )
