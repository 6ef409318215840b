"""Triggers by GPIO: what can be said without a chip, and real edges where the kernel has gpio-sim."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from agp_edge.errors import InputError
from agp_edge.triggers import open_trigger
from agp_edge.triggers.gpio import AGAIN_S
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
    for number in range(1, 4):
        before = time.monotonic_ns()
        chip.pull(2, "up")
        # gpio-sim makes one interrupt of edges that come faster than they are handled.
        wait_for(lambda: len(fired.all) == number, "the edge")  # noqa: B023
        times.append((before, time.monotonic_ns()))
        chip.pull(2, "down")
    trigger.close()
    trigger.close()
    for (before, after), (part, source, at_ns) in zip(times, fired.all, strict=True):
        assert (part, source) == (None, None)
        assert at_ns is not None
        assert before <= at_ns <= after
    assert fired.events == []


def test_a_line_that_is_quiet_is_not_lost(chip: SimulatedChip) -> None:
    fired = Fired()
    trigger = open_trigger(f"gpio://{chip.name}/light-barrier?edge=rising")
    trigger.start(fired, fired.events.append)
    time.sleep(2.5 * AGAIN_S)
    chip.pull(2, "up")
    wait_for(lambda: fired.all, "the edge")
    trigger.close()
    assert fired.events == []


def test_a_line_that_bounces_triggers_once(chip: SimulatedChip) -> None:
    fired = Fired()
    trigger = open_trigger(f"gpio://{chip.name}/2?edge=rising&debounce_ms=200")
    trigger.start(fired, fired.events.append)
    for _ in range(5):
        chip.pull(2, "up")
        chip.pull(2, "down")
    chip.pull(2, "up")
    settled = time.monotonic_ns()
    wait_for(lambda: fired.all, "the edge")
    time.sleep(0.5)
    trigger.close()
    assert len(fired.all) == 1
    at_ns = fired.all[0][2]
    assert at_ns is not None
    assert at_ns >= settled + 100_000_000


def test_a_chip_that_comes_back_under_another_number_triggers_again(chip: SimulatedChip) -> None:
    fired = Fired()
    trigger = open_trigger(f"gpio://{chip.label}/light-barrier?edge=both")
    trigger.start(fired, fired.events.append)
    before = chip.name
    chip.unplug()
    wait_for(lambda: fired.kinds() == ["trigger-lost"], "that it is noticed")
    chip.plug()
    wait_for(lambda: fired.kinds() == ["trigger-lost", "trigger-back"], "that it is back")
    assert chip.name != before
    assert fired.all == []
    chip.pull(2, "up")
    wait_for(lambda: len(fired.all) == 1, "the edge")
    trigger.close()


def test_what_a_stream_does_not_take_is_an_event(chip: SimulatedChip) -> None:
    def refuse(part: str | None = None, source: str | None = None, *, at_ns: int | None = None) -> int:
        raise InputError("the stream waits for no trigger", "give --trigger")

    fired = Fired()
    trigger = open_trigger(f"gpio://{chip.name}/0?bias=disabled")
    trigger.start(refuse, fired.events.append)
    chip.pull(0, "up")
    wait_for(lambda: fired.kinds() == ["trigger-refused"], "the event")
    trigger.close()


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
