"""The result of `benchmarks.gpu` as tables: for a terminal of 80 columns, and as Markdown for a document."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agp_edge.errors import ArtefactError
from agp_edge.files import read_json

WIDTH = 80
NOTHING = "-"
ENGINE = ["engine", "N"]
FORMS = {"map": "ours_map", "queued": "ours_queued", "mapped": "ours_mapped", "spin": "ours_spin"}
"""Column -> our session in another form, held against the bare loop of that form."""
STAGES = {
    "to pinned": "to_pinned", "to GPU": "copy_in", "run": "run", "score back": "copy_score", "map back": "copy_map",
}  # fmt: skip
"""Column -> part of a batch's time."""
BACKENDS = {"tensorrt": "TRT", "tensorrt-rtx": "RTX", "onnxruntime": "ORT"}
"""Backend -> its name in a narrow column."""


@dataclass(frozen=True)
class Table:
    """A table: what it shows, its heads, and a row of cells each."""

    about: str
    heads: list[str]
    rows: list[list[str]]


def read_report(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ArtefactError: it is none of this benchmark.
    """
    report = read_json(path, "benchmark of a GPU")
    if report.get("benchmark") != "gpu":
        raise ArtefactError(f"{path} is no result of benchmarks.gpu", "give the file that it wrote")
    return report


def make_tables(report: dict[str, Any]) -> list[Table]:
    """The tables of a result: sessions and their floor, other forms of both, slots and torch, and where the time goes."""
    engines = [engine for engine in report["engines"] if engine.get("figures")]
    target = 100 * (engines[0]["target"]["at_most"] - 1) if engines else 3
    return [
        Table(
            f"A batch of N frames from the host's memory to its scores there, p50 in ms: our session, and the fastest bare "
            f"loop. The target is {target:.0f} % above it.",
            [*ENGINE, "ours", "floor", "ours / floor (95 %)", "target"],
            [[*_name(engine), *_headline(engine)] for engine in engines],
        ),
        Table(
            "Our session in other forms over the bare loop of that form: with the map fetched, without CUDA graphs, over "
            "mapped memory, spinning while it waits.",
            [*ENGINE, *FORMS],
            [[*_name(engine), *(_ratio(engine, name) for name in FORMS.values())] for engine in engines],
        ),
        Table(
            "Frames a second with one slot, and with two and three under way as multiples of that; torch in FP16 over the "
            "fastest bare loop.",
            [*ENGINE, "frames/s", "2 slots", "3 slots", "eager", "compiled"],
            [[*_name(engine), *_throughput(engine)] for engine in engines],
        ),
        Table(
            "Where the time of a batch goes, p50 in ms, one part after the other; then verdicts of the batch, and the regions of one map.",
            [*ENGINE, *STAGES, "verdict", "regions"],
            [[*_name(engine), *_stages(engine)] for engine in engines],
        ),
    ]


def _name(engine: dict[str, Any]) -> list[str]:
    return [
        f"{BACKENDS.get(engine['backend'], engine['backend'])} {engine['precision']}",
        str(engine["batch"]),
    ]


def _number(value: float | None) -> str:
    """Three digits that count, at least."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.001 else "<0.001"


def _p50(figures: dict[str, Any] | None) -> str:
    return _number((figures or {}).get("ms", {}).get("p50"))


def _headline(engine: dict[str, Any]) -> list[str]:
    figures = engine["figures"]
    ours = figures.get("ours", {})
    ratio = ours.get("over_floor")
    if ratio is None:
        return [_p50(ours), NOTHING, NOTHING, NOTHING]
    said = {True: "holds", False: "missed", None: "unsettled"}[engine["target"]["holds"]]
    interval = f"{ratio['ratio']:.3f} ({ratio['low_95']:.3f} to {ratio['high_95']:.3f})"
    return [_p50(ours), _p50(figures.get(ours["floor"])), interval, said]


def _ratio(engine: dict[str, Any], name: str) -> str:
    ratio = engine["figures"].get(name, {}).get("over_floor")
    return NOTHING if ratio is None else f"{ratio['ratio']:.3f}"


def _throughput(engine: dict[str, Any]) -> list[str]:
    slots = engine.get("throughput") or {}
    several = [f"{slots[n]['over_one']['ratio']:.2f}" if n in slots else NOTHING for n in ("2", "3")]
    torch = [_ratio(engine, name) for name in ("torch_eager", "torch_compile")]
    return [_number(slots.get("1", {}).get("frames_a_second")), *several, *torch]


def _stages(engine: dict[str, Any]) -> list[str]:
    parts = (engine.get("stages") or {}).get("ms", {})
    post = engine.get("post") or {}
    return [
        *(_number(parts.get(name, {}).get("p50")) for name in STAGES.values()),
        *(_number(post.get(name)) for name in ("verdicts_ms", "regions_ms")),
    ]


def list_missing(report: dict[str, Any]) -> list[str]:
    """What was not measured and why, a line each; what has one reason is told once for each backend."""
    lines = []
    for name, binding in sorted(report["bindings"].items()):
        if not binding["works"]:
            failed = [
                f"{title}: {said}" for title, said in binding.get("checks", {}).items() if said != "works"
            ]
            lines.append(f"{name}: {'; '.join([*failed, *filter(None, [binding.get('reason')])])}")
    shared: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for engine in report["engines"]:
        which = f"{engine['precision']} x{engine['batch']}"
        for what, reason in sorted(engine.get("not_measured", {}).items()):
            engines, parts = shared.setdefault((engine["backend"], reason), ([], []))
            engines += [which] if which not in engines else []
            parts += [what] if what not in parts else []
    lines += [
        f"{backend} {', '.join(engines)}: {', '.join(parts)}: {reason}"
        for (backend, reason), (engines, parts) in shared.items()
    ]
    return lines


def title_of(report: dict[str, Any]) -> str:
    """Device and versions, in a line."""
    gpu, versions = report["gpu"], report["versions"]
    libraries = sorted(
        {engine["runtime"]["library"] for engine in report["engines"] if engine.get("runtime")}
    )
    quick = ", quick mode" if report["quick"] else ""
    return (
        f"{gpu['name']}, compute capability {gpu['compute_capability']}, driver {gpu['driver'] or 'unknown'}, "
        f"CUDA {gpu['cuda'] or 'unknown'}; {', '.join([*libraries, report['binding']])}; "
        f"agp-edge {versions['agp_edge']}{quick}{'' if report['complete'] else ', NOT COMPLETE'}"
    )


def describe_for_terminal(report: dict[str, Any]) -> str:
    """All of it in 80 columns."""
    parts = [textwrap.fill(title_of(report), WIDTH)]
    parts += [
        f"{textwrap.fill(table.about, WIDTH)}\n{_aligned([table.heads, *table.rows])}"
        for table in make_tables(report)
        if table.rows
    ]
    missing = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in list_missing(report)]
    if missing:
        parts.append("\n".join(["Not measured:", *missing]))
    return "\n\n".join(parts)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def describe(report: dict[str, Any]) -> str:
    """The document as Markdown."""
    parts = [title_of(report) + "."]
    for table in make_tables(report):
        if table.rows:
            lines = [table.heads, ["---"] * len(table.heads), *table.rows]
            parts += [table.about, "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    missing = list_missing(report)
    if missing:
        parts += ["Not measured:", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n"
