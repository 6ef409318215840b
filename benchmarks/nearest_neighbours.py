"""AGPNet against nearest neighbours over the same features, and its accuracy against training time.

    python -m benchmarks.nearest_neighbours DATA OUT.json --seeds 3 --steps 600 --jobs 2
    python -m benchmarks.nearest_neighbours DATA OUT.json --steps-list 50,100,200,400 --threads 2

The baseline is PatchCore (Roth et al. 2022) without its coreset: a memory of every token of the good images, and for a token of
a test image the distance to its nearest one. Tokens, upsampling, blur, score, test images and metrics are those of the AGPNet
that was trained beside it, so that the two differ in one thing: a rebuilt token, or a remembered one. Variants: tokens as they
are, or averaged over 3x3 cells as PatchCore does; the images that AGPNet was trained on, or all good ones, with those that
AGPNet holds out for its threshold.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from agp_edge.cli.console import run_command
from agp_edge.cli.network import parse_settings
from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.datasets.base import Dataset, Sample
from agp_edge.datasets.images import read_frame
from agp_edge.engines.base import Inference, Session
from agp_edge.evaluation import evaluate
from agp_edge.frame import FrameSpec
from agpnet.backbones import backbone_sha256, make_backbone
from agpnet.config import Config, make_config
from agpnet.front import FrameFront
from agpnet.network import AGPNet
from agpnet.run import RunRecord, load_run, open_run
from agpnet.study import AGPNET, Row, Study, Task, choose_classes, part, train_task
from agpnet.study_table import class_rows, describe_intervals, difference_rows, markdown, summarise
from benchmarks.study_command import study_parser, tell_progress

VARIANTS = {
    "plain-trained": "plain, as trained on",
    "plain-all": "plain, with held-out",
    "local-trained": "3x3, as trained on",
    "local-all": "3x3, with held-out",
}
"""Variant -> how the table calls it: which tokens, of which good images."""
BASE = "plain-trained"
NEIGHBOURS = 9
"""Around the nearest remembered token, for PatchCore's weight of a score."""
CHUNK = 1 << 15
HEADS = ("method", "what")


class NearestNeighbours(Session):
    """Tokens of good images, and the distance to the nearest of them, in the place of AGPNet's decoder.

    Args:
        network: gives the tokens.
        record: of its run: the frames to take, and the blur of the map.
        memory: [M, C] tokens of good images.
        local: average a token with the cells around it, as those of the memory were.
        reweight: multiply the score by PatchCore's weight.
    """

    def __init__(
        self,
        network: AGPNet,
        record: RunRecord,
        memory: Tensor,
        *,
        local: bool = False,
        reweight: bool = False,
    ) -> None:
        self.frame = record.frame
        self.precision = "fp32"
        self._network, self._memory = network, memory
        self._local, self._reweight = local, reweight
        self._front = FrameFront(record.frame, network.backbone.input_size)
        # AGPNet's own way from two sets of tokens to map and score, without anything that its training may have fitted.
        self._head = AGPNet(
            network.backbone,
            decoder_width=1,
            decoder_heads=1,
            decoder_blocks=1,
            blur_sigma=record.config.blur_sigma,
            distance=record.config.distance,
        ).eval()

    @torch.inference_mode()
    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        tokens = tokens_of(self._network, self._front(torch.from_numpy(frames)), local=self._local)
        index = nearest(tokens.flatten(0, 1), self._memory)
        found = self._memory[index].reshape(tokens.shape)
        score, anomaly_map = self._head.judge(tokens, found)
        if self._reweight:
            score = score * patchcore_weight(tokens, index.reshape(tokens.shape[:2]), self._memory)
        return Inference(score.numpy(), anomaly_map.numpy())

    def close(self) -> None:
        """Nothing to free."""


def tokens_of(network: AGPNet, images: Tensor, *, local: bool) -> Tensor:
    """The target of images [N, 3, S, S], as AGPNet rebuilds it, or averaged over 3x3 cells: [N, T, C].

    At the border the mean is over the cells that there are.
    """
    target, _ = network.target(images)
    if not local:
        return target
    rows, columns = network.backbone.grid
    planes = target.transpose(1, 2).reshape(len(target), -1, rows, columns)
    averaged = F.avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False)
    return averaged.flatten(2).transpose(1, 2)


def nearest(queries: Tensor, memory: Tensor) -> Tensor:
    """For each of [Q, C] the row of [M, C] at the smallest L2 distance: [Q]. The memory is searched exactly, in pieces."""
    best = torch.full((len(queries),), torch.inf)
    index = torch.zeros(len(queries), dtype=torch.long)
    for start in range(0, len(memory), CHUNK):
        rows = memory[start : start + CHUNK]
        # Squared distances but for |q|^2, which every row has in common.
        distance = torch.addmm(rows.square().sum(dim=1), queries, rows.T, alpha=-2)
        smallest, where = distance.min(dim=1)
        closer = smallest < best
        best = torch.where(closer, smallest, best)
        index = torch.where(closer, where + start, index)
    return index


def patchcore_weight(tokens: Tensor, index: Tensor, memory: Tensor) -> Tensor:
    """PatchCore's weight of each image's score [N]: near 1 where the good tokens around the nearest one are far too.

    Args:
        tokens: [N, T, C] of the images.
        index: [N, T], row of the nearest in the memory.
        memory: [M, C].
    """
    weights = []
    for own, rows in zip(tokens, index, strict=True):
        farthest = (own - memory[rows]).norm(dim=1).argmax()
        token, closest = own[farthest], memory[rows[farthest]]
        count = min(NEIGHBOURS, len(memory))
        around = (memory - closest).norm(dim=1).topk(count, largest=False).indices
        # The first of them is the nearest token itself.
        weights.append(1 - (memory[around] - token).norm(dim=1).softmax(dim=0)[0])
    return torch.stack(weights)


@torch.inference_mode()
def remember(
    network: AGPNet, frame: FrameSpec, samples: Sequence[Sample], *, local: bool, most: int = 0, seed: int = 0
) -> Tensor:
    """The tokens of images: [M, C].

    Args:
        network: gives the tokens.
        frame: the size of the images.
        samples: good images.
        local: as `tokens_of`.
        most: keep at most so many tokens, drawn at random; 0 keeps all.
        seed: of the draw.

    Raises:
        InputError: an image cannot be read, or has another size.
    """
    front = FrameFront(frame, network.backbone.input_size)
    tokens = []
    for sample in samples:
        image = torch.from_numpy(read_frame(sample, frame)[None])
        tokens.append(tokens_of(network, front(image), local=local)[0])
    memory = torch.cat(tokens)
    if 0 < most < len(memory):
        memory = memory[torch.randperm(len(memory), generator=torch.Generator().manual_seed(seed))[:most]]
    return memory


def compare(task: Task, folder: Path) -> dict[str, Any]:
    """Train AGPNet, and hold the variants of nearest neighbours that the task names against it."""
    run, seconds = train_task(task, folder)
    with open_run(run) as session:
        parts = {AGPNET: part(evaluate(session, task.dataset), seconds)}
    network, record = load_run(run)
    for variant in task.extra["variants"]:
        parts[variant] = _measure(variant, network, record, task)
    return {"parts": parts}


@torch.inference_mode()
def _measure(variant: str, network: AGPNet, record: RunRecord, task: Task) -> dict[str, Any]:
    local, everything = variant.startswith("local"), variant.endswith("all")
    wanted = {*record.trained, *(record.held_out if everything else ())}
    every = [sample for data in task.dataset.classes for sample in data.train]
    samples = [s for s, digest in zip(every, content_hashes(every), strict=True) if digest in wanted]
    start = time.monotonic()
    most = task.extra["memory_tokens"]
    memory = remember(network, record.frame, samples, local=local, most=most, seed=task.config.seed)
    seconds = time.monotonic() - start
    session = NearestNeighbours(network, record, memory, local=local, reweight=task.extra["reweight"])
    return {**part(evaluate(session, task.dataset), seconds), "memory_tokens": len(memory)}


def run_comparison(
    datasets: Sequence[Dataset],
    config: Config,
    out: Path,
    *,
    lengths: Sequence[int],
    seeds: int,
    variants: Sequence[str] = tuple(VARIANTS),
    reweight: bool = False,
    memory_tokens: int = 0,
    jobs: int = 1,
    threads: int = 1,
) -> dict[str, Any]:
    """Train AGPNet for each length and seed, with nearest neighbours beside the first length; the study's document.

    Raises:
        AgpEdgeError: of a training; what was done before is in `out`.
    """
    study = Study(out)
    weights = backbone_sha256(
        make_backbone(config.backbone, config.layers, config.input_size, config.combine)
    )

    def tasks(steps: int, beside: Sequence[str]) -> list[Task]:
        return [
            study.task(
                f"{dataset.classes[0].name}, {steps} steps, seed {seed}",
                dataset,
                replace(config, steps=steps, epochs=0, seed=seed),
                threads=threads,
                backbone_sha256=weights,
                variants=list(beside),
                reweight=reweight,
                memory_tokens=memory_tokens,
            )
            for seed in range(config.seed, config.seed + seeds)
            for dataset in datasets
        ]

    first = tasks(lengths[0], variants)
    rows = [Row("nearest", VARIANTS[name], first, part=name) for name in variants]
    base = list(variants).index(BASE) if BASE in variants else None
    for steps in lengths:
        same = first if steps == lengths[0] else tasks(steps, ())
        rows.append(Row("AGPNet", f"{steps} steps", same, base=base))
    title = (
        f"{config.backbone}, one model a class, {seeds} seed{'s' if seeds > 1 else ''}; each training on "
        f"{threads} thread{'s' if threads > 1 else ''}, {jobs} at a time. Nearest neighbours: "
        + (
            f"at most {memory_tokens} tokens, drawn at random"
            if memory_tokens
            else "every token is kept, no coreset"
        )
        + (", PatchCore's weight of the score." if reweight else ".")
    )
    study.run(rows, title, compare, jobs=jobs, progress=tell_progress)
    return study.document


def describe(document: dict[str, Any]) -> str:
    """The tables in Markdown: classes and means, AGPNet less its baseline, and accuracy against time."""
    summaries = summarise(document)
    lengths = [
        (
            s.value,
            "-" if s.seconds is None else f"{s.seconds:.0f}",
            *(i.describe() if i else "-" for i in s.metrics.values()),
        )
        for s in summaries
        if s.group == "AGPNet"
    ]
    parts = [document["title"], markdown(*class_rows(summaries, HEADS))]
    differences = difference_rows(summaries, HEADS)
    if differences[1]:
        parts += ["AGPNet less nearest neighbours (the row with a *):", markdown(*differences)]
    parts += [
        "Accuracy against time, mean over classes; seconds a class, from the first image read to the last step:",
        markdown(("length", "seconds", "I-AUROC", "P-AUROC", "AUPRO"), lengths),
        describe_intervals(summaries),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; the exit code."""
    parser = study_parser("nearest_neighbours", __doc__)
    parser.add_argument("--steps-list", help="several lengths, as in 50,100,200: accuracy against time")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--reweight", action="store_true", help="PatchCore's weight of the score")
    parser.add_argument("--memory-tokens", type=int, default=0, help="keep at most so many; 0 keeps all")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument(
        "--threads", type=int, default=1, help="of a training; times are honest with --jobs 1"
    )
    given = parser.parse_args(arguments)

    def work(**_: object) -> None:
        config = make_config(backbone=given.backbone, **parse_settings(given.settings))
        lengths = [int(n) for n in given.steps_list.split(",")] if given.steps_list else []
        document = run_comparison(
            choose_classes(load_dataset(given.data), given.classes),
            config,
            given.out,
            lengths=lengths or [given.steps or config.steps],
            seeds=given.seeds,
            variants=given.variants,
            reweight=given.reweight,
            memory_tokens=given.memory_tokens,
            jobs=given.jobs,
            threads=given.threads,
        )
        print(describe(document))

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
