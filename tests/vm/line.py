"""`agp-edge stream` in a process of its own, as a unit of a line runs it, watched from outside."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST_WAIT_S = 180.0
"""Without KVM, on a machine that has other work, a start of Python takes half a minute."""


def wait_for(what: str, is_so: Callable[[], object], timeout_s: float = LONGEST_WAIT_S) -> float:
    """Wait until something is so; the seconds that it took."""
    begin = time.monotonic()
    while not is_so():
        if time.monotonic() - begin > timeout_s:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.01)
    return time.monotonic() - begin


def engine(size: str = "320x180") -> Path:
    """The engine for frames of a size."""
    words = dict(word.split("=", 1) for word in Path("/proc/cmdline").read_text().split() if "=" in word)
    return next((Path(words["vm_engines"]) / size).glob("*.engine"))


class Line:
    """One running stream.

    Args:
        source: flags that name the source.
        flags: others.
    """

    def __init__(self, *source: str, flags: tuple[str, ...] = (), size: str = "320x180") -> None:
        self._folder = Path("/tmp") / f"line-{time.monotonic_ns()}"
        self._folder.mkdir()
        self.verdicts_path = self._folder / "verdicts.jsonl"
        self._log = (self._folder / "log").open("wb")
        self.process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "agp-edge"), "stream", *source, "--engine", str(engine(size)),
                "--jsonl", str(self.verdicts_path), "--json", str(self._folder / "summary.json"), *flags,
            ],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        """What it printed."""
        return (self._folder / "log").read_text(errors="replace")

    def count(self) -> int:
        """Verdicts so far."""
        if self.process.poll() not in (None, 0):
            raise AssertionError(f"the stream ended with {self.process.returncode}: {self.log}")
        return self.verdicts_path.read_bytes().count(b"\n") if self.verdicts_path.exists() else 0

    def verdicts(self) -> list[dict[str, Any]]:
        """The verdicts so far; events are left out."""
        lines = [json.loads(line) for line in self.verdicts_path.read_text().splitlines()]
        return [line for line in lines if "verdict" in line]

    def wait_for_more(self, number: int = 1) -> float:
        """Wait for so many further verdicts; the seconds that it took."""
        goal = self.count() + number
        try:
            return wait_for(f"{number} verdicts", lambda: self.count() >= goal)
        except AssertionError as error:
            raise AssertionError(f"{error}; the stream says: {self.log[-2000:]}") from None

    def footprint(self) -> dict[str, int]:
        """Memory (KiB), open files and threads of the process."""
        proc = Path(f"/proc/{self.process.pid}")
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
        )
        return {
            "rss_kib": int(status["VmRSS"].split()[0]),
            "files": len(list((proc / "fd").iterdir())),
            "threads": int(status["Threads"]),
        }

    def stop(self) -> dict[str, Any]:
        """SIGTERM; its summary, with `exit_code` and `stop_seconds` added."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        took = time.monotonic() - begin
        place = self._folder / "summary.json"
        summary = json.loads(place.read_text()) if place.exists() else {}
        return summary | {"exit_code": code, "stop_seconds": round(took, 2)}
