"""Annotated video, read back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.errors import DiskFullError, InputError
from agp_edge.sinks import Judgement
from agp_edge.sinks.video import CODECS, RESERVE_BYTES, VideoSink

pytest.importorskip("cv2")


def frames_of(path: Path) -> int:
    """How many frames can be read from a video."""
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = 0
    while capture.read()[0]:
        frames += 1
    capture.release()
    return frames


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
    disk_of: Callable[[str], Path], judgement: Judgement, fill: Callable[..., int]
) -> None:
    folder = disk_of(f"{RESERVE_BYTES + (256 << 10)}")
    path = folder / "line.webm"
    sink = VideoSink(path, (64, 48), 10)
    rng = np.random.default_rng(0)
    shape = (48, 64, 3)
    pictures = (rng.integers(0, 256, shape, np.uint8) for _ in range(2000))
    fill(sink, (replace(judgement, pixels=pixels) for pixels in pictures))
    assert frames_of(path) > 10, "it has its end as soon as the disk is full"
    sink.close()


def test_without_room_for_a_video_there_is_none(small_disk: Any) -> None:
    small_disk.leave(1 << 20)
    with pytest.raises(DiskFullError, match="no space left"):
        VideoSink(small_disk.path / "line.webm", (64, 48), 10)
    assert small_disk.listing() == {}


@pytest.mark.parametrize("segment_s", [None, 1000.0])
def test_after_a_full_disk_it_goes_on_in_another_file(
    disk_of: Callable[[str], Path], judgement: Judgement, fill: Callable[..., int], segment_s: float | None
) -> None:
    folder = disk_of("8m")
    filler = folder / "filler"
    sink = VideoSink(folder / "line.webm", (64, 48), 10, segment_s=segment_s)
    for _ in range(5):
        sink.write(judgement)
    filler.write_bytes(bytes(6 << 20))
    for _ in range(3):
        with pytest.raises(DiskFullError):
            sink.write(judgement)
    (first,) = folder.glob("line*.webm")
    assert frames_of(first) == 5, "the file is whole while the disk is full"
    filler.unlink()
    for _ in range(7):
        sink.write(judgement)
    sink.close()
    assert sorted(frames_of(p) for p in folder.glob("line*.webm")) == [5, 7]
    assert len(list(folder.iterdir())) == 2


def test_where_others_fill_the_disk_a_new_segment_takes_the_place_of_the_oldest(
    disk_of: Callable[[str], Path], judgement: Judgement
) -> None:
    folder = disk_of("16m")
    for year in (2020, 2021, 2022):
        (folder / f"line_{year}0101T000000Z.webm").write_bytes(bytes(2 << 20))
    sink = VideoSink(folder / "line.webm", (64, 48), 10, segment_s=1000, limit_bytes=100 << 20)
    (folder / "filler").write_bytes(bytes(8 << 20))  # 2 MiB are left, 4 are wanted.
    for _ in range(5):
        sink.write(judgement)
    sink.close()
    names = sorted(p.name for p in folder.glob("line*"))
    assert names == ["line_20210101T000000Z.webm", "line_20220101T000000Z.webm", "line_20260202T023959Z.webm"]
    assert frames_of(folder / names[-1]) == 5
    # Where deleting would not help, nothing is deleted.
    (folder / "more").write_bytes(bytes(shutil.disk_usage(folder).free))
    (folder / names[0]).unlink()
    (folder / names[1]).unlink()
    (folder / "most").write_bytes(bytes(shutil.disk_usage(folder).free))
    with pytest.raises(DiskFullError):
        VideoSink(folder / "line.webm", (64, 48), 10, segment_s=1000, limit_bytes=100 << 20)
    assert [p.name for p in folder.glob("line*")] == names[-1:]


def test_segments_are_called_after_their_time_and_restarts_replace_nothing(
    tmp_path: Path, judgement: Judgement
) -> None:
    path = tmp_path / "line.webm"
    for _ in range(2):
        sink = VideoSink(path, (64, 48), 10, segment_s=0.2)
        until = time.monotonic() + 0.7
        written = 0
        while time.monotonic() < until:
            sink.write(replace(judgement, wall_s=judgement.wall_s + written // 50))
            written += 1
            time.sleep(0.01)
        sink.close()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert 6 <= len(names) <= 8, "two runs of four files"
    assert names[0] == "line_20260202T023959Z.webm"
    assert all(frames_of(tmp_path / name) > 0 for name in names)
    assert sink.describe().startswith(f"{written} frames in {tmp_path}")


def test_of_segments_the_oldest_go(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "line.avi"
    old = tmp_path / "line_20200101T000000Z.avi"
    others = [
        tmp_path / name for name in ("line.avi", "line-2_20200101T000000Z.avi", "line_20200101T000000Z.txt")
    ]
    for file in (old, *others):
        file.write_bytes(bytes(150_000))
    sink = VideoSink(path, (64, 48), 10, segment_s=0.05, limit_bytes=200_000)
    rng = np.random.default_rng(0)
    for i in range(60):
        noise = rng.integers(0, 256, (48, 64, 3), np.uint8)
        sink.write(replace(judgement, pixels=noise, wall_s=judgement.wall_s + i))
        time.sleep(0.01)
    sink.close()
    own = [p for p in tmp_path.iterdir() if p not in others]
    assert old not in own
    assert all(p.exists() for p in others)
    assert sum(p.stat().st_size for p in own) <= 220_000
    assert len(own) > 1
    assert "oldest there deleted" in sink.describe()


def test_a_limit_needs_segments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no oldest part"):
        VideoSink(tmp_path / "line.webm", (64, 48), 10, limit_bytes=1 << 20)
    assert not list(tmp_path.iterdir())


def test_a_frame_of_another_size_is_refused_and_the_next_one_goes_on(
    tmp_path: Path, judgement: Judgement
) -> None:
    sink = VideoSink(tmp_path / "line.webm", (64, 48), 10)
    sink.write(judgement)
    with pytest.raises(InputError, match=r"is 32x24, its video 64x48"):
        sink.write(replace(judgement, pixels=np.zeros((24, 32, 3), np.uint8)))
    sink.write(judgement)
    sink.close()
    assert frames_of(tmp_path / "line.webm") == 2


def test_a_region_of_interest_has_its_own_video(tmp_path: Path, judgement: Judgement) -> None:
    sink = VideoSink(tmp_path / "line.webm", (64, 48), 10, roi="left")
    for name in ("left", "right", "left"):
        sink.write(replace(judgement, roi=(name, (0, 0, 64, 48))))
    sink.write(judgement)
    sink.close()
    assert frames_of(tmp_path / "line.webm") == 2


def test_a_file_that_was_removed_is_an_error_and_another_is_begun(
    tmp_path: Path, judgement: Judgement
) -> None:
    path = tmp_path / "videos" / "line.webm"
    sink = VideoSink(path, (64, 48), 10)
    sink.write(judgement)
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(InputError, match=r"line\.webm"):
        sink.write(judgement)
    for _ in range(3):
        sink.write(judgement)
    sink.close()
    assert [frames_of(p) for p in path.parent.iterdir()] == [3]


def test_segments_leave_no_threads_and_no_descriptors(tmp_path: Path, judgement: Judgement) -> None:
    sink = VideoSink(tmp_path / "line.webm", (64, 48), 10, segment_s=0.0, limit_bytes=100_000)
    counts = []
    for i in range(60):
        sink.write(judgement)
        if i % 20 == 19:
            counts.append((len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))))  # noqa: PTH208
    sink.close()
    assert counts[-1] == counts[0]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from agp_edge.sinks.base import Judgement
from agp_edge.sinks.video import VideoSink

sink = VideoSink(Path(sys.argv[1]), (64, 48), 10)
rng = np.random.default_rng(0)
heat = np.zeros((6, 8), np.float32)
for frame in range(10**9):
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
    sink.write(Judgement(pixels, heat, 1.0, "arrival", "cam", frame, "OK", 0.1, 0.4, 0.9, [], {}, "0"))
    if frame == 1000:
        print("ready", flush=True)
"""


@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".avi"])
def test_a_video_whose_writer_was_killed_is_readable(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"line{suffix}"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        writer.kill()
    # FFmpeg writes 256 KB at a time; what came after the last of them is lost.
    assert frames_of(path) > 500
