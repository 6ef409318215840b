"""Triggers by a GPIO line: an edge says that a part lies before the camera, and the kernel says when it came."""

from __future__ import annotations

import datetime
import os
import select
import threading
import time
from typing import Any

from agp_edge.errors import InputError
from agp_edge.events import Event, OnEvent, nobody
from agp_edge.gpio import HINT, import_gpiod, parse_line, reason
from agp_edge.triggers.base import Fire, Trigger

EDGES = ("rising", "falling", "both")
BIASES = ("pull-up", "pull-down", "disabled")
LONGEST_DEBOUNCE_MS = 1000.0
AGAIN_S = 1.0
EVENTS_AT_ONCE = 64
EXAMPLE = "gpio://gpiochip0/17?edge=rising&debounce_ms=5"


class GpioTrigger(Trigger):
    """An edge of `gpio://CHIP/LINE?edge=rising&bias=pull-up&debounce_ms=5`.

    The chip is the name of a device in /dev (or its number), the line a number or the name that the board gives it. The time of
    an edge is the kernel's, on the monotonic clock, so that it does not depend on when this process was next awake. With
    `debounce_ms` it is the time when the line had been still for so long.

    A chip that goes away (on USB) is looked for again every second.

    Raises:
        InputError: the URL is none.
        MissingExtraError: there is no gpiod.
    """

    def __init__(self, url: str) -> None:
        self.name = url
        self._line = parse_line(url, "--trigger", {"edge", "bias", "debounce_ms"}, EXAMPLE)
        self._edge = self._line.one_of("edge", EDGES, "rising")
        self._bias = self._line.one_of("bias", BIASES, "")
        debounce_ms = self._line.milliseconds("debounce_ms", 0.0, LONGEST_DEBOUNCE_MS)
        self._debounce = datetime.timedelta(milliseconds=debounce_ms)
        self._gpiod, self._values = import_gpiod("a trigger by GPIO")
        self._request: Any = None
        self._stop_read, self._stop_write = -1, -1
        self._thread: threading.Thread | None = None

    def start(self, fire: Fire, on_event: OnEvent = nobody) -> None:
        """Begin.

        Raises:
            InputError: there is no such chip or line, another process has it, or this user may not use it.
        """
        self._fire, self._on_event = fire, on_event
        try:
            self._request = self._open()
        except (OSError, ValueError) as error:
            # ValueError: gpiod's, for a name that no line has.
            raise InputError(f"--trigger {self.name} cannot be used: {reason(error)}", HINT) from None
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="gpio trigger", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the line back."""
        if self._thread is not None:
            os.write(self._stop_write, b"x")
            self._thread.join()
            self._thread = None
            os.close(self._stop_write)
            os.close(self._stop_read)

    def _open(self) -> Any:
        edge = getattr(self._values.Edge, self._edge.upper())
        bias = getattr(self._values.Bias, self._bias.upper().replace("-", "_") or "AS_IS")
        settings = self._gpiod.LineSettings(
            direction=self._values.Direction.INPUT,
            edge_detection=edge,
            bias=bias,
            debounce_period=self._debounce,
            event_clock=self._values.Clock.MONOTONIC,
        )
        return self._gpiod.request_lines(
            self._line.find_chip(self._gpiod), {self._line.line: settings}, consumer="agp-edge"
        )

    def _run(self) -> None:
        lost_at: float | None = None
        while True:
            try:
                if self._request is None:
                    self._request = self._open()
                    gap_s = round(time.monotonic() - (lost_at or 0.0), 3)
                    lost_at = None
                    text = f"{self.name}: triggers can come again"
                    self._on_event(Event("trigger-back", text, level="info", data={"gap_s": gap_s}))
                ready = self._wait(self._request.fd, AGAIN_S)
                if self._stop_read in ready:
                    break
                if ready:
                    self._fire_all()
                else:
                    # A chip that is unplugged wakes nobody with Linux 6.1; asked for a level, it is told.
                    self._request.get_value(self._line.line)
            except (OSError, ValueError) as error:
                self._release()
                if lost_at is None:
                    lost_at = time.monotonic()
                    self._on_event(Event("trigger-lost", f"{self.name}: {reason(error)}", level="error"))
                if self._stop_read in self._wait(None, AGAIN_S):
                    break
        self._release()

    def _wait(self, line: int | None, timeout_s: float) -> set[int]:
        """Wait for an edge, for the time, or for the end; which of the two file descriptors are ready."""
        poll = select.poll()
        poll.register(self._stop_read, select.POLLIN)
        if line is not None:
            poll.register(line, select.POLLIN)
        return {fd for fd, _ in poll.poll(timeout_s * 1000)}

    def _fire_all(self) -> None:
        for edge in self._request.read_edge_events(EVENTS_AT_ONCE):
            try:
                self._fire(at_ns=edge.timestamp_ns)
            except InputError as error:
                self._on_event(Event("trigger-refused", f"{self.name}: {error.what}"))

    def _release(self) -> None:
        if self._request is not None:
            self._request.release()
            self._request = None
