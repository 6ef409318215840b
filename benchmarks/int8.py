"""What FP16 and INT8 save on a CPU, and what they do to verdicts: sizes, latencies as ratios, the gate's figures.

    python -m benchmarks.int8 int8.json --work /tmp/int8            the sample data's network, and a ViT-S/16
    python -m benchmarks.int8 int8.json --bundle part.bundle DATA   a calibrated bundle of yours

Graphs take turns within one run, in an order drawn anew for every round, so that a machine that slows down slows all of
them. A ratio is that of median times, with a bootstrap 95 % interval over the rounds. The ViT-S/16 has the shape of
facebook/dino-vits16 and random weights: its sizes and times are those of the real one, its verdicts are not.

These are times of ONNX Runtime on this CPU. They say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agp_edge.benchmark import noise_frames
from agp_edge.bundle import Bundle, model_file
from agp_edge.cli.console import run_command, write_json_result
from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.datasets.base import Dataset
from agp_edge.datasets.images import read_frame
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import ArtefactError, InputError
from agp_edge.evaluation import evaluate
from agp_edge.files import read_json
from agp_edge.frame import GRAPHS, FrameSpec, Precision
from agp_edge.latency import percentiles_ms
from agp_edge.machine import describe_machine
from agpnet.config import Config, make_config
from agpnet.sample_data import SampleCounts, make_sample_data
from agpnet.training import train
from benchmarks.session_overhead import ratio_of_medians
from calib.calibrate import calibrate
from calib.quantise import Quantiser
from calib.sensitivity import Effect, describe_layers, measure_sensitivity
from export.onnx_export import export_run

THREADS = (1, 2)
WARMUP_ROUNDS = 3
MIN_ROUNDS = 10
KEPT_FOR = "a benchmark measures what its gate refuses, too"
VIT_S_16 = {
    "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536,
    "patch_size": 16, "image_size": 224,
}  # fmt: skip
"""Of facebook/dino-vits16."""
COUNTS = SampleCounts(train=320)
MOST_COSTLY = 6
"""Layers shown of each network."""
VIT_STEPS = 20
"""Enough that its decoder is no longer what it was drawn as; its backbone knows nothing anyway."""

Name = TypeVar("Name")


def time_in_turns(
    calls: dict[Name, Callable[[NDArray[np.uint8]], object]],
    queries: Sequence[NDArray[np.uint8]],
    rounds: int,
    rng: np.random.Generator,
) -> dict[Name, NDArray[np.float64]]:
    """Time every call once a round on the same frames, in an order drawn for each round.

    Returns:
        Name -> [rounds] milliseconds.
    """
    names = list(calls)
    times = {name: np.empty(rounds) for name in names}
    for turn in range(rounds):
        frames = queries[turn % len(queries)]
        for i in rng.permutation(len(names)):
            begin = time.perf_counter()
            calls[names[i]](frames)
            times[names[i]][turn] = (time.perf_counter() - begin) * 1e3
    return times


def noise_queries(frame: FrameSpec, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    """Eight full batches of drawn frames."""
    pictures = noise_frames(frame, int(rng.integers(1 << 31))).frames
    return [
        np.ascontiguousarray(np.take(pictures, range(n, n + frame.batch), axis=0, mode="wrap"))
        for n in range(8)
    ]


def measure_latency(bundle: Bundle, threads: int, rounds: int, rng: np.random.Generator) -> dict[str, Any]:
    """Latency of one call of each graph of a bundle, and its ratio to FP32's.

    Raises:
        InputError: too few rounds.
    """
    if rounds < MIN_ROUNDS:
        raise InputError(f"{rounds} rounds say nothing about a ratio", f"give --rounds from {MIN_ROUNDS}")
    frame = bundle.manifest.frame
    sessions = {
        p: OnnxRuntimeSession(bundle.model_path(p), frame, p, threads) for p in bundle.manifest.precisions
    }
    try:
        queries = noise_queries(frame, rng)
        calls: dict[Precision, Callable[[NDArray[np.uint8]], object]] = {
            p: session.infer for p, session in sessions.items()
        }
        time_in_turns(calls, queries, WARMUP_ROUNDS, rng)
        times = time_in_turns(calls, queries, rounds, rng)
    finally:
        for session in sessions.values():
            session.close()
    return {
        p: {
            "ms": percentiles_ms(times[p].tolist()),
            "over_fp32": ratio_of_medians(np.column_stack([times[p], times["fp32"]]), rng),
        }
        for p in calls
    }


def measure_bundle(
    bundle: Bundle,
    dataset: Dataset | None = None,
    *,
    rounds: int = 200,
    sensitivity: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything about one calibrated bundle.

    Args:
        bundle: with an INT8 graph.
        dataset: what it was calibrated on; with test images the AUROC of every graph is taken.
        rounds: calls of each graph.
        sensitivity: quantise each layer alone, too; needs `dataset`.
        seed: of frames, order and bootstrap.

    Raises:
        InputError: no INT8 graph, too few rounds, or no data where it is needed.
    """
    manifest = bundle.manifest
    bundle.model_path("int8")
    rng = np.random.default_rng(seed)
    sizes = {p: manifest.files[model_file(p)]["size_bytes"] for p in manifest.precisions}
    told = manifest.calibration.get("int8", {})
    report: dict[str, Any] = {
        "name": manifest.name,
        "backbone": manifest.network["backbone"],
        "bytes": sizes,
        "over_fp32_bytes": {p: size / sizes["fp32"] for p, size in sizes.items()},
        "latency": {str(n): measure_latency(bundle, n, rounds, rng) for n in THREADS},
        "gates": {p: manifest.artefacts[p]["gate"] for p in manifest.precisions if p != "fp32"},
        "quantised": told.get("quantised", []),
        "kept": told.get("kept", []),
    }
    if dataset is not None and any(data.test for data in dataset.classes):
        report["image_auroc"] = measure_auroc(bundle, dataset)
    if sensitivity:
        if dataset is None:
            raise InputError("sensitivity needs the images of the calibration", "give DATA beside --bundle")
        report["layers"] = measure_layers(bundle, dataset)
    return report


def measure_auroc(bundle: Bundle, dataset: Dataset) -> dict[str, float | None]:
    """Mean image AUROC of each graph on the test images."""
    found: dict[str, float | None] = {}
    for precision in bundle.manifest.precisions:
        with OnnxRuntimeSession(bundle.model_path(precision), bundle.manifest.frame, precision) as session:
            found[precision] = evaluate(session, dataset).mean.values["image_auroc"]
    return found


def measure_layers(bundle: Bundle, dataset: Dataset) -> list[dict[str, Any]]:
    """Each layer alone in INT8, the others as in the FP16 graph (FP32 where there is none), on the search frames."""
    manifest = bundle.manifest
    rest: Precision = "fp16" if "fp16" in manifest.precisions else "fp32"
    ranges, search = (_read(dataset, manifest.splits[part], manifest.frame) for part in ("ranges", "search"))
    quantiser = Quantiser(bundle.model_path(rest), ranges, batch=manifest.frame.batch)
    effects = measure_sensitivity(quantiser, manifest.frame, search, progress=_tell)
    print(describe_layers(quantiser.layers, quantiser.nodes, effects, rest=rest), file=sys.stderr)
    return [{**vars(layer), "alone": effects[layer.node].to_dict()} for layer in quantiser.layers]


def _read(dataset: Dataset, hashes: Collection[str], frame: FrameSpec) -> NDArray[np.uint8]:
    """The good images of a data set with these content hashes: [N, H, W, C].

    Raises:
        InputError: none of them is there.
    """
    samples = [s for data in dataset.classes for s in (*data.train, *data.validation)]
    found = [
        read_frame(sample, frame)
        for digest, sample in zip(content_hashes(samples), samples, strict=True)
        if digest in set(hashes)
    ]
    if not found:
        raise InputError(
            f"{dataset.root} has none of the images of the calibration", "give the data that it was made with"
        )
    return np.stack(found)


def make_bundle(dataset: Dataset, config: Config, folder: Path) -> Bundle:
    """Train, export and calibrate; every graph stays in, also one that its gate refuses."""
    train(dataset, config, folder / "run", overwrite=True, progress=_tell)
    bundle = export_run(folder / "run", folder / f"{folder.name}.bundle")
    return calibrate(bundle.path, dataset, accept=KEPT_FOR, progress=_tell).bundle


def save_vit(folder: Path, settings: dict[str, int] | None = None, seed: int = 0) -> Path:
    """A ViT with random weights as `save_pretrained` leaves it."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.ViTConfig(**(VIT_S_16 if settings is None else settings))  # type: ignore[arg-type]
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def run_both(
    work: Path, *, steps: int | None, rounds: int, sensitivity: bool, seed: int = 0
) -> dict[str, Any]:
    """The sample data's network of fixed filters and a ViT-S/16, made and measured."""
    data = work / "data"
    if not data.exists():
        make_sample_data(data, surfaces=("brick",), counts=COUNTS, progress=_tell)
    dataset = load_dataset(data)
    filters = make_bundle(
        dataset,
        make_config(backbone="filterbank", **({} if steps is None else {"steps": steps})),
        work / "filterbank",
    )
    vit = make_bundle(
        dataset,
        make_config(backbone=str(save_vit(work / "vit-s16")), steps=min(steps or VIT_STEPS, VIT_STEPS)),
        work / "vit-s-16",
    )
    return document(
        [
            measure_bundle(filters, dataset, rounds=rounds, sensitivity=sensitivity, seed=seed),
            # No AUROC: what random weights see is worth none.
            {
                **measure_bundle(vit, rounds=rounds, seed=seed),
                **({"layers": measure_layers(vit, dataset)} if sensitivity else {}),
            },
        ],
        rounds,
        seed,
    )


def document(networks: list[dict[str, Any]], rounds: int, seed: int) -> dict[str, Any]:
    """The result file."""
    import onnxruntime as ort

    return {
        "benchmark": "int8",
        "rounds": rounds,
        "seed": seed,
        "runtime": f"onnxruntime {ort.__version__}",
        "machine": describe_machine(),
        "networks": networks,
    }


def read_report(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ArtefactError: it is none of this benchmark.
    """
    report = read_json(path, "INT8 benchmark")
    if report.get("benchmark") != "int8":
        raise ArtefactError(f"{path} is no result of benchmarks.int8", "give the file that it wrote")
    return report


def describe(report: dict[str, Any]) -> str:
    """The document as a Markdown table."""
    heads = [
        "network", "graph", "size", *(f"latency, {n} thread{'s' * (n > 1)}" for n in THREADS),
        "flips", "largest drift", "map correlation", "image AUROC",
    ]  # fmt: skip
    rows = []
    for network in report["networks"]:
        for precision in (p for p in GRAPHS if p in network["bytes"]):
            size = network["bytes"][precision]
            gate = network["gates"].get(precision)
            auroc = network.get("image_auroc", {})
            change = ""
            if auroc.get(precision) is not None:
                difference = 100 * (auroc[precision] - auroc["fp32"])
                change = f"{auroc[precision]:.4f}" + (f" ({difference:+.2f} points)" if gate else "")
            rows.append(
                [
                    network["name"],
                    precision,
                    f"{size / 1e6:.1f} MB"
                    if gate is None
                    else f"{network['over_fp32_bytes'][precision]:.2f}",
                    *(
                        _describe_latency(network["latency"][str(n)][precision], gate is None)
                        for n in THREADS
                    ),
                    "" if gate is None else f"{len(gate['flips'])} of {gate['n']}",
                    "" if gate is None else f"{gate['drift_max']:.2g}",
                    "" if gate is None else f"{gate['map_correlation']:.5f}",
                    change,
                ]
            )
    lines = [heads, ["---"] * len(heads), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"{report['runtime']}, {report['rounds']} calls of each graph in turns. Rows of FP32 are absolute, the others "
        f"ratios to it, with bootstrap 95 % intervals; drift is in gaps between threshold and median.\n\n{table}\n"
    )


def describe_sensitivity(report: dict[str, Any]) -> str:
    """The layers of each network that INT8 costs most, alone, as a Markdown table."""
    lines = ["| network | layer | MACs | drift | maps lose |", "| --- | --- | --- | --- | --- |"]
    for network in report["networks"]:
        layers = network.get("layers", [])
        total = sum(layer["macs"] for layer in layers)
        costly = sorted(layers, key=lambda layer: -Effect(**layer["alone"]).spent)[:MOST_COSTLY]
        for layer in costly:
            alone = Effect(**layer["alone"])
            cells = (
                f"{layer['macs'] / total:.1%}",
                f"{alone.drift_max:.3f}",
                f"{1 - alone.map_correlation:.6f}",
            )
            lines.append(f"| {network['name']} | {layer['name']} | {' | '.join(cells)} |")
        flips = sum(layer["alone"]["flips"] for layer in layers)
        lines.append(f"| {network['name']} | all {len(layers)}, one at a time: {flips} flips | | | |")
    return "\n".join(lines) + "\n"


def _describe_latency(latency: dict[str, Any], absolute: bool) -> str:
    ratio = latency["over_fp32"]
    if absolute:
        return f"{latency['ms']['p50']:.1f} ms"
    return f"{ratio['ratio']:.2f} ({ratio['low_95']:.2f} to {ratio['high_95']:.2f})"


def _tell(done: int, total: int, note: str = "") -> None:
    """A line on stderr now and then."""
    if done == total or done % 50 == 0:
        print(f"{done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT.json")
    parser.add_argument("data", nargs="?", type=Path, help="what --bundle was calibrated on; optional")
    parser.add_argument(
        "--bundle", type=Path, help="a calibrated bundle; without it the two networks are made"
    )
    parser.add_argument("--work", type=Path, default=Path("int8-benchmark"), help="folder for what is made")
    parser.add_argument("--rounds", type=int, default=200, help="calls of each graph (%(default)s)")
    parser.add_argument("--steps", type=int, help="of the trainings; fewer for a try")
    parser.add_argument("--sensitivity", action="store_true", help="quantise each layer alone, too")
    parser.add_argument("--seed", type=int, default=0, help="of frames, order and bootstrap")
    given = parser.parse_args(arguments)

    def work(**_: object) -> None:
        if given.bundle is None:
            report = run_both(
                given.work,
                steps=given.steps,
                rounds=given.rounds,
                sensitivity=given.sensitivity,
                seed=given.seed,
            )
        else:
            dataset = None if given.data is None else load_dataset(given.data)
            network = measure_bundle(
                Bundle(given.bundle),
                dataset,
                rounds=given.rounds,
                sensitivity=given.sensitivity,
                seed=given.seed,
            )
            report = document([network], given.rounds, given.seed)
        write_json_result(given.out, report)
        print(describe(report), file=sys.stderr if given.out == "-" else sys.stdout)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
