"""What sinks to files have in common: what cannot be written, what is left behind, what they say at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agp_edge.clock import rfc3339_ms
from agp_edge.errors import InputError
from agp_edge.sinks import Judgement
from agp_edge.sinks.jsonl import JsonlSink
from agp_edge.sinks.rejects import RejectsSink
from agp_edge.sinks.video import VideoSink


def test_times_are_utc_with_milliseconds() -> None:
    assert rfc3339_ms(0) == "1970-01-01T00:00:00.000Z"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        JsonlSink(str(tmp_path / "file" / "x.jsonl"))
    with pytest.raises(InputError):
        RejectsSink(tmp_path / "file" / "x")
    with pytest.raises(InputError):
        VideoSink(tmp_path / "file" / "x.webm", (64, 48), 10)


def test_what_nothing_was_written_to_is_not_left_behind(tmp_path: Path, judgement: Judgement) -> None:
    pytest.importorskip("cv2")
    (tmp_path / "there").mkdir()
    (tmp_path / "there.jsonl").touch()
    old = tmp_path / "old.webm"
    for closes_empty in (False, True):
        sinks = [
            JsonlSink(str(tmp_path / "new.jsonl")), JsonlSink(str(tmp_path / "there.jsonl")),
            RejectsSink(tmp_path / "new"), RejectsSink(tmp_path / "there"), VideoSink(old, (64, 48), 10),
        ]  # fmt: skip
        if closes_empty:
            before = old.read_bytes()
        else:
            sinks[-1].write(judgement)
        for sink in sinks:
            sink.close()
            sink.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.webm", "there", "there.jsonl"]
    assert old.read_bytes() == before, "the earlier video is replaced by frames only"
    assert not any(sink.describe() for sink in sinks)


def test_sinks_say_what_went_where(tmp_path: Path, judgement: Judgement) -> None:
    pytest.importorskip("cv2")
    lines, folder, video = tmp_path / "v.jsonl", tmp_path / "ng", tmp_path / "line.webm"
    sinks = [JsonlSink(str(lines)), RejectsSink(folder), VideoSink(video, (64, 48), 10)]
    for sink in sinks:
        sink.write(judgement)
        sink.write(replace(judgement, verdict="OK"))
        sink.close()
    assert [sink.describe() for sink in sinks] == [
        f"2 verdicts appended to {lines}", f"1 rejects in {folder}", f"2 frames in {video}",
    ]  # fmt: skip
