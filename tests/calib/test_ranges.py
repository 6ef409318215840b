"""Ranges of activations: exact for `max`, and by histogram for the two that leave something out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agp_edge.errors import ArtefactError, InputError
from calib.ranges import BINS, METHODS, MagnitudeHistogram, activation_ranges, open_with_outputs


def histogram_of(*parts: NDArray[np.float32]) -> MagnitudeHistogram:
    histogram = MagnitudeHistogram()
    for part in parts:
        histogram.add(part)
    return histogram


@settings(max_examples=30)
@given(st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=60), st.integers(1, 59))
def test_a_histogram_loses_no_value_whatever_comes_first(values: list[float], cut: int) -> None:
    every = np.array(values, np.float32)
    histogram = histogram_of(every[:cut], every[cut:])
    assert histogram.largest == np.abs(every).max()
    if histogram.largest:
        # What came before the first value above 0 is not counted: it has no place in any range.
        assert 0 < histogram._counts.sum() <= len(every)
        assert histogram.percentile(100) == pytest.approx(histogram.largest, rel=2 / BINS)
    assert histogram.percentile() <= histogram.largest
    assert histogram.entropy() <= histogram.largest


def test_a_percentile_leaves_out_the_few_that_are_far() -> None:
    rng = np.random.default_rng(0)
    values = np.append(rng.uniform(-1, 1, 999_999), 50).astype(np.float32)
    histogram = histogram_of(*np.array_split(values, 7))
    assert histogram.largest == 50
    assert histogram.percentile(99.999) == pytest.approx(1, abs=50 * 2 / BINS)
    assert histogram.percentile(100) == 50


def test_entropy_cuts_a_long_tail_and_leaves_an_even_spread_alone() -> None:
    rng = np.random.default_rng(0)
    even = histogram_of(rng.uniform(-3, 3, 100_000).astype(np.float32))
    assert even.entropy() > 0.95 * even.largest
    tail = histogram_of(np.append(rng.normal(0, 1, 100_000), [400.0]).astype(np.float32))
    assert 2 < tail.entropy() < 40
    # Zeros, of which a ReLU gives many, cost nothing under any limit.
    with_zeros = histogram_of(np.append(rng.normal(0, 1, 100_000), np.zeros(500_000)).astype(np.float32))
    assert with_zeros.entropy() > 2


def test_ranges_of_a_graph(tiny_model: Path) -> None:
    model = onnx.load(tiny_model)
    frames = np.full((3, 48, 64, 3), 51, np.uint8)
    frames[1, 8:16, 8:16] = 255
    told: list[tuple[int, int]] = []
    for method in METHODS:
        ranges = activation_ranges(
            model, ["cells", "anomaly_map"], frames, batch=1, method=method,
            progress=lambda done, total, note="": told.append((done, total)),
        )  # fmt: skip
        assert list(ranges) == ["cells", "anomaly_map"]
        if method == "max":
            assert ranges == pytest.approx({"cells": 255, "anomaly_map": 1})
        assert 0 < ranges["cells"] <= 255
    assert told == [(1, 3), (2, 3), (3, 3)] * 3
    black = activation_ranges(model, ["cells"], np.zeros((1, 48, 64, 3), np.uint8), batch=1)
    assert black == {"cells": 0}


def test_what_cannot_be_measured_is_refused(tiny_model: Path) -> None:
    model = onnx.load(tiny_model)
    frames = np.zeros((2, 48, 64, 3), np.uint8)
    with pytest.raises(InputError, match="no calibration method 'best'"):
        activation_ranges(model, ["cells"], frames, batch=1, method="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 frames are fewer than one batch of 3"):
        activation_ranges(model, ["cells"], frames, batch=3)
    with pytest.raises(ArtefactError, match="does not take the graph"):
        open_with_outputs(model, ["nowhere"])
    (white,) = (t for t in model.graph.initializer if t.name == "white")
    white.CopyFrom(onnx.numpy_helper.from_array(np.array(0, np.float32), "white"))
    with pytest.raises(ArtefactError, match="anomaly_map is no finite number"):
        activation_ranges(model, ["anomaly_map"], frames, batch=1)
