"""Bad images among the good ones: what they cost, and what robust training gains.

    python -m benchmarks.contamination DATA OUT.json --seeds 3 --jobs 2
    python -m benchmarks.contamination DATA OUT.json --on images='{"robust": "images"}' --shares 0 0.1

Of each class some test images with defects, as many as a share of its good training images, are put among the good ones,
their masks unknown, and AGPNet is trained on them with and without its robust option. Which ones is drawn by the seed. The
test is without them, and without those of the largest share for every share, so that all rows of a seed have the same test.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agp_edge.cli.console import run_command
from agp_edge.cli.network import parse_settings
from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.datasets.base import GOOD, ClassData, Dataset
from agp_edge.errors import InputError
from agp_edge.evaluation import evaluate
from agpnet.backbones import backbone_sha256, make_backbone
from agpnet.config import Config, config_from_dict, make_config
from agpnet.run import load_run, open_run
from agpnet.study import (
    AGPNET,
    Row,
    Study,
    Task,
    choose_classes,
    describe_length,
    part,
    train_task,
)
from agpnet.study_table import describe_intervals, difference_rows, markdown, summarise, value_rows
from benchmarks.study_command import study_parser, tell_progress

SHARES = (0.0, 0.05, 0.1)
OFF = "off"
ARMS: dict[str, dict[str, Any]] = {"images": {"robust": "images"}, "patches": {"robust": "patches"}}
"""Name -> the hyper-parameters that it changes; what each is compared with is called `off`."""
HEADS = ("bad images", "robust")


def contaminate(data: ClassData, share: float, most: float, seed: int) -> ClassData:
    """A class with bad images among its good ones, and without them in its test.

    Args:
        data: the class.
        share: bad images to add, as a share of its good training images.
        most: the largest share of the study: as many leave the test, whatever `share` is.
        seed: draws them; a smaller share's images are among a larger one's.

    Raises:
        InputError: the test has too few defects to give so many away.
    """
    defects = [sample for sample in data.test if not sample.good]
    added, removed = (round(s * len(data.train)) for s in (share, most))
    if removed >= len(defects):
        raise InputError(
            f"class {data.name}: {most:.0%} of {len(data.train)} good images are {removed}, and its test has {len(defects)} defects",
            "take smaller --shares, or more labelled defects",
        )
    rng = np.random.default_rng([seed, zlib.crc32(data.name.encode())])
    drawn = [defects[i] for i in rng.permutation(len(defects))[:removed]]
    taken = {sample.path for sample in drawn}
    return replace(
        data,
        train=[*data.train, *(replace(sample, label=GOOD, masks=()) for sample in drawn[:added])],
        test=[sample for sample in data.test if sample.path not in taken],
    )


def train_and_look(task: Task, folder: Path) -> dict[str, Any]:
    """Train and measure AGPNet, and see which of the bad images the training itself took for bad ones.

    Args:
        task: `given` has the content hashes of the bad images.
        folder: to work in.
    """
    run, seconds = train_task(task, folder)
    record = load_run(run)[1]
    bad, suspects = set(task.given), {suspect.sha256 for suspect in record.suspects}
    # Some of the bad ones are held out: those were not learned from.
    trained = bad & set(record.trained)
    with open_run(run) as session:
        measured = part(evaluate(session, task.dataset), seconds)
    counts = {
        "bad_trained": len(trained),
        "bad_suspected": len(suspects & trained),
        "good_trained": len(record.trained) - len(trained),
        "good_suspected": len(suspects - bad),
    }
    return {"parts": {AGPNET: {**measured, **counts}}}


def run_contamination(
    datasets: Sequence[Dataset],
    config: Config,
    out: Path,
    *,
    off: Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Any]],
    shares: Sequence[float] = SHARES,
    seeds: int = 3,
    jobs: int = 1,
) -> dict[str, Any]:
    """Train each share of bad images with each arm, over seeds; the study's document.

    Args:
        datasets: of one class each.
        config: the hyper-parameters, with the first seed.
        out: the study's file, gone on with where it is there.
        off: hyper-parameters of what the arms are compared with.
        arms: name -> hyper-parameters.
        shares: of bad images.
        seeds: how many.
        jobs: trainings at a time, each on one thread.

    Raises:
        InputError: an unknown hyper-parameter, or too few defects.
        AgpEdgeError: of a training; what was done before is in `out`.
    """
    study = Study(out)
    weights = backbone_sha256(
        make_backbone(config.backbone, config.layers, config.input_size, config.combine)
    )

    def tasks(share: float, arm: str, settings: Mapping[str, Any]) -> list[Task]:
        changed = config_from_dict(dict(settings), base=config)
        found = []
        for seed in range(config.seed, config.seed + seeds):
            for dataset in datasets:
                (data,) = dataset.classes
                bad = contaminate(data, share, max(shares), seed)
                task = study.task(
                    f"{data.name}, {share:.0%} bad, robust {arm}, seed {seed}",
                    replace(dataset, classes=[bad]),
                    replace(changed, seed=seed),
                    backbone_sha256=weights,
                )
                found.append(replace(task, given=content_hashes(bad.train[len(data.train) :])))
        return found

    rows: list[Row] = []
    for share in shares:
        base = len(rows)
        rows.append(Row(f"{share:.0%}", OFF, tasks(share, OFF, off), base=base))
        rows += [Row(f"{share:.0%}", arm, tasks(share, arm, s), base=base) for arm, s in arms.items()]
    title = (
        f"{config.backbone}, one model a class, {describe_length(config)}, {seeds} seed{'s' if seeds > 1 else ''}. Robust: "
        + (
            "; ".join(
                f"{arm}: {json.dumps(dict(s), sort_keys=True)}" for arm, s in {OFF: off, **arms}.items()
            )
            + "."
        )
    )
    study.run(rows, title, train_and_look, jobs=jobs, progress=tell_progress)
    return study.document


def describe(document: dict[str, Any]) -> str:
    """The tables in Markdown: means, what the option changes at each share, what bad images change, and who was found."""
    summaries = summarise(document)
    to_clean = summarise({**document, "rows": [{**row, "base": 0} for row in document["rows"]]})
    parts = [
        document["title"],
        markdown(*value_rows(summaries, HEADS)),
        "What the option changes, against off with the same bad images (the rows with a *):",
        markdown(*difference_rows(summaries, HEADS)),
        "What bad images change, against the first row:",
        markdown(*difference_rows(to_clean, HEADS)),
        "Images that a training named as unlike the others, of those that it learned from; sums over its trainings:",
        markdown((*HEADS, "bad named", "good named"), _named(document)),
        describe_intervals(summaries),
    ]
    return "\n\n".join(parts) + "\n"


def _named(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each arm but `off`, which looks for nobody."""
    rows = []
    for row in document["rows"]:
        there = [
            document["results"][key]["parts"][AGPNET] for key in row["keys"] if key in document["results"]
        ]
        if row["value"] != OFF:
            counts = (
                f"{sum(p.get(f'{kind}_suspected', 0) for p in there)} of {sum(p.get(f'{kind}_trained', 0) for p in there)}"
                for kind in ("bad", "good")
            )
            rows.append((row["group"], row["value"], *counts))
    return rows


def parse_arm(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME={...}` or `{...}`, which is called `on`.

    Raises:
        InputError: no JSON object.
    """
    name, equals, value = text.partition("=")
    if text.lstrip().startswith("{"):
        name, equals, value = "on", "=", text
    try:
        settings = json.loads(value)
    except ValueError:
        settings = None
    if not equals or not isinstance(settings, dict):
        raise InputError(f"{text!r} is no NAME=JSON", """write it as images='{"robust": "images"}'""")
    return name, settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; the exit code."""
    parser = study_parser("contamination", __doc__)
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of bad images, from 0")
    parser.add_argument("--off", type=json.loads, default={"robust": "off"}, metavar="JSON")
    parser.add_argument("--on", action="append", default=[], metavar="[NAME=]JSON", help="repeatable")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on one thread")
    given = parser.parse_args(arguments)

    def work(**_: object) -> None:
        settings = parse_settings(given.settings)
        document = run_contamination(
            choose_classes(load_dataset(given.data), given.classes),
            make_config(backbone=given.backbone, steps=given.steps, **settings),
            given.out,
            off=given.off,
            arms=dict(map(parse_arm, given.on)) or ARMS,
            shares=given.shares,
            seeds=given.seeds,
            jobs=given.jobs,
        )
        print(describe(document))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
