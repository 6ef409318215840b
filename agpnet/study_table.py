"""The tables of a study: means with 95 % intervals over seeds, and paired differences. Made of its file alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agp_edge.evaluation import METRICS
from agpnet.intervals import Interval, mean_interval

COLUMNS = {key: METRICS[key] for key in ("image_auroc", "pixel_auroc", "aupro")}
"""Metric -> head of its column."""

Values = dict[tuple[int, str], dict[str, float | None]]
"""(seed, class) -> metric -> value."""


@dataclass(frozen=True)
class Summary:
    """One row of a study, measured.

    Attributes:
        group, value: what it shows.
        base: whether other rows are compared with it.
        metrics: metric -> mean over the classes, its interval over the seeds; None where nothing was measured.
        differences: metric -> mean of the paired differences to its base, over seeds and classes; empty without a base.
        per_class: class -> metric -> mean, its interval over the seeds.
        seconds: mean time of a training; None where none is done.
    """

    group: str
    value: str
    base: bool
    metrics: dict[str, Interval | None]
    differences: dict[str, Interval | None]
    per_class: dict[str, dict[str, Interval | None]]
    seconds: float | None

    @property
    def seeds(self) -> int:
        """Seeds on which every class was measured."""
        return max((interval.n for interval in self.metrics.values() if interval), default=0)

    @property
    def pairs(self) -> int:
        """Pairs of seed and class that the differences are of."""
        return max((interval.n for interval in self.differences.values() if interval), default=0)


def summarise(document: dict[str, Any]) -> list[Summary]:
    """The rows of a study's file; one that is half done is made of what there is."""
    rows = document["rows"]
    values = [_values(document, row) for row in rows]
    classes = sorted({name for there in values for _, name in there})
    bases = {row["base"] for row in rows}
    summaries = []
    for number, (row, mine) in enumerate(zip(rows, values, strict=True)):
        base = row["base"]
        times = [p["seconds"] for p in _parts(document, row)]
        summaries.append(
            Summary(
                group=row["group"],
                value=row["value"],
                base=number in bases,
                metrics={m: mean_interval(_class_means(mine, m, classes)) for m in COLUMNS},
                differences={}
                if base in (None, number)
                else {m: mean_interval(_differences(mine, values[base], m)) for m in COLUMNS},
                per_class={
                    name: {m: mean_interval(_class_means(mine, m, [name])) for m in COLUMNS}
                    for name in classes
                },
                seconds=sum(times) / len(times) if times else None,
            )
        )
    return summaries


def _parts(document: dict[str, Any], row: dict[str, Any]) -> list[dict[str, Any]]:
    results = (document["results"].get(key) for key in row["keys"])
    return [result["parts"][row["part"]] for result in results if result and row["part"] in result["parts"]]


def _values(document: dict[str, Any], row: dict[str, Any]) -> Values:
    there = [result for key in row["keys"] if (result := document["results"].get(key))]
    return {
        (result["seed"], name): metrics
        for result in there
        for name, metrics in result["parts"].get(row["part"], {"classes": {}})["classes"].items()
    }


def _class_means(values: Values, metric: str, classes: Sequence[str]) -> list[float]:
    """Mean over classes for each seed that has them all; a class whose images allow no number is left out of it."""
    means = []
    for seed in sorted({seed for seed, _ in values}):
        if all((seed, name) in values for name in classes):
            found = [values[seed, name].get(metric) for name in classes]
            numbers = [value for value in found if value is not None]
            means += [sum(numbers) / len(numbers)] if numbers else []
    return means


def _differences(mine: Values, base: Values, metric: str) -> list[float]:
    pairs = [(mine[key].get(metric), base[key].get(metric)) for key in mine if key in base]
    return [a - b for a, b in pairs if a is not None and b is not None]


def value_rows(
    summaries: Sequence[Summary], heads: tuple[str, str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the means, with the number of seeds; what others are compared with has a `*`."""
    header = (*heads, "n", *COLUMNS.values())
    return header, [(*_name(s), str(s.seeds), *(_cell(s.metrics[m]) for m in COLUMNS)) for s in summaries]


def difference_rows(
    summaries: Sequence[Summary], heads: tuple[str, str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the paired differences, with the number of pairs; only of rows that have a base."""
    header = (*heads, "n", *COLUMNS.values())
    return header, [
        (s.group, s.value, str(s.pairs), *(_cell(s.differences[m], signed=True) for m in COLUMNS))
        for s in summaries
        if s.differences
    ]


def class_rows(
    summaries: Sequence[Summary], heads: tuple[str, str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the means for each class, and over all."""
    header = (*heads, "class", "n", *COLUMNS.values())
    rows = []
    for s in summaries:
        for name, metrics in s.per_class.items():
            n = max((interval.n for interval in metrics.values() if interval), default=0)
            rows.append((*_name(s), name, str(n), *(_cell(metrics[m]) for m in COLUMNS)))
        rows.append((*_name(s), "mean", str(s.seeds), *(_cell(s.metrics[m]) for m in COLUMNS)))
    return header, rows


def _name(summary: Summary) -> tuple[str, str]:
    return summary.group, f"{summary.value} *" if summary.base else summary.value


def _cell(interval: Interval | None, *, signed: bool = False) -> str:
    return "-" if interval is None else interval.describe(signed=signed)


def describe_intervals(summaries: Sequence[Summary]) -> str:
    """What the tables' numbers are, in words."""
    classes = list(summaries[0].per_class) if summaries else []
    return (
        f"Mean over {len(classes)} class{'' if len(classes) == 1 else 'es'} ({', '.join(classes)}); ± is half the 95 % interval "
        "by Student's t, for the means over n seeds, for the differences over n pairs of seed and class, each pair trained "
        "on the same seed. Differences are to the row with a *."
    )


def markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
