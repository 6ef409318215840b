"""`ablate`: the paper's switches as a table."""

from __future__ import annotations

import textwrap
from pathlib import Path

import typer

from agp_edge.cli.console import note, progress_bar, require_host, say, table, write_json_result
from agp_edge.cli.network import parse_settings
from agp_edge.cli.options import JSON, outside_bundles
from agp_edge.errors import InputError


def ablate(
    data: Path = typer.Argument(..., metavar="DATA", help="Data set with labelled test images."),
    out: Path = typer.Option(
        Path("ablation"),
        "--out",
        metavar="DIR",
        help="Folder for ablation.json and ablation.md.",
        callback=outside_bundles,
    ),
    backbone: str | None = typer.Option(
        None,
        "--backbone",
        metavar="ID|DIR|filterbank",
        help="As for train. Default: facebook/dino-vits16.",
    ),
    setup: str | None = typer.Option(
        None, "--setup", help="one-class: one model a class; or multi-class. Default: one-class."
    ),
    config: Path | None = typer.Option(None, "--config", metavar="TOML", help="What is varied, by name."),
    set_: list[str] = typer.Option(
        [], "--set", metavar="NAME=VALUE", help="One hyper-parameter by name, as in alpha_max=2; repeatable."
    ),
    steps: int | None = typer.Option(None, "--steps", help="Optimiser steps of a training."),
    seeds: int = typer.Option(3, "--seeds", metavar="N", min=1, help="Trainings of each, seed by seed."),
    switch: list[str] = typer.Option(
        [],
        "--switch",
        metavar="NAME",
        help="Only this one: noise, where, mask, ema, alpha_schedule, layers, residual_scale or distance; repeatable.",
    ),
    classes: str | None = typer.Option(
        None, "--classes", metavar="NAME,...", help="Only these classes of the data set."
    ),
    jobs: int = typer.Option(
        1, "--jobs", metavar="N", min=1, help="Trainings at a time, each on one thread."
    ),
    json: str | None = JSON,
) -> None:
    """Train the paper's switches over seeds, and compare them. (host)

    Noise, where it goes, the mask, the EMA copy, the schedule and the layers: each is varied alone around one
    configuration. With fixed filters so are the scale of differences and the cells of the map, which are not the paper's.

    Every training is kept as soon as it is done: after an interrupt the same command goes on where it stopped.

    Example:

    \b
      agp-edge ablate DATA --backbone filterbank --jobs 2
      agp-edge ablate DATA --switch noise --seeds 5 --out noise
    """
    module = require_host("agpnet.ablation", "ablate")
    make_config = require_host("agpnet.config", "ablate").make_config
    from agp_edge.datasets import load_dataset

    kept = out / module.RESULTS
    if json not in (None, "-") and Path(str(json)).resolve() == kept.resolve():
        raise InputError(
            f"--json {json} is where the trainings are kept", "give another file, or - for stdout"
        )
    flags = {"backbone": backbone, "setup": setup, "steps": steps}
    settings = make_config(config, **parse_settings(set_) | {k: v for k, v in flags.items() if v is not None})
    try:
        with progress_bar("trainings") as progress:
            result = module.ablate(
                load_dataset(data),
                settings,
                out,
                seeds=seeds,
                switches=switch,
                classes=[name.strip() for name in classes.split(",")] if classes else (),
                jobs=jobs,
                progress=progress,
                note=note,
            )
    except KeyboardInterrupt:
        if kept.is_file():
            note(f"what was trained is in {kept}; the same command goes on from there")
        raise
    header, rows = result.values
    say(f"{textwrap.fill(result.title, 80)}\n\n{table(rows, header)}", json)
    header, rows = result.differences
    words = textwrap.fill(result.describe(), 80)
    say(f"\nDifference to the default:\n\n{table(rows, header)}\n\n{words}", json)
    note(f"wrote {kept} and {out / module.TABLE}")
    write_json_result(json, result.to_dict())
