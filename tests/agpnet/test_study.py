"""The file of a study: what is done again and what is not, and the arithmetic of its tables."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agp_edge.datasets import load_dataset
from agp_edge.datasets.base import ClassData, Dataset
from agp_edge.errors import DivergedError, InputError
from agpnet.config import Config, make_config
from agpnet.study import (
    AGPNET,
    Row,
    Study,
    Task,
    choose_classes,
    read_study,
    train_and_evaluate,
)
from agpnet.study_table import class_rows, difference_rows, summarise, value_rows

VALUES: dict[tuple[str, str, int], float] = {
    ("guided", "a", 0): 0.5,
    ("guided", "b", 0): 0.7,
    ("guided", "a", 1): 0.7,
    ("guided", "b", 1): 0.9,
    ("none", "a", 0): 0.4,
    ("none", "b", 0): 0.7,
    ("none", "a", 1): 0.5,
    ("none", "b", 1): 0.8,
}
HEADS = ("switch", "value")
done: list[str] = []


def work(task: Task, folder: Path) -> dict[str, Any]:
    """Looks its numbers up."""
    assert list(folder.iterdir()) == []
    (name,) = (data.name for data in task.dataset.classes)
    done.append(task.name)
    value = VALUES[task.config.noise, name, task.config.seed]
    metrics = {"image_auroc": value, "pixel_auroc": 1.0, "aupro": None if name == "b" else 0.5}
    return {"parts": {AGPNET: {"classes": {name: metrics}, "seconds": 2.0}}}


@pytest.fixture
def datasets(tmp_path: Path) -> list[Dataset]:
    """Two classes of files that differ; nobody decodes them."""
    found = []
    for name in ("a", "b"):
        for part in ("train/good", "test/good", "test/hole"):
            folder = tmp_path / "data" / name / part
            folder.mkdir(parents=True)
            (folder / "0.png").write_text(f"{name} {part}")
        found += choose_classes(load_dataset(tmp_path / "data" / name))
    return found


def rows_of(study: Study, datasets: list[Dataset], *, seeds: int = 2, **settings: Any) -> list[Row]:
    def tasks(noise: Any) -> list[Task]:
        return [
            study.task(
                f"{noise} {data.classes[0].name} {seed}", data, Config(noise=noise, seed=seed, **settings)
            )
            for seed in range(seeds)
            for data in datasets
        ]

    return [Row("noise", noise, tasks(noise), base=0) for noise in ("guided", "none")]


@pytest.fixture
def study(tmp_path: Path, datasets: list[Dataset]) -> Study:
    study = Study(tmp_path / "study.json")
    done.clear()
    study.run(rows_of(study, datasets), "title", work)
    return study


def test_the_tables_by_hand(study: Study) -> None:
    summaries = summarise(study.document)
    header, rows = value_rows(summaries, HEADS)
    assert header == ("switch", "value", "n", "I-AUROC", "P-AUROC", "AUPRO")
    # Seed means 0.6 and 0.8, then 0.55 and 0.65; half an interval of two is 12.706 * 0.1 and * 0.05. b has no AUPRO.
    assert rows == [
        ("noise", "guided *", "2", "0.700 ± 1.271", "1.000 ± 0.000", "0.500 ± 0.000"),
        ("noise", "none", "2", "0.600 ± 0.635", "1.000 ± 0.000", "0.500 ± 0.000"),
    ]
    # Pairs -0.1, 0, -0.2, -0.1: mean -0.1, spread 0.0816, half 3.182 * 0.0816 / 2.
    assert difference_rows(summaries, HEADS)[1] == [
        ("noise", "none", "4", "-0.100 ± 0.130", "+0.000 ± 0.000", "+0.000 ± 0.000")
    ]
    assert [row[2:5] for row in class_rows(summaries, HEADS)[1][:3]] == [
        ("a", "2", "0.600 ± 1.271"), ("b", "2", "0.800 ± 1.271"), ("mean", "2", "0.700 ± 1.271"),
    ]  # fmt: skip
    assert [s.seconds for s in summaries] == [2.0, 2.0]


def test_a_seed_counts_once_all_its_classes_are_there(study: Study) -> None:
    document = copy.deepcopy(study.document)
    (key,) = (
        k
        for k in document["rows"][1]["keys"]
        if document["results"][k]["parts"][AGPNET]["classes"].get("b", {}).get("image_auroc") == 0.8
    )
    del document["results"][key]
    none = summarise(document)[1]
    assert value_rows([none], HEADS)[1][0][:4] == ("noise", "none", "1", "0.550")
    assert none.pairs == 3


def test_a_second_call_does_what_is_missing(study: Study, datasets: list[Dataset]) -> None:
    assert len(done) == 8
    assert [name[-1] for name in done] == list("00001111"), "seed by seed"
    again = Study(study.path)
    done.clear()
    again.run(rows_of(again, datasets), "title", work)
    assert done == []
    assert again.document == study.document
    # One image changes: its class is trained again, the results of before stay, out of the table.
    (datasets[1].classes[0].test[0].path).write_text("another")
    changed = Study(study.path)
    changed.run(rows_of(changed, datasets), "title", work)
    assert sorted(done) == ["guided b 0", "guided b 1", "none b 0", "none b 1"]
    assert len(read_study(study.path)["results"]) == 12
    assert summarise(changed.document)[0].seeds == 2


def test_other_settings_are_other_results(study: Study, datasets: list[Dataset]) -> None:
    done.clear()
    again = Study(study.path)
    again.run(rows_of(again, datasets, seeds=1, steps=7), "title", work)
    assert len(done) == 4
    assert len(again.document["results"]) == 12


def test_the_file_is_as_it_should_be_after_each_training(tmp_path: Path, datasets: list[Dataset]) -> None:
    study = Study(tmp_path / "new" / "study.json")
    seen: list[int] = []

    def look(done: int, total: int, note: str = "") -> None:
        seen.append(len(read_study(study.path)["results"]) if study.path.exists() else 0)
        assert total == 8

    study.run(rows_of(study, datasets), "title", work, progress=look)
    assert seen == list(range(9))


def diverge(task: Task, folder: Path) -> dict[str, Any]:
    if task.config.seed == 1:
        raise DivergedError("its loss is nan", "lower the rate")
    return work(task, folder)


def test_an_error_names_the_training_and_loses_nothing(tmp_path: Path, datasets: list[Dataset]) -> None:
    study = Study(tmp_path / "study.json")
    with pytest.raises(DivergedError) as caught:
        study.run(rows_of(study, datasets), "title", diverge)
    assert caught.value.what == "guided a 1: its loss is nan"
    assert len(read_study(study.path)["results"]) == 4


@pytest.mark.parametrize("text", ["{}", "no json", '{"format": "agp-edge-run", "version": 1}'])
def test_another_file_is_not_written_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.json"
    path.write_text(text)
    with pytest.raises(InputError):
        Study(path)
    assert path.read_text() == text


def test_classes_are_chosen_by_name_and_must_be_comparable(datasets: list[Dataset]) -> None:
    whole = replace(datasets[0], classes=[data.classes[0] for data in datasets])
    assert [[c.name for c in one.classes] for one in choose_classes(whole, ["b"])] == [["b"]]
    with pytest.raises(InputError, match="no class 'c'"):
        choose_classes(whole, ["c"])
    bare = ClassData("bare", whole.classes[0].train, test=whole.classes[0].test[:1])
    with pytest.raises(InputError, match="class bare has 1 good test images and 0 with defects"):
        choose_classes(replace(whole, classes=[bare]))


def test_a_training_is_measured_for_real(
    sample_data: Path, tmp_path: Path, tiny_settings: dict[str, Any]
) -> None:
    (dataset,) = choose_classes(load_dataset(sample_data / "gravel"))
    task = Task("gravel", dataset, make_config(**{**tiny_settings, "steps": 2}))
    threads = torch.get_num_threads()
    result = train_and_evaluate(task, tmp_path)
    part = result["parts"][AGPNET]
    assert set(part["classes"]) == {"gravel"}
    assert 0 <= part["classes"]["gravel"]["pixel_auroc"] <= 1
    assert part["seconds"] > 0
    assert torch.get_num_threads() == threads
    json.dumps(result, allow_nan=False)
