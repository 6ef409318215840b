"""`evaluate` and `inspect`: what labelled images say of an artefact, and what a path is."""

from __future__ import annotations

from pathlib import Path

import typer

from agp_edge.cli.console import note, progress_bar, say, write_json_result
from agp_edge.cli.options import JSON, outside_bundles
from agp_edge.errors import InputError


def evaluate(
    artefact: Path = typer.Argument(
        ..., help="A run (on a host), a folder with a run for each class, a bundle or an engine."
    ),
    data: Path = typer.Argument(..., help="A data set with test images."),
    report: Path | None = typer.Option(
        None,
        "--report",
        metavar="DIR",
        help="Write report.html, metrics.json and contact_sheet.png there.",
        callback=outside_bundles,
    ),
    aupro_limit: float = typer.Option(
        0.3, "--aupro-limit", help="False-positive rate to integrate AUPRO to."
    ),
    json_file: str | None = JSON,
) -> None:
    """Measure an artefact on labelled images: AUROC, AP, F1-max of images and pixels, AUPRO.

    Per class, and the unweighted mean over classes.

    Where the artefact has a threshold of its own, also its false rejects and misses.

    The report is one HTML page that carries its pictures and charts and fetches nothing: it can be passed on.

    \b
    Example:
      agp-edge evaluate part.int8.onnxruntime.engine DATA --report report/
    """
    from agp_edge.cli.artefacts import (
        class_runs,
        is_provisional,
        open_artefact,
        warn_of_unknown_classes,
        with_classes,
    )
    from agp_edge.contact_sheet import choose_rows, draw_contact_sheet, load_rows
    from agp_edge.datasets import load_dataset
    from agp_edge.evaluation import count_verdicts, merge
    from agp_edge.evaluation import evaluate as evaluate_session
    from agp_edge.files import write_json
    from agp_edge.frame import ANY_SIZE
    from agp_edge.report import choose_hardest, describe_subject, write_report
    from agp_edge.verdict import Judge

    dataset = load_dataset(data)
    if report is not None and {data.resolve(), dataset.root.resolve()} & {
        report.resolve(),
        *report.resolve().parents,
    }:
        raise InputError(f"--report {report} lies in the data set {data}", "give another folder")
    warn_of_unknown_classes(artefact, dataset)
    parts, frames = [], set()
    for path, part in with_classes(artefact, dataset):
        session, normal_scores, name = open_artefact(path)
        if path != artefact:
            name = f"runs {artefact.name}: {', '.join(class_runs(artefact))}"
        with session, progress_bar("evaluate" if path == artefact else f"evaluate {path.name}") as progress:
            evaluation = evaluate_session(
                session,
                part,
                aupro_limit=aupro_limit,
                progress=progress,
                keep=(lambda images: [*choose_rows(images), *choose_hardest(images)]) if report else None,
            )
            facts = describe_subject(artefact, name, session, dataset)
        parts.append(evaluation)
        frames.add(session.frame)
    evaluation = merge(parts)
    frame = frames.pop() if len(frames) == 1 else ANY_SIZE
    judge = Judge(normal_scores, provisional=is_provisional(artefact)) if normal_scores else None
    counts = count_verdicts(evaluation.images, judge) if judge else None
    if judge and judge.conformal:
        facts["threshold"] = judge.conformal.describe()
    provisional = judge is not None and judge.provisional
    result = {
        **evaluation.to_dict(),
        "artefact": name,
        "verdicts": counts.to_dict() if counts else None,
        "provisional": provisional,
    }

    say(evaluation.describe(), json_file)
    say(counts.describe() if counts else "No verdicts: the artefact has no threshold.", json_file)
    if provisional:
        note("warning: the verdicts are by a provisional threshold, which promises nothing")
    if report is not None:
        threshold = judge.threshold if judge else None
        rows = load_rows(choose_rows(evaluation.images), frame)
        draw_contact_sheet(rows, report / "contact_sheet.png", threshold=threshold, title=name)
        hardest = load_rows(choose_hardest(evaluation.images), frame)
        thresholds = {} if threshold is None else dict.fromkeys(evaluation.classes, threshold)
        write_report(
            report / "report.html", evaluation, hardest, title=name, facts=facts, thresholds=thresholds
        )
        write_json(report / "metrics.json", result)
        note(f"wrote {report / 'report.html'}, metrics.json and contact_sheet.png beside it")
    write_json_result(json_file, result)


def inspect(
    path: Path = typer.Argument(
        ..., metavar="X", help="A data set, a run, a folder of runs, a bundle or an engine."
    ),
    json_file: str | None = JSON,
) -> None:
    """Say what a path is, and what is in it.

    Of a data set it decodes every image and lists findings: unreadable files, several sizes, masks amiss, leaks.

    Findings are a result, not a failure: the exit code is 0.

    \b
    Example:
      agp-edge inspect DATA
      agp-edge inspect part.bundle --json -
    """
    from agp_edge.inspection import inspect_path

    with progress_bar("inspect") as progress:
        found = inspect_path(path, progress)
    say(found.text, json_file)
    write_json_result(json_file, found.to_dict())
