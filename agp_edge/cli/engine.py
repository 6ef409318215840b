"""build-engine, compare: an engine for this machine, and the gate between any two artefacts."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agp_edge.cli.console import note, progress_bar, say, table, write_json_result
from agp_edge.cli.options import FLIPS, JSON, PROVE
from agp_edge.errors import InputError

if TYPE_CHECKING:
    from agp_edge.engines.builder import Built
    from agp_edge.engines.choice import Choice


def build_engine(
    bundle: Path = typer.Argument(..., metavar="BUNDLE", help="A calibrated bundle."),
    precision: str = typer.Option(
        "auto", "--precision", help="fp32, fp16, bf16, int8; or auto: the fastest that passes."
    ),
    all_precisions: bool = typer.Option(
        False, "--all-precisions", help="Build each precision that the bundle has, and keep each that passes."
    ),
    backend: str = typer.Option(
        "auto",
        "--backend",
        help="onnxruntime, openvino, tensorrt, tensorrt-rtx; or auto: the fastest of those that run here.",
    ),
    compute_capability: list[str] = typer.Option(
        [],
        "--compute-capability",
        metavar="X.Y",
        help="GPU to build for, without having it (TensorRT-RTX); repeatable.",
    ),
    workspace: int | None = typer.Option(
        None, "--workspace", metavar="MiB", help="Limit of the builder's memory.", min=1
    ),
    optimization_level: int | None = typer.Option(
        None, "--optimization-level", metavar="0-5", help="How long the builder searches for fast kernels."
    ),
    timing_cache: Path | None = typer.Option(
        None,
        "--timing-cache",
        metavar="FILE",
        help="Keep what was measured of kernels in FILE; by default in a file of this GPU and version.",
    ),
    dla: int | None = typer.Option(
        None, "--dla", metavar="CORE", help="Build for a DLA core (Orin; fp16); the GPU takes what it cannot."
    ),
    version_compatible: bool = typer.Option(
        False, "--version-compatible", help="A plan that later versions of TensorRT load, too."
    ),
    hardware_compatible: bool = typer.Option(
        False, "--hardware-compatible", help="A plan for other GPUs from Ampere on, too; not on a Jetson."
    ),
    save_engine: Path | None = typer.Option(
        None, "--save-engine", metavar="FILE", help="Where to put the engine; beside the bundle by default."
    ),
    data: Path | None = typer.Option(
        None,
        "--data",
        metavar="DATA",
        help="Judge on DATA's good images, not on the bundle's frames; with labelled images, on AUROC too.",
    ),
    accept: str | None = typer.Option(
        None,
        "--accept",
        metavar="REASON",
        help="Keep an engine that its gate did not pass; the reason is written into it.",
    ),
    prove: str | None = PROVE,
    flips: Path | None = FLIPS,
    json: str | None = JSON,
) -> None:
    """Compile a bundle for a machine, and keep the engine only if no verdict changes.

    Without a backend or a precision each that runs here is built, judged and timed, and the fastest that passes becomes
    NAME.default.engine.

    Example:

    \b
      agp-edge build-engine brick.bundle
      agp-edge build-engine brick.bundle --precision int8 --backend openvino
      agp-edge build-engine brick.bundle --backend tensorrt-rtx
    """
    from agp_edge.bundle import Bundle
    from agp_edge.engines.base import BuildOptions
    from agp_edge.engines.choice import AUTO, choose_engine
    from agp_edge.engines.sidecar import cast_precision
    from agp_edge.evaluation import labelled_metrics
    from agp_edge.gate import check_reason, parse_rate

    check_reason(accept)
    if all_precisions and save_engine is not None:
        raise InputError(
            "--save-engine names one file, --all-precisions makes several", "leave one of them out"
        )
    if all_precisions and precision != AUTO:
        raise InputError(
            f"--precision {precision} is one, --all-precisions are several", "leave one of them out"
        )
    read = Bundle(bundle)
    named = None if precision == AUTO else cast_precision(precision)
    options = BuildOptions(
        compute_capabilities=tuple(compute_capability),
        workspace_mib=workspace,
        timing_cache=timing_cache,
        optimization_level=optimization_level,
        dla=dla,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
    )
    rate = parse_rate(prove) if prove is not None else None
    frames = dataset = None
    if data is not None:
        from agp_edge.cli.artefacts import seen_hashes
        from agp_edge.datasets import load_dataset
        from agp_edge.engines.measure import frames_of_dataset, has_good

        dataset = load_dataset(data)
        if has_good(dataset):
            known = {*read.manifest.trained, *read.manifest.held_out}
            frames = frames_of_dataset(dataset, read.manifest.frame, seen_hashes(read), known)
            for warning in frames.warnings:
                note(f"warning: {warning}")
    with progress_bar("build" if named is None else f"build {named}") as progress:
        choice = choose_engine(
            read,
            named,
            backend,
            every=all_precisions,
            options=options,
            save_engine=save_engine,
            accept=accept,
            prove=rate,
            frames=frames,
            labelled=labelled_metrics(dataset, progress) if dataset is not None else None,
            flips=flips,
            progress=progress,
        )
    if choice.built or len(choice.candidates) > 1:
        say(describe_choice(choice), json)
        write_json_result(json, choice.to_dict())
    choice.check()


def describe_choice(choice: Choice) -> str:
    """The engines that are in place; where there was a choice, what was tried and what it came to."""
    lines = [describe_built(built) for built in choice.built]
    if choice.default is not None or len(choice.candidates) > 1:
        rows = [
            (
                c.backend,
                c.precision,
                "-" if c.size_bytes is None else f"{c.size_bytes:,}",
                "-" if c.median_ms is None else f"{c.median_ms:.2f}",
                c.outcome if c.error is None or c.built is None else f"{c.outcome}, accepted",
                choice.standing(c),
            )
            for c in choice.candidates
        ]
        lines.append(table(rows, ("backend", "precision", "bytes", "median ms", "gate", "")))
    told = [
        f"{c.outcome}: {c.backend} {c.precision}: {c.error.what}; {c.error.hint}"
        for c in choice.candidates
        if c.error is not None and c.built is None
    ]
    lines += [_fold(text) for text in (*told, *choice.notes)]
    if choice.default is not None and choice.chosen is not None and choice.chosen.built is not None:
        lines.append(f"{choice.default} -> {choice.chosen.built.path.name}")
    return "\n".join(lines)


def _fold(text: str) -> str:
    """A sentence in 80 columns; what follows its first line is set in."""
    return textwrap.fill(text, 80, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def describe_built(built: Built) -> str:
    """What was built, for whom, and what the gate said."""
    sidecar = built.sidecar
    device = ", ".join(f"{k} {' '.join(v) if isinstance(v, list) else v}" for k, v in sidecar.device.items())
    lines = [
        f"{built.path}",
        f"  {sidecar.precision}, {sidecar.backend} {sidecar.backend_version}, {built.size_bytes:,} bytes, "
        f"built in {sidecar.build_seconds:.1f} s for {device}",
    ]
    if sidecar.layers is not None:
        lines.append(f"  layers: {sidecar.layers.describe()}")
    lines += [f"  {note}" for note in built.notes]
    if built.report is None:
        lines.append(
            "  gate: not run: this machine cannot run the plan. Built says nothing of speed or verdicts."
        )
    else:
        lines.append(f"  gate: {built.report.describe()}")
        lines += [f"    {line}" for line in built.report.describe_more()]
    if sidecar.rebuilt is not None:
        lines.append(f"  {sidecar.rebuilt.describe()}")
    if built.shown is not None:
        lines.append(f"  {built.shown}")
    if sidecar.accepted is not None:
        lines.append(f"  accepted by hand: {sidecar.accepted}")
    return "\n".join(lines)


def compare(
    a: Path = typer.Argument(..., metavar="A", help="The reference: a run, bundle or engine."),
    b: Path = typer.Argument(..., metavar="B", help="The candidate: a run, bundle or engine."),
    data: Path | None = typer.Argument(
        None,
        metavar="DATA",
        help="Good images neither was trained on, by default the bundle's own; with labelled images AUROC, too.",
    ),
    prove: str | None = PROVE,
    flips: Path | None = FLIPS,
    json: str | None = JSON,
) -> None:
    """Hold two artefacts against each other: does any verdict change? Exit 3 if so.

    Example:

    \b
      agp-edge compare brick.bundle brick.int8.onnxruntime.engine
    """
    from agp_edge.cli.artefacts import find_bundle, open_artefact, trained_hashes
    from agp_edge.engines.measure import frames_of_bundle, frames_of_dataset, has_good, judge, measure
    from agp_edge.engines.refusal import check_folder, refusal_folder, show_refusal
    from agp_edge.evaluation import labelled_metrics
    from agp_edge.gate import parse_rate

    rate = parse_rate(prove) if prove is not None else None
    shown_in = refusal_folder(b, flips)
    check_folder(shown_in)
    (session_a, _, name_a), (session_b, _, name_b) = open_artefact(a), open_artefact(b)
    with session_a, session_b, progress_bar("compare") as progress:
        if session_a.frame.shape != session_b.frame.shape:
            raise InputError(
                f"{name_a} takes frames of {session_a.frame}, {name_b} of {session_b.frame}: "
                "no frame fits both, so they cannot be compared",
                "export both for one camera: agp-edge export RUN --out BUNDLE --frame-size WxH",
            )
        dataset = None
        if data is not None:
            from agp_edge.datasets import load_dataset

            dataset = load_dataset(data)
        if dataset is not None and has_good(dataset):
            frames = frames_of_dataset(dataset, session_a.frame, trained_hashes([a, b]))
            for warning in frames.warnings:
                note(f"warning: {warning}")
        else:
            frames = frames_of_bundle(find_bundle([a, b]))
        labelled = labelled_metrics(dataset, progress) if dataset is not None else None
        both = (
            measure(session_a, frames, progress, labelled),
            measure(session_b, frames, progress, labelled),
        )
        report = judge(*both, frames, prove=rate)
    shown = show_refusal(shown_in, "compare", name_b, report, both, frames)
    rows = [
        ("threshold of A", f"{report.reference_threshold:.6g}", name_a),
        ("threshold of B", f"{report.candidate_threshold:.6g}", name_b),
    ]
    say("\n".join([report.describe(), *report.describe_more(), table(rows)]), json)
    write_json_result(json, {"a": str(a), "b": str(b), **report.to_dict()})
    report.check(name_b, can_accept=False, shown=shown)
