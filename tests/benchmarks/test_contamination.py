from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.datasets.base import ClassData, Sample
from agp_edge.errors import InputError
from agpnet.config import make_config
from agpnet.robust import Suspect
from agpnet.run import load_run
from agpnet.study import Task, choose_classes, read_study
from benchmarks.contamination import contaminate, describe, main, parse_arm, train_and_look


@pytest.fixture
def part_class() -> ClassData:
    """Forty good images to learn from, two to test on, and ten defects with masks."""
    good = [Sample(Path(f"train/{i}.png"), f"train/{i}.png", "good") for i in range(40)]
    test = [Sample(Path(f"test/good/{i}.png"), f"test/good/{i}.png", "good") for i in range(2)]
    test += [
        Sample(Path(f"test/hole/{i}.png"), f"test/hole/{i}.png", "hole", (Path(f"masks/{i}.png"),))
        for i in range(10)
    ]
    return ClassData("part", good, test=test)


def test_bad_images_move_and_nobody_is_told(part_class: ClassData) -> None:
    bad = contaminate(part_class, 0.1, 0.1, seed=0)
    added = bad.train[40:]
    assert bad.train[:40] == part_class.train
    assert len(added) == 4
    assert all(sample.good and sample.masks == () and "hole" in sample.name for sample in added)
    assert {s.name for s in added}.isdisjoint(s.name for s in bad.test)
    assert sorted(s.name for s in [*bad.test, *added]) == sorted(s.name for s in part_class.test)


def test_every_share_of_a_seed_has_the_same_test(part_class: ClassData) -> None:
    none, some, most = (contaminate(part_class, share, 0.1, seed=3) for share in (0, 0.05, 0.1))
    assert none.train == part_class.train
    assert none.test == some.test == most.test
    assert some.train == most.train[:42]
    assert contaminate(part_class, 0.1, 0.1, seed=4).test != most.test


def test_the_test_keeps_a_defect(part_class: ClassData) -> None:
    with pytest.raises(InputError, match="25% of 40 good images are 10, and its test has 10 defects"):
        contaminate(part_class, 0.1, 0.25, seed=0)


def test_arms_are_named_settings() -> None:
    assert parse_arm('{"robust": "images"}') == ("on", {"robust": "images"})
    assert parse_arm('five={"robust_mads": 5}') == ("five", {"robust_mads": 5})
    for text in ("robust", "robust=images", "[1]"):
        with pytest.raises(InputError, match="is no NAME=JSON"):
            parse_arm(text)


def test_it_runs(
    sample_data: Path, tmp_path: Path, tiny_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    settings = [
        f"--set={k}={json.dumps(v)}" for k, v in tiny_settings.items() if k not in ("backbone", "steps")
    ]
    arguments = [
        str(sample_data), str(out), "--classes", "gravel", "--seeds", "1", "--steps", "2", "--shares", "0", "0.05",
        "--off", "{}", "--on", '{"weight_decay": 0.1}', *settings,
    ]  # fmt: skip
    assert main(arguments) == 0
    printed, _ = capsys.readouterr()
    document = read_study(out)
    assert printed == describe(document) + "\n"
    assert [(row["group"], row["value"], row["base"]) for row in document["rows"]] == [
        ("0%", "off", 0), ("0%", "on", 0), ("5%", "off", 2), ("5%", "on", 2),
    ]  # fmt: skip
    # Two of the four defects moved; the test has two less for both shares.
    assert sorted(d["classes_train_test"]["gravel"] for d in document["data"].values()) == [[42, 6], [44, 6]]
    assert "| 5% | off | 1 |" in printed.split("against the first row")[1]
    counts = [result["parts"]["agpnet"] for result in document["results"].values()]
    assert sorted(c["good_trained"] + c["bad_trained"] for c in counts) == [26, 26, 27, 27]
    assert {c["bad_trained"] for c in counts} <= {0, 1, 2}
    assert "| 0% | on | 0 of 0 | 0 of 26 |" in printed


def test_bad_input_exits_2(sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(sample_data), str(tmp_path / "o.json"), "--shares", "0", "0.05"]
    assert main([*arguments, "--on", '{"robustness": 1}']) == 2
    assert "no hyper-parameter 'robustness'" in capsys.readouterr().err


def test_bad_images_that_a_training_finds_are_counted(
    sample_data: Path, tmp_path: Path, tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (dataset,) = choose_classes(load_dataset(sample_data / "gravel"))
    data = contaminate(dataset.classes[0], 0.05, 0.05, seed=0)
    bad = content_hashes(data.train[42:])
    settings = {**tiny_settings, "steps": 2, "hold_out": 0.0}
    task = Task("gravel", replace(dataset, classes=[data]), make_config(**settings), given=bad)
    good = content_hashes(data.train[:1])

    def load_suspicious(path: Path) -> tuple[Any, Any]:
        network, record = load_run(path)
        return network, replace(record, suspects=[Suspect("x", digest, 9.0) for digest in [bad[1], *good]])

    monkeypatch.setattr("benchmarks.contamination.load_run", load_suspicious)
    found = train_and_look(task, tmp_path)["parts"]["agpnet"]
    assert {k: v for k, v in found.items() if k not in ("classes", "seconds")} == {
        "bad_trained": 2, "bad_suspected": 1, "good_trained": 42, "good_suspected": 1,
    }  # fmt: skip
