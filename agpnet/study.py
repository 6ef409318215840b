"""A study: many trainings, compared. Its file is written after each of them, so that an interrupt loses nothing.

A result is found by its key: hash of the configuration, seed, hash of the data. A second call trains only what is missing;
results of other settings or other images stay in the file, and out of its tables.

    format, version
    title     what was asked, in a sentence
    configs   hash -> the configuration without its seed, and what else the results depend on
    data      hash -> classes and counts of images
    results   key -> seed, versions, and for each part (`agpnet`, or a method held against it) its
              seconds, and class -> metrics
    rows      the table of the last call: group, value, part, the row it is compared with, and the keys of its results
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from agp_edge.datasets import content_hashes
from agp_edge.datasets.base import Dataset, Sample
from agp_edge.errors import AgpEdgeError, ArtefactError, InputError
from agp_edge.evaluation import Evaluation, evaluate
from agp_edge.files import read_json, sha256_bytes, to_json, write_json
from agp_edge.progress import Progress, silent
from agpnet.config import Config
from agpnet.run import open_run, versions
from agpnet.training import train
from agpnet.workers import run_each

FORMAT = "agp-edge-study"
VERSION = 1
AGPNET = "agpnet"
"""The part of a result that is AGPNet's own."""


@dataclass(frozen=True)
class Task:
    """One training of a study, and its evaluation.

    Attributes:
        name: what it is, for whoever waits.
        dataset: what to train and to test on.
        config: the hyper-parameters, with the seed.
        threads: of torch.
        extra: what else the result depends on, as plain values.
        key: what its result is found by.
        given: what else its work needs to know, and the key need not: it follows from the rest.
    """

    name: str
    dataset: Dataset
    config: Config
    threads: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    given: Any = None


@dataclass(frozen=True)
class Row:
    """A row of a study's table.

    Attributes:
        group, value: what it shows, as in `noise` and `random`.
        tasks: those whose results it is made of, over seeds and classes.
        part: of their results.
        base: number of the row that it is compared with; None for none.
    """

    group: str
    value: str
    tasks: Sequence[Task]
    part: str = AGPNET
    base: int | None = None


Work = Callable[[Task, Path], dict[str, Any]]
"""Does a task, with a folder to work in that is removed afterwards, and gives `parts`."""


class Study:
    """The file of a study.

    Args:
        path: the JSON file; an earlier one is gone on with.

    Raises:
        InputError: `path` is there and is no study.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document = read_study(path) if path.exists() else _empty()
        self._hashes: dict[Path, str] = {}

    def task(self, name: str, dataset: Dataset, config: Config, *, threads: int = 1, **extra: Any) -> Task:
        """A training with its key.

        Raises:
            InputError: an image cannot be read.
        """
        settings = {**config.to_dict(), "threads": threads, **extra}
        del settings["seed"]
        config_hash = sha256_bytes(to_json(settings).encode())[:12]
        data_hash, data = self._describe(dataset)
        self.document["configs"][config_hash] = settings
        self.document["data"][data_hash] = data
        key = f"{config_hash}-{config.seed}-{data_hash}"
        return Task(name, dataset, config, threads, extra, key)

    def _describe(self, dataset: Dataset) -> tuple[str, dict[str, Any]]:
        """Hash of a data set's images, masks and labels, and its counts."""
        lines = []
        for data in dataset.classes:
            for role, samples in (("train", data.train), ("test", data.test)):
                lines += [
                    [data.name, role, s.label, self._hash(s.path), *map(self._hash, s.masks)] for s in samples
                ]
        counts = {data.name: [len(data.train), len(data.test)] for data in dataset.classes}
        return sha256_bytes(to_json(sorted(lines)).encode())[:12], {"classes_train_test": counts}

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            (self._hashes[path],) = content_hashes([Sample(path, path.name, "")])
        return self._hashes[path]

    def run(
        self, rows: Sequence[Row], title: str, work: Work, *, jobs: int = 1, progress: Progress = silent
    ) -> None:
        """Do what the rows need and the file lacks.

        Args:
            rows: the table to make.
            title: what was asked, in a sentence.
            work: does a task; a function of a module, since processes are told its name.
            jobs: trainings at a time, each in a process of its own where there are several.
            progress: told after each training.

        Raises:
            AgpEdgeError: of a training, with its name; what was done before is in the file.
            DiskFullError, InputError: the file cannot be written.
        """
        self.document["title"] = title
        self.document["rows"] = [
            {
                "group": row.group,
                "value": row.value,
                "part": row.part,
                "base": row.base,
                "keys": [task.key for task in row.tasks],
            }
            for row in rows
        ]
        every = {task.key: task for row in rows for task in row.tasks}
        results = self.document["results"]
        # Seed by seed: a study that is cut short has whole tables of fewer seeds.
        missing = sorted(
            (task for key, task in every.items() if key not in results), key=lambda task: task.config.seed
        )
        done = len(every) - len(missing)
        progress(done, len(every))
        self._write()
        with tempfile.TemporaryDirectory(prefix="agp-edge-study-") as scratch:
            do = partial(_do, work=work, scratch=Path(scratch))
            with closing(cast(Any, run_each(do, missing, jobs))) as answers:
                for index, answer in answers:
                    task = missing[index]
                    results[task.key] = {"seed": task.config.seed, "versions": versions(), **answer}
                    self._write()
                    done += 1
                    progress(done, len(every), task.name)

    def _write(self) -> None:
        keys = {*self.document["results"], *(key for row in self.document["rows"] for key in row["keys"])}
        for name, place in (("configs", 0), ("data", -1)):
            used = {key.split("-")[place] for key in keys}
            self.document[name] = {k: v for k, v in self.document[name].items() if k in used}
        write_json(self.path, self.document)


def _empty() -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": "",
        "configs": {},
        "data": {},
        "results": {},
        "rows": [],
    }


def read_study(path: Path) -> dict[str, Any]:
    """The document of a study's file.

    Raises:
        InputError: there is none, or the file is something else.
    """
    try:
        document = read_json(path, "the study")
    except ArtefactError as error:
        raise InputError(error.what, "give the file of a study, or another folder") from error
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise InputError(f"{path} is there and is no study of version {VERSION}", "give another folder")
    return {**_empty(), **document}


def _do(task: Task, *, work: Work, scratch: Path) -> dict[str, Any]:
    """Do one task on its threads, in a folder of its own; an error says which task it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(task.threads)
    try:
        # The folder's folder is the owner's: it is removed even where this process is killed.
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return work(task, Path(folder))
    except AgpEdgeError as error:
        error.what = f"{task.name}: {error.what}"
        raise
    finally:
        torch.set_num_threads(before)


def train_and_evaluate(task: Task, folder: Path) -> dict[str, Any]:
    """Train AGPNet and measure it: the work of most studies."""
    run, seconds = train_task(task, folder)
    with open_run(run) as session:
        return {"parts": {AGPNET: part(evaluate(session, task.dataset), seconds)}}


def train_task(task: Task, folder: Path) -> tuple[Path, float]:
    """Train a task's network: its run, and the seconds from the first image to the last step."""
    start = time.monotonic()
    train(task.dataset, task.config, folder / "run")
    return folder / "run", time.monotonic() - start


def part(evaluation: Evaluation, seconds: float) -> dict[str, Any]:
    """What a result keeps of an evaluation: class -> metrics, and the seconds of the training before it."""
    classes = {
        name: {key: None if value is None else round(value, 6) for key, value in metrics.values.items()}
        for name, metrics in evaluation.classes.items()
    }
    return {"classes": classes, "seconds": round(seconds, 2)}


def describe_length(config: Config) -> str:
    """How long a training is, as in `300 steps`."""
    return f"{config.epochs} epochs" if config.epochs else f"{config.steps} steps"


def choose_classes(dataset: Dataset, names: Sequence[str] = ()) -> list[Dataset]:
    """Each class as a data set of its own, ready to be trained and measured.

    Args:
        dataset: with test images.
        names: of the classes to take; empty takes all.

    Raises:
        InputError: an unknown class, or one whose test images give no image AUROC.
    """
    known = {data.name: data for data in dataset.classes}
    for name in names:
        if name not in known:
            raise InputError(f"{dataset.root} has no class {name!r}", f"take of: {', '.join(known)}")
    chosen = [known[name] for name in dict.fromkeys(names or known)]
    for data in chosen:
        n_good = sum(sample.good for sample in data.test)
        if n_good in (0, len(data.test)):
            raise InputError(
                f"class {data.name} has {n_good} good test images and {len(data.test) - n_good} with defects",
                "a study compares accuracy: put labelled images of both kinds there, or leave the class out",
            )
    return [Dataset(dataset.root, dataset.layout, [data]) for data in chosen]
