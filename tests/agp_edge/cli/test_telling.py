"""What a long run says on stderr: nothing of it may hold the work up."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agp_edge.cli import telling
from agp_edge.cli.telling import Teller
from agp_edge.errors import InputError
from agp_edge.events import Event


class Pipe:
    """stderr as a pipe whose reader is the test."""

    def __init__(self) -> None:
        self.reads, self._writes = os.pipe()
        self._file = open(self._writes, "w", closefd=False)  # noqa: SIM115 - closed by `close`
        os.set_blocking(self.reads, False)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From within the test: between a test and its fixtures pytest sets stderr itself."""
        monkeypatch.setattr(sys, "stderr", self._file)

    def fill(self) -> None:
        os.set_blocking(self._writes, False)
        try:
            while True:
                os.write(self._writes, b"x" * 512)
        except BlockingIOError:
            os.set_blocking(self._writes, True)

    def read(self) -> str:
        text = b""
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                text += os.read(self.reads, 1 << 16)
            except BlockingIOError:
                time.sleep(0.01)
        return text.decode()

    def close(self) -> None:
        self._file.close()
        os.close(self._writes)
        os.close(self.reads)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_lines_come_in_order_and_whole(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.use(monkeypatch)
    with Teller("text") as teller:
        for i in range(20):
            teller.event(Event("stopping", f"line {i}"))
    told = pipe.read().splitlines()
    assert [line[9:] for line in told] == [f"line {i}" for i in range(20)]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", line[:8]) for line in told), "with the time of day"
    assert sys.stderr.name == pipe._writes, "somebody reads: what is said later goes there too"
    teller.say("after the end")
    teller.close()
    assert pipe.read() == ""


def test_json_lines(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.use(monkeypatch)
    with Teller("json") as teller:
        teller.event(Event("clock-set", "the clock", data={"step_s": 2.0}))
    assert json.loads(pipe.read())["step_s"] == 2.0


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_nobody_reads_is_lost_and_that_is_said(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    pipe.use(monkeypatch)
    monkeypatch.setattr(telling, "MOST_LINES", 5)
    pipe.fill()
    with Teller(log_format) as teller:
        for i in range(50):
            teller.say(f"line {i}")
        said = pipe.read()
    assert "lines were lost here" in said
    assert [line for line in said.splitlines() if line.startswith("line ")][-5:] == [
        f"line {i}" for i in range(45, 50)
    ], "the newest are told"


def test_an_end_that_nobody_reads(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.use(monkeypatch)
    pipe.fill()
    with Teller("text") as teller:
        teller.say("x" * 5000)
    assert sys.stderr.name == os.devnull, "what is said at the end hangs nowhere"
    print("this returns", file=sys.stderr)
    sys.stderr.close()


def test_no_file_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    with Teller("text") as teller:
        teller.say("as in a test")
    assert text.getvalue() == "as in a test\n"


def test_a_format_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="xml"):
        Teller("xml")
