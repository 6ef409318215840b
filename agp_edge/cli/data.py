"""`evaluate` and `inspect`: what labelled images say of an artefact, and what a path is."""

from __future__ import annotations

from pathlib import Path

import typer

from agp_edge.cli.console import note, progress_bar, say, write_json_result
from agp_edge.cli.options import JSON


def evaluate(
    artefact: Path = typer.Argument(..., help="A run (on a host), a bundle or an engine."),
    data: Path = typer.Argument(..., help="A data set with test images."),
    report: Path | None = typer.Option(
        None, "--report", metavar="DIR", help="Write metrics.json and contact_sheet.png there."
    ),
    aupro_limit: float = typer.Option(
        0.3, "--aupro-limit", help="False-positive rate to integrate AUPRO to."
    ),
    json_file: str | None = JSON,
) -> None:
    """Measure an artefact on labelled images: AUROC, AP, F1-max of images and pixels, AUPRO.

    Per class, and the unweighted mean over classes.

    Where the artefact has a threshold of its own, also its false rejects and misses.

    \b
    Example:
      agp-edge evaluate part.int8.onnxruntime.engine DATA --report report/
    """
    from agp_edge.cli.artefacts import open_artefact
    from agp_edge.contact_sheet import choose_rows, draw_contact_sheet, load_rows
    from agp_edge.datasets import load_dataset
    from agp_edge.evaluation import count_verdicts
    from agp_edge.evaluation import evaluate as evaluate_session
    from agp_edge.files import write_json
    from agp_edge.verdict import Judge

    dataset = load_dataset(data)
    session, normal_scores, name = open_artefact(artefact)
    with session, progress_bar("evaluate") as progress:
        evaluation = evaluate_session(
            session,
            dataset,
            aupro_limit=aupro_limit,
            progress=progress,
            keep=choose_rows if report is not None else None,
        )
        frame = session.frame
    judge = Judge(normal_scores) if normal_scores else None
    counts = count_verdicts(evaluation.images, judge) if judge else None
    result = {**evaluation.to_dict(), "artefact": name, "verdicts": counts.to_dict() if counts else None}

    say(evaluation.describe(), json_file)
    say(counts.describe() if counts else "No verdicts: the artefact has no threshold.", json_file)
    if report is not None:
        write_json(report / "metrics.json", result)
        rows = load_rows(evaluation.images, frame)
        threshold = judge.threshold if judge else None
        draw_contact_sheet(rows, report / "contact_sheet.png", threshold=threshold, title=name)
        note(f"wrote {report / 'metrics.json'} and {report / 'contact_sheet.png'}")
    write_json_result(json_file, result)


def inspect(
    path: Path = typer.Argument(..., metavar="X", help="A data set, a run, a bundle or an engine."),
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
