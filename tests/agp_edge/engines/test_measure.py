"""Held-out frames, and what a session measures on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.bundle import Bundle
from agp_edge.datasets import content_hashes, load_dataset
from agp_edge.datasets.images import write_png
from agp_edge.engines import open_engine
from agp_edge.engines.base import Inference, Session
from agp_edge.engines.measure import HeldOut, frames_of_bundle, frames_of_dataset, judge, measure
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import sha256_file
from agp_edge.frame import FrameSpec

SPEC = FrameSpec(4, 4, 3, batch=3)


class Brightness(Session):
    """Scores a frame by its first pixel."""

    def __init__(self) -> None:
        self.frame = SPEC
        self.calls = 0

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        self.calls += 1
        score = frames[:, 0, 0, 0].astype(np.float32)
        score[score == 255] = np.nan
        return Inference(score, np.repeat(score, 4).reshape(-1, 2, 2))

    def close(self) -> None:
        pass


def bright(*values: int) -> NDArray[np.uint8]:
    return np.repeat(np.array(values, np.uint8), 48).reshape(-1, 4, 4, 3)


def test_scores_come_in_order_and_padding_is_not_counted() -> None:
    told: list[tuple[int, int, str]] = []
    frames = HeldOut(bright(3, 1), bright(9, 8, 7, 6), ["a", "b", "c", "d"], {})
    session = Brightness()
    measured = measure(session, frames, lambda done, total, note="": told.append((done, total, note)))
    assert (measured.normal, measured.gate) == ([3, 1], [9, 8, 7, 6])
    assert measured.maps.shape == (4, 2, 2)
    assert session.calls == 3
    assert told == [(n, 6, "measuring fp32") for n in (2, 5, 6)]


def test_no_gate_frames_is_no_fault_of_the_measurement() -> None:
    frames = HeldOut(bright(3, 1), bright(), [], {})
    measured = measure(Brightness(), frames)
    assert judge(measured, measured, frames).outcome == "inconclusive"


def test_a_score_that_is_no_number_is_an_artefact_that_is_broken() -> None:
    with pytest.raises(ArtefactError, match="no finite numbers"):
        measure(Brightness(), HeldOut(bright(1), bright(255), ["a"], {}))


def test_a_bundle_carries_its_frames(calibrated_bundle: Path, exported_bundle: Path) -> None:
    bundle = Bundle(calibrated_bundle)
    frames = frames_of_bundle(bundle)
    assert frames.gate.shape == frames.threshold.shape == (16, 256, 256, 3)
    assert frames.splits == {p: bundle.manifest.split_hashes()[p] for p in ("gate", "threshold")}
    with pytest.raises(InputError, match="carries no frames"):
        frames_of_bundle(Bundle(exported_bundle))


def test_frames_of_a_data_set_are_those_of_the_bundle_made_with_it(
    calibrated_bundle: Path, sample_data: Path
) -> None:
    bundle = Bundle(calibrated_bundle)
    carried = frames_of_bundle(bundle)
    read = frames_of_dataset(load_dataset(sample_data), bundle.manifest.frame, set(bundle.manifest.trained))
    assert read.names == carried.names
    assert read.splits == carried.splits
    np.testing.assert_array_equal(read.gate, carried.gate)
    np.testing.assert_array_equal(read.threshold, carried.threshold)


def test_what_was_trained_on_is_left_out(tmp_path: Path) -> None:
    for i in range(5):
        write_png(tmp_path / f"{i}.png", np.full((4, 4, 3), 10 * i, np.uint8))
    dataset = load_dataset(tmp_path)
    hashes = content_hashes(dataset.classes[0].train)
    frames = frames_of_dataset(dataset, SPEC, set(hashes[:3]))
    assert sorted(int(f[0, 0, 0]) for f in (*frames.gate, *frames.threshold)) == [30, 40]
    one = frames_of_dataset(dataset, SPEC, set(hashes[:4]))
    assert (len(one.threshold), len(one.gate), one.names) == (1, 0, [])
    with pytest.raises(InputError, match="no good image that the network was not trained on"):
        frames_of_dataset(dataset, SPEC, set(hashes))
    assert sha256_file(tmp_path / "3.png") == hashes[3]


def test_an_engine_measures_the_same_twice(int8_engine: Path, calibrated_bundle: Path) -> None:
    session, sidecar = open_engine(int8_engine)
    with session:
        measured = measure(session, frames_of_bundle(Bundle(calibrated_bundle)))
    assert sorted(measured.normal) == sidecar.normal_scores
