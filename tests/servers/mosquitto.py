"""A real broker on loopback: Debian's mosquitto, which can be killed and come back at the same port."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

WAIT_S = 60.0


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Mosquitto:
    """One broker.

    Args:
        folder: for its configuration.
        lines: of the configuration, beside the listener.
        users: name -> password; without them anybody may come in.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    def __init__(
        self, folder: Path, lines: Sequence[str] = (), users: Mapping[str, str] | None = None
    ) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        if program is None:
            pytest.skip("a real broker needs mosquitto: apt install mosquitto")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "mosquitto.log"
        self._passwords = folder / "passwords"
        config = folder / "mosquitto.conf"
        # As root it becomes a user who may not read the test's folder.
        lines = ["user root", "log_dest stderr", f"listener {self.port} 127.0.0.1", *lines]
        lines.append(f"allow_anonymous {'true' if users is None else 'false'}")
        if users is not None:
            self.let_in(users)
            lines.append(f"password_file {self._passwords}")
        config.write_text("\n".join(lines) + "\n")
        self._command = [program, "-c", str(config)]

    def let_in(self, users: Mapping[str, str]) -> None:
        """Have these users and no others, from now on."""
        self._passwords.write_text("")
        self._passwords.chmod(0o600)
        for user, password in users.items():
            subprocess.run(
                ["mosquitto_passwd", "-b", self._passwords, user, password], check=True, capture_output=True
            )
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        """Start it, or start it again."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log)
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.02)
        pytest.fail("mosquitto does not listen")

    def freeze(self, *, on: bool) -> None:
        """Have it hang with all its connections open, or go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut does; safe where it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running(broker: Mosquitto) -> Iterator[Mosquitto]:
    """It runs inside the `with`."""
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
