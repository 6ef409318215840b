"""Triggers by GPIO: what can be said without a chip, and real edges where the kernel has gpio-sim."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from agp_edge.errors import InputError
from agp_edge.triggers import open_trigger
from tests.agp_edge.gpio_sim import SimulatedChip, simulated_chip
from tests.agp_edge.sinks.streams import wait_for
from tests.agp_edge.triggers.fired import Fired

pytest.importorskip("gpiod")


@pytest.fixture
def chip() -> Iterator[SimulatedChip]:
    with simulated_chip() as made:
        yield made


def test_each_edge_triggers_at_its_own_time(chip: SimulatedChip) -> None:
    fired = Fired()
    trigger = open_trigger(f"gpio://{chip.name}/light-barrier?edge=rising")
    trigger.start(fired, fired.events.append)
    times = []
    for _ in range(3):
        before = time.monotonic_ns()
        chip.pull(2, "up")
        times.append((before, time.monotonic_ns()))
        chip.pull(2, "down")
    wait_for(lambda: len(fired.all) == 3, "three edges")
    trigger.close()
    trigger.close()
    for (before, after), (part, source, at_ns) in zip(times, fired.all, strict=True):
        assert (part, source) == (None, None)
        assert at_ns is not None
        assert before <= at_ns <= after
    assert fired.events == []


def test_a_line_that_another_has_is_refused(chip: SimulatedChip) -> None:
    fired = Fired()
    first = open_trigger(f"gpio://{chip.name}/1?edge=both")
    first.start(fired)
    with pytest.raises(InputError, match="busy"):
        open_trigger(f"gpio://{chip.name}/1").start(fired)
    first.close()
    with pytest.raises(InputError, match="cannot be used"):
        open_trigger(f"gpio://{chip.name}/no-such-line").start(fired)


def test_a_chip_that_is_not_there_is_named() -> None:
    for chip in ("gpiochip999", "999"):
        with pytest.raises(InputError, match=rf"gpio://{chip}/1 cannot be used: No such file") as caught:
            open_trigger(f"gpio://{chip}/1").start(Fired())
        assert "gpioinfo" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gpio://gpiochip0", "says too little"),
        ("gpio:///17", "says too little"),
        ("gpio://gpiochip0/17?edge=up", "edge=up is none"),
        ("gpio://gpiochip0/17?bias=high", "bias=high is none"),
        ("gpio://gpiochip0/17?debounce_ms=-1", "debounce_ms=-1 is no time"),
        ("gpio://gpiochip0/17?debounce_ms=x", "debounce_ms=x is no time"),
        ("gpio://gpiochip0/17?bounce=5", "no 'bounce'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, said: str) -> None:
    with pytest.raises(InputError, match="gpio://") as caught:
        open_trigger(url)
    assert said in str(caught.value)
