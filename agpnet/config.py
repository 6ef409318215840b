"""Every hyper-parameter by name. Tags as in docs/agpnet.md: [paper] is reported of the paper, [default] is our choice."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from agp_edge.errors import InputError

Noise = Literal["guided", "random", "none"]
Where = Literal["both", "feature", "image"]
MaskSource = Literal["both", "prior", "learned"]
Schedule = Literal["linear", "constant"]
Setup = Literal["one-class", "multi-class"]


@dataclass(frozen=True)
class Config:
    """The hyper-parameters of a training.

    Attributes:
        backbone: `filterbank`, a model id, or a folder that `transformers` loads. [paper: DINO ViT-S/16]
        layers: blocks whose tokens are summed, from 1; empty takes 3, 6, 9, 12 scaled to the depth. [default]
        input_size: side of the network's input, pixels; 0 takes the backbone's own. [default: 256]
        decoder_blocks: blocks of the decoder. [paper: 4]
        decoder_width: channels inside the decoder; 0 takes the target's own width. [default]
        decoder_heads: attention heads; the width is a multiple of it. [default: 6]
        noise: none, random (one strength everywhere, the same energy), or guided by the mask. [paper: guided]
        where: perturb features, the image, or both. [paper: both]
        mask: attention of the backbone (prior), of the EMA decoder (learned), or both. [paper: both]
        ema: keep an exponential moving average of the decoder for the learned mask; off uses the decoder itself. [paper: on]
        ema_decay: eta, reached from below as (1 + t) / (10 + t). [default: 0.999]
        alpha_max: strength of guided noise at the end, in units of rms(F). [default: 1.25]
        alpha_schedule: linear, from easy to hard, or constant. [paper: linear]
        beta: strength of noise everywhere. [default: 0.1]
        rho_max: share of the image's patches that are noised at the end. [default: 0.4]
        image_sigma: noise on the image, in units of the spread of its channels. [default: 0.5]
        steps: optimiser steps. [default]
        batch_size: images a step. [default: 8]
        learning_rate: AdamW's. [default: 1e-4 with a pretrained backbone, more for filters]
        weight_decay: AdamW's. [default: 1e-4]
        decay_at: share of the training after which the rate falls to a tenth. [default: 0.8]
        blur_sigma: Gaussian blur of the anomaly map, in input pixels; 0 is off. [paper: off; default: 4]
        hold_out: share of the good images that training leaves out for gate and threshold. [default: 0.2]
        seed: of everything random.
    """

    backbone: str = "facebook/dino-vits16"
    layers: tuple[int, ...] = ()
    input_size: int = 0
    decoder_blocks: int = 4
    decoder_width: int = 0
    decoder_heads: int = 6
    noise: Noise = "guided"
    where: Where = "both"
    mask: MaskSource = "both"
    ema: bool = True
    ema_decay: float = 0.999
    alpha_max: float = 1.25
    alpha_schedule: Schedule = "linear"
    beta: float = 0.1
    rho_max: float = 0.4
    image_sigma: float = 0.5
    steps: int = 2000
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    decay_at: float = 0.8
    blur_sigma: float = 4.0
    hold_out: float = 0.2
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As a run keeps it."""
        return {**asdict(self), "layers": list(self.layers)}


PRESETS: dict[str, dict[str, Any]] = {
    "filterbank": {
        "decoder_width": 96,
        "decoder_heads": 3,
        "learning_rate": 1e-3,
        "batch_size": 4,
        "steps": 300,
    },
}
"""Backbone -> defaults that differ for it: its decoder starts from features that nobody trained."""


def make_config(file: Path | None = None, /, **flags: Any) -> Config:
    """A configuration: defaults, then the backbone's preset, then a TOML file, then flags that are not None.

    Raises:
        InputError: the file cannot be read, or a name, type or value is wrong.
    """
    given = _read_toml(file) if file else {}
    given.update({name: value for name, value in flags.items() if value is not None})
    backbone = given.get("backbone", Config.backbone)
    config = replace(Config(), **PRESETS.get(str(backbone), {}))
    return config_from_dict(given, base=config)


def config_from_dict(values: dict[str, Any], base: Config | None = None) -> Config:
    """A configuration out of plain values, each checked.

    Raises:
        InputError: a name that is unknown, or a value of a wrong type or outside its range.
    """
    hints = get_type_hints(Config)
    names = {field.name for field in fields(Config)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            raise InputError(
                f"there is no hyper-parameter {name!r}", f"take one of: {', '.join(sorted(names))}"
            )
        checked[name] = _check(name, value, hints[name])
    config = replace(base or Config(), **checked)
    _check_ranges(config)
    return config


def _check(name: str, value: Any, hint: Any) -> Any:
    choices = get_args(hint)
    if name == "layers":
        good = isinstance(value, (list, tuple)) and all(type(v) is int and v > 0 for v in value)
        value, expected = tuple(value) if good else value, "a list of block numbers from 1"
    elif choices:
        good, expected = value in choices, " or ".join(choices)
    elif hint is float:
        good, expected = isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
        value = float(value) if good else value
    else:
        good, expected = (
            type(value) is hint,
            {int: "a whole number", bool: "true or false", str: "text"}[hint],
        )
    if not good:
        raise InputError(f"{name} = {value!r} is not {expected}", f"set {name} to {expected}")
    return value


def _check_ranges(config: Config) -> None:
    positive = ("decoder_blocks", "decoder_heads", "steps", "batch_size", "learning_rate")
    share = ("ema_decay", "rho_max", "hold_out", "decay_at")
    for field in fields(config):
        value = getattr(config, field.name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        low_enough = value > 0 if field.name in positive else value >= 0
        if not low_enough or (field.name in share and value > 1) or value == float("inf"):
            wanted = (
                "more than 0"
                if field.name in positive
                else "between 0 and 1"
                if field.name in share
                else "0 or more"
            )
            raise InputError(f"{field.name} = {value} is out of range", f"set it to {wanted}")


def _read_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(
            f"cannot read the configuration {path}: {error.strerror}", "give a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}", "write it as: steps = 500") from error
