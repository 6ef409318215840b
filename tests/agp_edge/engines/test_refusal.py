"""The folder of refused frames: what is in it, when it is written, and when it goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agp_edge.datasets.images import read_image, write_png
from agp_edge.engines.measure import HeldOut, judge
from agp_edge.engines.refusal import (
    MOST_CHANGED,
    Side,
    Step,
    check_folder,
    choose_frames,
    draw_refusal,
    refusal_folder,
    show_refusal,
)
from agp_edge.errors import InputError
from agp_edge.frame import Precision
from agp_edge.gate import Scores, map_correlations

N = 20
NORMAL = [float(i) for i in range(1, 21)]  # Median 10.5; the threshold of n = 20 is the largest, 20.


def held_out() -> HeldOut:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (N, 24, 32, 3), np.uint8)
    # Two frames of one name, as of two classes, and one that is no name for a file.
    names = [f"brick/train/good/{i:03d}.png" for i in range(N - 2)] + ["a/b: c?.png", "a/b: c?.png"]
    return HeldOut(frames, frames, names, {"gate": "abc"})


def scores(*changed: tuple[int, float], precision: Precision = "int8") -> Scores:
    gate = [5.0] * N
    rng = np.random.default_rng(1)
    maps = rng.random((N, 6, 8)).astype(np.float32)
    for index, value in changed:
        gate[index] = value
        maps[index, 2, 3] = value
    return Scores(NORMAL, gate, maps, precision)


def show(folder: Path, *changed: tuple[int, float], step: Step = "compare") -> str | None:
    both, frames = (scores(), scores(*changed)), held_out()
    return show_refusal(folder, step, "part.engine", judge(*both, frames), both, frames)


def test_flipped_frames_are_shown_with_both_maps(tmp_path: Path) -> None:
    folder = tmp_path / "part.engine.refused"
    assert show(folder, (3, 25.0), (18, 21.0), (19, 22.0)) == f"see both maps in {folder}"
    record = json.loads((folder / "gate.json").read_text())
    assert (record["format"], record["version"], record["step"]) == ("agp-edge-refusal", 1, "compare")
    assert record["gate"]["outcome"] == "refused"
    assert [entry["name"] for entry in record["frames"]] == record["gate"]["flips"]
    assert record["frames"][0] == {
        "name": "brick/train/good/003.png",
        "picture": "000-brick-train-good-003.png",
        "flipped": True,
        "reference": {"score": 5.0, "threshold": 20.0, "verdict": "OK"},
        "candidate": {"score": 25.0, "threshold": 20.0, "verdict": "NG"},
        "map_correlation": pytest.approx(record["frames"][0]["map_correlation"]),
    }
    pictures = sorted(p.name for p in folder.glob("*.png"))
    assert pictures == sorted(entry["picture"] for entry in record["frames"])
    assert len(pictures) == 3
    first = read_image(folder / pictures[0])
    assert first.shape[1] > 3 * 250, "three pictures side by side"


def test_without_a_flip_those_that_changed_most_are_shown() -> None:
    after = scores((4, 5.0), (7, 19.0), (9, 15.0))
    after.maps[12] = after.maps[12].max() - after.maps[12]
    both, frames = (scores(), replace(after, precision="fp16")), held_out()
    report = judge(*both, frames)
    assert (report.outcome, report.flips) == ("refused", [])
    chosen = choose_frames(report, both, map_correlations(both[0].maps, both[1].maps))
    assert chosen[:3] == [7, 9, 12], "two by score, then by map"
    assert len(set(chosen)) == len(chosen) == MOST_CHANGED


def test_a_later_pass_of_the_same_step_clears_it_away(tmp_path: Path) -> None:
    folder = tmp_path / "part.engine.refused"
    show(folder, (3, 25.0), (4, 25.0), step="build-engine")
    assert len(list(folder.glob("*.png"))) == 2
    assert show(folder, step="compare") is None
    assert folder.exists(), "another step's refusal is not settled by this pass"
    show(folder, (5, 25.0), step="build-engine")
    assert [p.name for p in folder.glob("*.png")] == ["000-brick-train-good-005.png"], (
        "nothing of the earlier one"
    )
    assert show(folder, step="build-engine") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "part.engine.refused"
    check_folder(folder)
    folder.mkdir()
    check_folder(folder)
    (folder / "gate.json").write_text('{"format": "mine"}')
    with pytest.raises(InputError, match=r"no folder of refused frames"):
        check_folder(folder)
    told = show(folder, (3, 25.0))
    assert told is not None
    assert told.startswith("the frames could not be shown")
    assert show(folder) is None
    assert [p.name for p in folder.iterdir()] == ["gate.json"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="would be lost"):
        check_folder(tmp_path / "file")


def test_what_the_gate_says_comes_before_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = show(tmp_path / "file" / "x.refused", (3, 25.0))
    assert told is not None
    assert "the frames could not be shown: cannot write" in told


def test_too_few_frames_to_prove_show_nothing(tmp_path: Path) -> None:
    both, frames = (scores(), scores()), held_out()
    report = judge(*both, frames, prove=0.005)
    assert report.outcome == "refused"
    assert show_refusal(tmp_path / "x.refused", "compare", "x", report, both, frames) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_stands_beside_what_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal_folder(Path("a/part.int8.onnxruntime.engine")) == Path(
        "a/part.int8.onnxruntime.engine.refused"
    )
    assert refusal_folder(Path("a/part.bundle"), Path("b")) == Path("b/part.bundle.refused")
    monkeypatch.chdir(tmp_path)
    assert refusal_folder(Path()) == tmp_path.parent / f"{tmp_path.name}.refused"


@pytest.mark.parametrize("shape", [(24, 32, 3), (24, 32, 1), (8, 512, 3), (900, 20, 1)])
def test_any_frame_can_be_drawn(shape: tuple[int, int, int], tmp_path: Path) -> None:
    frame = np.full(shape, 90, np.uint8)
    anomaly_map = np.zeros((6, 8), np.float32)
    hot = anomaly_map.copy()
    hot[2:4, 3:6] = 20
    hot[0, 0] = np.nan
    sides = (Side("reference fp32", anomaly_map, 5.0, 10.0), Side("candidate int8", hot, float("nan"), 10.0))
    assert [side.describe() for side in sides] == ["OK 5 <= 10", "NG nan > 10"]
    assert sides[1].to_dict()["score"] is None
    picture = draw_refusal(frame, sides, "flipped: brick/train/good/é.png")
    write_png(tmp_path / "picture.png", picture)
    assert picture.shape[2] == 3
    assert picture.shape[0] < 600
    third = picture.shape[1] // 3
    assert (picture[92:-40, :third] == 90).any()
    assert (picture[92:-40, 2 * third :] > 200).any(), "the hot spot"
