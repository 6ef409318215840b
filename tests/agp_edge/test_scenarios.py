from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agp_edge import scenarios
from agp_edge.scenarios import MIN_FRAMES, SCENARIOS, Plan, Times


class Clock:
    """Time that passes only when somebody sleeps or infers: scenarios are checked without waiting."""

    def __init__(self, cost_s: float) -> None:
        self.now = 100.0
        self.cost_s = cost_s
        self.asked: list[int] = []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def infer(self, frames: Any) -> None:
        self.asked.append(int(frames[0]))
        self.now += self.cost_s


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Times, Clock]]:
    def ask(
        name: str, *, cost_ms: float, seconds: float, rate: float = 0.0, size: int = 1
    ) -> tuple[Times, Clock]:
        clock = Clock(cost_ms / 1e3)
        monkeypatch.setattr(scenarios, "time", clock)
        queries = [np.full(size, number, np.uint8) for number in range(3)]
        return SCENARIOS[name].run(Plan(clock.infer, queries, seconds, rate)), clock

    return ask


def test_back_to_back_asks_for_its_duration_and_takes_the_frames_in_turn(ask: Any) -> None:
    times, clock = ask("single-stream", cost_ms=10, seconds=0.495)

    assert len(times.latency_ms) == 50
    assert list(times.latency_ms) == pytest.approx([10.0] * 50)
    assert times.seconds == pytest.approx(0.5)
    assert clock.asked[:5] == [0, 1, 2, 0, 1]
    assert not times.queue_ms


@pytest.mark.parametrize(("size", "queries"), [(1, MIN_FRAMES), (8, 2)])
def test_a_slow_engine_is_measured_on_at_least_ten_frames(ask: Any, size: int, queries: int) -> None:
    times, _ = ask("multi-stream", cost_ms=5000, seconds=0.1, size=size)

    assert len(times.call_ms) == queries


def test_server_counts_from_the_scheduled_arrival(ask: Any) -> None:
    times, _ = ask("server", cost_ms=10, seconds=100, rate=50)

    assert times.unserved == 0
    assert 4700 < len(times.latency_ms) < 5300
    for latency, queue, call in zip(times.latency_ms, times.queue_ms, times.call_ms, strict=True):
        assert latency == pytest.approx(queue + call)
    # M/D/1 at half load: the mean wait is load * service / (2 * (1 - load)) = 5 ms (Pollaczek, Khinchine).
    assert np.mean(times.queue_ms) == pytest.approx(5.0, rel=0.1)


def test_server_arrivals_are_the_same_for_the_same_seed(ask: Any) -> None:
    first, _ = ask("server", cost_ms=10, seconds=5, rate=50)
    second, _ = ask("server", cost_ms=10, seconds=5, rate=50)

    assert first.latency_ms == second.latency_ms


def test_an_overloaded_server_stops_and_counts_the_unserved_as_waiting(ask: Any) -> None:
    times, clock = ask("server", cost_ms=100, seconds=2, rate=100)

    assert times.unserved > 100
    assert len(times.latency_ms) == len(times.call_ms) + times.unserved
    assert min(times.latency_ms) >= 0
    # By then the arrivals had been over for a while; nothing is served after the stop.
    assert clock.now - 100 < 4.2
    assert max(times.latency_ms) >= 2000


def test_a_server_too_rare_for_its_duration_still_asks_ten_times(ask: Any) -> None:
    times, _ = ask("server", cost_ms=10, seconds=0.5, rate=1)

    assert len(times.latency_ms) == MIN_FRAMES


def test_a_camera_slower_than_the_engine_drops_nothing(ask: Any) -> None:
    times, _ = ask("camera", cost_ms=10, seconds=2, rate=30)

    assert (len(times.latency_ms), times.dropped) == (60, 0)
    assert list(times.latency_ms) == pytest.approx([10.0] * 60)


def test_a_camera_faster_than_the_engine_gives_it_the_newest_frame(ask: Any) -> None:
    # 100 frames a second, 25 ms each: taken are 0, 2 (arrived at 20), 5 (at 50), 7, 10, ...
    times, clock = ask("camera", cost_ms=25, seconds=0.995, rate=100)

    assert clock.asked[:5] == [0, 2, 2, 1, 1]  # 0, 2, 5, 7, 10 modulo three queries
    assert list(times.queue_ms[:4]) == pytest.approx([0, 5, 0, 5], abs=1e-6)
    assert len(times.call_ms) + times.dropped == pytest.approx(100, abs=2)
