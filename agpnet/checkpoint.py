"""Checkpoints: everything a training needs to go on as if nothing had happened. safetensors and JSON, no pickle.

RUN/training/                     work that is not finished; it goes when the run is written
  step-00000120.safetensors       decoder, EMA copy, AdamW's moments, states of the generators, scores of the images
  step-00000120.json              step, log, what the training is of, hash of the tensors: written last
  events.out.tfevents.*           for TensorBoard
  lock                            held by the program that trains

A checkpoint is whole if its JSON is there and its hash fits. Two are kept: if the disk spoils the newest, the one before serves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agp_edge.datasets.findings import some
from agp_edge.errors import ArtefactError, DiskFullError, InputError
from agp_edge.files import atomic_path, read_json, sha256_file, write_json
from agpnet.run import CHECKPOINTS

FORMAT = "agp-edge-checkpoint"
VERSION = 1
LOCK = "lock"
KEPT = 2
MIN_SECONDS = 10.0
COST = 0.01
"""`auto` lets checkpoints take at most this share of the time."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class State:
    """A training between two steps.

    Attributes:
        tensors: name -> tensor, on any device.
        values: what JSON holds; `step` among it.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is whole.

    Attributes:
        step: steps done.
        state: to go on from.
        identity: what the training is of, as `Checkpoints.save` was given it.
    """

    step: int
    state: State
    identity: dict[str, Any]


@dataclass(frozen=True)
class Every:
    """When a checkpoint is due: after so many steps, or so many seconds; neither is `auto`.

    `auto` waits ten seconds, or a hundred times what the last checkpoint took to write if that is longer.
    """

    steps: int = 0
    seconds: float = 0.0

    def is_due(self, steps: int, seconds: float, last_cost: float) -> bool:
        """Whether it is time.

        Args:
            steps, seconds: since the last checkpoint.
            last_cost: seconds that the last one took.
        """
        if self.steps:
            return steps >= self.steps
        return seconds >= (self.seconds or max(MIN_SECONDS, last_cost / COST))


def parse_every(text: str) -> Every:
    """`auto`, steps as in `500`, or seconds as in `60s`.

    Raises:
        InputError: anything else.
    """
    if text == "auto":
        return Every()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s?)", text)
    if match and float(match[1]) > 0 and (match[2] or "." not in match[1]):
        return Every(seconds=float(match[1])) if match[2] else Every(steps=int(match[1]))
    raise InputError(
        f"{text!r} says no time for checkpoints", "write auto, steps as in 500, or seconds as in 60s"
    )


class Checkpoints:
    """The checkpoints of a run that is being trained.

    Args:
        run: the run's folder.
        every: when one is due.
    """

    def __init__(self, run: Path, every: Every | None = None) -> None:
        self.run = run
        self.folder = run / CHECKPOINTS
        self._every = every or Every()
        self._last_step = 0
        self._last_time = time.monotonic()
        self._cost = 0.0

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, whole or not, the newest first."""
        found = (re.fullmatch(r"step-(\d+)\.json", item.name) for item in self.folder.glob("step-*.json"))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder against another training of the same run; without a checkpoint nothing of it is left.

        Raises:
            InputError: another program trains this run, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise InputError(
                f"cannot write {self.folder}: {error.strerror or error}",
                "give an --out that this user can write",
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"another program is training {self.run} at this moment",
                    "wait for it, or give another --out",
                ) from error
            self._last_time = time.monotonic()
            try:
                yield
            finally:
                if not self.steps():
                    self.remove()
        finally:
            os.close(lock)

    def remove(self) -> None:
        """Remove all of them, and the run's folder if nothing else is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.run.rmdir()

    def clear(self) -> None:
        """Remove what an earlier training left, but for the lock."""
        for item in self.folder.iterdir():
            if item.name != LOCK:
                item.unlink()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after a step."""
        return self._every.is_due(step - self._last_step, time.monotonic() - self._last_time, self._cost)

    def start_from(self, step: int) -> None:
        """Count from a step that was gone on from."""
        self._last_step = step

    def save(self, state: State, identity: Mapping[str, Any], note: Note) -> None:
        """Write a checkpoint, then remove all but the last two.

        A full disk is told and does not stop the training: what was written before is kept.

        Raises:
            InputError: it cannot be written.
        """
        start = time.monotonic()
        step = int(state.values["step"])
        path = self._tensors(step)
        try:
            with atomic_path(path) as work:
                save_file({name: t.detach().cpu().contiguous() for name, t in state.tensors.items()}, work)
            value = {
                "format": FORMAT,
                "version": VERSION,
                "identity": dict(identity),
                "values": state.values,
                "tensors_sha256": sha256_file(path),
            }
            write_json(path.with_suffix(".json"), value)
        except (DiskFullError, SafetensorError) as error:
            note(f"warning: no checkpoint at step {step}: {str(error).splitlines()[0]}; the training goes on")
        else:
            self._keep_last()
        self._last_step, self._last_time = step, time.monotonic()
        self._cost = self._last_time - start

    def newest(self, note: Note) -> Checkpoint | None:
        """The newest checkpoint that is whole; None where there is none at all.

        Args:
            note: told of those that are not whole.

        Raises:
            InputError: one was written by a version with another format.
            ArtefactError: there are some, and none is whole.
        """
        steps = self.steps()
        for step in steps:
            try:
                return self._read(step)
            except ArtefactError as error:
                note(f"warning: {error.what}; taking the checkpoint before it")
        if steps:
            raise ArtefactError(
                f"no checkpoint in {self.folder} is whole", "start again from the beginning: --overwrite"
            )
        return None

    def _read(self, step: int) -> Checkpoint:
        path = self._tensors(step)
        hint = "start again: --overwrite"
        value = read_json(path.with_suffix(".json"), f"the checkpoint of step {step}")
        if value.get("format") != FORMAT or value.get("version") != VERSION:
            raise InputError(
                f"{path.with_suffix('.json')} has version {value.get('version')} of the checkpoints, this program reads {VERSION}",
                "go on with the version that began it, or start again: --overwrite",
            )
        try:
            if sha256_file(path) != value["tensors_sha256"]:
                raise ArtefactError(f"the checkpoint of step {step} was changed: {path}", hint)
            state = State(load_file(path), dict(value["values"]))
            return Checkpoint(int(state.values["step"]), state, dict(value["identity"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"the checkpoint of step {step} is not whole: {error}", hint) from error

    def _keep_last(self) -> None:
        # The new names reach the disk before the old ones go: power may be lost at any line.
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        kept = {self._tensors(step).stem for step in self.steps()[:KEPT]}
        for item in self.folder.glob("step-*"):
            if item.stem not in kept:
                item.unlink(missing_ok=True)

    def _tensors(self, step: int) -> Path:
        return self.folder / f"step-{step:08}.safetensors"


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was when a training began, each in a few words; empty where nothing is.

    Args:
        then, now: identities: `config` by hyper-parameter, `images` as [content hash, name] in order, and plain values.
    """
    before, after = dict(then.get("config", {})), dict(now.get("config", {}))
    found = [
        f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    found += _different_images(list(then.get("images", [])), list(now.get("images", [])))
    for name in sorted({*then, *now} - {"config", "images"}):
        if then.get(name) != now.get(name):
            found.append(f"{name} was {_short(then.get(name))} and is {_short(now.get(name))}")
    return found


def _different_images(then: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> list[str]:
    before, after = {digest for digest, _ in then}, {digest for digest, _ in now}
    new = [name for digest, name in now if digest not in before]
    gone = [name for digest, name in then if digest not in after]
    found = []
    if new:
        found.append(f"{len(new)} of the images to learn from are new ({some(new)})")
    if gone:
        found.append(f"{len(gone)} are gone or changed ({some(gone)})")
    if not found and [digest for digest, _ in then] != [digest for digest, _ in now]:
        found.append("the images have other names or copies, and with them another order")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
