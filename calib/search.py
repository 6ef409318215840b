"""Which layers INT8 may have: as much as the gate's allowance permits, the rest in higher precision.

1. Everything is quantised. Where that stays within `SHARE` of the allowance on the search frames, it is done.
2. Else each layer is measured alone, and layers are given up in the order of what they spend of the allowance for each
   multiplication that they save. Bisection finds how many must go.
3. Each layer given up is tried once more, those that save most first, and taken back where the rest allows it: the order
   was made of layers that were alone.

Only search frames are used. The gate judges the result on its own, and may still refuse it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.engines.base import Inference
from agp_edge.frame import FrameSpec, Precision
from agp_edge.progress import Progress, silent
from calib.layers import Layer
from calib.quantise import Quantiser
from calib.sensitivity import Effect, Trial, describe_layers, measure_sensitivity, open_trial

SHARE = 0.5
"""Of the gate's allowance that a choice may spend on the search frames: the gate's frames are others, and the network
was trained on these."""


def within(effect: Effect) -> bool:
    """Whether an effect on the search frames leaves room for the gate: no flip, and half of the allowance at most."""
    return effect.flips == 0 and effect.spent <= SHARE


@dataclass(frozen=True)
class LayerChoice:
    """Which layers are in INT8, and why.

    Attributes:
        layers: all that could be, in the order of the graph.
        quantised, kept: names of their nodes, in INT8 and not.
        asked: of those kept, the ones that the user wanted kept.
        effect: what the choice does on the search frames, against FP32.
        everything: what quantising all that may be would do.
        sensitivity: node -> what quantising it alone does; empty where nobody needed to know.
        attempts: graphs that were tried whole.
        frames: search frames.
        rest: the precision of the layers that are kept.
    """

    layers: list[Layer]
    quantised: list[str]
    kept: list[str]
    asked: list[str]
    effect: Effect
    everything: Effect
    sensitivity: dict[str, Effect]
    attempts: int
    frames: int
    rest: Precision

    @property
    def fits(self) -> bool:
        """Whether the choice is within what the search allows; if not, nothing is quantised, and the rest alone is beyond."""
        return within(self.effect)

    @property
    def macs_quantised(self) -> float:
        """The share of the layers' multiplications that INT8 takes."""
        chosen = set(self.quantised)
        return sum(layer.macs for layer in self.layers if layer.node in chosen) / sum(
            layer.macs for layer in self.layers
        )

    def describe(self) -> str:
        """For a person: what was chosen, and what for; 80 columns."""
        on = f"on {self.frames} search frames"
        if not self.quantised:
            why = (
                "no layer can be quantised"
                if self.fits
                else f"nothing quantised: {self.rest} alone is beyond what the search allows"
            )
            return f"{why} ({self.effect.describe()} {on})"
        lines = [
            f"{len(self.quantised)} of {len(self.layers)} layers in INT8, {self.macs_quantised:.0%} of their work: "
            f"{self.effect.describe()}"
        ]
        if self.attempts == 1:
            lines.append(f"everything fitted at once {on}")
        else:
            lines.append(f"all of them: {self.everything.describe()} {on}")
        return "\n".join(lines)

    def table(self) -> str:
        """The table of layers: what each saves and, where it was measured, costs."""
        return describe_layers(self.layers, self.quantised, self.sensitivity or None, rest=self.rest)

    def to_dict(self) -> dict[str, Any]:
        """As `--json` gives it."""
        chosen = set(self.quantised)
        return {
            "quantised": self.quantised,
            "kept": self.kept,
            "asked": self.asked,
            "rest": self.rest,
            "effect": self.effect.to_dict(),
            "everything": self.everything.to_dict(),
            "attempts": self.attempts,
            "frames": self.frames,
            "share_of_allowance": SHARE,
            "macs_quantised": self.macs_quantised,
            "layers": [
                {
                    **vars(layer),
                    "precision": "int8" if layer.node in chosen else self.rest,
                    "alone": self.sensitivity[layer.node].to_dict()
                    if layer.node in self.sensitivity
                    else None,
                }
                for layer in self.layers
            ],
        }


def search_precision(
    quantiser: Quantiser,
    reference: Path,
    frame: FrameSpec,
    frames: NDArray[np.uint8],
    *,
    keep: Collection[str] = (),
    sensitivity: bool = False,
    progress: Progress = silent,
) -> LayerChoice:
    """Choose the layers that INT8 may have.

    Args:
        quantiser: the graph with its ranges.
        reference: the FP32 graph, to which verdicts are held.
        frame: what the graphs take.
        frames: [N, H, W, C] uint8 good frames of the search part; none of gate or threshold.
        keep: nodes that are kept whatever the search finds.
        sensitivity: measure every layer alone even where nothing must be kept.
        progress: told of frames and layers.

    Returns:
        The choice; `quantiser.write(out, choice.kept)` writes it, where it quantises anything.

    Raises:
        InputError: too few frames, or a node to keep that is none.
    """
    asked = quantiser.check_keep(keep)
    with open_trial(quantiser, frame, frames) as trial:
        before = trial.infer(reference, progress)
        attempts = _Attempts(trial, before, progress)
        kept = frozenset(asked)
        all_in = effect = attempts.effect(kept)
        effects: dict[str, Effect] = {}
        fits = within(effect)
        if not fits:
            kept = frozenset(quantiser.nodes)
            effect = attempts.effect(kept)
        if sensitivity or (not fits and within(effect)):
            effects = measure_sensitivity(quantiser, frame, frames, progress=progress)
        if not fits and within(effect):
            kept = _give_up(quantiser.layers, frozenset(asked), effects, attempts)
            effect = attempts.effect(kept)
    return LayerChoice(
        layers=quantiser.layers,
        quantised=[node for node in quantiser.nodes if node not in kept],
        kept=[node for node in quantiser.nodes if node in kept],
        asked=asked,
        effect=effect,
        everything=all_in,
        sensitivity=effects,
        attempts=attempts.count,
        frames=len(frames),
        rest=quantiser.rest,
    )


class _Attempts:
    """Choices that were tried, each once."""

    def __init__(self, trial: Trial, reference: Inference, progress: Progress) -> None:
        self._trial = trial
        self._reference = reference
        self._progress = progress
        self._tried: dict[frozenset[str], Effect] = {}

    @property
    def count(self) -> int:
        return len(self._tried)

    def effect(self, kept: frozenset[str]) -> Effect:
        if kept not in self._tried:
            self._tried[kept] = self._trial.effect(self._reference, kept, self._progress)
        return self._tried[kept]


def _give_up(
    layers: list[Layer], asked: frozenset[str], effects: dict[str, Effect], attempts: _Attempts
) -> frozenset[str]:
    """The nodes to keep: as few multiplications as the search finds."""
    candidates = [layer for layer in layers if layer.node not in asked]
    # The sort is stable, so that equals stay in the order of the graph.
    order = sorted(candidates, key=lambda layer: -effects[layer.node].spent / layer.macs)

    def keeping(n: int) -> frozenset[str]:
        return asked | {layer.node for layer in order[:n]}

    too_few, enough = 0, len(order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if within(attempts.effect(keeping(middle))):
            enough = middle
        else:
            too_few = middle
    kept = keeping(enough)
    for layer in sorted(order[:enough], key=lambda layer: -layer.macs):
        fewer = kept - {layer.node}
        if within(attempts.effect(fewer)):
            kept = fewer
    return kept
