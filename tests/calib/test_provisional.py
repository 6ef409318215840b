"""Altered copies of shots, and the one that stands for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.engines.base import Inference, Session
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import ArtefactError
from agp_edge.frame import FrameSpec
from calib.provisional import COPIES, alter, median_copies


@pytest.fixture
def frame() -> NDArray[np.uint8]:
    """[48, 64, 3]: a smooth part with a bright corner, blue above red."""
    y, x = np.mgrid[0:48, 0:64]
    grey = 60 + y + 0.5 * x + 60 * ((y < 16) & (x < 16))
    return np.stack([grey + 30, grey, grey - 30], axis=2).astype(np.uint8)


def test_copies_are_other_pictures_of_the_same_part(frame: NDArray[np.uint8]) -> None:
    copies = alter(frame, 6, seed=1)
    assert copies.shape == (6, 48, 64, 3)
    assert copies.dtype == np.uint8
    distances = [np.abs(copy.astype(int) - frame).mean() for copy in copies]
    assert all(0.5 < d < 40 for d in distances)
    assert len({copy.tobytes() for copy in copies}) == 6
    blue, _, red = copies.astype(float).mean(axis=(0, 1, 2))
    assert blue - red == pytest.approx(60, abs=8), "channels stay in their place"
    assert (alter(frame, 6, seed=1) == copies).all()
    assert (alter(frame, 6, seed=2) != copies).any()


def test_mono_frames_too(frame: NDArray[np.uint8]) -> None:
    mono = np.ascontiguousarray(frame[..., :1])
    copies = alter(mono, 3, seed=1)
    assert copies.shape == (3, 48, 64, 1)
    assert 0.5 < np.abs(copies.astype(int) - mono).mean() < 40


@pytest.mark.parametrize("batch", [1, 4])
def test_the_median_copy_stands_for_its_shot(batch: int, frame: NDArray[np.uint8]) -> None:
    class Brightness(Session):
        """Scores a frame by its mean."""

        def __init__(self) -> None:
            self.frame, self.precision = FrameSpec(64, 48, 3, batch), "fp32"

        def _infer(self, frames: NDArray[np.uint8]) -> Inference:
            return Inference(
                frames.mean(axis=(1, 2, 3), dtype=np.float32), np.zeros((len(frames), 2, 2), np.float32)
            )

        def close(self) -> None:
            pass

    digests = ["ab" * 32, "cd" * 32]
    told: list[int] = []
    chosen = median_copies(
        iter([frame, frame]), digests, Brightness(), lambda done, total, note="": told.append(done)
    )
    for copy, digest in zip(chosen, digests, strict=True):
        copies = alter(frame, COPIES, seed=int(digest[:12], 16))
        means = copies.mean(axis=(1, 2, 3), dtype=np.float32)
        assert copy.score == pytest.approx(float(np.median(means)))
        assert means[copy.number] == pytest.approx(copy.score)
        assert (copy.pixels == copies[copy.number]).all()
    assert (chosen[0].pixels != chosen[1].pixels).any(), "each image has copies of its own"
    assert told == [1, 2]


def test_a_score_that_is_no_number_is_refused(tiny_model: Path, frame: NDArray[np.uint8]) -> None:
    class Broken(OnnxRuntimeSession):
        def _infer(self, frames: NDArray[np.uint8]) -> Inference:
            result = super()._infer(frames)
            return Inference(result.score * np.float32(np.nan), result.anomaly_map)

    with Broken(tiny_model, FrameSpec(64, 48, 3)) as session, pytest.raises(ArtefactError, match="no finite"):
        median_copies(iter([frame]), ["ab" * 32], session)
