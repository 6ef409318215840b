"""One step of training: the two branches, the loss, the EMA copy, from easy to hard.

As agpnet.md has it:

    F    = target(x);  A = n(n(A_prior) + n(A_learn))              no gradient
    F1   = F + E1 (alpha(t) A + beta)                              the features' branch
    x'   = x with noise in the top rho(t) of A;  F2 = target(x') + E2 (alpha(t) A + beta)
    loss = (MSE(D(F1), F) + MSE(D(F2), F)) / 2;  update D, then its EMA copy
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agp_edge.errors import DivergedError
from agp_edge.progress import Progress, silent
from agpnet.augmentation import augment
from agpnet.checkpoint import State
from agpnet.config import Config, resolve
from agpnet.device import autocast, choose_device, make_scaler
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
from agpnet.robust import ImageScores, token_weights
from agpnet.run import own_tensors

WARM_UP_STEPS = 30
LOG_EVERY = 10
FIRST_STEPS = 10
"""Within so few, while the rate still warms up, next to nothing is learned: their mean loss is where it began."""
CACHE_BYTES = 2 << 30
CHANNEL_IMAGES = 64
"""Images that the channels' statistics are taken from."""
RESIDUAL_IMAGES = 128
"""Images that the spread of what is rebuilt amiss is taken from, once the decoder is trained."""


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

    Everything random comes from generators of its own: other users of torch's numbers cannot disturb it.

    Args:
        network: its decoder is trained in place, on the device of the configuration.
        images: [N, 3, S, S] in 0 to 1.
        config: the hyper-parameters.

    Attributes:
        scores: how unlike the others each image looks.
        first_loss: mean of the first steps.

    Raises:
        InputError: the device is not there, or cannot do the precision.
    """

    def __init__(self, network: AGPNet, images: Tensor, config: Config) -> None:
        self.config = config = resolve(config, len(images))
        self.device = choose_device(config)
        self.network = network.to(self.device)
        self.images = images
        self.step_number = 0
        self.log: list[dict[str, float]] = []
        self.first_loss = math.nan
        self.between_steps = True
        self.scores = ImageScores(len(images))
        # Order and noise: one stream on a CPU. A GPU draws its noise itself, which is far faster than bringing it there.
        self._generator = torch.Generator().manual_seed(config.seed)
        self._noise = self._generator
        if self.device.type != "cpu":
            self._noise = torch.Generator(self.device).manual_seed(config.seed)
        self._fit_channels()
        self.ema: Decoder = copy.deepcopy(network.decoder).requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            network.decoder.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._scaler = make_scaler(config, self.device)
        self._decode: Callable[[Tensor], Tensor] = network.decoder
        self._rebuild = (self.ema if config.ema else network.decoder).rebuild
        self._target = network.target
        if config.compile:
            self._decode, self._rebuild, self._target = (
                torch.compile(f) for f in (self._decode, self._rebuild, self._target)
            )
        self._cache = self._clean_features()
        self._order: list[int] = []

    def _fit_channels(self) -> None:
        rows = torch.randperm(len(self.images), generator=self._generator)[:CHANNEL_IMAGES]
        self.network.fit_channels(list(self._views(rows, self._noise)))

    def _views(self, rows: Tensor, noise: torch.Generator) -> tuple[Tensor, ...]:
        """Images to take statistics from, in batches."""
        chosen = self.images[rows].to(self.device)
        if self.config.augment != "none":
            # The spread of a few images would be too small for what is shown later: other views of them count too.
            copies = chosen.repeat(math.ceil(CHANNEL_IMAGES / len(chosen)), 1, 1, 1)[:CHANNEL_IMAGES]
            chosen = torch.cat([chosen, augment(copies, self.config.augment, noise)])
        return torch.split(chosen, 16)

    @torch.no_grad()
    def fit_residuals(self) -> None:
        """Let the network learn how far good tokens are rebuilt amiss, see `AGPNet.fit_residuals`.

        It has random numbers of its own: the training may go on after it as if it had not been.
        """
        generator = torch.Generator().manual_seed(self.config.seed)
        rows = torch.randperm(len(self.images), generator=generator)
        if self.config.robust != "off":
            unlike = [row for row, _ in self.scores.outliers(self.config.robust_mads)]
            rows = rows[~torch.isin(rows, torch.tensor(unlike, dtype=rows.dtype))]
        noise = torch.Generator(self.device).manual_seed(self.config.seed)
        views = self._views(rows[:RESIDUAL_IMAGES], noise)
        self.network.fit_residuals(self.network.target(batch)[0] for batch in views)

    def _clean_features(self) -> Clean | None:
        """F and A_prior of every image, kept if they fit: the backbone is frozen and the images do not change."""
        rows, columns = self.network.backbone.grid
        if self.config.augment != "none":
            return None
        if len(self.images) * rows * columns * self.network.backbone.width * 4 > CACHE_BYTES:
            return None
        with autocast(self.config, self.device):
            parts = [
                self._clean(batch.to(self.device))
                for batch in torch.split(self.images, self.config.batch_size)
            ]
        return Clean(torch.cat([p.target for p in parts]), torch.cat([p.prior for p in parts]))

    @torch.no_grad()
    def _clean(self, images: Tensor) -> Clean:
        target, features = self._target(images)
        target = target.float()
        return Clean(target, prior_attention(features, target).float())

    def run(self, progress: Progress = silent, after_step: Callable[[], None] = lambda: None) -> None:
        """Take all the steps that are left.

        Args:
            progress: told after each step, with the loss; and once before the first, where it goes on from.
            after_step: called after each step, between two of which the state is whole.

        Raises:
            DivergedError: the loss is no finite number.
        """
        total = self.config.steps
        if self.step_number:
            progress(
                self.step_number, total
            )  # Where the bar begins: what was done before tells nothing of the speed.
        self.network.train()
        try:
            while self.step_number < total:
                rate, hardness = self._rate(), self._hardness()
                loss = self.step()
                done = self.step_number
                if done % LOG_EVERY == 0 or done == total:
                    alpha, rho = self.config.alpha_max * hardness, self.config.rho_max * hardness
                    self.log.append({"step": done, "loss": loss, "lr": rate, "alpha": alpha, "rho": rho})
                progress(done, total, f"loss {loss:.4f}")
                after_step()
        finally:
            self.network.eval()

    def step(self) -> float:
        """One step; its loss.

        Raises:
            DivergedError: the loss is no finite number; the state is as it was before the step, but for random numbers.
        """
        self.between_steps = False
        rows = self._next_batch()
        images = self.images[rows].to(self.device)
        if self.config.augment != "none":
            images = augment(images, self.config.augment, self._noise)
        with autocast(self.config, self.device):
            clean = self._clean(images) if self._cache is None else self._cache.rows(rows.to(self.device))
            loss = self._loss(images, clean, rows)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the training diverged at step {self.step_number}: its loss is {value}",
                f"lower the learning rate (now {self.config.learning_rate:g}), and look at the images: agp-edge inspect DATA",
            )
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate()
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._update_ema()
        if self.step_number < FIRST_STEPS:
            before = self.first_loss if self.step_number else 0.0
            self.first_loss = before + (value - before) / (self.step_number + 1)
        self.step_number += 1
        self.between_steps = True
        return value

    def _loss(self, images: Tensor, clean: Clean, rows: Tensor) -> Tensor:
        config, hardness, target = self.config, self._hardness(), clean.target
        with torch.no_grad():
            mask, errors = self._look(clean)
            weights = self._weigh(rows, errors)
            strength = noise_strength(mask, config, hardness)
            inputs = []
            if config.where in ("feature", "both"):
                inputs.append(perturb_features(target, strength, self._noise))
            if config.where in ("image", "both"):
                grid = self.network.backbone.grid
                noised = perturb_image(images, mask, grid, config, hardness, self._noise)
                features = self._target(noised)[0].float()
                if config.where == "both":
                    features = perturb_features(features, strength, self._noise)
                inputs.append(features)
        # Both branches in one pass; the mean over both is half the sum of the two means.
        rebuilt = self._decode(torch.cat(inputs)).float()
        wanted = torch.cat([target] * len(inputs))
        if weights is None:
            return F.mse_loss(rebuilt, wanted)
        weights = torch.cat([weights] * len(inputs))  # [2B, T]
        return ((rebuilt - wanted).square().mean(dim=-1) * weights).sum() / weights.sum().clamp_min(1)

    def _look(self, clean: Clean) -> tuple[Tensor, Tensor | None]:
        """The mask A [B, T], and the error [B, T] of the EMA decoder on clean tokens where it was asked."""
        learned = errors = None
        if self.config.mask in ("learned", "both") or self.config.robust != "off":
            rebuilt, attentions = self._rebuild(clean.target)
            errors = (rebuilt.float() - clean.target).square().mean(dim=-1)
            if self.config.mask in ("learned", "both"):
                learned = learned_attention(attentions).float()
        prior = clean.prior if self.config.mask in ("prior", "both") else None
        return attention_mask(prior, learned), errors

    def _weigh(self, rows: Tensor, errors: Tensor | None) -> Tensor | None:
        """Weights of the tokens [B, T], None where all count: bad images among the good ones, see `agpnet.robust`."""
        if errors is None:
            return None
        self.scores.update(rows, errors)
        if self.step_number < self.config.robust_from * self.config.steps:
            return None
        return token_weights(self.scores, rows, errors, self.config.robust, self.config.robust_mads)

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

    def state(self) -> State:
        """Everything that the next steps depend on, as it is between two steps.

        Raises:
            RuntimeError: called within a step.
        """
        if not self.between_steps:
            raise RuntimeError("half a step is no state to go on from")
        tensors = {f"network.{name}": t for name, t in own_tensors(self.network).items()}
        tensors |= {f"ema.{name}": t for name, t in self.ema.state_dict().items()}
        for i, moments in self._optimiser.state_dict()["state"].items():
            tensors |= {f"adamw.{i}.{name}": t for name, t in moments.items()}
        tensors["generator.order"] = self._generator.get_state()
        tensors["generator.noise"] = self._noise.get_state()
        tensors["order"] = torch.tensor(self._order, dtype=torch.int64)
        tensors["scores"] = self.scores.values
        values = {
            "step": self.step_number,
            "first_loss": self.first_loss if self.step_number else None,
            "log": list(self.log),
            "scaler": self._scaler.state_dict(),
        }
        return State({name: t.detach().clone() for name, t in tensors.items()}, values)

    def restore(self, state: State) -> None:
        """Take up a state that `state` gave, of a training of the same images and configuration.

        Raises:
            KeyError, ValueError, RuntimeError: it is of another network.
        """

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): t for name, t in state.tensors.items() if name.startswith(prefix)
            }

        own = under("network.")
        if set(own) != set(own_tensors(self.network)):
            raise ValueError("a checkpoint of another network")
        self.network.load_state_dict(own, strict=False)
        self.ema.load_state_dict(under("ema."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in under("adamw.").items():
            i, key = name.split(".")
            moments.setdefault(int(i), {})[key] = tensor
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self._generator.set_state(state.tensors["generator.order"])
        self._noise.set_state(state.tensors["generator.noise"])
        self._order = state.tensors["order"].tolist()
        self.scores.values = state.tensors["scores"].clone()
        values = state.values
        self.step_number = int(values["step"])
        self.first_loss = math.nan if values["first_loss"] is None else float(values["first_loss"])
        self.log = list(values["log"])
        self._scaler.load_state_dict(values["scaler"])
