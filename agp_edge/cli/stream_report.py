"""What `stream` prints: at its end what became of every frame, and with `--check` what would run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agp_edge.cli.console import say, table, write_json_result

if TYPE_CHECKING:
    from agp_edge.cli.stream_config import SourceConfig
    from agp_edge.stream import Feed

SOURCE_COLUMNS = 28
"""Room for a source's name in a table of 80 columns."""


def stream_report(summary: dict[str, Any]) -> str:
    """What a stream prints at its end, in 80 columns: of every source the counts, the verdicts and latencies."""
    frames, verdicts = [], []
    for line in summary["sources"]:
        total = line["latency_ms"]["total"]
        times = [f"{total[p]:.2f}" if total[p] is not None else "-" for p in ("p50", "p99", "max")]
        counts = [str(line[k]) for k in ("captured", "judged", "dropped", "failed", "reconnects")]
        roi = f" {line['roi']}" if "roi" in line else ""
        name = _shorten(line["source"], SOURCE_COLUMNS - len(roi)) + roi
        frames.append((name, *counts))
        verdicts.append((name, str(line["ok"]), str(line["ng"]), *times))
    seconds = summary["elapsed_ms"] / 1000
    judged = sum(line["judged"] for line in summary["sources"])
    triggers = sum(line.get("triggers", 0) for line in summary["sources"])
    missed = sum(line.get("missed", 0) for line in summary["sources"])
    engines = summary.get("engines", {})
    lost = [f"{sink['sink']} lost {sink['lost']}" for sink in summary["sinks"] if sink["lost"]]
    return "\n".join(
        [
            table(frames, ("source", "captured", "judged", "dropped", "failed", "reconnects")),
            "captured = judged + dropped + failed",
            "",
            table(verdicts, ("source", "OK", "NG", "p50 ms", "p99 ms", "max ms")),
            "judged = OK + NG; latency from capture to verdict, max: the oldest frame",
            *([f"{triggers} triggers, {missed} without a verdict"] if triggers else []),
            *([f"entries that did not get through: {', '.join(lost)}"] if lost else []),
            f"{judged} verdicts in {seconds:.1f} s, threshold {summary['threshold']:.6g}, engine {summary['engine']}",
            *(
                [f"of them {', '.join(f'{n} by {name}' for name, n in engines.items())}"]
                if len(engines) > 1
                else []
            ),
            *(["PROVISIONAL: the threshold promises nothing"] if summary["provisional"] else []),
        ]
    )


def stream_log_line(summary: dict[str, Any]) -> str:
    """The same as one JSON object, where a log is kept."""
    from agp_edge.events import Event
    from agp_edge.files import to_json

    judged = sum(line["judged"] for line in summary["sources"])
    text = f"{judged} verdicts in {summary['elapsed_ms'] / 1000:.1f} s"
    counts = [
        {
            key: line[key]
            for key in ("source", "captured", "judged", "dropped", "failed", "reconnects", "ok", "ng")
        }
        for line in summary["sources"]
    ]
    return to_json(Event("note", text, level="info", data={"sources": counts}).to_dict(), indent=None).rstrip(
        "\n"
    )


def say_check(
    configured: list[SourceConfig],
    feeds: list[Feed],
    sinks: list[str],
    engine: Path,
    to_stdout: str | None,
    json_file: str | None,
) -> None:
    """What `--check` prints: what would run."""
    rows = [
        (
            _shorten(feed.source.name, 32),
            _shorten(one.options.describe() or "-", 26),
            str(len(feed.rois) or "whole"),
            f"{feed.mask.share:.1%}" if feed.mask else "-",
        )
        for one, feed in zip(configured, feeds, strict=True)
    ]
    said = [
        table(rows, ("source", "told", "regions", "masked")),
        f"engine {engine}",
        f"sinks {', '.join(sinks) or 'none'}",
        "this could run; no camera was opened",
    ]
    say("\n".join(said), to_stdout)
    sources = [
        {"source": feed.source.name, "told": one.options.given(), "regions": [roi.name for roi in feed.rois]}
        for one, feed in zip(configured, feeds, strict=True)
    ]
    write_json_result(json_file, {"good": True, "engine": str(engine), "sources": sources, "sinks": sinks})


def _shorten(name: str, columns: int) -> str:
    """A name cut in its middle: both ends tell sources apart."""
    if len(name) <= columns:
        return name
    tail = columns // 2
    return f"{name[: columns - tail - 1]}…{name[-tail:]}"
