"""A pulse on a GPIO line for each NG."""

from __future__ import annotations

import threading
import time
from typing import Any

from agp_edge.errors import InputError
from agp_edge.gpio import HINT, import_gpiod, parse_line, reason
from agp_edge.sinks.base import Judgement, Sink

PULSE_MS = 100.0
LONGEST_PULSE_MS = 60_000.0
EXAMPLE = "gpio://gpiochip0/17?pulse_ms=100&active_low=1"


class GpioSink(Sink):
    """`gpio://CHIP/LINE?pulse_ms=100&active_low=1`: the line is active for so long at each NG, and inactive otherwise.

    Between two pulses it rests for as long as a pulse, so that a controller sees as many as there were. The line is held
    while the stream runs, and inactive when it ends. A chip that went away (on USB) is asked for again at the next NG.

    Args:
        url: the chip is the name of a device in /dev, or its number; the line a number, or the name that the board gives it.

    Raises:
        InputError: the URL is none, there is no such chip or line, another process has it, or this user may not use it.
        MissingExtraError: gpiod is not installed.
    """

    def __init__(self, url: str) -> None:
        self.name = f"--on-ng {url}"
        self._line = parse_line(url, "--on-ng", {"pulse_ms", "active_low"}, EXAMPLE)
        self._pulse_s = self._line.milliseconds("pulse_ms", PULSE_MS, LONGEST_PULSE_MS) / 1000
        self._active_low = self._line.one_of("active_low", ("0", "1"), "0") == "1"
        self._gpiod, self._values = import_gpiod("a pulse on a GPIO line")
        self._closing = threading.Event()
        # A pulse may be ended from another thread, and gpiod's objects are not safe for two.
        self._lock = threading.Lock()
        self._rested_at = 0.0
        self._pulses = 0
        self._request: Any = None
        self._request = self._open()

    def write(self, judgement: Judgement) -> None:
        """Give a pulse, if it is NG; this takes as long as the pulse.

        Raises:
            InputError: the line cannot be set any more.
        """
        if judgement.verdict != "NG":
            return
        self._closing.wait(max(0.0, self._rested_at - time.monotonic()))
        try:
            with self._lock:
                if self._request is None and not self._closing.is_set():
                    self._request = self._open()
            self._set(active=True)
            self._closing.wait(self._pulse_s)
            self._set(active=False)
        except OSError as error:
            self._release()
            raise InputError(f"{self.name} cannot be set: {reason(error)}", HINT) from error
        self._rested_at = time.monotonic() + self._pulse_s
        self._pulses += 1

    def close(self) -> None:
        """End a pulse, and give the line back."""
        self._closing.set()
        self._release()

    def describe(self) -> str:
        """How many pulses there were."""
        return f"{self._pulses} pulses of {self.name}" if self._pulses else ""

    def _open(self) -> Any:
        settings = self._gpiod.LineSettings(
            direction=self._values.Direction.OUTPUT,
            output_value=self._values.Value.INACTIVE,
            active_low=self._active_low,
        )
        try:
            return self._gpiod.request_lines(
                self._line.find_chip(self._gpiod), {self._line.line: settings}, consumer="agp-edge"
            )
        except (OSError, ValueError) as error:
            group = " and that this user is in its group" if isinstance(error, PermissionError) else ""
            raise InputError(
                f"{self.name} cannot be used: {reason(error)}",
                f"see that {self._line.path} is there{group}, and that nobody else has the line; {HINT}",
            ) from error

    def _set(self, *, active: bool) -> None:
        value = self._values.Value.ACTIVE if active else self._values.Value.INACTIVE
        with self._lock:
            if self._request is not None:
                self._request.set_value(self._line.line, value)

    def _release(self) -> None:
        with self._lock:
            request, self._request = self._request, None
            if request is None:
                return
            try:
                # Whether a driver keeps the last value of a line that nobody holds is up to it.
                request.set_value(self._line.line, self._values.Value.INACTIVE)
            except OSError:
                pass  # The chip is gone.
            finally:
                request.release()
