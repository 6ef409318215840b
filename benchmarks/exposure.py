"""The same parts through a camera that has changed a little: what it costs, and what `augment = camera` gains.

    python -m benchmarks.exposure DATA OUT.json --seeds 3 --jobs 2

Each network is tested on the test images as they are, and on copies through JPEG, with noise, brighter, and out of focus. None
of these copies was trained on: `augment = camera` draws its own, with other strengths.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.cli.console import run_command
from agp_edge.cli.network import parse_settings
from agp_edge.datasets import load_dataset
from agp_edge.datasets.base import Dataset
from agp_edge.engines.base import Inference, Session
from agp_edge.evaluation import evaluate
from agp_edge.extras import import_cv2
from agpnet.backbones import backbone_sha256, make_backbone
from agpnet.config import Augment, Config, make_config
from agpnet.run import open_run
from agpnet.study import Row, Study, Task, choose_classes, describe_length, part, train_task
from agpnet.study_table import describe_intervals, difference_rows, markdown, summarise, value_rows
from benchmarks.study_command import study_parser, tell_progress

Frame = NDArray[np.uint8]
"""[H, W, 3] or [H, W, 1]."""
HEADS = ("test images", "augment")
ARMS: tuple[Augment, ...] = ("none", "camera")


def through_jpeg(frame: Frame) -> Frame:
    """A frame through JPEG of quality 95."""
    cv2 = import_cv2("the study")
    _, encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 95])
    decoded: Frame = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    return decoded.reshape(frame.shape)


def with_noise(frame: Frame) -> Frame:
    """A frame with Gaussian noise of 3 grey levels; the frame itself is the seed."""
    noise = np.random.default_rng(zlib.crc32(frame.tobytes())).normal(0, 3, frame.shape)
    return _to_levels(frame + noise)


def brighter(frame: Frame) -> Frame:
    """A frame 5 % brighter."""
    return _to_levels(frame * 1.05)


def out_of_focus(frame: Frame) -> Frame:
    """A frame blurred by half a pixel."""
    blurred: Frame = import_cv2("the study").GaussianBlur(frame, (0, 0), 0.5)
    return blurred.reshape(frame.shape)


CHANGES: dict[str, Callable[[Frame], Frame]] = {
    "as they are": lambda frame: frame,
    "JPEG, quality 95": through_jpeg,
    "noise, 3 grey levels": with_noise,
    "5 % brighter": brighter,
    "blurred, 0.5 pixels": out_of_focus,
}


def _to_levels(values: NDArray[np.floating[Any]]) -> Frame:
    levels: Frame = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels


class Changed(Session):
    """A session that sees every frame through a change.

    Args:
        session: what judges them; it stays its owner's to close.
        change: of one frame.
    """

    def __init__(self, session: Session, change: Callable[[Frame], Frame]) -> None:
        self.frame, self.precision = session.frame, session.precision
        self._session, self._change = session, change

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        return self._session.infer(np.stack([self._change(frame) for frame in frames]))

    def close(self) -> None:
        """Nothing of its own to free."""


def train_and_expose(task: Task, folder: Path) -> dict[str, Any]:
    """Train a network and measure it under every change: a part each."""
    run, seconds = train_task(task, folder)
    with open_run(run) as session:
        return {
            "parts": {
                name: part(evaluate(Changed(session, change), task.dataset), seconds)
                for name, change in CHANGES.items()
            }
        }


def run_exposure(
    datasets: Sequence[Dataset], config: Config, out: Path, *, seeds: int = 3, jobs: int = 1
) -> dict[str, Any]:
    """Train with and without `augment = camera` over seeds; the study's document.

    Raises:
        AgpEdgeError: of a training; what was done before is in `out`.
    """
    study = Study(out)
    weights = backbone_sha256(
        make_backbone(config.backbone, config.layers, config.input_size, config.combine)
    )
    tasks = {
        arm: [
            study.task(
                f"{dataset.classes[0].name}, augment {arm}, seed {seed}",
                dataset,
                replace(config, augment=arm, seed=seed),
                backbone_sha256=weights,
            )
            for seed in range(config.seed, config.seed + seeds)
            for dataset in datasets
        ]
        for arm in ARMS
    }
    rows: list[Row] = []
    for name in CHANGES:
        base = len(rows)
        rows += [Row(name, arm, tasks[arm], part=name, base=base) for arm in ARMS]
    title = f"{config.backbone}, one model a class, {describe_length(config)}, {seeds} seed{'s' if seeds > 1 else ''}."
    study.run(rows, title, train_and_expose, jobs=jobs, progress=tell_progress)
    return study.document


def describe(document: dict[str, Any]) -> str:
    """The tables in Markdown: means, and what training on changed images gains under each change."""
    summaries = summarise(document)
    parts = [
        document["title"],
        markdown(*value_rows(summaries, HEADS)),
        "What `augment = camera` changes, on the same test images:",
        markdown(*difference_rows(summaries, HEADS)),
        describe_intervals(summaries),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; the exit code."""
    parser = study_parser("exposure", __doc__)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on one thread")
    given = parser.parse_args(arguments)

    def work(**_: object) -> None:
        config = make_config(backbone=given.backbone, steps=given.steps, **parse_settings(given.settings))
        datasets = choose_classes(load_dataset(given.data), given.classes)
        print(describe(run_exposure(datasets, config, given.out, seeds=given.seeds, jobs=given.jobs)))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
