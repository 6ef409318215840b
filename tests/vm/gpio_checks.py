"""Checks with GPIO lines: the kernel's `hid-cp2112`, and `gpio_chip` behind it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.triggers.gpio import GpioTrigger
from tests.vm.gpio_chip import GpioChip
from tests.vm.line import Line, wait_for
from tests.vm.vivid_checks import FLAGS, load_vivid, refused, set_control

DEVICE = Path("/dev/gpiochip0")


def chips() -> list[Path]:
    """Devices of chips."""
    return sorted(Path("/dev").glob("gpiochip*"))


@contextmanager
def plugged() -> Iterator[GpioChip]:
    """The only chip of the machine."""
    for module in ("uhid", "hid_cp2112"):
        subprocess.run(["modprobe", module], check=True)
    chip = GpioChip()
    chip.plug()
    try:
        wait_for("the chip", DEVICE.exists)
        yield chip
    finally:
        chip.unplug()
        wait_for("the chip to go", lambda: not chips())


class Fired:
    """What a trigger fired, and what it told."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.events: list[str] = []

    def fire(self, part: str | None = None, source: str | None = None, *, at_ns: int | None = None) -> int:
        assert at_ns is not None
        self.times.append(at_ns)
        return 1

    def on_event(self, event: Event) -> None:
        self.events.append(event.kind)


def pulse(chip: GpioChip, line: int) -> int:
    """Raise a line and lower it, slower than the driver looks; when it was raised."""
    raised = time.monotonic_ns()
    chip.levels |= 1 << line
    time.sleep(0.3)
    chip.levels &= ~(1 << line)
    time.sleep(0.3)
    return raised


def trigger() -> dict[str, Any]:
    """An edge fires with its time, the other edge does not, another line neither."""
    facts: dict[str, Any] = {}
    with plugged() as chip:
        for edge, expected in (("rising", 3), ("falling", 3), ("both", 6)):
            fired = Fired()
            trigger = GpioTrigger(f"gpio://gpiochip0/5?edge={edge}")
            trigger.start(fired.fire, fired.on_event)
            try:
                raised = [pulse(chip, 5) for _ in range(3)]
                pulse(chip, 4)
                wait_for("edges", lambda fired=fired, expected=expected: len(fired.times) >= expected)  # type: ignore[misc]
            finally:
                trigger.close()
            assert len(fired.times) == expected, (edge, fired.times)
            if edge == "rising":
                late = [round((at - when) / 1e6) for at, when in zip(fired.times, raised, strict=True)]
                assert all(0 <= ms < 290 for ms in late), late
                facts["ms_from_level_to_time_of_edge"] = late
            facts[edge] = len(fired.times)
    return facts


def in_use_and_gone() -> dict[str, Any]:
    """A line that another has is refused; a chip that is unplugged is waited for."""
    facts: dict[str, Any] = {}
    with plugged() as chip:
        first, second = Fired(), Fired()
        # By its label: with Linux 6.1 a chip that was in use comes back under another number.
        holder = GpioTrigger("gpio://cp2112_gpio/2")
        holder.start(first.fire, first.on_event)
        facts["in use"] = refused(
            lambda: GpioTrigger("gpio://0/2").start(second.fire), InputError, "gpio://0/2"
        )
        facts["no such line"] = refused(
            lambda: GpioTrigger("gpio://0/99").start(second.fire), InputError, "99"
        )
        pulse(chip, 2)
        assert len(first.times) == 1
        chip.unplug()
        wait_for("the loss", lambda: "trigger-lost" in first.events)
        chip.plug()
        wait_for("the chip", chips)
        facts["came back as"] = chips()[0].name
        wait_for("the return", lambda: "trigger-back" in first.events)
        pulse(chip, 2)
        assert len(first.times) == 2, first.times
        holder.close()
        facts["events"] = first.events
    return facts


def line_of_parts() -> dict[str, Any]:
    """A part comes (an edge), the camera's frame is judged, and an NG part is pushed out (a pulse)."""
    load_vivid()
    dark, bright = 5, 6
    flags = (*FLAGS, "--trigger", "gpio://gpiochip0/5", "--on-ng", "gpio://gpiochip0/1?pulse_ms=2000")
    with (
        plugged() as chip,
        Line(
            "--camera",
            "0",
            flags=(*flags, "--control", f"test_pattern={dark}", "--control", "osd_text_mode=2"),
        ) as line,
    ):
        wait_for("the stream", lambda: chip.directions & 2)
        verdicts, pulses = [], []
        for pattern in (dark, bright, dark, bright):
            set_control("test_pattern", pattern)
            time.sleep(1)
            chip.levels |= 1 << 5
            line.wait_for_more(1)
            pulses.append(pulsed(chip))
            chip.levels &= ~(1 << 5)
            time.sleep(1)
            verdicts.append(line.verdicts()[-1]["verdict"])
        summary = line.stop()
        assert not chip.outputs & 2, "the line is left active"
    assert verdicts == ["OK", "NG", "OK", "NG"], (verdicts, line.log)
    assert pulses == [False, True, False, True], pulses
    source = summary["sources"][0]
    assert source["judged"] == 4, source
    return {"verdicts": verdicts, "pulsed": pulses}


def pulsed(chip: GpioChip) -> bool:
    """Whether the line of NG became active within two seconds, and inactive again."""
    begin = time.monotonic()
    while not chip.outputs & 2:
        if time.monotonic() - begin > 2:
            return False
        time.sleep(0.01)
    wait_for("the end of the pulse", lambda: not chip.outputs & 2)
    return True


CHECKS = {"trigger": trigger, "line of parts": line_of_parts, "in use, and gone": in_use_and_gone}
