"""One model for each class of a data set, one after another: RUN/<class>/, each a run of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agp_edge.datasets.base import ClassData, Dataset
from agp_edge.errors import AgpEdgeError, InputError, MissingExtraError
from agp_edge.progress import Progress, silent
from agpnet.checkpoint import Every, Note
from agpnet.config import Config
from agpnet.run import RunRecord, check_out, is_run
from agpnet.training import check_unfinished, train

ProgressBar = Callable[[str], contextlib.AbstractContextManager[Progress]]


@contextlib.contextmanager
def _no_bar(title: str) -> Any:
    yield silent


@dataclass(frozen=True)
class ClassRuns:
    """What came of the classes.

    Attributes:
        out: the folder that holds a run for each.
        runs: class -> its run.
        failed: class -> why it has none.
    """

    out: Path
    runs: dict[str, RunRecord]
    failed: dict[str, AgpEdgeError]

    def describe(self) -> str:
        """A line for each class."""
        lines = [record.describe(self.out / name) for name, record in self.runs.items()]
        return "\n".join([*lines, *(f"{name}: failed: {e.what}" for name, e in self.failed.items())])

    def check(self) -> None:
        """Raise what the first class failed with, if one did.

        Raises:
            AgpEdgeError: of that error's own type, and so with its exit code.
        """
        if not self.failed:
            return
        name, error = next(iter(self.failed.items()))
        done = f"{len(self.failed)} of {len(self.failed) + len(self.runs)} classes failed"
        kind = InputError if isinstance(error, MissingExtraError) else type(error)
        raise kind(f"{done}; {name}: {error.what}", f"{error.hint}; then the same command and --resume")


def train_each(
    dataset: Dataset,
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: Every | None = None,
    progress_bar: ProgressBar = _no_bar,
    note: Note = lambda text: None,
) -> ClassRuns:
    """Train each class by itself; one that fails does not lose the others.

    Args:
        dataset: its classes.
        config: the hyper-parameters of each.
        out: the folder that holds a run for each.
        resume, overwrite, checkpoint_every, note: as `agpnet.training.train`; runs that are finished are skipped.
        progress_bar: opens a bar by its title.

    Raises:
        InputError: `out` holds something else, or trainings that are not finished.
        KeyboardInterrupt: as `train`.
    """
    names = [data.name for data in dataset.classes]
    _check_folder(out, names)
    for name in names:
        check_out(out / name)
        check_unfinished(out / name, resume, overwrite)
    runs: dict[str, RunRecord] = {}
    failed: dict[str, AgpEdgeError] = {}
    for i, data in enumerate(dataset.classes):
        title = f"{i + 1}/{len(names)} {data.name}"
        try:
            with progress_bar(f"{title}: train") as progress, progress_bar(f"{title}: read") as reading:
                runs[data.name] = train(
                    _alone(dataset, data),
                    replace(config, setup="one-class"),
                    out / data.name,
                    resume=resume,
                    overwrite=overwrite,
                    checkpoint_every=checkpoint_every,
                    progress=progress,
                    reading=reading,
                    note=lambda text, name=data.name: note(f"{name}: {text}"),  # type: ignore[misc]
                )
        except AgpEdgeError as error:
            note(f"{data.name}: failed: {error.what}")
            failed[data.name] = error
    return ClassRuns(out, runs, failed)


def _alone(dataset: Dataset, data: ClassData) -> Dataset:
    return replace(dataset, classes=[data])


def _check_folder(out: Path, names: list[str]) -> None:
    if is_run(out):
        raise InputError(f"{out} is a run of one model, not a folder of runs", "give another --out")
    if out.exists() and (not out.is_dir() or any(item.name not in names for item in out.iterdir())):
        raise InputError(
            f"{out} exists and holds something that is no class of this data set", "give another --out"
        )
