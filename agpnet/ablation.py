"""The paper's switches and ours, each varied alone around one configuration, over seeds: who is right about what helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agp_edge.datasets.base import Dataset
from agp_edge.errors import InputError
from agp_edge.files import write_bytes
from agp_edge.progress import Progress, silent
from agpnet.backbones import backbone_sha256, make_backbone
from agpnet.config import Config
from agpnet.study import (
    Row,
    Study,
    Task,
    choose_classes,
    describe_length,
    read_study,
    train_and_evaluate,
)
from agpnet.study_table import (
    Summary,
    describe_intervals,
    difference_rows,
    markdown,
    summarise,
    value_rows,
)

SWITCHES: dict[str, tuple[Any, ...]] = {
    "noise": ("none", "random", "guided"),
    "where": ("image", "feature", "both"),
    "mask": ("prior", "learned", "both"),
    "ema": (False, True),
    "alpha_schedule": ("constant", "linear"),
}
"""Hyper-parameter -> the values that it takes; `layers`, whose values follow the backbone, comes after them."""
OURS: dict[str, tuple[Any, ...]] = {
    "residual_scale": ("off", "channel", "rebuilt"),
    "distance": ("token", "cell"),
}
"""What the paper does not have: varied where the configuration uses it, or where it is named."""
LAYERS = "layers"
RESULTS, TABLE = "ablation.json", "ablation.md"
HEADS = ("switch", "value")


@dataclass(frozen=True)
class Variant:
    """One value of a switch: everything else is as in the configuration that is varied.

    Attributes:
        switch, value: as the table shows them.
        config: the hyper-parameters, with the first seed.
        default: whether it is the configuration itself.
    """

    switch: str
    value: str
    config: Config
    default: bool


@dataclass(frozen=True)
class Ablation:
    """What an ablation measured.

    Attributes:
        title: what was varied, in a sentence.
        rows: one a value of a switch.
        document: the whole file, with every single training.
    """

    title: str
    rows: list[Summary]
    document: dict[str, Any]

    @property
    def values(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows: the mean of each value."""
        return value_rows(self.rows, HEADS)

    @property
    def differences(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Header and rows: the paired difference of each value to the default."""
        return difference_rows(self.rows, HEADS)

    def describe(self) -> str:
        """What the numbers are, in words."""
        return describe_intervals(self.rows)

    def to_markdown(self) -> str:
        """Both tables, and what they say, for a file."""
        parts = [
            self.title,
            markdown(*self.values),
            "Difference to the default:",
            markdown(*self.differences),
        ]
        return "\n\n".join([*parts, self.describe()]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """As `--json` gives it: the tables as numbers, and the file."""
        return {
            "rows": [
                {
                    "switch": row.group,
                    "value": row.value,
                    "default": row.base,
                    "seeds": row.seeds,
                    "seconds": row.seconds,
                    "mean": _plain(row.metrics),
                    "difference": _plain(row.differences),
                }
                for row in self.rows
            ],
            "study": self.document,
        }


def _plain(intervals: dict[str, Any]) -> dict[str, Any]:
    return {
        metric: None if i is None else {"mean": i.mean, "half_95": i.half, "n": i.n}
        for metric, i in intervals.items()
    }


def make_variants(
    config: Config, layers: Sequence[int], switches: Sequence[str] = ()
) -> tuple[list[Variant], list[str]]:
    """The values of every switch around a configuration, and what there is to say of switches that are left out.

    Args:
        config: what is varied.
        layers: those that its backbone takes together.
        switches: names to take; empty takes all of the paper's, and ours where the configuration uses them.

    Raises:
        InputError: an unknown switch, or nothing is left to vary.
    """
    known = (*SWITCHES, LAYERS, *OURS)
    for switch in switches:
        if switch not in known:
            raise InputError(f"there is no switch {switch!r}", f"take of: {', '.join(known)}")
    values = SWITCHES | OURS
    variants: list[Variant] = []
    notes: list[str] = []
    for switch in known:
        if switches and switch not in switches:
            continue
        if switch in OURS and not switches and getattr(config, switch) == getattr(Config(), switch):
            continue
        if switch != LAYERS:
            variants += [
                Variant(
                    switch,
                    _name(value),
                    replace(config, **{switch: value}),
                    bool(getattr(config, switch) == value),
                )
                for value in values[switch]
            ]
        elif len(layers) > 1:
            variants += [
                Variant(switch, str(layer), replace(config, layers=(layer,)), False) for layer in layers
            ]
            variants.append(Variant(switch, "+".join(map(str, layers)), config, True))
        else:
            notes.append(f"layers: left out, the backbone {config.backbone} has one layer alone")
    if not variants:
        raise InputError(
            f"nothing is left to vary: {notes[0]}", f"take a --switch of: {', '.join({**SWITCHES, **OURS})}"
        )
    return variants, notes


def _name(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def ablate(
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    seeds: int = 3,
    switches: Sequence[str] = (),
    classes: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda text: None,
) -> Ablation:
    """Train every switch of the paper over seeds, and write `ablation.json` and `ablation.md`.

    Each switch is varied alone; the configuration itself is trained once and stands in each group. Every training runs
    on one thread. What the file has already is not trained again, as long as configuration, backbone and images are the same.

    Args:
        dataset: with test images of both kinds in every class.
        config: what is varied; its seed is the first. Setup `multi-class` trains one model for all classes, else one a class.
        out: folder for the two files.
        seeds: how many.
        switches: names of `SWITCHES`, `layers` and `OURS`; as `make_variants` takes them.
        classes: to take; empty takes all.
        jobs: trainings at a time.
        progress: told after each training.
        note: told of switches that are left out.

    Raises:
        InputError: nothing to vary, an unknown name, or images that cannot be compared.
        AgpEdgeError: of a training; what was done before is kept.
    """
    singles = choose_classes(dataset, classes)
    multi_class = config.setup == "multi-class"
    if multi_class:
        together = Dataset(dataset.root, dataset.layout, [data for one in singles for data in one.classes])
        datasets = [together]
    else:
        datasets = singles
    backbone = make_backbone(config.backbone, config.layers, config.input_size, config.combine)
    variants, left_out = make_variants(config, tuple(getattr(backbone, "layers", ())), switches)
    for text in left_out:
        note(text)
    study = Study(out / RESULTS)
    rows = _rows(study, datasets, variants, seeds, backbone_sha256(backbone))
    setup = "one model for all classes" if multi_class else "one model a class"
    title = (
        f"Each switch varied alone: {config.backbone}, {setup}, {describe_length(config)}, "
        f"{seeds} seed{'s' if seeds > 1 else ''} from {config.seed}."
    )
    try:
        study.run(rows, title, train_and_evaluate, jobs=jobs, progress=progress)
    finally:
        ablation = Ablation(title, summarise(study.document), study.document)
        write_bytes(out / TABLE, ablation.to_markdown().encode())
    return ablation


def _rows(
    study: Study, datasets: Sequence[Dataset], variants: Sequence[Variant], seeds: int, weights: str
) -> list[Row]:
    """The rows of the table; variants of the same configuration share their trainings."""

    def tasks(variant: Variant) -> list[Task]:
        name = "default" if variant.default else f"{variant.switch} {variant.value}"
        first = variant.config.seed
        return [
            study.task(
                f"{name}, {'+'.join(c.name for c in dataset.classes)}, seed {seed}",
                dataset,
                replace(variant.config, seed=seed),
                backbone_sha256=weights,
            )
            for seed in range(first, first + seeds)
            for dataset in datasets
        ]

    default = {v.switch: i for i, v in enumerate(variants) if v.default}
    return [Row(v.switch, v.value, tasks(v), base=default.get(v.switch)) for v in variants]


def read_ablation(path: Path) -> Ablation:
    """The ablation of an `ablation.json`.

    Raises:
        InputError: there is none.
    """
    document = read_study(path)
    return Ablation(document["title"], summarise(document), document)
