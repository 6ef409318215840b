from __future__ import annotations

import itertools
import json
import math
import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agp_edge.latency import PERCENTILES, LatencyRecorder, nearest_rank, percentile_ms, percentiles_ms

latencies = st.lists(st.floats(0, 5e6, allow_nan=False), min_size=1, max_size=300)


def test_percentiles_of_one_to_a_thousand_are_their_ranks() -> None:
    summary = percentiles_ms(float(v) for v in range(1000, 0, -1))

    assert summary == {
        "n": 1000, "min": 1, "p50": 500, "p90": 900, "p95": 950, "p97": 970, "p99": 990, "p99.9": 999,
        "max": 1000, "mean": 500.5, "cv": pytest.approx(math.sqrt((1000**2 - 1) / 12) / 500.5),
    }  # fmt: skip


def test_a_percentile_beyond_what_n_resolves_is_the_maximum() -> None:
    assert percentiles_ms([3.0, 1.0, 2.0])["p99.9"] == 3.0


@pytest.mark.parametrize("summary", [percentiles_ms([]), LatencyRecorder().summary()])
def test_no_values_give_no_figures(summary: dict[str, object]) -> None:
    assert summary.pop("n") == 0
    assert set(summary.values()) == {None}


def test_zero_latencies_have_no_coefficient_of_variation() -> None:
    assert percentiles_ms([0.0, 0.0])["cv"] is None


@given(latencies, st.sampled_from(list(PERCENTILES.values())))
def test_nearest_rank_leaves_at_least_p_percent_at_or_below(values: list[float], percent: Fraction) -> None:
    value = percentile_ms(sorted(values), percent)

    assert sum(v <= value for v in values) * 100 >= percent * len(values)
    assert sum(v < value for v in values) * 100 < percent * len(values)


@pytest.mark.parametrize(("n", "percent"), [(0, 50), (10, 0), (10, 101)])
def test_a_rank_that_does_not_exist_is_refused(n: int, percent: int) -> None:
    with pytest.raises(ValueError, match="nearest_rank"):
        nearest_rank(n, Fraction(percent))


@settings(max_examples=200)
@given(latencies)
def test_the_recorder_keeps_its_promised_error(values: list[float]) -> None:
    recorder = LatencyRecorder()
    for value in values:
        recorder.record(value)
    exact, kept = percentiles_ms(values), recorder.summary()

    assert len(recorder) == kept["n"] == exact["n"]
    assert (kept["min"], kept["max"]) == (exact["min"], exact["max"])
    assert kept["mean"] == pytest.approx(exact["mean"])
    for name in PERCENTILES:
        want, got = exact[name], kept[name]  # type: ignore[literal-required]
        slack = LatencyRecorder.RELATIVE_ERROR * want * (1 + 1e-9) + LatencyRecorder.LOW_MS
        assert want - slack <= got <= exact["max"]
        assert got <= want + slack or want > LatencyRecorder.HIGH_MS


def test_the_recorder_keeps_the_coefficient_of_variation() -> None:
    values = [1e6 + v / 1000 for v in range(1000)]
    recorder = LatencyRecorder()
    for value in values:
        recorder.record(value)

    assert recorder.summary()["cv"] == pytest.approx(percentiles_ms(values)["cv"], rel=1e-6)


@given(latencies)
def test_the_histogram_holds_every_value_once_and_is_json(values: list[float]) -> None:
    recorder = LatencyRecorder()
    for value in values:
        recorder.record(value)
    buckets = recorder.histogram()

    assert sum(count for _, _, count in buckets) == len(values)
    assert all(a[1] <= b[0] * (1 + 1e-9) for a, b in itertools.pairwise(buckets))
    assert json.loads(json.dumps(buckets)) == [list(bucket) for bucket in buckets]


def test_memory_does_not_grow_with_what_is_recorded() -> None:
    recorder = LatencyRecorder()
    before = len(recorder._counts)
    for step in range(5000):
        recorder.record(1.01**step % 1e7)

    assert len(recorder._counts) == before < 3000


@pytest.mark.parametrize("value", [-0.001, math.nan, math.inf])
def test_what_is_no_latency_is_refused(value: float) -> None:
    recorder = LatencyRecorder()

    with pytest.raises(ValueError, match="no latency"):
        recorder.record(value)
    assert len(recorder) == 0


def test_threads_lose_no_latency() -> None:
    recorder = LatencyRecorder()

    def work() -> None:
        for value in range(2000):
            recorder.record(float(value))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(recorder) == sum(count for *_, count in recorder.histogram()) == 8000
