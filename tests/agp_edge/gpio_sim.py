"""A GPIO chip of the kernel's own gpio-sim, whose lines are set and looked at through sysfs. Needs root.

Debian's kernels have no gpio-sim. From linux-source, drivers/gpio/gpio-sim.c and kernel/irq/irq_sim.c build as one module against
linux-headers, with `generic_handle_irq_safe(irqnum)` in place of what irq_sim.c calls that is not exported.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CONFIG = Path("/sys/kernel/config/gpio-sim")
NAMED = 2
"""The line that has a name: `light-barrier`."""


class SimulatedChip:
    """A chip of four lines.

    Attributes:
        name: as in /dev, when it was plugged in last.
        label: as it keeps it.
    """

    def __init__(self) -> None:
        self._folder = CONFIG / f"agp-edge-{os.getpid()}"
        bank = self._folder / "bank0"
        line = bank / f"line{NAMED}"
        for folder in (self._folder, bank, line):
            folder.mkdir()
        (bank / "num_lines").write_text("4")
        self.label = "agp-edge-lines"
        (bank / "label").write_text(self.label)
        (line / "name").write_text("light-barrier")
        self.plug()

    def plug(self) -> None:
        """Have the chip there, as after `unplug`; its number may be another one then."""
        (self._folder / "live").write_text("1")
        self.name = (self._folder / "bank0/chip_name").read_text().strip()

    def unplug(self) -> None:
        """Take the chip away, as one on USB goes."""
        (self._folder / "live").write_text("0")

    def pull(self, line: int, direction: str) -> None:
        """Set what an input sees, `up` or `down`."""
        (self._line(line) / "pull").write_text(f"pull-{direction}")

    def value(self, line: int) -> int:
        """What an output gives."""
        return int((self._line(line) / "value").read_text())

    def close(self) -> None:
        """Take it away for good."""
        self.unplug()
        for folder in (self._folder / f"bank0/line{NAMED}", self._folder / "bank0", self._folder):
            folder.rmdir()

    def _line(self, line: int) -> Path:
        device = (self._folder / "dev_name").read_text().strip()
        chip = (self._folder / "bank0/chip_name").read_text().strip()
        return Path("/sys/devices/platform") / device / chip / f"sim_gpio{line}"


@contextmanager
def simulated_chip() -> Iterator[SimulatedChip]:
    """A chip for the time of a test, which skips where the kernel has none to give."""
    subprocess.run(["modprobe", "gpio-sim"], capture_output=True, check=False)
    if not CONFIG.is_dir():
        pytest.skip("real lines need root, the kernel's gpio-sim, and configfs")
    chip = SimulatedChip()
    try:
        yield chip
    finally:
        chip.close()
