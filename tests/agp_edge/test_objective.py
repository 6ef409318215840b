from __future__ import annotations

import pytest

from agp_edge.errors import InputError, ObjectiveMissedError
from agp_edge.objective import parse_objective, raise_if_missed

VALUES = [float(v) for v in range(1, 101)]


@pytest.mark.parametrize(
    ("text", "measured", "met"),
    [
        ("p99<15ms", 99, False),
        ("p99<99ms", 99, False),
        ("p99<=99ms", 99, True),
        ("p99 <= 0.099 s", 99, True),
        ("p50<50001us", 50, True),
        ("p99.9<1s", 100, True),
        ("p100<=100ms", 100, True),
        ("mean<50.6ms", 50.5, True),
        ("max<100ms", 100, False),
        ("min<2ms", 1, True),
    ],
)
def test_an_objective_is_held_against_exact_figures(text: str, measured: float, met: bool) -> None:
    assert parse_objective(text).check(VALUES) == {"objective": text, "measured_ms": measured, "met": met}


def test_lower_bounds_cannot_meet_an_objective() -> None:
    assert not parse_objective("max<1s").check(VALUES, unserved=1)["met"]


@pytest.mark.parametrize(
    "text",
    ["", "p99", "p99<15", "p0<1ms", "p101<1ms", "p99>15ms", "p99<-1ms", "median<1ms", "p99<1m", "99<1ms"],
)
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no latency objective") as caught:
        parse_objective(text)
    assert "p99<15ms" in caught.value.hint


def test_a_missed_objective_ends_with_its_own_exit_code() -> None:
    met = parse_objective("max<=100ms").check(VALUES)
    missed = parse_objective("p90<10ms").check(VALUES)

    raise_if_missed({"objectives": [met], "unserved": 0})
    with pytest.raises(ObjectiveMissedError, match=r"p90<10ms missed: measured 90\.000 ms") as caught:
        raise_if_missed({"objectives": [met, missed], "unserved": 0})
    assert caught.value.exit_code == 6
