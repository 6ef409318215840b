"""The benchmark of the watch over the picture, on two scenes, three faults and a minute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agp_edge.errors import ArtefactError, InputError
from benchmarks import scene_watch

pytest.importorskip("cv2")
pytest.importorskip("skimage")


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.setattr(scene_watch, "SCENES", ("gravel", "coins"))
    faults = {name: scene_watch.FAULTS[name] for name in ("light off", "light -30 %", "frozen")}
    monkeypatch.setattr(scene_watch, "FAULTS", faults)
    monkeypatch.setattr(scene_watch, "STILL_S", 2)
    assert scene_watch.main([str(tmp_path / "out.json"), "--minutes", "1", "--episodes", "1"]) == 0
    return scene_watch.read_report(tmp_path / "out.json")


def test_what_is_measured(report: dict[str, Any]) -> None:
    assert report["usual"]["frames"] == 2 * 60 * scene_watch.FPS
    assert (report["usual"]["events"], report["usual"]["before_faults"]) == (0, 0)
    found = {name: (row["found"], row["over"]) for name, row in report["faults"].items()}
    assert found == dict.fromkeys(scene_watch.FAULTS, (2, 2))
    text = scene_watch.describe(report)
    assert "240 frames in 0 hours of what is usual: 0 events, so below 90 an hour" in text
    assert "| light -30 % | 2 of 2 | 15.8% to 100.0% | 2 of 2 |" in text


def test_intervals_are_clopper_pearsons() -> None:
    # From R: binom.test(9, 10)$conf.int
    assert scene_watch.interval(9, 10) == pytest.approx([0.5550, 0.9975], abs=1e-4)
    assert scene_watch.interval(0, 10) == pytest.approx([0, 0.3085], abs=1e-4)


def test_what_is_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="say nothing"):
        scene_watch.measure(0, 1)
    (tmp_path / "x.json").write_text(json.dumps({"benchmark": "another"}))
    with pytest.raises(ArtefactError, match="no result of"):
        scene_watch.read_report(tmp_path / "x.json")
