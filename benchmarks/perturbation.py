"""Does guided noise win? Train the sample data with guided, random and no noise, over seeds, and write the table.

    python -m benchmarks.perturbation OUT --seeds 3 --steps 300 --jobs 2

One model a surface. Random noise has the same energy as guided noise: the same mean square over each image. OUT gets
`perturbation.json`, one entry a training, and the table is printed as Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from agp_edge.datasets import load_dataset
from agp_edge.evaluation import evaluate
from agp_edge.files import write_json
from agpnet.config import make_config
from agpnet.run import open_run, versions
from agpnet.sample_data import SURFACES, make_sample_data
from agpnet.training import train

NOISES = ("guided", "random", "none")
METRICS = ("image_auroc", "pixel_auroc", "aupro")
STUDENT_T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % point of Student's t by degrees of freedom, for 95 % intervals over a handful of seeds."""


def measure(data: Path, surface: str, **settings: Any) -> dict[str, Any]:
    """Train one model on one surface on one thread, and evaluate it."""
    torch.set_num_threads(1)
    dataset = load_dataset(data / surface)
    config = make_config(backbone="filterbank", **settings)
    with tempfile.TemporaryDirectory(prefix="agp-edge-study-") as scratch:
        record = train(dataset, config, Path(scratch) / "run")
        with open_run(Path(scratch) / "run") as session:
            values = evaluate(session, dataset).mean.values
    return {
        "surface": surface,
        **settings,
        "seconds": round(record.seconds, 1),
        **{m: values[m] for m in METRICS},
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t; not a number for a single value."""
    mean = statistics.fmean(values)
    n = len(values)
    if n < 2 or n - 1 not in STUDENT_T_975:
        return mean, math.nan
    return mean, STUDENT_T_975[n - 1] * statistics.stdev(values) / math.sqrt(n)


def table(results: Sequence[dict[str, Any]], by: str = "noise") -> str:
    """A Markdown table: a row for each value of `by`; mean over surfaces, interval over seeds."""
    rows = ["| " + by + " | surface | image AUROC | pixel AUROC | AUPRO |", "|---|---|---|---|---|"]
    for value in dict.fromkeys(result[by] for result in results):
        mine = [r for r in results if r[by] == value]
        surfaces = list(dict.fromkeys(r["surface"] for r in mine))
        for surface in [*surfaces, "mean"]:
            cells = []
            for metric in METRICS:
                seeds = sorted({r["seed"] for r in mine})
                per_seed = [
                    statistics.fmean(
                        [r[metric] for r in mine if r["seed"] == seed and surface in (r["surface"], "mean")]
                    )
                    for seed in seeds
                ]
                mean, half = interval(per_seed)
                cells.append(f"{mean:.3f} ± {half:.3f}" if math.isfinite(half) else f"{mean:.3f}")
            name = f"**{surface}**" if surface == "mean" else surface
            rows.append(f"| {value} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perturbation", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on one thread")
    parser.add_argument("--surfaces", nargs="+", default=list(SURFACES), choices=SURFACES)
    parser.add_argument("--noises", nargs="+", default=list(NOISES), choices=NOISES)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=JSON")
    given = parser.parse_args(arguments)
    settings = {
        name: json.loads(value) for name, _, value in (text.partition("=") for text in given.settings)
    }
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="agp-edge-study-data-") as scratch:
        data = Path(scratch) / "data"
        make_sample_data(data, surfaces=tuple(given.surfaces))
        with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
            waiting = [
                pool.submit(measure, data, surface, noise=noise, seed=seed, steps=given.steps, **settings)
                for seed in range(given.seeds)
                for surface in given.surfaces
                for noise in given.noises
            ]
            for finished in as_completed(waiting):
                results.append(finished.result())
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
                # After each training: hours of work are not lost to an interrupt.
                write_json(
                    given.out / "perturbation.json", {"versions": versions(), "results": in_order(results)}
                )
    print(table(in_order(results)))


def in_order(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By noise, surface and seed, whichever training ended first."""
    return sorted(results, key=lambda r: (NOISES.index(r["noise"]), SURFACES.index(r["surface"]), r["seed"]))


if __name__ == "__main__":
    main()
