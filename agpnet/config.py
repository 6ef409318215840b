"""Every hyper-parameter by name. Tags as in docs/agpnet.md: [paper] is reported of the paper, [default] is our choice."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from agp_edge.errors import InputError

Noise = Literal["guided", "random", "none"]
Where = Literal["both", "feature", "image"]
MaskSource = Literal["both", "prior", "learned"]
Schedule = Literal["linear", "constant"]
Combine = Literal["auto", "sum", "concat"]
Setup = Literal["auto", "one-class", "multi-class"]
Augment = Literal["auto", "none", "flips", "jitter", "both", "camera"]
Robust = Literal["off", "images", "patches"]
Device = Literal["auto", "cpu", "cuda"]
ResidualScale = Literal["off", "channel", "rebuilt"]
Distance = Literal["token", "cell"]
TrainingPrecision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Config:
    """The hyper-parameters of a training.

    Attributes:
        backbone: `filterbank`, a model id, or a folder that `transformers` loads. [paper: DINO ViT-S/16]
        layers: of the backbone, from 1; empty takes blocks 3, 6, 9, 12 scaled to the depth, and of a CNN the last maps
            at strides 8 and 16. [default]
        combine: layers summed, concatenated (concat), or as the backbone has it (auto: sum for a transformer, concat
            for a CNN, whose layers differ in width). [paper: sum]
        input_size: side of the network's input, pixels; 0 takes the backbone's own. [default: 256]
        decoder_blocks: blocks of the decoder. [paper: 4]
        decoder_width: channels inside the decoder; 0 takes the target's, or 384 where that is above 768. [default]
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
        setup: one model for all classes (multi-class) or one a class; auto goes by their number. [paper: both]
        shots: good images a class that are taken, chosen by content and seed; 0 takes all. [paper: 1, 2, 4]
        augment: none, flips (with quarter turns), jitter (small turns, shifts, sizes and light), both, or camera (its noise,
            compression, light and focus); auto takes jitter with `shots`, else none. [default]
        robust: off, or give no weight to images, or to patches, that look unlike all the others. [default: off]
        robust_from: share of the training after which `robust` acts. [default: 0.25]
        robust_mads: how far from the median an image is an outlier, in median absolute deviations. [default: 4]
        steps: optimiser steps. [default]
        epochs: the same as passes over the images, instead of `steps`; 0 takes `steps`. [paper: 500, multi-class]
        batch_size: images a step. [default: 8]
        learning_rate: AdamW's. [default: 1e-4 with a pretrained backbone, more for filters]
        weight_decay: AdamW's. [default: 1e-4]
        decay_at: share of the training after which the rate falls to a tenth. [default: 0.8]
        blur_sigma: Gaussian blur of the anomaly map, in input pixels; 0 is off. [paper: off; default: 4]
        residual_scale: what a channel's difference is divided by: nothing (off), its own spread over good images
            (channel), or the spread that the rebuilt token foretells (rebuilt). [paper: off; default for filters: rebuilt]
        distance: one for each token, or for each cell, of which a token of the filters holds 2 x 2: the map is that much
            finer. [paper: token; default for filters: cell]
        hold_out: share of the good images that training leaves out for gate and threshold. [default: 0.2]
        seed: of everything random.
        device: cpu, cuda, or auto: the GPU where there is one. [default]
        precision: of the arithmetic; bf16 and fp16 are mixed with fp32. [default: fp32]
        compile: let `torch.compile` make the network faster, after some minutes. [default: off]
    """

    backbone: str = "facebook/dino-vits16"
    layers: tuple[int, ...] = ()
    combine: Combine = "auto"
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
    setup: Setup = "auto"
    shots: int = 0
    augment: Augment = "auto"
    robust: Robust = "off"
    robust_from: float = 0.25
    robust_mads: float = 4.0
    steps: int = 2000
    epochs: int = 0
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    decay_at: float = 0.8
    blur_sigma: float = 4.0
    residual_scale: ResidualScale = "off"
    distance: Distance = "token"
    hold_out: float = 0.2
    seed: int = 0
    device: Device = "auto"
    precision: TrainingPrecision = "fp32"
    compile: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As a run keeps it."""
        return {**asdict(self), "layers": list(self.layers)}


PRESETS: dict[str, dict[str, Any]] = {
    "filterbank": {
        "decoder_width": 96,
        "decoder_heads": 3,
        "learning_rate": 3e-3,
        "batch_size": 2,
        "steps": 600,
        "residual_scale": "rebuilt",
        "distance": "cell",
        "blur_sigma": 6.0,
    },
}
"""Backbone -> defaults that differ for it: its decoder starts from features that nobody trained."""


def make_config(file: Path | None = None, /, **flags: Any) -> Config:
    """A configuration: defaults, then the backbone's preset, then a TOML file, then flags that are not None.

    Raises:
        InputError: the file cannot be read, or a name, type or value is wrong.
    """
    given = _read_toml(file) if file else {}
    _check_one_length(given, str(file))
    flags = {name: value for name, value in flags.items() if value is not None}
    _check_one_length(flags, "the command line")
    # Whoever names one of the two on the command line means it instead of the file's other one.
    for name, other in (("steps", "epochs"), ("epochs", "steps")):
        if name in flags:
            given.pop(other, None)
    given.update(flags)
    backbone = given.get("backbone", Config.backbone)
    config = replace(Config(), **PRESETS.get(str(backbone), {}))
    return config_from_dict(given, base=config)


def _check_one_length(given: dict[str, Any], where: str) -> None:
    if given.get("steps") and given.get("epochs"):
        raise InputError(
            f"{where} gives both steps = {given['steps']} and epochs = {given['epochs']}",
            "give one of them: epochs are passes over the images",
        )


def resolve(config: Config, images: int, classes: int = 1) -> Config:
    """A configuration with nothing left open but the device: what `auto` and `epochs` come to.

    Args:
        config: as it was given.
        images: that are trained on.
        classes: that they come from.
    """
    steps = config.epochs * math.ceil(images / config.batch_size) if config.epochs else config.steps
    augment: Augment = config.augment
    if augment == "auto":
        augment = "jitter" if config.shots else "none"
    setup: Setup = config.setup
    if setup == "auto":
        setup = "multi-class" if classes > 1 else "one-class"
    return replace(config, steps=steps, augment=augment, setup=setup)


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
    positive = ("decoder_blocks", "decoder_heads", "steps", "batch_size", "learning_rate", "robust_mads")
    share = ("ema_decay", "rho_max", "hold_out", "decay_at", "robust_from")
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
