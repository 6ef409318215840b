"""Changes as a camera makes them, and the study on two tiny trainings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.engines.base import Inference, Session
from agp_edge.frame import FrameSpec
from agpnet.study import read_study
from benchmarks.exposure import CHANGES, Changed, brighter, describe, main, out_of_focus, with_noise


@pytest.fixture
def frame() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(60, 200, (48, 64, 3), np.uint8)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_frame_is_a_frame_of_the_same_scene(name: str, frame: NDArray[np.uint8]) -> None:
    smooth = np.repeat(np.repeat(frame[:7, :9], 8, 0), 8, 1)[
        3:51, 3:67
    ]  # No edge where JPEG's blocks have theirs.
    for given in (smooth, smooth[..., :1]):
        changed = CHANGES[name](np.ascontiguousarray(given))
        assert changed.shape == given.shape
        assert changed.dtype == np.uint8
        difference = np.abs(changed.astype(int) - given).mean()
        assert difference == 0 if name == "as they are" else 0 < difference < 12


def test_the_changes_are_what_they_are_called(frame: NDArray[np.uint8]) -> None:
    noise = with_noise(frame).astype(int) - frame
    assert abs(noise.std() - 3) < 0.2
    assert abs(noise.mean()) < 0.2
    assert (with_noise(frame) == with_noise(frame)).all(), "the same in every run"
    assert abs(brighter(frame).mean() / frame.mean() - 1.05) < 0.002
    assert out_of_focus(frame).std() < frame.std()


def test_a_session_sees_each_frame_changed(frame: NDArray[np.uint8]) -> None:
    class Eye(Session):
        """Remembers what it was shown."""

        def __init__(self) -> None:
            self.frame, self.precision = FrameSpec(64, 48, 3), "fp32"
            self.seen: list[NDArray[np.uint8]] = []

        def _infer(self, frames: NDArray[np.uint8]) -> Inference:
            self.seen.append(frames)
            return Inference(np.zeros(len(frames), np.float32), np.zeros((len(frames), 4, 4), np.float32))

        def close(self) -> None:
            pass

    eye = Eye()
    Changed(eye, brighter).infer(np.stack([frame, frame // 2]))
    assert (np.concatenate(eye.seen) == np.stack([brighter(frame), brighter(frame // 2)])).all()


def test_the_command_trains_with_and_without_and_tests_under_every_change(
    sample_data: Path, tiny_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exposure.json"
    given = [f"--set={k}={json.dumps(v)}" for k, v in tiny_settings.items() if k not in ("backbone", "steps")]
    arguments = [str(sample_data), str(out), "--classes", "gravel", "--seeds", "1", "--steps", "6", *given]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    document = read_study(out)
    assert printed.out == describe(document) + "\n"
    assert printed.err.splitlines()[0] == "0/2"
    assert [(row["group"], row["value"]) for row in document["rows"]] == [
        (name, arm) for name in CHANGES for arm in ("none", "camera")
    ]
    for result in document["results"].values():
        assert set(result["parts"]) == set(CHANGES)
    (plain,) = (
        r
        for key, r in document["results"].items()
        if document["configs"][key.split("-")[0]]["augment"] == "none"
    )
    as_is, jpeg = (plain["parts"][name]["classes"]["gravel"] for name in ("as they are", "JPEG, quality 95"))
    assert as_is != jpeg
    assert main([str(tmp_path / "none"), str(out)]) == 2
