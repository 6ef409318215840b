"""`benchmark`: how fast an engine is on this machine."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import typer

from agp_edge.cli.console import note, say, table, write_json_result
from agp_edge.cli.options import JSON, MEMORY, NO_CUDA_GRAPHS, SPIN_WAIT, run_options


def benchmark(
    engine: Path = typer.Argument(..., help="An engine, NAME.PRECISION.BACKEND.engine."),
    scenario: str = typer.Option(
        "single-stream", "--scenario", help="single-stream, multi-stream, offline, server or camera."
    ),
    slo: list[str] = typer.Option(
        [], "--slo", help="A latency to be kept, as in 'p99<15ms'; repeatable. Missed: exit code 6."
    ),
    duration_s: float = typer.Option(
        3.0, "--duration-s", help="Seconds to measure; it goes on to 10 frames."
    ),
    warmup_ms: float = typer.Option(
        200.0, "--warmup-ms", help="Milliseconds to run before; 0: a cold start."
    ),
    rate: float | None = typer.Option(
        None, "--rate", help="Queries a second of `server`, frames a second of `camera`."
    ),
    data: Path | None = typer.Option(
        None, "--data", help="An image, a video, a data set or a folder of images; noise without it."
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the noise and of the arrivals of `server`."),
    memory: str = MEMORY,
    no_cuda_graphs: bool = NO_CUDA_GRAPHS,
    spin_wait: bool = SPIN_WAIT,
    json_file: str | None = JSON,
) -> None:
    """Measure an engine: latency percentiles and throughput.

    An engine uses the cores that its process may use: `taskset -c 0 agp-edge benchmark ...` measures it on one.

    \b
    Example:
      agp-edge benchmark part.int8.onnxruntime.engine --slo 'p99<15ms'
      agp-edge benchmark part.int8.onnxruntime.engine --scenario server --rate 30
    """
    from agp_edge.benchmark import benchmark_engine
    from agp_edge.objective import parse_objective, raise_if_missed

    objectives = [parse_objective(text) for text in slo]
    report = benchmark_engine(
        engine,
        scenario,
        data=data,
        objectives=objectives,
        duration_s=duration_s,
        warmup_ms=warmup_ms,
        rate=rate,
        seed=seed,
        options=run_options(memory, no_cuda_graphs, spin_wait),
        # An engine that does not open is told in its two lines alone.
        begin=lambda: note(
            f"measuring {engine.name}, {scenario}, for {duration_s:g} s; leave the machine alone meanwhile"
        ),
    )
    write_json_result(json_file, report)
    say(describe_benchmark(report), json_file)
    raise_if_missed(report)


def describe_benchmark(report: dict[str, Any]) -> str:
    """A benchmark's report for a person, in at most 80 columns."""
    facts = [
        ("engine", _engine_line(report["engine"])),
        ("run by", _runtime_line(report)),
        ("machine", _machine_line(report)),
        ("frames", _frames_line(report["frames_from"])),
        ("scenario", _scenario_line(report)),
    ]
    lines = [_wrap(f"{name:<10}{text}") for name, text in facts]
    lines += ["", _figures(report), ""]
    fps = f"{report['throughput_fps']:.1f} frames a second"
    lines.append(_wrap(f"{'throughput':<12}{fps} ({report['frames']} frames in {report['seconds']:.2f} s)"))
    for objective in report["objectives"]:
        state = "met" if objective["met"] else "MISSED"
        lines.append(f"{'objective':<12}{objective['objective']} {state}: {objective['measured_ms']:.3f} ms")
    lines += ["", *(_wrap(f"! {text}", 2) for text in _warnings(report))]
    return "\n".join(lines)


def _wrap(text: str, indent: int = 10) -> str:
    return textwrap.fill(
        text, 80, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def _engine_line(engine: dict[str, Any]) -> str:
    frame = engine["frame"]
    kind = "BGR" if frame["channels"] == 3 else "mono"
    return (
        f"{engine['name']}, {engine['precision']}, {engine['backend']}, {frame['width']}x{frame['height']} {kind}, "
        f"batch {frame['batch']}, {engine['sha256'][:12]}"
    )


def _runtime_line(report: dict[str, Any]) -> str:
    runtime = report["runtime"]
    parts = [runtime[key] for key in ("library", "device") if key in runtime]
    if "threads" in runtime:
        parts.append(f"{runtime['threads']} threads")
    switches = ("transfers", "cuda_graphs", "spin_wait")
    parts += [
        f"{key.replace('_', ' ')} {'on' if runtime[key] else 'off'}" for key in switches if key in runtime
    ]
    parts += [f"{name} {report['versions'][name]}" for name in ("python", "numpy")]
    return ", ".join(parts)


def _machine_line(report: dict[str, Any]) -> str:
    machine = report["machine"]
    named = [machine[key] for key in ("model", "cpu") if machine[key]] or [machine["machine"]]
    quota = f", limited to {machine['cpu_quota']:g}" if machine["cpu_quota"] else ""
    parts = [*named, f"{machine['cores_usable']} of {machine['cores']} cores{quota}"]
    if machine["cpu_mhz"]:
        low, high = machine["cpu_mhz"]
        parts.append(f"{low:.0f} MHz" if low == high else f"{low:.0f} to {high:.0f} MHz")
    if machine["power_mode"]:
        parts.append(f"power mode {machine['power_mode']}")
    parts.append(f"governor {machine['governor'] or 'unknown'}")
    if machine["load_average"]:
        parts.append(f"load {machine['load_average'][0]:g}")
    return ", ".join(parts)


def _frames_line(source: dict[str, Any]) -> str:
    if source["kind"] == "noise":
        return f"{source['frames']} of noise, seed {source['seed']} (--data takes real ones)"
    kind = "of the video" if source["kind"] == "video" else "read from"
    return f"{source['frames']} {kind} {source['path']}"


def _scenario_line(report: dict[str, Any]) -> str:
    from agp_edge.scenarios import SCENARIOS

    name = report["scenario"]
    scenario = SCENARIOS[name]
    rate = f", {report['rate']:g} {scenario.rate}" if report["rate"] else ""
    ours = "" if scenario.from_mlperf else "; agp-edge's own"
    return f"{name}: {scenario.about}{rate}{ours}"


def _figures(report: dict[str, Any]) -> str:
    columns = {"a query": report["latency_ms"], **report["stages_ms"]}
    header = ("ms", *(name.replace("_", " ") for name in columns))
    rows: list[tuple[str, ...]] = [("n", *(str(column["n"]) for column in columns.values()))]
    rows += [
        (figure, *(_number(column[figure]) for column in columns.values()))
        for figure in ("min", "p50", "p90", "p95", "p97", "p99", "p99.9", "max", "mean", "cv")
    ]
    return table(rows, header)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _warnings(report: dict[str, Any]) -> list[str]:
    texts = [report["warning"]]
    if report["queries"] < 1000:
        texts.append(f"of {report['queries']} queries, p99.9 is the slowest one")
    if report["runtime"].get("transfers") is False:
        texts.append("nothing is transferred: the engine reads the frames where they lie, so transfer is 0")
    if report["samples_per_query"] < report["engine"]["frame"]["batch"]:
        texts.append(f"a batch of {report['engine']['frame']['batch']} is filled up for each query")
    if report["dropped"]:
        texts.append(f"{report['dropped']} frames were dropped: a newer one came before the engine was free")
    if report["unserved"]:
        texts.append(
            f"overloaded: {report['unserved']} of {report['queries']} queries were never served, "
            "their latencies are lower bounds"
        )
    return texts
