"""Training: the two branches, the loss, the EMA copy, from easy to hard.

One step, as agpnet.md has it:

    F    = target(x);  A = n(n(A_prior) + n(A_learn))              no gradient
    F1   = F + E1 (alpha(t) A + beta)                              the features' branch
    x'   = x with noise in the top rho(t) of A;  F2 = target(x') + E2 (alpha(t) A + beta)
    loss = (MSE(D(F1), F) + MSE(D(F2), F)) / 2;  update D, then its EMA copy
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agp_edge.datasets import content_hashes, require_one_size
from agp_edge.datasets.base import Dataset, Sample
from agp_edge.datasets.images import read_image
from agp_edge.errors import DivergedError, InputError
from agp_edge.frame import FrameSpec
from agp_edge.progress import Progress, silent
from agpnet.config import Config
from agpnet.front import FrameFront
from agpnet.network import AGPNet, Decoder
from agpnet.perturbation import (
    attention_mask,
    learned_attention,
    noise_strength,
    perturb_features,
    perturb_image,
    prior_attention,
    progress_of,
)
from agpnet.run import RunRecord, build_network, check_out, save_run

MIN_HELD_OUT = 32
"""Sixteen frames for the gate, sixteen for the threshold: fewer and the gate can say nothing."""
MAX_HELD_OUT_SHARE = 0.4
MIN_TRAINED = 2
WARM_UP_STEPS = 30
CACHE_BYTES = 2 << 30


def choose_held_out(hashes: Sequence[str], share: float) -> set[str]:
    """The hashes of good images that training leaves out: the smallest ones, so that the choice follows the content.

    At least `MIN_HELD_OUT`, since gate and threshold need them, but never more than 40 % of a small set.
    """
    ordered = sorted(set(hashes))
    if share == 0:
        return set()
    wanted = max(math.ceil(share * len(ordered)), MIN_HELD_OUT)
    return set(ordered[: min(wanted, int(MAX_HELD_OUT_SHARE * len(ordered)))])


def describe_too_few(n: int, share: float) -> str | None:
    """Why so many good images are too few for a gate, in words; None where they are enough.

    Args:
        n: good images.
        share: of them that training leaves out; with 0 they come from elsewhere.
    """
    enough = math.ceil(MIN_HELD_OUT / MAX_HELD_OUT_SHARE)
    if share == 0 or n >= enough:
        return None
    held_out = int(MAX_HELD_OUT_SHARE * n)
    threshold = (held_out + 1) // 2
    promise = f"its threshold can promise a false-reject rate of {1 / (threshold + 1):.1%} at best"
    return f"with {n} good images {held_out} are held out, and the gate will be INCONCLUSIVE: {enough} are needed; {promise}"


def train(
    dataset: Dataset, config: Config, out: Path, *, progress: Progress = silent, reading: Progress = silent
) -> RunRecord:
    """Train on a data set's good images and write a run.

    Args:
        dataset: its `train` images are used, of every class together.
        config: the hyper-parameters.
        out: the folder to write; a run that is there is replaced.
        progress: told after each step, with the loss.
        reading: told after each image that was read.

    Raises:
        InputError: too few images, one that cannot be read, several sizes, or `out` is something else.
        DivergedError: the loss is no finite number.
        KeyboardInterrupt: after the run was written as it stood, with state `interrupted`; its text says so.
    """
    check_out(out)
    samples = [sample for data in dataset.classes for sample in data.train]
    width, height = require_one_size(samples)
    frame = FrameSpec(width, height, 3)
    hashes = content_hashes(samples)
    held_out = choose_held_out(hashes, config.hold_out)
    chosen = [sample for sample, digest in zip(samples, hashes, strict=True) if digest not in held_out]
    if len(chosen) < MIN_TRAINED:
        raise InputError(
            f"{dataset.root} has {len(chosen)} good images to train on, at least {MIN_TRAINED} are needed",
            "collect more: agp-edge capture --camera 0 --out DATA",
        )
    torch.manual_seed(config.seed)
    network = build_network(config)
    images = read_inputs(chosen, FrameFront(frame, network.backbone.input_size), reading)
    trainer = Trainer(network, images, config)
    record = RunRecord(
        config=config,
        classes=[data.name for data in dataset.classes],
        frame=frame,
        trained=sorted(set(hashes) - held_out),
        held_out=sorted(held_out),
    )
    start = time.monotonic()

    def finish(state: str) -> RunRecord:
        done = RunRecord(
            **{
                **vars(record),
                "state": state,
                "step": trainer.step_number,
                "seconds": time.monotonic() - start,
            }
        )
        save_run(out, network, done, "".join(json.dumps(line, sort_keys=True) + "\n" for line in trainer.log))
        return done

    try:
        trainer.run(progress)
    except KeyboardInterrupt as stop:
        done = finish("interrupted")
        raise KeyboardInterrupt(
            f"interrupted at step {done.step} of {config.steps}; the run as it stood is in {out} and cannot be resumed"
        ) from stop
    return finish("finished")


def read_inputs(samples: Sequence[Sample], front: FrameFront, progress: Progress = silent) -> Tensor:
    """The network's inputs for images of one size: [N, 3, S, S] float32 in 0 to 1.

    Raises:
        InputError: an image cannot be read.
    """
    inputs = torch.empty(len(samples), 3, front.input_size, front.input_size)
    with torch.no_grad():
        for i, sample in enumerate(samples):
            frame = read_image(sample.path, mono=front.frame.channels == 1)
            inputs[i] = front(torch.from_numpy(np.ascontiguousarray(frame[None])))[0]
            progress(i + 1, len(samples))
    return inputs


@dataclass(frozen=True)
class Clean:
    """What the frozen backbone says of clean images: the target F [B, T, C] and A_prior [B, T]."""

    target: Tensor
    prior: Tensor

    def rows(self, rows: Tensor) -> Clean:
        """Those of some images."""
        return Clean(self.target[rows], self.prior[rows])


def ema_decay_at(step: int, decay: float) -> float:
    """The EMA's decay at a step, from 0: rising to `decay`, as in Tarvainen and Valpola, 2017.

    Held at 0.999 from the start, the copy would still be three quarters its own random beginning after 300 steps, and
    the learned mask would show nothing that was learned.
    """
    return min(decay, (1 + step) / (10 + step))


class Trainer:
    """The state of a training: decoder, its EMA copy, optimiser, random numbers.

    Args:
        network: its decoder is trained in place.
        images: [N, 3, S, S] in 0 to 1.
        config: the hyper-parameters.
    """

    def __init__(self, network: AGPNet, images: Tensor, config: Config) -> None:
        self.network = network
        self.config = config
        self.images = images
        self.step_number = 0
        self.log: list[dict[str, float]] = []
        self._generator = torch.Generator().manual_seed(config.seed)
        network.fit_channels(
            list(torch.split(images[torch.randperm(len(images), generator=self._generator)[:64]], 16))
        )
        self.ema: Decoder = copy.deepcopy(network.decoder).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            network.decoder.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._cache = self._clean_features()
        self._order: list[int] = []

    def _clean_features(self) -> Clean | None:
        """F and A_prior of every image, kept if they fit: the backbone is frozen and the images do not change."""
        rows, columns = self.network.backbone.grid
        if len(self.images) * rows * columns * self.network.backbone.width * 4 > CACHE_BYTES:
            return None
        parts = [self._clean(batch) for batch in torch.split(self.images, self.config.batch_size)]
        return Clean(torch.cat([p.target for p in parts]), torch.cat([p.prior for p in parts]))

    @torch.no_grad()
    def _clean(self, images: Tensor) -> Clean:
        target, features = self.network.target(images)
        return Clean(target, prior_attention(features, target))

    def run(self, progress: Progress = silent) -> None:
        """Take all the steps that are left.

        Raises:
            DivergedError: the loss is no finite number.
        """
        self.network.train()
        try:
            while self.step_number < self.config.steps:
                rate, alpha = self._rate(), self.config.alpha_max * self._hardness()
                loss = self.step()
                done, total = self.step_number, self.config.steps
                if done % 10 == 0 or done == total:
                    self.log.append({"step": done, "loss": loss, "lr": rate, "alpha": alpha})
                progress(done, total, f"loss {loss:.4f}")
        finally:
            self.network.eval()

    def step(self) -> float:
        """One step; its loss."""
        rows = self._next_batch()
        images = self.images[rows]
        clean = self._clean(images) if self._cache is None else self._cache.rows(rows)
        loss = self._loss(images, clean)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the training diverged at step {self.step_number}: its loss is {value}",
                f"lower the learning rate (now {self.config.learning_rate:g}), and look at the images: agp-edge inspect DATA",
            )
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._update_ema()
        self.step_number += 1
        return value

    def _loss(self, images: Tensor, clean: Clean) -> Tensor:
        config, hardness, target = self.config, self._hardness(), clean.target
        with torch.no_grad():
            mask = self._mask(clean)
            strength = noise_strength(mask, config, hardness)
            inputs = []
            if config.where in ("feature", "both"):
                inputs.append(perturb_features(target, strength, self._generator))
            if config.where in ("image", "both"):
                grid = self.network.backbone.grid
                noised = perturb_image(images, mask, grid, config, hardness, self._generator)
                features = self.network.target(noised)[0]
                if config.where == "both":
                    features = perturb_features(features, strength, self._generator)
                inputs.append(features)
        # Both branches in one pass; the mean over both is half the sum of the two means.
        return F.mse_loss(self.network.decoder(torch.cat(inputs)), torch.cat([target] * len(inputs)))

    def _mask(self, clean: Clean) -> Tensor:
        learned = None
        if self.config.mask in ("learned", "both"):
            decoder = self.ema if self.config.ema else self.network.decoder
            learned = learned_attention(decoder.rebuild(clean.target)[1])
        return attention_mask(clean.prior if self.config.mask in ("prior", "both") else None, learned)

    def _hardness(self) -> float:
        return progress_of(self.step_number, self.config.steps, self.config.alpha_schedule)

    def _rate(self) -> float:
        rate = self.config.learning_rate * min(1.0, (self.step_number + 1) / WARM_UP_STEPS)
        return rate * (0.1 if self.step_number >= self.config.decay_at * self.config.steps else 1.0)

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = ema_decay_at(self.step_number, self.config.ema_decay)
        for average, current in zip(self.ema.parameters(), self.network.decoder.parameters(), strict=True):
            average.lerp_(current, 1 - decay)

    def _next_batch(self) -> Tensor:
        """Rows of the next batch: every image once before any comes again."""
        while len(self._order) < self.config.batch_size:
            self._order += torch.randperm(len(self.images), generator=self._generator).tolist()
        batch, self._order = self._order[: self.config.batch_size], self._order[self.config.batch_size :]
        return torch.tensor(batch)
