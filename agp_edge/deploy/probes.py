"""Questions that only a library itself can answer, each asked in a process of its own.

A library that is half installed may end its process or hang when it is imported, and a driver may when it is called.
Here that costs one answer. The processes run together, and the wait for all of them has an end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

IDLE_SECONDS = 0.3
"""A probe that neither answers nor works for so long hangs. Short: on a quiet machine doctor ends within a second."""

DRIVER_SECONDS = 2.0
"""The same for a driver, which sleeps while it wakes a GPU."""

MOST_SECONDS = 8.0
"""No probe gets longer, even one that works: a first import from a slow card takes seconds, an endless loop for ever."""

NO_ANSWER = "did not answer"

_POLL_SECONDS = 0.01
_MARK = "agp-edge answers "

# Without the current folder on the path: a folder called like a library is not the library. It leaves without
# tidying up, which is quicker, and a library that crashes at its end has answered all the same.
_PROGRAM = f"""
import json, os, sys
sys.path = [p for p in sys.path if p]
%s
sys.stdout.write("\\n{_MARK}" + json.dumps(answer) + "\\n")
sys.stdout.flush()
os._exit(0)
"""


class Probes:
    """Probes that were started together; leaving the `with` ends those that still run.

    Args:
        questions: name -> a few lines of Python that leave a dict called `answer`.
        drivers: names of those that ask a driver.
    """

    def __init__(self, questions: Mapping[str, str], drivers: Collection[str] = ()) -> None:
        self._probes = {
            name: _Probe(code, DRIVER_SECONDS if name in drivers else IDLE_SECONDS)
            for name, code in questions.items()
        }

    def answers(self) -> dict[str, dict[str, Any] | str]:
        """Wait for all of them.

        Returns:
            name -> what it found, or in a few words why there is nothing.
        """
        while any(probe.is_busy() for probe in self._probes.values()):
            time.sleep(_POLL_SECONDS)
        return {name: probe.answer() for name, probe in self._probes.items()}

    def close(self) -> None:
        """End what still runs; safe to call twice."""
        for probe in self._probes.values():
            probe.close()

    def __enter__(self) -> Probes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Probe:
    def __init__(self, code: str, patience: float) -> None:
        self._patience = patience
        # Files, not pipes: a pipe can fill up, and a grandchild that lives on would keep it open. Files in memory:
        # a full disk is one of the things that doctor is asked about.
        self._files = contextlib.ExitStack()
        self._out, self._error = (
            self._files.enter_context(os.fdopen(os.memfd_create(name), "w+", errors="replace"))
            for name in ("answer", "error")
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM % code],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._error,
            start_new_session=True,
        )
        self._started = self._worked = time.monotonic()
        self._ticks = -1

    def is_busy(self) -> bool:
        """Whether it is worth waiting for."""
        if self._process.poll() is not None:
            return False
        now = time.monotonic()
        state, ticks = _state_of(self._process.pid)
        # It works if it used the processor since, waits for its turn (R), or for a disk or a device (D).
        if ticks != self._ticks or state in "RD":
            self._ticks, self._worked = ticks, now
        return now - self._worked < self._patience and now - self._started < MOST_SECONDS

    def answer(self) -> dict[str, Any] | str:
        code = self._process.poll()
        if code is None:
            return NO_ANSWER
        for line in reversed(_text(self._out).splitlines()):
            if line.startswith(_MARK):
                found: dict[str, Any] = json.loads(line[len(_MARK) :])
                return found
        if code < 0:
            return f"died of {_signal_name(-code)}"
        lines = _text(self._error).strip().splitlines()
        return lines[-1][:200] if code and lines else f"ended with exit code {code} and no answer"

    def close(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            # A process that a driver holds cannot be killed; it is left behind, not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)
        self._files.close()


def _state_of(pid: int) -> tuple[str, int]:
    """State of a process and the clock ticks that it used so far; as if it worked where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        return "R", 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _text(file: TextIO) -> str:
    file.seek(0)
    return file.read()
