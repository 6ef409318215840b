from __future__ import annotations

import pytest
from scipy import stats

from agpnet.intervals import Interval, mean_interval, student_t_975


@pytest.mark.parametrize("freedom", [*range(1, 31), 74, 75, 1000])
def test_students_t(freedom: int) -> None:
    assert student_t_975(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-9)


def test_no_freedom_is_refused() -> None:
    with pytest.raises(ValueError, match="0 degrees"):
        student_t_975(0)


def test_the_interval_is_that_of_a_t_test() -> None:
    values = [0.91, 0.94, 0.92]
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    interval = mean_interval(values)
    assert interval is not None
    assert interval.half is not None
    assert (interval.mean - interval.half, interval.mean + interval.half) == pytest.approx((low, high))
    assert interval.n == 3


def test_one_value_has_no_spread_and_none_no_mean() -> None:
    assert mean_interval([0.9]) == Interval(0.9, None, 1)
    assert mean_interval([]) is None


def test_how_it_reads() -> None:
    assert Interval(0.8949, 0.0041, 3).describe() == "0.895 ± 0.004"
    assert Interval(0.8949, None, 1).describe() == "0.895"
    assert Interval(0.012, 0.1, 3).describe(signed=True) == "+0.012 ± 0.100"
    assert Interval(-0.0001, 0.1, 3).describe(signed=True) == "+0.000 ± 0.100"
