"""Does a calibration set that k-centre chose beat a random one of the same size?

    python -m benchmarks.calibration_sets BUNDLE DATA OUT.json --sizes 8 16 32 --seeds 10

For every size and seed two INT8 graphs of the bundle's FP32 graph are made, one from the frames that k-centre chooses and one
from random frames, out of those that `agp-edge calibrate` would choose from. Each is measured on the gate frames against FP32 as
a gate does it: mean and largest score drift, in units of the gap between threshold and median, correlation of the maps, flips.
Differences are paired by seed. OUT.json is written after each graph, and gone on with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agp_edge.bundle import Bundle, hash_of_hashes, model_file
from agp_edge.cli.console import run_command
from agp_edge.datasets import load_dataset
from agp_edge.datasets.base import Dataset
from agp_edge.engines.measure import HeldOut, judge, measure
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import read_json, sha256_file, write_json
from agp_edge.gate import Scores
from agp_edge.progress import Progress, silent
from agpnet.intervals import Interval, mean_interval
from agpnet.study_table import markdown
from benchmarks.study_command import tell_progress
from calib.choose import Choice, choose_frames, choose_splits
from calib.features import Features, measure_features
from calib.images import GoodImages
from calib.quantise import METHODS, Method, quantise

FORMAT = "agp-edge-calibration-sets"
VERSION = 1
ARMS: tuple[Choice, ...] = ("k-centre", "random")
METRICS = {
    "drift_mean": ("mean drift", -1),
    "drift_max": ("largest drift", -1),
    "map_correlation": ("map correlation", 1),
}
"""Key of a gate's report -> its name, and whether more of it is better."""


def run_comparison(
    bundle: Bundle,
    dataset: Dataset,
    out: Path,
    *,
    sizes: Sequence[int] = (8, 16, 32),
    seeds: int = 10,
    method: Method = "max",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make and measure the INT8 graphs of every size, seed and choice that `out` does not have yet.

    Args:
        bundle: exported; whether it is calibrated makes no difference.
        dataset: what it was trained on, with the images that training held out.
        out: the JSON file.
        sizes: frames of a set.
        seeds: sets of each size and choice.
        method: how INT8 ranges are taken.
        progress: told of graphs.

    Returns:
        The document, as it is in `out`.

    Raises:
        InputError: too few images, or `out` is of other frames or another network.
    """
    bench = _Bench(bundle, dataset, method)
    largest = max(sizes)
    if len(bench.pool) <= largest:
        raise InputError(
            f"{dataset.root} has {len(bench.pool)} frames to choose from, so {largest} are no choice",
            "give a data set with more good images, or smaller --sizes",
        )
    document = _read(out, bench.subject)
    done = {(r["size"], r["seed"], r["choice"]) for r in document["results"]}
    tasks = [(n, s, c) for n in sizes for s in range(seeds) for c in ARMS if (n, s, c) not in done]
    document["shown"] = {"sizes": list(sizes), "seeds": seeds}
    if document["whole"] is None:
        document["whole"] = bench.judge_set(sorted(bench.pool))
    write_json(out, document)
    progress(0, len(tasks))
    for i, (size, seed, choice) in enumerate(tasks, start=1):
        found = bench.judge_set(choose_frames(bench.pool, size, choice, seed, bench.features))
        document["results"].append({"size": size, "seed": seed, "choice": choice, **found})
        write_json(out, document)
        progress(i, len(tasks), f"{choice}, {size} frames, seed {seed}")
    return document


class _Bench:
    """One network and its frames; makes an INT8 graph from any set of them and measures it.

    Attributes:
        pool: content hashes of the frames to choose from.
        subject: what the results depend on.
    """

    def __init__(self, bundle: Bundle, dataset: Dataset, method: Method) -> None:
        # A calibration that the bundle may have is not looked at, and may be stale.
        self._model, self._frame = bundle.path / model_file("fp32"), bundle.manifest.frame
        self._method: Method = method
        self._images = GoodImages.of(dataset, self._frame)
        splits = choose_splits(list(self._images.samples), set(bundle.manifest.trained))
        self.pool = splits["ranges"]
        self._held_out = HeldOut(
            threshold=self._stack(splits["threshold"]),
            gate=self._stack(splits["gate"]),
            names=[self._images.samples[h].name for h in splits["gate"]],
            splits={part: hash_of_hashes(splits[part]) for part in ("gate", "threshold")},
        )
        self._reference = self._measure(self._model)
        self._features: dict[str, Any] = {}
        self.subject = {
            "model_sha256": sha256_file(self._model),
            "pool_sha256": hash_of_hashes(self.pool),
            "splits": self._held_out.splits,
            "method": method,
            "pool": len(self.pool),
            "gate": len(splits["gate"]),
            "threshold": len(splits["threshold"]),
        }

    def features(self, hashes: list[str]) -> Features:
        """As `calibrate` takes them, each frame measured once."""
        new = [h for h in hashes if h not in self._features]
        rows = measure_features(self._model, self._frame, map(self._images.read, new), len(new))
        self._features.update(zip(new, rows, strict=True))
        return np.stack([self._features[h] for h in hashes])

    def judge_set(self, hashes: Sequence[str]) -> dict[str, Any]:
        """What a graph with ranges from these frames does to the gate frames."""
        with tempfile.TemporaryDirectory(prefix="agp-edge-sets-") as scratch:
            path = Path(scratch) / "model.int8.onnx"
            quantise(self._model, path, self._stack(hashes), batch=self._frame.batch, method=self._method)
            report = judge(self._reference, self._measure(path), self._held_out)
        found = {key: getattr(report, key) for key in METRICS}
        return {
            "set_sha256": hash_of_hashes(hashes),
            "frames": len(hashes),
            "flips": len(report.flips),
            **found,
        }

    def _stack(self, hashes: Sequence[str]) -> Any:
        if not hashes:
            raise InputError("there are no held-out images to measure on", "give the data it was trained on")
        return np.stack([self._images.read(h) for h in hashes])

    def _measure(self, model: Path) -> Scores:
        with OnnxRuntimeSession(model, self._frame, "fp32" if model == self._model else "int8") as session:
            return measure(session, self._held_out)


def _read(path: Path, subject: dict[str, Any]) -> dict[str, Any]:
    """The document at `path`, or an empty one.

    Raises:
        InputError: it is of another network or other frames.
    """
    if not path.exists():
        return {
            "format": FORMAT,
            "version": VERSION,
            "subject": subject,
            "whole": None,
            "shown": {},
            "results": [],
        }
    document = read_comparison(path)
    if document["subject"] != subject:
        raise InputError(f"{path} compares sets of another network, method or data", "give another OUT.json")
    return document


def read_comparison(path: Path) -> dict[str, Any]:
    """Read what `run_comparison` wrote.

    Raises:
        InputError: it is something else.
    """
    try:
        document = read_json(path, f"comparison {path}")
    except ArtefactError as error:
        raise InputError(error.what, "give another OUT.json") from error
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise InputError(f"{path} is no comparison of calibration sets", "give another OUT.json")
    return document


def describe(document: dict[str, Any]) -> str:
    """The tables in Markdown: both choices, and their paired difference with its 95 % interval."""
    subject, shown = document["subject"], document["shown"]
    values, differences = [], []
    for size in shown["sizes"]:
        pairs = _pairs(document, size, shown["seeds"])
        for i, arm in enumerate(ARMS):
            results = [pair[i] for pair in pairs]
            cells = [_show(mean_interval([r[key] for r in results])) for key in METRICS]
            values.append((str(size), arm, str(len(results)), *cells, str(sum(r["flips"] for r in results))))
        for key, (name, sign) in METRICS.items():
            interval = mean_interval([a[key] - b[key] for a, b in pairs])
            differences.append(
                (str(size), name, str(len(pairs)), _show(interval, signed=True), _verdict(interval, sign))
            )
    whole = document["whole"]
    cells = [f"{whole[key]:.4f}" for key in METRICS]
    values.append((str(whole["frames"]), "all there are", "1", *cells, str(whole["flips"])))
    intro = (
        f"Method `{subject['method']}`, {subject['pool']} frames to choose from; drift in gaps between threshold and "
        f"median over {subject['gate']} gate frames; ± is half a 95 % interval over the n sets of a row."
    )
    heads = ("frames", "choice", "n", *(name for name, _ in METRICS.values()), "flips in all")
    return "\n\n".join(
        [
            intro,
            markdown(heads, values),
            "k-centre less random, paired by seed:",
            markdown(("frames", "what", "n", "difference", "better"), differences),
        ]
    ) + "\n"  # fmt: skip


def _pairs(document: dict[str, Any], size: int, seeds: int) -> list[tuple[dict[str, Any], ...]]:
    """The results of one size as `ARMS` has the choices, a tuple a seed; seeds that are not done are left out."""
    found = {(r["seed"], r["choice"]): r for r in document["results"] if r["size"] == size}
    rows = (tuple(found.get((seed, arm)) for arm in ARMS) for seed in range(seeds))
    return [tuple(r for r in row if r is not None) for row in rows if None not in row]


def _show(interval: Interval | None, *, signed: bool = False) -> str:
    """Four digits: the correlations of good graphs differ in the third."""
    if interval is None:
        return "-"
    mean = f"{round(interval.mean, 4) + 0.0:{'+' if signed else ''}.4f}"
    return mean if interval.half is None else f"{mean} ± {interval.half:.4f}"


def _verdict(interval: Interval | None, sign: int) -> str:
    """Who is better, where the interval of the difference leaves 0 out."""
    if interval is None or interval.half is None or abs(interval.mean) <= interval.half:
        return "neither, for certain"
    return "k-centre" if sign * interval.mean > 0 else "random"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print its tables; the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration_sets", description=__doc__.splitlines()[0]
    )
    parser.add_argument("bundle", type=Path, help="an exported bundle")
    parser.add_argument("data", type=Path, help="the data set that it was trained on")
    parser.add_argument("out", type=Path, metavar="OUT.json", help="gone on with where it is there")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32], help="frames of a set")
    parser.add_argument("--seeds", type=int, default=10, help="sets of each size and choice")
    parser.add_argument("--method", choices=list(METHODS), default="max")
    given = parser.parse_args(arguments)

    def work(**_: object) -> None:
        document = run_comparison(
            Bundle(given.bundle),
            load_dataset(given.data),
            given.out,
            sizes=given.sizes,
            seeds=given.seeds,
            method=given.method,
            progress=tell_progress,
        )
        print(describe(document))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
