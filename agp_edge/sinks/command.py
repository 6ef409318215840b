"""What is done for each NG: a command of the user's, or a pulse on a GPIO line."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
from typing import IO

from agp_edge.clock import rfc3339_ms
from agp_edge.errors import InputError, quote
from agp_edge.files import to_json
from agp_edge.sinks.base import Judgement, Sink
from agp_edge.sources.uri import redact

TIMEOUT_S = 10.0
GRACE_S = 0.5
"""Between asking a command to end and ending it."""

LOOK_S = 0.02
TAIL_BYTES = 4096

PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "PULSE_SERVER",
)  # fmt: skip
"""What a command gets of the stream's own environment, where cameras' passwords and a service manager's sockets are too."""


def on_ng_sink(text: str) -> Sink:
    """The sink of `--on-ng`: `gpio://CHIP/LINE` or a command.

    Raises:
        InputError: there is no such command, chip or line.
        MissingExtraError: GPIO without gpiod.
    """
    if text.lower().startswith("gpio://"):
        from agp_edge.sinks.gpio import GpioSink

        return GpioSink(text)
    return CommandSink(text)


class CommandSink(Sink):
    """A command that runs for each NG, one at a time.

    It is split as a shell would split it, but there is no shell: no `|`, no `>`, no `$NAME`. The verdict comes as JSON, one
    line on its stdin, and in part as variables: AGP_EDGE_VERDICT, _SOURCE, _FRAME, _SCORE, _THRESHOLD, _TIME, and
    _PART and _ROI where there are. What it prints is read and thrown away, but for the last line of one that fails.

    Args:
        command: program and arguments.
        timeout_s: a command that takes longer is ended, with all that it started.

    Raises:
        InputError: it is empty, cannot be split, or there is no such program.
    """

    def __init__(self, command: str, timeout_s: float = TIMEOUT_S) -> None:
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise InputError(f"--on-ng has a quote without its end: {error}", "quote it anew") from None
        program = self._arguments[0] if self._arguments else ""
        # Only the program is ever told: a password may be among the arguments.
        self.name = f"--on-ng {os.path.basename(program)}"  # noqa: PTH119
        if not program or shutil.which(program) is None:
            raise InputError(
                f"--on-ng {program!r} is no program that can be run",
                "give the path of one, and its arguments",
            )
        self._timeout_s = timeout_s
        self._runs = self._failed = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        # A stream that ends while a command hangs does not wait for it; the command must not outlive it all the same.
        atexit.register(self._end_process)

    def write(self, judgement: Judgement) -> None:
        """Run the command, if it is NG, and wait for it.

        Raises:
            InputError: it failed, did not end in time, or cannot be run any more.
        """
        if judgement.verdict != "NG" or self._closing.is_set():
            return
        self._runs += 1
        try:
            self._run(judgement)
        except BaseException:
            self._failed += 1
            raise

    def close(self) -> None:
        """End a command that runs."""
        self._closing.set()
        self._end_process()
        atexit.unregister(self._end_process)

    def describe(self) -> str:
        """How often it ran, and how often it failed."""
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._runs} runs of {self.name}{failed}" if self._runs else ""

    def _run(self, judgement: Judgement) -> None:
        line = to_json(judgement.to_dict(), indent=None).encode()
        # A file in memory and no pipe: a command that does not read its stdin must not hold anything up.
        stdin = os.memfd_create("agp-edge verdict", os.MFD_CLOEXEC)
        try:
            os.write(stdin, line)
            os.lseek(stdin, 0, os.SEEK_SET)
            with self._lock:
                process = self._process = subprocess.Popen(
                    self._arguments,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=environment(judgement),
                    start_new_session=True,
                )
        except OSError as error:
            raise InputError(
                f"{self.name} cannot be run: {error.strerror or error}", "see that it is there and may be run"
            ) from error
        finally:
            os.close(stdin)
        assert process.stdout is not None
        with process.stdout:
            said = self._wait(process, process.stdout)
        self._end_process()
        if self._closing.is_set():
            return
        if said is None:
            raise InputError(
                f"{self.name} did not end within {self._timeout_s:g} s, and was ended",
                "have it start in the background what takes longer",
            )
        if code := process.returncode:
            how = f"ended with {code}" if code > 0 else f"was ended by {_signal_name(-code)}"
            raise InputError(f"{self.name} {how}{': ' if said else ''}{said}", "run it by hand to see why")

    def _wait(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> str | None:
        """Wait for the end of a command, reading what it prints; its last line, None if it had to be ended.

        Not for the end of its output: what it leaves in the background may hold that open for long.
        """
        until = time.monotonic() + self._timeout_s
        tail, open_yet = b"", True
        os.set_blocking(output.fileno(), False)
        while process.poll() is None:
            if time.monotonic() >= until or self._closing.is_set():
                return None
            if open_yet and select.select([output], [], [], LOOK_S)[0]:
                read = output.read(1 << 16)
                open_yet = read != b""
                tail = (tail + (read or b""))[-TAIL_BYTES:]
            elif not open_yet:
                self._closing.wait(LOOK_S)
        if open_yet:
            tail = (tail + (output.read(1 << 16) or b""))[-TAIL_BYTES:]
        lines = tail.decode(errors="replace").strip().splitlines()
        return redact(quote(lines[-1])) if lines else ""

    def _end_process(self) -> None:
        """End the command and what it started, if it still runs: first asked, then by force."""
        with self._lock:
            process, self._process = self._process, None
            if process is None or process.poll() is not None:
                return
            # The group may be larger than the command, and goes on without it: so it is ended in any case.
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)


def environment(judgement: Judgement) -> dict[str, str]:
    """What a command finds in its environment: what is `PASSED_ON`, and the verdict."""
    said = {
        "VERDICT": judgement.verdict,
        "SOURCE": judgement.source,
        "FRAME": str(judgement.frame),
        "SCORE": repr(judgement.score),
        "THRESHOLD": repr(judgement.threshold),
        "TIME": rfc3339_ms(judgement.wall_s),
    }
    if judgement.part is not None:
        said["PART"] = judgement.part
    if judgement.roi is not None:
        said["ROI"] = judgement.roi[0]
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # A zero byte, which a part's id from elsewhere might hold, cannot be in a variable.
    return kept | {f"AGP_EDGE_{name}": text.replace("\0", "") for name, text in said.items()}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
