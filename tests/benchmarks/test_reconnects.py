from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agp_edge.sources import reader
from agp_edge.sources.base import Frame, Source
from benchmarks.reconnects import HELD, http_camera, lose, main, summary


class Leaky(Source):
    """A camera that keeps a file open each time it is opened."""

    live = True

    def __init__(self, inner: Source) -> None:
        self.name, self.fps = inner.name, None
        self._inner = inner
        self.kept: list[int] = []

    def open(self) -> None:
        self.kept.append(os.open(os.devnull, os.O_RDONLY))
        self._inner.open()

    def read(self) -> Frame | None:
        return self._inner.read()

    def close(self) -> None:
        self._inner.close()


def test_what_is_left_behind_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agp_edge.sources.reader.FIRST_DELAY_S", 0.01)
    with http_camera() as (inner, break_it, but):
        source = Leaky(inner)
        try:
            result = summary(*lose(source, break_it, 30, but, lambda text: None))
        finally:
            for fd in source.kept:
                os.close(fd)
    held = result["held"]
    assert held["descriptors"]["a_reconnect"] == pytest.approx(1, abs=0.2)
    assert abs(held["threads"]["a_reconnect"]) < 0.1
    assert result["reconnects"] == 30
    assert result["captured"] == result["taken"] + result["dropped"]


def test_it_runs_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "reconnects.json"
    assert main(["--cycles", "40", "--camera", "http", "--json", str(result)]) == 0
    report = json.loads(result.read_text())
    camera = report["cameras"]["http"]
    assert camera["reconnects"] == 40
    assert set(camera["held"]) == set(HELD)
    assert camera["until_next_frame_s"]["p50"] > 0
    assert "secret" not in json.dumps(report)
    assert "a reconnect" in capsys.readouterr().out
    assert reader.FIRST_DELAY_S == 0.5, "delays are as they were"


def test_too_few_say_nothing() -> None:
    assert main(["--cycles", "3"]) == 2
