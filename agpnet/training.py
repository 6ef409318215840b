"""A training from data set to run: what is read, checkpoints on the way, and what is left however it ends."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agp_edge.datasets.base import Dataset
from agp_edge.datasets.check import one_size, read_sizes
from agp_edge.errors import DivergedError, InputError
from agp_edge.frame import ANY_SIZE
from agp_edge.progress import Progress, silent
from agpnet.backbones import backbone_sha256
from agpnet.checkpoint import Checkpoint, Checkpoints, Every, Note, State, describe_differences
from agpnet.config import Config, resolve
from agpnet.device import choose_device
from agpnet.inputs import check_inputs, frames_by_class, read_inputs
from agpnet.interrupts import deferred_interrupts
from agpnet.network import AGPNet
from agpnet.robust import Suspect
from agpnet.run import RunRecord, build_network, check_out, is_run, load_run, save_run, versions
from agpnet.selection import Selection, select
from agpnet.tensorboard import PATTERN, EventLog
from agpnet.trainer import Trainer

__all__ = ["Trainer", "train"]

STALLED = 0.9
"""A loss that ends above this share of its first value has not learned."""
MIN_STEPS_TO_LEARN = 100


def train(
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: Every | None = None,
    progress: Progress = silent,
    reading: Progress = silent,
    note: Note = lambda text: None,
) -> RunRecord:
    """Train on a data set's good images and write a run.

    Args:
        dataset: its `train` images are used, of every class together.
        config: the hyper-parameters.
        out: the folder to write; a finished run that is there is replaced, once the new one is finished.
        resume: go on from the newest checkpoint in `out`, to the bits that an uninterrupted training ends in (on a CPU,
            with as many threads). Without one begin at the beginning; a run that is finished is left as it is.
        overwrite: begin again although `out` holds a training that is not finished.
        checkpoint_every: when a checkpoint is written; by default so that they cost less than 1 %.
        progress: told after each step, with the loss.
        reading: told after each image that was read.
        note: told what the user should know.

    Raises:
        InputError: too few images, one that cannot be read, nothing to learn from, or several sizes in a folder; `out` is
            something else, or holds a training that is not finished; it is to be gone on with and something differs.
        ArtefactError: no checkpoint is whole.
        DivergedError: the loss is no finite number; the last checkpoint is kept.
        KeyboardInterrupt: after a checkpoint was written; its text says how to go on.
    """
    if config.setup == "one-class" and len(dataset.classes) > 1:
        raise InputError(
            f"setup = 'one-class': {dataset.root} has {len(dataset.classes)} classes",
            "train each by itself (agpnet.setups.train_each), or all with setup = 'multi-class'",
        )
    check_out(out)
    check_unfinished(out, resume, overwrite)
    checkpoints = Checkpoints(out, checkpoint_every)
    selection = select(dataset, config)
    config = resolve(config, len(selection.samples), len(dataset.classes))
    config = replace(config, device="cuda" if choose_device(config).type == "cuda" else "cpu")
    network = seeded_network(config)
    identity = {
        "config": config.to_dict(),
        "classes": [data.name for data in dataset.classes],
        "images": [[h, sample.name] for h, sample in zip(selection.hashes, selection.samples, strict=True)],
        # What is gone on with has to see with the same eyes.
        "backbone": backbone_sha256(network.backbone),
    }
    checkpoint = checkpoints.newest(note) if resume else None
    if checkpoint is not None:
        _refuse_differences(checkpoint.identity, identity, out)
    elif resume and is_run(out):
        return _finished_already(out, identity, note)
    with checkpoints.open():
        record, images = _read(dataset, selection, config, network.backbone.input_size, reading, note)
        trainer = Trainer(network, images, config)
        if checkpoint is None:
            checkpoints.clear()
        else:
            _go_on(trainer, checkpoint, checkpoints, note)
        before = 0.0 if checkpoint is None else float(checkpoint.state.values["seconds"])
        return _Work(trainer, record, selection, identity, checkpoints, before, note).run(progress)


class _Work:
    """A training with its checkpoints and its logs, until a run is written."""

    def __init__(
        self,
        trainer: Trainer,
        record: RunRecord,
        selection: Selection,
        identity: dict[str, Any],
        checkpoints: Checkpoints,
        seconds: float,
        note: Note,
    ) -> None:
        self._trainer = trainer
        self._record = record
        self._selection = selection
        self._identity = identity
        self._checkpoints = checkpoints
        self._note = note
        self._start = time.monotonic() - seconds
        self._events = EventLog(checkpoints.folder, trainer.step_number)
        self._told = len(trainer.log)

    def run(self, progress: Progress) -> RunRecord:
        trainer, checkpoints = self._trainer, self._checkpoints
        with deferred_interrupts() as check_interrupt:

            def after_step() -> None:
                self._tell_events()
                if checkpoints.is_due(trainer.step_number):
                    self._save_checkpoint()
                check_interrupt()

            try:
                trainer.run(progress, after_step)
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(self._leave()) from stop
            except DivergedError as error:
                raise self._with_checkpoint(error) from error
            finally:
                self._events.close()
            self._warn_if_stalled()
            return self._write_run("finished")

    def _tell_events(self) -> None:
        for line in self._trainer.log[self._told :]:
            self._events.write(line)
        self._told = len(self._trainer.log)

    def _save_checkpoint(self) -> None:
        self._events.flush()  # What a checkpoint counts as done has to be in the log, too.
        state = self._trainer.state()
        values = {**state.values, "seconds": time.monotonic() - self._start, "made_by": _made_by()}
        self._checkpoints.save(State(state.tensors, values), self._identity, self._note)

    def _leave(self) -> str:
        """Save what can be saved of an interrupted training; how to go on, in words."""
        trainer, checkpoints, out = self._trainer, self._checkpoints, self._checkpoints.run
        written = False
        step = f"interrupted at step {trainer.step_number} of {trainer.config.steps}"
        if trainer.between_steps and trainer.step_number:
            self._tell_events()
            self._save_checkpoint()
            if not is_run(out) or load_run(out)[1].state == "interrupted":
                # The weights as they are can be tried; a finished run is worth more than these.
                self._write_run("interrupted")
                written = True
        steps = checkpoints.steps()
        if not steps:
            return f"{step}; there is no checkpoint yet"
        kept = f"; the run as it stood is in {out}" if written else ""
        return f"{step}; go on from step {steps[0]} with the same command and --resume{kept}"

    def _with_checkpoint(self, error: DivergedError) -> DivergedError:
        steps = self._checkpoints.steps()
        if not steps:
            return error
        return DivergedError(
            f"{error.what}; the checkpoint of step {steps[0]} is kept in {self._checkpoints.folder}",
            f"{error.hint}; then start again with --overwrite",
        )

    def _warn_if_stalled(self) -> None:
        trainer = self._trainer
        last = [line["loss"] for line in trainer.log[-max(1, len(trainer.log) // 4) :]]
        mean = sum(last) / len(last)
        if trainer.step_number >= MIN_STEPS_TO_LEARN and mean > STALLED * trainer.first_loss:
            self._note(
                f"warning: the loss did not fall ({trainer.first_loss:.4g} at first, {mean:.4g} at the end): the network has "
                f"not learned; try another learning_rate than {trainer.config.learning_rate:g}, or more steps"
            )

    def _write_run(self, state: str) -> RunRecord:
        trainer, checkpoints = self._trainer, self._checkpoints
        trainer.fit_residuals()
        suspects = [
            Suspect(self._selection.samples[row].name, self._selection.hashes[row], round(error, 3))
            for row, error in trainer.scores.outliers(trainer.config.robust_mads)
        ]
        record = replace(
            self._record,
            state=state,
            step=trainer.step_number,
            seconds=time.monotonic() - self._start,
            suspects=suspects,
        )
        log = "".join(json.dumps(line, sort_keys=True) + "\n" for line in trainer.log)
        finished = state == "finished"
        beside = sorted(checkpoints.folder.glob(PATTERN)) if finished else [checkpoints.folder]
        save_run(checkpoints.run, trainer.network.cpu(), record, log, beside)
        return record


def check_unfinished(out: Path, resume: bool, overwrite: bool) -> None:
    """Refuse to lose a training that is not finished.

    Raises:
        InputError: `out` holds one, and it was not said what to do with it; or both ways were given.
    """
    if resume and overwrite:
        raise InputError("--resume goes on and --overwrite begins again", "give one of them")
    steps = Checkpoints(out).steps()
    if steps and not resume and not overwrite:
        raise InputError(
            f"{out} holds a training that is not finished, at step {steps[0]}",
            "go on with it: --resume; or begin again and lose it: --overwrite",
        )


def seeded_network(config: Config) -> AGPNet:
    """A fresh network by the seed; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_network(config)


def _made_by() -> dict[str, Any]:
    return {**versions(), "threads": torch.get_num_threads()}


def _refuse_differences(then: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Refuse to go on with a training that another configuration, or other images, began.

    Raises:
        InputError: something differs; it is named.
    """
    found = describe_differences(then, now)
    if not found:
        return
    why = ""
    if any(text.startswith(("steps ", "epochs ")) for text in found):
        why = " (noise and learning rate follow the share of the steps that is done: more steps are another training)"
    raise InputError(
        f"{out} was begun with something else: {'; '.join(found)}{why}",
        "give what it was begun with, or begin again: --overwrite",
    )


def _finished_already(out: Path, identity: dict[str, Any], note: Note) -> RunRecord:
    """The run that is there, if it is what this training would end in."""
    record = load_run(out)[1]
    if record.state != "finished":
        raise InputError(
            f"{out} was interrupted and has no checkpoint to go on from", "train it again without --resume"
        )
    # Where it was computed does not matter any more.
    config = {**identity["config"], "device": record.config.device}
    now = {
        "config": config,
        "classes": identity["classes"],
        "images": sorted({h for h, _ in identity["images"]}),
    }
    then = {"config": record.config.to_dict(), "classes": record.classes, "images": record.trained}
    found = describe_differences({**then, "images": []}, {**now, "images": []})
    if then["images"] != now["images"]:
        found.append("the images to learn from are others")
    if found:
        raise InputError(
            f"{out} is a finished run of something else: {'; '.join(found)}",
            "give another --out, or replace it: train without --resume",
        )
    note(f"{out} is finished already")
    return record


def _go_on(trainer: Trainer, checkpoint: Checkpoint, checkpoints: Checkpoints, note: Note) -> None:
    try:
        trainer.restore(checkpoint.state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint of step {checkpoint.step} does not fit this program: {str(error).splitlines()[0]}",
            "go on with the version that began it, or begin again: --overwrite",
        ) from error
    checkpoints.start_from(trainer.step_number)
    then, now = checkpoint.state.values.get("made_by", {}), _made_by()
    other = [
        f"{name} {then.get(name)} then, {value} now" for name, value in now.items() if then.get(name) != value
    ]
    if other:
        note(
            f"warning: {'; '.join(other)}: the weights may differ in their last bits from an uninterrupted training's"
        )
    note(f"going on from step {trainer.step_number} of {trainer.config.steps}")


def _read(
    dataset: Dataset, selection: Selection, config: Config, input_size: int, reading: Progress, note: Note
) -> tuple[RunRecord, Tensor]:
    """Read the images, look at them, and begin the record of the run."""
    read = read_inputs(selection.samples, input_size, reading)
    held_out = [sample for _, sample in selection.held_out]
    # What is only held out has to be readable, too, and of the same size.
    sizes = [*read.sizes, *read_sizes(held_out)]
    classes = [*selection.classes, *(name for name, _ in selection.held_out)]
    for warning in check_inputs(read.images, selection.samples):
        note(f"warning: {warning}")
    if dataset.layout == "folder":
        # A camera's frames have one size; another one among them is a slip that a network would learn.
        one_size(sizes, [sample.name for sample in (*selection.samples, *held_out)])
    frames = frames_by_class(classes, sizes)
    different = sorted({f for every in frames.values() for f in every}, key=str)
    if len(different) > 1:
        note(
            f"images of {len(different)} sizes, each brought to {input_size}x{input_size}: to export, give --frame-size"
        )
    record = RunRecord(
        config=config,
        classes=[data.name for data in dataset.classes],
        frame=different[0] if len(different) == 1 else ANY_SIZE,
        trained=sorted(set(selection.hashes)),
        held_out=selection.held_out_hashes,
        frames=frames,
        shots=selection.shots,
    )
    return record, read.images
