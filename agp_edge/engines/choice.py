"""Which backend, which precision: build what runs here, judge each, time those that passed, and take the fastest.

Which is fastest depends on the machine, and what does no harm on the bundle: neither can be looked up. So every
candidate goes through the gate, and those that passed run in turns on the gate's frames. The fastest gets a second name,
`NAME.default.engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from agp_edge.bundle import Bundle
from agp_edge.engines import BACKENDS, get_backend
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.builder import Built, Draft, Workbench, build_engine, check_bundle, engine_target
from agp_edge.engines.default import check_default, default_path, set_default
from agp_edge.engines.measure import HeldOut, Labelled
from agp_edge.engines.refusal import check_folder, refusal_folder
from agp_edge.engines.timing import time_drafts
from agp_edge.errors import AgpEdgeError, ArtefactError, GateError, InputError
from agp_edge.frame import PRECISIONS, Precision, graph_of
from agp_edge.progress import Progress, silent

AUTO = "auto"

Outcome = Literal["passed", "refused", "inconclusive", "failed", "not run"]


@dataclass(frozen=True)
class Candidate:
    """One backend in one precision.

    Attributes:
        backend, precision: which.
        outcome: the gate's; `refused` also for one that answers otherwise than the engine in its place; `failed` where it
            could not be built, `not run` where this machine cannot run it.
        error: why it is none of those that passed.
        draft: the engine; None where it could not be built.
        size_bytes: of its plan.
        median_ms: of one call, in turns with the others; None where it was not timed.
        built: the engine, if it was put in place.
    """

    backend: str
    precision: Precision
    outcome: Outcome
    error: AgpEdgeError | None = None
    draft: Draft | None = None
    size_bytes: int | None = None
    median_ms: float | None = None
    built: Built | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "outcome": self.outcome,
            "reason": None if self.error is None else self.error.what,
            "size_bytes": self.size_bytes,
            "median_ms": self.median_ms,
            "engine": None if self.built is None else str(self.built.path),
        }


@dataclass(frozen=True)
class Choice:
    """What came of it.

    Attributes:
        candidates: everything that was tried, in order.
        built: the engines that are in place.
        default: the link to the fastest of them; None where none was made.
        chosen: the candidate behind it, or behind `--save-engine`.
        notes: what was not tried, and why.
    """

    candidates: list[Candidate]
    built: list[Built]
    default: Path | None = None
    chosen: Candidate | None = None
    notes: list[str] = field(default_factory=list)

    def standing(self, candidate: Candidate) -> str:
        """What became of a candidate, in a word: `default`, `chosen` where no default was made, `kept`, or nothing."""
        if candidate.built is None:
            return ""
        if candidate is not self.chosen:
            return "kept"
        return "chosen" if self.default is None else "default"

    def to_dict(self) -> dict[str, Any]:
        """As `--json` has it."""
        engines = [
            {"engine": str(b.path), "size_bytes": b.size_bytes, **b.sidecar.to_dict()} for b in self.built
        ]
        candidates = [{**c.to_dict(), "chosen": c is self.chosen} for c in self.candidates]
        default = None if self.default is None else str(self.default)
        return {"engines": engines, "candidates": candidates, "default": default, "notes": self.notes}

    def check(self) -> None:
        """Raise unless an engine is in place.

        Raises:
            GateError: the gate let none pass.
            ArtefactError: none could be run.
        """
        if self.built:
            return
        refused = [(c, c.error) for c in self.candidates if isinstance(c.error, GateError)]
        if not refused:
            raise ArtefactError(
                "no engine can be run here, so none was judged", "see what is missing: agp-edge doctor"
            )
        first, error = refused[0]
        if len(refused) == 1:
            raise error
        told = "; ".join(f"{c.backend} {c.precision}: {error.what}" for c, error in refused)
        one = f"--backend {first.backend} --precision {first.precision}"
        raise GateError(f"no engine passes: {told}", f"{error.hint}; to see the frames of one: {one}")


def choose_engine(
    bundle: Bundle,
    precision: Precision | None = None,
    backend_name: str = AUTO,
    *,
    every: bool = False,
    options: BuildOptions | None = None,
    save_engine: Path | None = None,
    accept: str | None = None,
    prove: float | None = None,
    frames: HeldOut | None = None,
    labelled: Labelled | None = None,
    flips: Path | None = None,
    progress: Progress = silent,
    seed: int | None = None,
) -> Choice:
    """Build every candidate, judge it, and put the fastest that passes in place; its name becomes the default.

    Where backend and precision are both named there is one candidate, and no default. A backend whose engines do not run
    here gives nothing to compare: without a precision its FP32 engine is built, or with `every` each.

    Args:
        bundle: as `build_engine`.
        precision: that one alone; None tries each that the bundle has.
        backend_name: that one alone; `auto` tries each that builds and runs here.
        every: keep the fastest of each precision, and not of all alone.
        accept: a reason. Of what passes the fastest is taken all the same; only where nothing does, the finest that was
            judged. With `every`, those that are refused are kept, too.
        options, save_engine, prove, frames, labelled, progress: as `build_engine`. With `save_engine` no default is made.
        flips: as `build_engine`. Frames are shown of what was asked for by name: with `every`, or with this.
        seed: of the order in which candidates take turns; None draws one.

    Raises:
        InputError: there is no such backend or precision, or none is available here.
        GateError: the gate refused the one that was named by backend and precision.
        ArtefactError: the bundle's reference does not score here as where it was made, or no candidate can be built.
        DiskFullError: no space left.
    """
    check_bundle(bundle, accept)
    unable = None if backend_name == AUTO else get_backend(backend_name).cannot_run()
    if options is not None and options.compute_capabilities and backend_name != AUTO:
        unable = unable or "the GPUs to build for were named, and may be elsewhere"
    if backend_name != AUTO and (unable is not None or (precision is not None and not every)):
        named = precisions_for(bundle, backend_name)[0] if every else [precision or "fp32"]
        candidates = []
        for item in named:
            engine = build_engine(
                bundle, item, backend_name, options=options, save_engine=save_engine, accept=accept, prove=prove,
                frames=frames, labelled=labelled, flips=flips, progress=progress,
            )  # fmt: skip
            outcome: Outcome = engine.report.outcome if engine.report is not None else "not run"
            candidates.append(
                Candidate(backend_name, item, outcome, size_bytes=engine.size_bytes, built=engine)
            )
        made = [c.built for c in candidates if c.built is not None]
        nothing = f"nothing could be compared: {unable}"
        return Choice(candidates, made, notes=[nothing] if precision is None else [])
    pairs, notes = list_candidates(bundle, precision, backend_name)
    targets = {pair: engine_target(bundle, pair[1], pair[0], save_engine) for pair in pairs}
    shows = every or flips is not None
    for target in targets.values():
        check_folder(refusal_folder(target, flips))
    default = default_path(bundle) if save_engine is None else None
    if default is not None:
        check_default(default)
    place = next(iter(targets.values())).parent
    told = _Teller(progress)
    with Workbench(bundle, place, options, prove, frames, labelled, told) as bench:
        bench.measure_reference()  # First, so that what is wrong with the bundle is not said of a candidate.
        candidates = []
        for pair in pairs:
            told.prefix = " ".join(pair) + ": "
            candidates.append(_try(bench, pair, targets[pair]))
        told.prefix = ""
        errors = [c.error for c in candidates if c.outcome == "failed" and c.error is not None]
        if len(errors) == len(candidates):
            raise errors[0]
        if shows:
            candidates = [_show(bench, candidate, flips) for candidate in candidates]
        running = [i for i, c in enumerate(candidates) if _eligible(c, candidates, accept, every)]
        if running:
            drafts = [candidates[i].draft for i in running]
            medians = time_drafts([d for d in drafts if d is not None], bench.frames, told, seed)
            for i, median in zip(running, medians, strict=True):
                candidates[i] = replace(candidates[i], median_ms=median)
        ranked = sorted(running, key=lambda i: _rank(candidates[i]))
        if every:
            first = {candidates[i].precision: i for i in reversed(ranked)}
            kept = sorted(first.values())
        else:
            kept = ranked[:1]
        for count, i in enumerate(kept):
            told(count, len(kept), "putting it in place")
            draft = candidates[i].draft
            assert draft is not None
            candidates[i] = replace(candidates[i], built=bench.finish(draft, accept, flips))
    built = [c.built for c in candidates if c.built is not None]
    chosen = candidates[ranked[0]] if ranked else None
    if chosen is None or chosen.built is None or default is None:
        return Choice(candidates, built, None, chosen, notes)
    told(0, 1, "naming the default")
    set_default(default, chosen.built.path)
    told(1, 1)
    return Choice(candidates, built, default, chosen, notes)


def runs_here(backend_name: str) -> str | None:
    """Why a backend cannot be compared with others here; None if it can.

    Raises:
        InputError: there is none of that name.
    """
    backend = get_backend(backend_name)
    return backend.unavailable() or backend.cannot_run()


def precisions_for(bundle: Bundle, backend_name: str) -> tuple[list[Precision], list[str]]:
    """The precisions that a bundle has a graph for and a backend builds here; and why it does not build the others."""
    backend = get_backend(backend_name)
    taken: list[Precision] = []
    reasons = []
    for precision in PRECISIONS:
        if graph_of(precision) not in bundle.manifest.precisions:
            continue
        reason = backend.refuses(precision)
        if reason is None:
            taken.append(precision)
        else:
            reasons.append(reason)
    return taken, reasons


def list_candidates(
    bundle: Bundle, precision: Precision | None, backend_name: str
) -> tuple[list[tuple[str, Precision]], list[str]]:
    """What can be tried: (backend, precision), and notes on what cannot.

    Raises:
        InputError: nothing can.
    """
    pairs: list[tuple[str, Precision]] = []
    notes = []
    if precision is not None:
        bundle.model_path(graph_of(precision))
    names = list(BACKENDS) if backend_name == AUTO else [backend_name]
    for name in names:
        reason = runs_here(name)
        if reason is not None:
            notes.append(f"not tried: {name}: {reason}")
            continue
        taken, reasons = precisions_for(bundle, name)
        pairs += [(name, p) for p in taken if precision in (None, p)]
        if precision is None:
            notes += [f"not tried: {text}" for text in reasons]
        elif precision not in taken:
            notes += [f"not tried: {text}" for text in reasons if f" {precision}" in text]
    if not pairs:
        told = "; ".join(note.removeprefix("not tried: ") for note in notes)
        raise InputError(
            f"nothing is available here that builds {precision or 'an engine'} and runs it ({told})",
            "install a backend: pip install 'agp-edge[onnxruntime]'",
        )
    return pairs, notes


def _try(bench: Workbench, pair: tuple[str, Precision], target: Path) -> Candidate:
    """Draft a candidate; what it alone cannot do is its own failure, and no end of the work."""
    backend, precision = pair
    try:
        draft = bench.draft(precision, backend, target)
    except (InputError, ArtefactError) as error:
        return Candidate(backend, precision, "failed", error)
    refusal = draft.refusal()
    size = draft.plan.stat().st_size
    if draft.report is None:
        return Candidate(backend, precision, "not run", size_bytes=size)
    outcome: Outcome = "passed"
    if refusal is not None:
        outcome = "inconclusive" if draft.report.outcome == "inconclusive" else "refused"
    return Candidate(backend, precision, outcome, refusal, draft, size)


def _show(bench: Workbench, candidate: Candidate, flips: Path | None) -> Candidate:
    """Show the frames that a candidate is refused for; its error then says where."""
    if candidate.outcome != "refused" or candidate.draft is None:
        return candidate
    return replace(candidate, error=candidate.draft.refusal(bench.show(candidate.draft, flips)))


def _eligible(candidate: Candidate, candidates: Sequence[Candidate], accept: str | None, every: bool) -> bool:
    """Whether a candidate may be put in place: it passed, or a reason was given to accept it."""
    if candidate.outcome == "passed":
        return True
    passed = any(other.outcome == "passed" for other in candidates)
    return candidate.draft is not None and accept is not None and (every or not passed)


def _rank(candidate: Candidate) -> tuple[bool, int, float]:
    """What passed comes first, by its time. A reason to accept is none to take the coarsest: then the finest comes first."""
    passed = candidate.outcome == "passed"
    assert candidate.median_ms is not None
    return not passed, 0 if passed else PRECISIONS.index(candidate.precision), candidate.median_ms


class _Teller:
    """A progress that says whose it is."""

    def __init__(self, progress: Progress) -> None:
        self.prefix = ""
        self._progress = progress

    def __call__(self, done: int, total: int, note: str = "") -> None:
        self._progress(done, total, f"{self.prefix}{note}".removesuffix(": "))
