"""A run: the folder that training leaves. No pickle anywhere.

run.json               configuration, backbone, classes, frame size, hashes of the images, state
weights.safetensors    the decoder, and the channel statistics
backbone/              the pretrained model, as `transformers` keeps it; absent for fixed filters
log.jsonl              one line a reported step: step, loss, learning rate, alpha
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agp_edge import __version__
from agp_edge.bundle import refuse_other_kind
from agp_edge.engines.base import Inference, Session
from agp_edge.errors import ArtefactError, InputError, MissingExtraError
from agp_edge.files import atomic_path, read_json, sha256_file, to_json
from agp_edge.frame import FrameSpec
from agpnet.backbones import TransformerBackbone, make_backbone, restore_backbone
from agpnet.config import Config, config_from_dict
from agpnet.front import FrameFront
from agpnet.network import AGPNet

FORMAT = "agp-edge-run"
VERSION = 1
RUN_FILE = "run.json"
WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"
BACKBONE = "backbone"


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says.

    Attributes:
        config: the hyper-parameters.
        classes: what it was trained on.
        frame: the frames it was trained on.
        trained, held_out: content hashes of the good images that it saw, and that it left out.
        state: `finished` or `interrupted`.
        step: optimiser steps done.
        seconds: wall time of the training.
    """

    config: Config
    classes: list[str]
    frame: FrameSpec
    trained: list[str]
    held_out: list[str]
    state: str = "finished"
    step: int = 0
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)


def build_network(config: Config) -> AGPNet:
    """A network with a fresh decoder, seeded by the caller.

    Raises:
        InputError: the backbone cannot be loaded, or the sizes do not fit each other.
    """
    return _assemble(make_backbone(config.backbone, config.layers, config.input_size), config)


def _assemble(backbone: Any, config: Config) -> AGPNet:
    try:
        return AGPNet(
            backbone,
            decoder_width=config.decoder_width,
            decoder_heads=config.decoder_heads,
            decoder_blocks=config.decoder_blocks,
            blur_sigma=config.blur_sigma,
        )
    except ValueError as error:
        raise InputError(str(error), "choose a width that is a multiple of the heads") from error


def is_run(path: Path) -> bool:
    """Whether a folder says that it is a run."""
    return (path / RUN_FILE).is_file()


def save_run(path: Path, network: AGPNet, record: RunRecord, log: str) -> None:
    """Write a run, whole or not at all; an older run at `path` is replaced.

    Raises:
        DiskFullError, InputError: it cannot be written.
    """
    check_out(path)
    with atomic_path(path) as work:
        work.mkdir()
        (work / LOG).write_text(log, encoding="utf-8")
        backbone = network.backbone
        with _speaking_as_the_system():
            save_file(_own_tensors(network), work / WEIGHTS)
            if isinstance(backbone, TransformerBackbone):
                backbone.save(work / BACKBONE)
        value = {
            "format": FORMAT,
            "version": VERSION,
            "config": record.config.to_dict(),
            "backbone": backbone.describe(),
            "grid": list(backbone.grid),
            "width": backbone.width,
            "classes": record.classes,
            "frame": record.frame.to_dict(),
            "trained": sorted(record.trained),
            "held_out": sorted(record.held_out),
            "state": record.state,
            "step": record.step,
            "seconds": round(record.seconds, 3),
            "versions": record.versions or versions(),
            "weights_sha256": sha256_file(work / WEIGHTS),
            "backbone_sha256": _hashes(work / BACKBONE),
        }
        (work / RUN_FILE).write_text(to_json(value), encoding="utf-8")


@contextlib.contextmanager
def _speaking_as_the_system() -> Iterator[None]:
    """safetensors wraps what the system says to a write in its own error: give it back, a full disk among them."""
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def check_out(path: Path) -> None:
    """Refuse to write a run over something else.

    Raises:
        InputError: `path` holds something that is no run.
    """
    if path.exists() and not is_run(path) and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is no run", "give another --out")


def versions() -> dict[str, str]:
    """Versions of what made a run."""
    return {"agp_edge": __version__, "torch": torch.__version__, "numpy": np.__version__}


def _hashes(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of every file in a folder; empty where there is none."""
    return {p.name: sha256_file(p) for p in sorted(folder.glob("*"))}


def _own_tensors(network: AGPNet) -> dict[str, torch.Tensor]:
    """Everything but the backbone, which is either fixed or saved by its own library."""
    return {k: v.contiguous() for k, v in network.state_dict().items() if not k.startswith("backbone.")}


def load_run(path: Path) -> tuple[AGPNet, RunRecord]:
    """Read a run.

    Raises:
        InputError: there is no run at `path`, or it is something else.
        ArtefactError: a file of it is missing, changed or of another version.
    """
    if not is_run(path):
        refuse_other_kind(path, "a run")
        raise InputError(f"there is no run at {path}", "make one: agp-edge train DATA --out RUN")
    again = "train it again, or fetch the whole folder again"
    value = read_json(path / RUN_FILE, f"run {path}")
    if value.get("format") != FORMAT or value.get("version") != VERSION:
        raise ArtefactError(f"{path / RUN_FILE} is no run of version {VERSION}", again)
    weights = path / WEIGHTS
    if not weights.is_file() or sha256_file(weights) != value.get("weights_sha256"):
        raise ArtefactError(f"run {path}: {WEIGHTS} is missing or was changed", again)
    if _hashes(path / BACKBONE) != value.get("backbone_sha256"):
        raise ArtefactError(f"run {path}: a file of {BACKBONE}/ is missing or was changed", again)
    try:
        record = _record(value)
        network = _assemble(restore_backbone(value["backbone"], path / BACKBONE), record.config)
        missing, unexpected = network.load_state_dict(load_file(weights), strict=False)
    except MissingExtraError:
        raise
    except (InputError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtefactError(f"run {path} cannot be read: {reason}", again) from error
    missing = [name for name in missing if not name.startswith("backbone.")]
    if missing or unexpected:
        raise ArtefactError(f"run {path}: weights missing {missing[:3]}, unexpected {unexpected[:3]}", again)
    return network.eval(), record


def _record(value: Mapping[str, Any]) -> RunRecord:
    return RunRecord(
        config=config_from_dict(dict(value["config"])),
        classes=list(value["classes"]),
        frame=FrameSpec.from_dict(value["frame"]),
        trained=list(value["trained"]),
        held_out=list(value["held_out"]),
        state=value["state"],
        step=value["step"],
        seconds=value["seconds"],
        versions=dict(value["versions"]),
    )


class TorchSession(Session):
    """A run's network in torch, behind the interface of every engine: frames in, score and map out.

    Args:
        network: in evaluation mode.
        frame: the frames to take; its batch is torch's.
    """

    def __init__(self, network: AGPNet, frame: FrameSpec) -> None:
        self.frame = frame
        self.precision = "fp32"
        self._network = network
        self._front = FrameFront(frame, network.backbone.input_size)

    @torch.inference_mode()
    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        score, anomaly_map = self._network(self._front(torch.from_numpy(frames)))
        return Inference(score.numpy(), anomaly_map.numpy())

    def close(self) -> None:
        """Nothing to free."""


def open_run(path: Path) -> TorchSession:
    """A run as a session.

    Raises:
        InputError, ArtefactError: as `load_run`.
    """
    network, record = load_run(path)
    return TorchSession(network, record.frame)
