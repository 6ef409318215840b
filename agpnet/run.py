"""A run: the folder that training leaves. No pickle anywhere.

run.json               configuration, backbone, classes, frame size, hashes of the images, state
weights.safetensors    the decoder, and the channel statistics
backbone/              the pretrained model, as `transformers` keeps it; absent for fixed filters
log.jsonl              one line a reported step: step, loss, learning rate, alpha, rho
events.out.tfevents.*  the same for TensorBoard
training/              checkpoints of a training that is not finished, see `agpnet.checkpoint`
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agp_edge import __version__
from agp_edge.bundle import refuse_other_kind
from agp_edge.datasets.findings import some
from agp_edge.engines.base import Inference, Session
from agp_edge.errors import ArtefactError, InputError, MissingExtraError
from agp_edge.files import atomic_path, read_json, sha256_file, to_json
from agp_edge.frame import ANY_SIZE, FrameSpec
from agpnet.backbones import PretrainedBackbone, make_backbone, restore_backbone
from agpnet.config import Config, config_from_dict
from agpnet.front import FrameFront
from agpnet.network import AGPNet
from agpnet.robust import Suspect

FORMAT = "agp-edge-run"
VERSION = 1
RUN_FILE = "run.json"
WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"
BACKBONE = "backbone"
CHECKPOINTS = "training"


@dataclass(frozen=True)
class RunRecord:
    """What `run.json` says.

    Attributes:
        config: the hyper-parameters.
        classes: what it was trained on.
        frame: the frames it was trained on; of any size where they were of several.
        trained, held_out: content hashes of the good images that it saw, and that it left out.
        state: `finished` or `interrupted`.
        step: optimiser steps done.
        seconds: wall time of the training.
        frames: class -> the frames of its images, the most frequent first.
        shots: class -> names of the few images that a few-shot training took.
        suspects: images that look unlike the others, the worst first.
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
    frames: dict[str, list[FrameSpec]] = field(default_factory=dict)
    shots: dict[str, list[str]] = field(default_factory=dict)
    suspects: list[Suspect] = field(default_factory=list)

    def describe(self, path: Path) -> str:
        """What a user is told of the run in the folder `path`, in one line."""
        return (
            f"{path}: {self.step} steps in {self.seconds:.0f} s on {len(self.trained)} good images, "
            f"{len(self.held_out)} held out"
        )

    def describe_suspects(self) -> str | None:
        """What a user should look at among the good images, in words; None where nothing stands out."""
        if not self.suspects:
            return None
        names = ", ".join(f"{s.name} ({s.error:.1f}x)" for s in self.suspects[:5])
        more = f" and {len(self.suspects) - 5} more in {RUN_FILE}" if len(self.suspects) > 5 else ""
        one = len(self.suspects) == 1
        return (
            f"{len(self.suspects)} of {len(self.trained)} good images look{'s' if one else ''} unlike the others: "
            f"look at {'it' if one else 'them'}: {names}{more}"
        )


def build_network(config: Config) -> AGPNet:
    """A network with a fresh decoder, seeded by the caller.

    Raises:
        InputError: the backbone cannot be loaded, or the sizes do not fit each other.
    """
    return _assemble(make_backbone(config.backbone, config.layers, config.input_size, config.combine), config)


def _assemble(backbone: Any, config: Config) -> AGPNet:
    try:
        return AGPNet(
            backbone,
            decoder_width=config.decoder_width,
            decoder_heads=config.decoder_heads,
            decoder_blocks=config.decoder_blocks,
            blur_sigma=config.blur_sigma,
            residual_scale=config.residual_scale,
            distance=config.distance,
        )
    except ValueError as error:
        raise InputError(str(error), "choose a width that is a multiple of the heads") from error


def is_run(path: Path) -> bool:
    """Whether a folder says that it is a run."""
    return (path / RUN_FILE).is_file()


def save_run(path: Path, network: AGPNet, record: RunRecord, log: str, beside: Sequence[Path] = ()) -> None:
    """Write a run, whole or not at all; an older run at `path` is replaced.

    Args:
        path: the run's folder.
        network: what was trained.
        record: what `run.json` says.
        log: text of `log.jsonl`.
        beside: files and folders that go into the run under their own names.

    Raises:
        DiskFullError, InputError: it cannot be written.
    """
    check_out(path)
    with atomic_path(path) as work:
        work.mkdir()
        (work / LOG).write_text(log, encoding="utf-8")
        for item in beside:
            _bring(item, work / item.name)
        backbone = network.backbone
        with _speaking_as_the_system():
            save_file(own_tensors(network), work / WEIGHTS)
            if isinstance(backbone, PretrainedBackbone):
                backbone.save(work / BACKBONE)
        value = {
            "format": FORMAT,
            "version": VERSION,
            "config": record.config.to_dict(),
            "backbone": backbone.describe(),
            "grid": list(backbone.grid),
            "width": backbone.width,
            "classes": record.classes,
            "frame": None if record.frame.any_size else record.frame.to_dict(),
            "frames": {name: [f.to_dict() for f in frames] for name, frames in record.frames.items()},
            "shots": record.shots,
            "suspects": [asdict(suspect) for suspect in record.suspects],
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


def _bring(source: Path, target: Path) -> None:
    """A file or folder, linked where the file system can, so that checkpoints of any size cost nothing."""
    if source.is_dir():
        target.mkdir()
        for item in source.iterdir():
            _bring(item, target / item.name)
        return
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def check_out(path: Path) -> None:
    """Refuse to write a run over something else.

    Raises:
        InputError: `path` holds something that is no run, finished or not.
    """
    if is_run(path) or not path.exists():
        return
    if not path.is_dir() or any(item.name != CHECKPOINTS for item in path.iterdir()):
        raise InputError(f"{path} exists and is no run", "give another --out")


def versions() -> dict[str, str]:
    """Versions of what made a run."""
    return {"agp_edge": __version__, "torch": torch.__version__, "numpy": np.__version__}


def _hashes(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of every file in a folder; empty where there is none."""
    return {p.name: sha256_file(p) for p in sorted(folder.glob("*"))}


def own_tensors(network: AGPNet) -> dict[str, torch.Tensor]:
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
        inside = sorted(item for item in path.glob("*/") if is_run(item))
        if inside:
            raise InputError(
                f"{path} is a folder of runs: {some([item.name for item in inside])}",
                f"give one of them: {inside[0]}",
            )
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
        frame=ANY_SIZE if value["frame"] is None else FrameSpec.from_dict(value["frame"]),
        trained=list(value["trained"]),
        held_out=list(value["held_out"]),
        state=value["state"],
        step=value["step"],
        seconds=value["seconds"],
        versions=dict(value["versions"]),
        # Runs of the first version have none of these.
        frames={
            name: [FrameSpec.from_dict(f) for f in frames] for name, frames in value.get("frames", {}).items()
        },
        shots={name: list(names) for name, names in value.get("shots", {}).items()},
        suspects=[Suspect(**suspect) for suspect in value.get("suspects", [])],
    )


class TorchSession(Session):
    """A run's network in torch, behind the interface of every engine: frames in, score and map out.

    Args:
        network: in evaluation mode.
        frame: the frames to take, of one size or of any; its batch is torch's.
    """

    def __init__(self, network: AGPNet, frame: FrameSpec) -> None:
        self.frame = frame
        self.precision = "fp32"
        self._network = network
        self._fronts: dict[FrameSpec, FrameFront] = {}

    @torch.inference_mode()
    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        frame = self.frame.of_size(frames.shape[2], frames.shape[1])
        if frame not in self._fronts:
            self._fronts[frame] = FrameFront(frame, self._network.backbone.input_size)
        score, anomaly_map = self._network(self._fronts[frame](torch.from_numpy(frames)))
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
