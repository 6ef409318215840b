"""Where a training computes, and with which numbers."""

from __future__ import annotations

import contextlib

import torch

from agp_edge.errors import InputError
from agpnet.config import Config

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(config: Config) -> torch.device:
    """The device that a configuration means, if it is there and suits the precision.

    Raises:
        InputError: a GPU is wanted and there is none, or the device cannot do the precision.
    """
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise InputError(
            "device = 'cuda', and torch sees no GPU here",
            "see what this machine can do: agp-edge doctor; or train on the processor: --device cpu",
        )
    device = torch.device("cuda" if there and config.device != "cpu" else "cpu")
    if device.type == "cpu" and config.precision == "fp16":
        raise InputError(
            "precision = 'fp16' needs a GPU, and this training is on the processor",
            "take --precision fp32, or bf16, which processors have too",
        )
    if device.type == "cuda" and config.precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise InputError(
            f"precision = 'bf16' is not for {torch.cuda.get_device_name()}", "take --precision fp16 or fp32"
        )
    return device


def autocast(config: Config, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Mixed precision for what runs inside; nothing for fp32."""
    if config.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, TYPES[config.precision])


def make_scaler(config: Config, device: torch.device) -> torch.amp.GradScaler:
    """What keeps the small gradients of fp16 from vanishing; it does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
