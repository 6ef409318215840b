"""Pulses on GPIO: what can be said without a chip, and real lines where the kernel has gpio-sim."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from agp_edge.errors import InputError
from agp_edge.sinks import Judgement
from agp_edge.sinks.command import on_ng_sink
from tests.agp_edge.gpio_sim import NAMED, SimulatedChip, simulated_chip

pytest.importorskip("gpiod")


@pytest.fixture
def chip() -> Iterator[SimulatedChip]:
    with simulated_chip() as made:
        yield made


class Watched:
    """Notes each change of a line, with its time, while something runs."""

    def __init__(self, chip: SimulatedChip, line: int) -> None:
        self.changes: list[tuple[float, int]] = []
        self._chip, self._line = chip, line

    def during(self, work: Callable[[], None]) -> list[tuple[float, int]]:
        thread = threading.Thread(target=work)
        last = self._chip.value(self._line)
        thread.start()
        while thread.is_alive():
            value = self._chip.value(self._line)
            if value != last:
                self.changes.append((time.monotonic(), value))
                last = value
        thread.join()
        return self.changes


def test_each_ng_is_a_pulse_and_between_two_the_line_rests(chip: SimulatedChip, judgement: Judgement) -> None:
    sink = on_ng_sink(f"gpio://{chip.name}/1?pulse_ms=60")

    def write() -> None:
        for item in (judgement, replace(judgement, verdict="OK"), judgement, judgement):
            sink.write(item)

    changes = Watched(chip, 1).during(write)
    assert [value for _, value in changes] == [1, 0, 1, 0, 1, 0]
    times = [at for at, _ in changes]
    assert all(b - a >= 0.05 for a, b in itertools.pairwise(times))
    assert sink.describe() == f"3 pulses of --on-ng gpio://{chip.name}/1?pulse_ms=60"
    sink.close()
    sink.close()


def test_active_low_and_a_line_by_its_name(chip: SimulatedChip, judgement: Judgement) -> None:
    sink = on_ng_sink(f"gpio://{chip.name}/light-barrier?pulse_ms=40&active_low=1")
    assert chip.value(NAMED) == 1, "inactive is high"
    changes = Watched(chip, NAMED).during(lambda: sink.write(judgement))
    assert [value for _, value in changes] == [0, 1]
    sink.close()


def test_the_end_of_a_stream_ends_a_pulse(chip: SimulatedChip, judgement: Judgement) -> None:
    sink = on_ng_sink(f"gpio://{chip.name}/1?pulse_ms=60000")
    thread = threading.Thread(target=lambda: sink.write(judgement))
    thread.start()
    until = time.monotonic() + 60
    while not chip.value(1) and time.monotonic() < until:
        time.sleep(0.01)
    assert chip.value(1) == 1
    sink.close()
    thread.join(10)
    assert not thread.is_alive()
    assert chip.value(1) == 0


def test_a_chip_that_went_away_is_asked_for_again(chip: SimulatedChip, judgement: Judgement) -> None:
    sink = on_ng_sink(f"gpio://{chip.label}/1?pulse_ms=1")
    sink.write(judgement)
    chip.unplug()
    for _ in range(2):
        with pytest.raises(InputError, match="--on-ng gpio://"):
            sink.write(judgement)
    chip.plug()
    sink.write(judgement)
    sink.close()


def test_a_line_that_another_has_and_one_that_is_not_there(chip: SimulatedChip) -> None:
    first = on_ng_sink(f"gpio://{chip.name}/1")
    with pytest.raises(InputError, match="busy"):
        on_ng_sink(f"gpio://{chip.name}/1")
    first.close()
    for line in ("99", "no-such-line"):
        with pytest.raises(InputError, match="cannot be used"):
            on_ng_sink(f"gpio://{chip.name}/{line}")


def test_a_chip_that_is_not_there_is_named() -> None:
    for chip in ("gpiochip999", "999"):
        with pytest.raises(InputError, match=rf"gpio://{chip}/1 cannot be used: No such file") as caught:
            on_ng_sink(f"gpio://{chip}/1")
        assert "/dev/gpiochip999" in caught.value.hint


def test_a_device_that_is_no_chip_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be used"):
        on_ng_sink("gpio://null/1")


def test_a_chip_that_this_user_may_not_use_is_told(chip: SimulatedChip) -> None:
    os.chmod(f"/dev/{chip.name}", 0)  # noqa: PTH101
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            on_ng_sink(f"gpio://{chip.name}/1")
        except InputError as error:
            os._exit(0 if "Permission denied" in error.what and "group" in error.hint else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gpio://gpiochip0", "says too little"),
        ("gpio:///17", "says too little"),
        ("GPIO://user:secret@gpiochip0/1", "says too little, or too much"),
        ("gpio://gpiochip0/17?active_low=yes", "active_low=yes is none"),
        ("gpio://gpiochip0/17?pulse_ms=-1", "pulse_ms=-1 is no time"),
        ("gpio://gpiochip0/17?pulse_ms=x", "pulse_ms=x is no time"),
        ("gpio://gpiochip0/17?pulse_ms=60001", "pulse_ms=60001 is no time"),
        ("gpio://gpiochip0/17?edge=rising", "no 'edge'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        on_ng_sink(url)
    assert said in str(caught.value)
