"""What the metrics of an evaluation take: peak memory and seconds a class, and the same of scikit-learn on one class.

    python -m benchmarks.evaluation_memory OUT.json

A data set of black images with masks, in MVTec-AD's layout, goes through `evaluate` as it is used everywhere; in place
of a network stands a session that draws maps from a seed, so that nothing else takes memory. The default is what the
benchmarks of the field have: 15 classes of 100 test images, maps of 256x256. Every measurement runs in a process of its
own, whose peak resident memory the kernel tells.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agp_edge.cli.console import run_command, write_json_result
from agp_edge.datasets import load_dataset
from agp_edge.datasets.base import Dataset
from agp_edge.datasets.images import write_png
from agp_edge.engines.base import Inference, Session
from agp_edge.errors import InputError
from agp_edge.evaluation import evaluate, merge
from agp_edge.extras import import_extra
from agp_edge.frame import FrameSpec
from agp_edge.machine import describe_machine
from agp_edge.metrics import PixelScores

GOOD_SHARE = 0.3
"""Of the test images; about what MVTec-AD has."""


def draw_truth(seed: int, size: int) -> NDArray[np.bool_]:
    """[size, size] one to three ellipses, about 4 % of the pixels; none for an image that is good."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        centre, axes = rng.integers(size // 8, size * 7 // 8, 2), rng.integers(size // 24, size // 8, 2)
        cv2.ellipse(mask, centre.tolist(), axes.tolist(), int(rng.integers(180)), 0, 360, 1, cv2.FILLED)
    return mask > 0


def draw_map(seed: int, size: int, truth: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """[size, size] smooth noise with fine noise on it, raised where the truth is, by more in one image than in another."""
    rng = np.random.default_rng((seed, 1))
    coarse = rng.standard_normal((size // 16, size // 16), np.float32)
    drawn = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
    drawn += np.float32(0.3) * rng.standard_normal((size, size), np.float32)
    if truth is not None:
        drawn[truth] += np.float32(rng.uniform(0.5, 3))
    return drawn


class DrawnMaps(Session):
    """A session whose maps come from a seed, in the order of the test images; it knows which of them are good.

    Attributes:
        seconds: spent on drawing.
    """

    def __init__(self, first_seed: int, good: Sequence[bool], size: int) -> None:
        self.frame = FrameSpec(size, size, 3)
        self.seconds = 0.0
        self._waiting = list(enumerate(good, first_seed))[::-1]

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        begin = time.perf_counter()
        seed, good = self._waiting.pop()
        size = self.frame.width
        drawn = draw_map(seed, size, None if good else draw_truth(seed, size))[np.newaxis]
        self.seconds += time.perf_counter() - begin
        return Inference(drawn.max(axis=(1, 2)), drawn)

    def close(self) -> None:
        """Nothing is held."""


def make_dataset(root: Path, classes: int, images: int, size: int) -> Dataset:
    """Write black test images and the masks of `draw_truth`; the seed of an image is its place among all."""
    n_good = round(images * GOOD_SHARE)
    black = np.zeros((size, size, 3), np.uint8)
    for number in range(classes):
        folder = root / f"class-{number:03d}"
        write_png(folder / "train/good/0.png", black)
        for i in range(images):
            # Labels in order of their names: defects, then good images, as the data set lists them.
            if i >= images - n_good:
                write_png(folder / f"test/good/{i:05d}.png", black)
            else:
                write_png(folder / f"test/defect/{i:05d}.png", black)
                truth = draw_truth(number * images + i, size)
                write_png(
                    folder / f"ground_truth/defect/{i:05d}_mask.png", truth[..., np.newaxis] * np.uint8(255)
                )
    return load_dataset(root)


def peak_rss_bytes() -> int:
    """The most resident memory that this process has had.

    The kernel's VmHWM, since `getrusage` begins with what the parent had when it started this process.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measure_evaluation(root: Path, classes: int, images: int, size: int) -> dict[str, Any]:
    """`evaluate` on every class in turn, and their merge."""
    dataset = make_dataset(root, classes, images, size)
    before = peak_rss_bytes()
    evaluations, seconds, drawing = [], [], []
    for number, data in enumerate(dataset.classes):
        session = DrawnMaps(number * images, [sample.good for sample in data.test], size)
        begin = time.perf_counter()
        evaluations.append(evaluate(session, Dataset(dataset.root, dataset.layout, [data])))
        seconds.append(time.perf_counter() - begin)
        drawing.append(session.seconds)
    mean = merge(evaluations).mean
    return {
        "pixels": classes * images * size * size,
        "seconds_per_class": [round(s, 3) for s in seconds],
        "of_which_drawing_maps": [round(s, 3) for s in drawing],
        "seconds": round(sum(seconds), 3),
        "rss_before_bytes": before,
        "peak_rss_bytes": peak_rss_bytes(),
        "mean": mean.to_dict(),
    }


def measure_ours(images: int, size: int) -> dict[str, Any]:
    """Pixel AUROC and AP of one class with `PixelScores`, and F1-max, which comes with them; then AUPRO."""
    maps, truths = _one_class(images, size)
    before, begin = peak_rss_bytes(), time.perf_counter()
    pixels = PixelScores()
    for drawn, truth in zip(maps, truths, strict=True):
        pixels.add(drawn, truth)
    found = pixels.ranking()
    seconds = time.perf_counter() - begin
    curve = pixels.pro_curve()
    assert curve is not None  # There are regions.
    return {
        "auroc": found.auroc,
        "average_precision": found.average_precision,
        "f1_max": found.f1_max,
        "aupro": curve.area(0.3),
        "seconds": round(seconds, 3),
        "seconds_with_aupro": round(time.perf_counter() - begin, 3),
        "rss_before_bytes": before,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def measure_scikit_learn(images: int, size: int) -> dict[str, Any]:
    """Pixel AUROC and AP of the same class with scikit-learn."""
    maps, truths = _one_class(images, size)
    metrics = import_extra("sklearn.metrics", "dev", "the comparison")
    before, begin = peak_rss_bytes(), time.perf_counter()
    labels = np.concatenate([truth.ravel() for truth in truths])
    scores = np.concatenate([drawn.ravel() for drawn in maps])
    auroc = float(metrics.roc_auc_score(labels, scores))
    average_precision = float(metrics.average_precision_score(labels, scores))
    return {
        "auroc": auroc,
        "average_precision": average_precision,
        "seconds": round(time.perf_counter() - begin, 3),
        "rss_before_bytes": before,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def measure(classes: int = 15, images: int = 100, size: int = 256) -> dict[str, Any]:
    """All of it, each part in a process of its own.

    Raises:
        InputError: too few classes or images, or too small maps, to have defects and good images in them.
    """
    if classes < 1 or images < 4 or size < 32:
        raise InputError(
            f"{classes} classes of {images} images at {size}x{size} have no defects and good images",
            "give --classes from 1, --images from 4, --size from 32",
        )
    with tempfile.TemporaryDirectory(prefix="agp-edge-memory-") as scratch:
        evaluation = _in_process(measure_evaluation, Path(scratch), classes, images, size)
    ours = _in_process(measure_ours, images, size)
    theirs = _in_process(measure_scikit_learn, images, size)
    return {
        "benchmark": "evaluation_memory",
        "classes": classes,
        "images": images,
        "size": size,
        "evaluation": evaluation,
        "one_class": {
            "ours": ours,
            "scikit_learn": theirs,
            "largest_difference": max(abs(ours[k] - theirs[k]) for k in ("auroc", "average_precision")),
        },
        "versions": {
            "numpy": np.__version__,
            "scikit-learn": import_extra("sklearn", "dev", "the comparison").__version__,
            "python": sys.version.split()[0],
        },
        "machine": describe_machine(),
    }


def describe(report: dict[str, Any]) -> str:
    """The report in a few lines."""
    evaluation, pair = report["evaluation"], report["one_class"]
    slowest = max(evaluation["seconds_per_class"])
    lines = [
        f"{report['classes']} classes of {report['images']} images at {report['size']}x{report['size']}, "
        f"{evaluation['pixels'] / 1e6:.1f} million pixels: {evaluation['seconds']:.1f} s, slowest class {slowest:.2f} s, "
        f"peak {_mib(evaluation['peak_rss_bytes'])} ({_mib(evaluation['rss_before_bytes'])} before it began)",
        "one class, pixel AUROC and AP:",
    ]
    for name in ("ours", "scikit_learn"):
        part = pair[name]
        more = part["peak_rss_bytes"] - part["rss_before_bytes"]
        lines.append(
            f"  {name:12}  {part['seconds']:7.2f} s  {_mib(more)} above the maps  "
            f"{part['auroc']:.6f} {part['average_precision']:.6f}"
        )
    lines.append(f"  largest difference {pair['largest_difference']:.1e}")
    return "\n".join(lines)


def _one_class(images: int, size: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    n_good = round(images * GOOD_SHARE)
    truths = [
        np.zeros((size, size), bool) if seed >= images - n_good else draw_truth(seed, size)
        for seed in range(images)
    ]
    return [draw_map(seed, size, truth) for seed, truth in enumerate(truths)], truths


def _in_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run in a fresh process: peak memory never falls again, so each measurement needs its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation_memory", description=__doc__)
    parser.add_argument("out", metavar="OUT.json", help="where the result goes; - for stdout")
    parser.add_argument("--classes", type=int, default=15, help="classes (%(default)s)")
    parser.add_argument("--images", type=int, default=100, help="test images of each (%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="width and height of a map (%(default)s)")
    chosen = parser.parse_args(arguments)

    def work(**_: object) -> None:
        report = measure(chosen.classes, chosen.images, chosen.size)
        write_json_result(chosen.out, report)
        print(describe(report), file=sys.stderr if chosen.out == "-" else sys.stdout)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
