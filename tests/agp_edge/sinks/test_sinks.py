"""Sinks, with real files: what they hold is read back."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.clock import rfc3339_ms
from agp_edge.datasets.images import read_image
from agp_edge.errors import DiskFullError, InputError
from agp_edge.sinks import Judgement, Sink
from agp_edge.sinks.jsonl import JsonlSink
from agp_edge.sinks.rejects import RejectsSink
from agp_edge.sinks.video import CODECS, RESERVE_BYTES, VideoSink
from agp_edge.verdict import Region

STAGES = ("capture", "queue", "transfer", "compute", "post", "total")
WALL_S = 1_769_999_999.123


@pytest.fixture
def judgement(part: Callable[..., NDArray[np.uint8]]) -> Judgement:
    anomaly_map = np.full((6, 8), 0.3, np.float32)
    anomaly_map[2:4, 3:5] = 0.98
    return Judgement(
        pixels=part(0, defect=True),
        anomaly_map=anomaly_map,
        wall_s=WALL_S,
        clock="arrival",
        source="rtsp://admin:***@10.0.0.5/live",
        frame=42,
        verdict="NG",
        score=0.98,
        threshold=0.4,
        p_value=0.01,
        regions=[Region(24, 16, 16, 16, 0.98)],
        latency_ms=dict.fromkeys(STAGES, 1.5),
        engine="0123456789ab",
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("1m")`: a folder on a real file system of that size."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        made = shutil.which("mount") and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
            check=False,
        )
        if not made or made.returncode:
            pytest.skip("mounting a tmpfs needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def fill(sink: Sink, judgements: Iterable[Judgement]) -> int:
    """Write until the disk is full; gives how many were written."""
    for written, judgement in enumerate(judgements):
        try:
            sink.write(judgement)
        except DiskFullError:
            return written
    pytest.fail("the disk was never full")


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
        "latency_ms": dict.fromkeys(STAGES, 1.5),
        "engine": "0123456789ab",
    }


def test_a_score_that_is_no_number_is_null(judgement: Judgement) -> None:
    assert replace(judgement, score=float("nan")).to_dict()["score"] is None


def test_times_are_utc_with_milliseconds() -> None:
    assert rfc3339_ms(0) == "1970-01-01T00:00:00.000Z"


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


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        JsonlSink(str(tmp_path / "file" / "x.jsonl"))
    with pytest.raises(InputError):
        RejectsSink(tmp_path / "file" / "x")
    with pytest.raises(InputError):
        VideoSink(tmp_path / "file" / "x.webm", (64, 48), 10)


def test_a_full_disk_leaves_whole_lines(small_disk: Callable[[str], Path], judgement: Judgement) -> None:
    path = small_disk("64k") / "verdicts.jsonl"
    sink = JsonlSink(str(path))
    written = fill(sink, (replace(judgement, frame=i) for i in range(10_000)))
    sink.close()
    text = path.read_text()
    assert text.endswith("\n")
    assert [json.loads(line)["frame"] for line in text.splitlines()] == list(range(written))
    assert written > 50


def test_a_reject_is_three_files_whose_names_sort_by_time(tmp_path: Path, judgement: Judgement) -> None:
    sink = RejectsSink(tmp_path)
    later = replace(judgement, wall_s=WALL_S + 0.001, frame=7)
    for item in (later, judgement, replace(judgement, verdict="OK", frame=9)):
        sink.write(item)
    sink.close()
    records = sorted(tmp_path.glob("*.json"))
    assert [json.loads(p.read_text())["frame"] for p in records] == [42, 7]
    assert len(list(tmp_path.iterdir())) == 6
    stem = records[0].name.removesuffix(".json")
    np.testing.assert_array_equal(read_image(tmp_path / f"{stem}.png"), judgement.pixels)
    assert read_image(tmp_path / f"{stem}.overlay.png").shape == (48, 64, 3)
    assert "/" not in stem
    assert "***" not in stem


def test_a_full_disk_leaves_no_half_reject(small_disk: Callable[[str], Path], judgement: Judgement) -> None:
    folder = small_disk("128k")
    sink = RejectsSink(folder)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    assert fill(sink, (replace(judgement, pixels=noise, frame=i) for i in range(1000))) > 1
    for path in folder.glob("*.png"):
        read_image(path)
    for path in folder.glob("*.json"):
        json.loads(path.read_text())


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_a_video_is_read_back(tmp_path: Path, judgement: Judgement, suffix: str) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / f"line{suffix}"
    for _ in range(2):  # An earlier video is replaced.
        sink = VideoSink(path, (64, 48), 10, source=judgement.source)
        sink.write(judgement)
        sink.close()
    sink = VideoSink(path, (64, 48), 10, source=judgement.source)
    for i in range(20):
        sink.write(replace(judgement, frame=i))
    sink.write(replace(judgement, source="another"))
    sink.close()
    sink.close()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    assert len(frames) == 20
    assert frames[0].shape == (48, 64, 3)
    blue, green, red = frames[10][0].astype(int).mean(axis=0)
    assert red > blue + 40, "the border of an NG frame is orange"
    assert red > green + 40


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


@pytest.mark.parametrize("name", ["notes.webm", "notes.mkv", "notes.mp4", "notes.avi"])
def test_only_a_video_is_replaced_by_a_video(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"my notes, which are no video")
    with pytest.raises(InputError, match=r"no .* video"):
        VideoSink(path, (64, 48), 10)
    assert path.read_bytes() == b"my notes, which are no video"
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError):
        VideoSink(path, (64, 48), 10)


def test_a_video_of_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="suffix"):
        VideoSink(tmp_path / "line.gif", (64, 48), 10)
    assert not list(tmp_path.iterdir())


def test_a_video_on_a_full_disk_is_readable_up_to_there(
    small_disk: Callable[[str], Path], judgement: Judgement
) -> None:
    cv2 = pytest.importorskip("cv2")
    folder = small_disk(f"{RESERVE_BYTES + (256 << 10)}")
    path = folder / "line.webm"
    sink = VideoSink(path, (64, 48), 10)
    rng = np.random.default_rng(0)
    shape = (48, 64, 3)
    pictures = (rng.integers(0, 256, shape, np.uint8) for _ in range(2000))
    fill(sink, (replace(judgement, pixels=pixels) for pixels in pictures))
    sink.close()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames > 10
