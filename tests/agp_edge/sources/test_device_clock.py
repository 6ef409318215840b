from __future__ import annotations

import numpy as np

from agp_edge.sources.device_clock import WINDOW_NS, DeviceClock

MS = 1_000_000
S = 1_000_000_000


def run(
    taken_ns: list[int], late_ns: list[int], *, ahead_ns: int = 123 * S, drift: float = 0.0
) -> tuple[list[int], list[int]]:
    """What a clock makes of frames: (mapped times, arrivals), for stamps `ahead_ns` ahead of us that drift."""
    clock = DeviceClock()
    arrived = [taken + late for taken, late in zip(taken_ns, late_ns, strict=True)]
    stamps = [int(taken * (1 + drift)) + ahead_ns for taken in taken_ns]
    return [clock.to_monotonic_ns(s, a) for s, a in zip(stamps, arrived, strict=True)], arrived


def test_late_frames_have_the_time_at_which_they_were_taken() -> None:
    taken = [1000 * S + i * 33 * MS for i in range(900)]
    late = [2 * MS + int(j) for j in np.random.default_rng(3).exponential(5 * MS, len(taken))]

    mapped, arrived = run(taken, late)

    # What every frame takes is not told from the difference of the clocks; what is beyond it is.
    errors = np.array(mapped[100:]) - np.array(taken[100:])
    assert errors.min() >= 2 * MS
    assert errors.max() < 3 * MS
    assert all(m <= a for m, a in zip(mapped, arrived, strict=True))
    spacing = np.diff(mapped[100:])
    assert np.percentile(np.abs(spacing - 33 * MS), 99) < 0.2 * MS


def test_a_clock_that_drifts_is_followed() -> None:
    for drift in (100e-6, -100e-6):
        taken = [i * 40 * MS for i in range(15_000)]
        mapped, arrived = run(taken, [3 * MS] * len(taken), drift=drift)
        errors = np.array(mapped) - np.array(taken)
        assert abs(errors[5:] - 3 * MS).max() <= 1.1 * MS
        assert all(m <= a for m, a in zip(mapped, arrived, strict=True))


def test_a_clock_that_is_set_is_believed_at_once() -> None:
    for jump in (-3600 * S, -2 * S, 2 * S, 3600 * S):
        clock = DeviceClock()
        for i in range(50):
            assert clock.to_monotonic_ns(7000 * S + i * MS, 500 * S + i * MS) == 500 * S + i * MS
        for i in range(50, 100):
            mapped = clock.to_monotonic_ns(7000 * S + i * MS + jump, 500 * S + i * MS)
            assert mapped == 500 * S + i * MS


def test_a_camera_that_is_rarely_triggered() -> None:
    clock = DeviceClock()
    for i in range(20):
        arrived = 900 * S + i * 7 * WINDOW_NS
        assert clock.to_monotonic_ns(i * 7 * WINDOW_NS, arrived + i % 3) <= arrived + i % 3
