"""Talking to systemd: ready, alive, reloading, stopping (sd_notify(3), sd_watchdog_enabled(3)).

The protocol is one datagram of `NAME=value` lines to the socket that `$NOTIFY_SOCKET` names. Where nobody set that, nothing
is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from types import TracebackType

STATUS_INTERVAL_S = 5.0


class Supervisor:
    """Whoever started this process and wants to know how it does.

    The watchdog is fed by whoever does the work, so it goes hungry when the work hangs, and at half the time that it
    allows, as sd_watchdog_enabled(3) advises.

    Args:
        environment: has `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, if there is a supervisor.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            # An abstract address begins with a NUL, which an environment variable cannot hold.
            self._address = "\0" + address[1:] if address[0] == "@" else address
            self._socket.setblocking(False)
        self._every_s: float | None = None
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        allowed = environment.get("WATCHDOG_USEC", "")
        if mine and allowed.isdecimal() and int(allowed):
            self._every_s = int(allowed) / 2e6
        self._fed = self._told = float("-inf")

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return self._socket is not None

    def ready(self) -> None:
        """The service has begun."""
        self._send("READY=1")

    def alive(self, status: str) -> None:
        """The work goes on; call it often.

        Args:
            status: one line for `systemctl status`.
        """
        now = time.monotonic()
        if self._every_s is not None and now - self._fed >= self._every_s:
            self._fed = now
            self._send("WATCHDOG=1")
        if now - self._told >= STATUS_INTERVAL_S:
            self._told = now
            # A name of a file may hold whatever it likes; a new line would begin another message.
            self._send(f"STATUS={' '.join(status.split())}")

    def reloading(self) -> None:
        """A reload was asked for and has begun; `ready` says that it is over (Type=notify-reload)."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Let go; safe to call twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            # A supervisor that does not listen is no reason to stop the line.
            with contextlib.suppress(OSError):
                self._socket.sendto(text.encode("utf-8", "replace"), self._address)
