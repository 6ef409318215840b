"""JSON lines: whole whatever happens, rotated, and gone on with after every trouble."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import DiskFullError, InputError
from agp_edge.sinks import Judgement
from agp_edge.sinks.jsonl import JsonlSink, parse_fsync

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


def frames_in(path: Path) -> list[int]:
    text = path.read_text()
    assert not text or text.endswith("\n")
    return [json.loads(line)["frame"] for line in text.splitlines()]


def test_a_line_has_the_agreed_keys(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "new" / "verdicts.jsonl"
    sink = JsonlSink(str(path))
    sink.write(judgement)
    # Before it is closed: a line is in the file at once.
    (line,) = path.read_text().splitlines()
    sink.close()
    sink.close()
    assert json.loads(line) == {
        "time": "2026-02-02T02:39:59.123Z",
        "clock": "arrival",
        "source": "rtsp://admin:***@10.0.0.5/live",
        "frame": 42,
        "verdict": "NG",
        "score": 0.98,
        "threshold": 0.4,
        "p_value": 0.01,
        "regions": [[24, 16, 16, 16, 0.98]],
        "latency_ms": judgement.latency_ms,
        "engine": "0123456789ab",
    }


def test_a_score_that_is_no_number_is_null(judgement: Judgement) -> None:
    assert replace(judgement, score=float("nan")).to_dict()["score"] is None


@pytest.mark.parametrize("left_behind", [b"", b'{"frame": 1}\n', b'{"frame": 1}\n{"fra', b'{"fra'])
def test_an_existing_file_is_gone_on_with(tmp_path: Path, judgement: Judgement, left_behind: bytes) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(left_behind)
    sink = JsonlSink(str(path))
    sink.write(judgement)
    sink.close()
    frames = [json.loads(line)["frame"] for line in path.read_text().splitlines()]
    assert frames == ([1, 42] if b"}\n" in left_behind else [42])


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG and so on")
    with pytest.raises(InputError, match=r"photo\.png"):
        JsonlSink(str(path))
    assert path.read_bytes() == b"\x89PNG and so on"


@pytest.mark.parametrize("more", [0, 3 << 20], ids=["short", "longer than what is read at once"])
def test_of_a_half_line_nothing_stays(tmp_path: Path, judgement: Judgement, more: int) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(b'{"frame": 1}\n{"fra' + b"x" * more)
    sink = JsonlSink(str(path))
    sink.write(judgement)
    sink.close()
    assert frames_in(path) == [1, 42]


@pytest.mark.parametrize("left_behind", [b"\0" * 5000, b'{"frame": 1}\n' + b"\0" * 5000])
def test_zeros_of_a_power_cut_are_cut_off(tmp_path: Path, judgement: Judgement, left_behind: bytes) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(left_behind)
    sink = JsonlSink(str(path))
    sink.write(judgement)
    sink.close()
    assert frames_in(path) == ([1, 42] if left_behind[0] else [42])


def test_a_last_line_that_lacks_its_end_alone_gets_it(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_bytes(b'{"frame": 1}\n{"frame": 2}')
    sink = JsonlSink(str(path))
    sink.write(judgement)
    sink.close()
    assert frames_in(path) == [1, 2, 42]


@pytest.mark.parametrize("content", [b'{\n  "indented": 1\n}\n', b"[1]\n", b"{no json}\n", b"text"])
def test_other_json_is_not_touched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no JSON lines"):
        JsonlSink(str(path))
    assert path.read_bytes() == content


def test_it_goes_on_when_a_full_disk_has_room_again(
    small_disk: Any, judgement: Judgement, fill: Callable[..., int]
) -> None:
    small_disk.leave(64 << 10)
    path = small_disk.path / "verdicts.jsonl"
    sink = JsonlSink(str(path))
    written = fill(sink, (replace(judgement, frame=i) for i in range(10_000)))
    assert written > 50
    for _ in range(3):
        with pytest.raises(DiskFullError):
            sink.write(judgement)
    assert frames_in(path) == list(range(written)), "whole lines, while the disk is full"
    small_disk.leave(1 << 20)
    sink.write(replace(judgement, frame=written))
    sink.close()
    assert frames_in(path) == list(range(written + 1))


def test_files_are_rotated_by_size_and_the_oldest_goes(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "verdicts.jsonl"
    length = len(json.dumps(judgement.to_dict())) + 1
    sink = JsonlSink(str(path), rotate_bytes=3 * length + length // 2, keep=2)
    for i in range(10, 21):
        sink.write(replace(judgement, frame=i))
    sink.close()
    assert {p.name: frames_in(p) for p in tmp_path.iterdir()} == {
        "verdicts.jsonl": [19, 20], "verdicts.jsonl.1": [16, 17, 18], "verdicts.jsonl.2": [13, 14, 15],
    }  # fmt: skip
    # A restart goes on with the file that is there.
    sink = JsonlSink(str(path), rotate_bytes=3 * length + length // 2, keep=2)
    for i in (21, 22):
        sink.write(replace(judgement, frame=i))
    sink.close()
    assert frames_in(path) == [22]
    assert frames_in(tmp_path / "verdicts.jsonl.1") == [19, 20, 21]


def test_a_rotation_that_was_cut_short_loses_nothing(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "v.jsonl"
    # As after a kill between `.1` -> `.2` and `FILE` -> `.1`; nothing is yet in the way of `FILE`.
    for name, frame in (("v.jsonl", 3), ("v.jsonl.2", 2), ("v.jsonl.3", 1)):
        (tmp_path / name).write_text(f'{{"frame": {frame}}}\n')
    sink = JsonlSink(str(path), rotate_bytes=1, keep=3)
    sink.write(judgement)
    sink.close()
    assert {p.name: frames_in(p) for p in tmp_path.iterdir()} == {
        "v.jsonl": [42], "v.jsonl.1": [3], "v.jsonl.2": [2], "v.jsonl.3": [1],
    }  # fmt: skip


def test_a_line_longer_than_the_limit_has_a_file_of_its_own(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "v.jsonl"
    sink = JsonlSink(str(path), rotate_bytes=10, keep=5)
    for i in range(3):
        sink.write(replace(judgement, frame=i))
    sink.close()
    assert {p.name: frames_in(p) for p in tmp_path.iterdir()} == {
        "v.jsonl": [2], "v.jsonl.1": [1], "v.jsonl.2": [0],
    }  # fmt: skip


def test_logrotate_may_move_the_file_away(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "v.jsonl"
    sink = JsonlSink(str(path))
    sink.write(replace(judgement, frame=1))
    path.rename(tmp_path / "moved.jsonl")
    sink.write(replace(judgement, frame=2))
    # And `copytruncate`.
    os.truncate(path, 0)
    sink.write(replace(judgement, frame=3))
    sink.close()
    assert frames_in(tmp_path / "moved.jsonl") == [1]
    assert frames_in(path) == [3]


def test_a_folder_that_went_is_made_again(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "logs" / "v.jsonl"
    sink = JsonlSink(str(path))
    sink.write(judgement)
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    with pytest.raises(InputError):
        sink.write(judgement)
    path.parent.unlink()
    sink.write(judgement)
    sink.close()
    assert frames_in(path) == [42]


@pytest.mark.parametrize("given", [{"rotate_bytes": 0}, {"rotate_bytes": 100, "keep": 0}, {"fsync": "soon"}])
def test_settings_that_make_no_sense(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        JsonlSink(str(tmp_path / "v.jsonl"), **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["-", "/dev/null"])
def test_what_is_no_file_is_not_rotated(target: str) -> None:
    with pytest.raises(InputError, match="rotated"):
        JsonlSink(target, rotate_bytes=100)


@pytest.mark.parametrize(
    ("text", "seconds"), [("never", math.inf), ("every", 0), ("5", 5), ("0.5s", 0.5), ("3600", 3600)]
)
def test_policies_of_fsync(text: str, seconds: float) -> None:
    assert parse_fsync(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "3601", "always", "5 minutes"])
def test_no_policies_of_fsync(text: str) -> None:
    with pytest.raises(InputError, match="--jsonl-fsync"):
        parse_fsync(text)


@pytest.mark.parametrize(("policy", "least", "most"), [("never", 0, 0), ("every", 10, 11), ("60", 1, 1)])
def test_the_disk_is_asked_as_often_as_the_policy_says(
    tmp_path: Path, judgement: Judgement, monkeypatch: pytest.MonkeyPatch, policy: str, least: int, most: int
) -> None:
    asked: list[int] = []
    real = os.fdatasync

    def counted(descriptor: int) -> None:
        asked.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", counted)
    sink = JsonlSink(str(tmp_path / "v.jsonl"), fsync=policy)
    for _ in range(10):
        sink.write(judgement)
    sink.close()
    assert least <= len(asked) <= most


def test_a_disk_that_fails_at_fsync_is_an_error_and_is_tried_again(
    tmp_path: Path, judgement: Judgement, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "v.jsonl"
    sink = JsonlSink(str(path), fsync="every")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(InputError, match="Input/output error"):
            sink.write(judgement)
    sink.write(judgement)
    sink.close()
    assert set(frames_in(path)) == {42}


def test_a_pipe_waits_for_its_reader_and_gets_every_line(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = JsonlSink(str(path))  # Nobody reads yet, and nothing waits.

    def write() -> None:
        for i in range(500):
            sink.write(replace(judgement, frame=i))
        sink.close()

    thread = threading.Thread(target=write)
    thread.start()
    # More than a pipe holds: it is full while nobody reads, and no line is torn.
    with path.open() as reader:
        time.sleep(0.2)
        frames = [json.loads(line)["frame"] for line in reader]
    thread.join(60)
    assert frames == list(range(500))
    assert path.is_fifo()


def test_a_reader_that_goes_and_another_that_comes(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = JsonlSink(str(path))
    for frame in (1, 2):
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        sink.write(replace(judgement, frame=frame))
        assert json.loads(os.read(reader, 65536))["frame"] == frame
        os.close(reader)
        with pytest.raises(InputError, match="Broken pipe"):
            sink.write(judgement)
    sink.close()


WRITER = """
import sys
from agp_edge.sinks.base import Judgement
from agp_edge.sinks.jsonl import JsonlSink
from agp_edge.verdict import Region

regions = [Region(i, i, 9, 9, 0.5) for i in range(200)]
sink = JsonlSink(sys.argv[1], rotate_bytes=1 << 20, keep=3)
print("ready", flush=True)
frame = 0
while True:
    sink.write(Judgement(None, None, 1.0 * frame, "arrival", "cam", frame, "NG", 0.5, 0.4, 0.1, regions, {"total": 1.0}, "0"))
    frame += 1
"""


def test_a_writer_killed_at_any_moment_leaves_whole_lines(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "v.jsonl"
    rng = random.Random(0)
    for _ in range(12):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.0, 0.1))
            writer.kill()
        sink = JsonlSink(str(path))
        sink.write(judgement)
        sink.close()
        for file in tmp_path.iterdir():
            frames_in(file)
        assert {p.name for p in tmp_path.iterdir()} <= {"v.jsonl", *(f"v.jsonl.{i}" for i in (1, 2, 3))}


def test_a_stream_killed_in_the_middle_leaves_whole_lines_and_goes_on(
    tmp_path: Path, tiny_engine: Path, part: Part, write_video: WriteVideo
) -> None:
    video = write_video(tmp_path / "parts.avi", [part(i, defect=i % 7 == 0) for i in range(4000)])
    path = tmp_path / "v.jsonl"
    before = 0
    for _ in range(4):
        with subprocess.Popen(
            [
                sys.executable, "-c", "from agp_edge.cli import main; main()",
                "stream", "--source", str(video), "--engine", str(tiny_engine), "--jsonl", str(path),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as stream:  # fmt: skip
            until = time.monotonic() + 60
            while time.monotonic() < until and (not path.exists() or path.stat().st_size < before + 20_000):
                assert stream.poll() is None
                time.sleep(0.005)
            stream.kill()
        assert path.stat().st_size > before
        JsonlSink(str(path)).close()  # As the next start does.
        assert frames_in(path)[:3] == [0, 1, 2]
        before = path.stat().st_size
