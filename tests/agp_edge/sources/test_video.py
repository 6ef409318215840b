"""Video files that are cut off, and those that are played in real time."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources import Frame, Source, SourceOptions, open_source
from agp_edge.sources.container import missing_bytes
from agp_edge.sources.reader import Reader

pytest.importorskip("cv2")
Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]
REALTIME = SourceOptions(realtime=True)
FRAMES = 100

CODINGS = {
    "h264.mp4": ("-c:v", "libx264", "-bf", "2", "-movflags", "faststart"),
    "h264.mkv": ("-c:v", "libx264", "-bf", "2"),
    "vp8.webm": ("-c:v", "libvpx"),
    "mjpeg.avi": ("-c:v", "mjpeg"),
    "mpeg4.avi": ("-c:v", "mpeg4"),
    "wmv2.wmv": ("-c:v", "wmv2"),
}
"""File -> how FFmpeg codes it."""


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`coded(name, *more)`: 100 frames at 25 a second, coded as that name says; do not write."""
    if not shutil.which("ffmpeg"):
        pytest.skip("coding videos needs ffmpeg: apt install ffmpeg")
    folder = tmp_path_factory.mktemp("videos")

    def code(name: str, *more: str) -> Path:
        path = folder / name
        if not path.exists():
            source = ["-f", "lavfi", "-t", "4", "-i", "testsrc2=size=128x96:rate=25"]
            subprocess.run(
                ["ffmpeg", "-v", "error", *source, *(more or CODINGS[name]), str(path)], check=True
            )
        return path

    return code


def read_all(source: Source) -> tuple[list[Frame], list[InputError]]:
    """What a source gives, and what it says cannot be read."""
    frames: list[Frame] = []
    errors: list[InputError] = []
    with source:
        while True:
            try:
                frame = source.read()
            except InputError as error:
                errors.append(error)
                continue
            if frame is None:
                return frames, errors
            frames.append(frame)


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_video_that_is_cut_off_gives_what_it_has_and_says_so(
    tmp_path: Path, coded: Callable[..., Path], name: str, share: float
) -> None:
    whole = coded(name)
    frames, errors = read_all(open_source(str(whole)))
    assert len(frames) == FRAMES
    assert errors == []
    data = whole.read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    frames, errors = read_all(open_source(str(path)))
    assert FRAMES * share * 0.6 < len(frames) < FRAMES
    (error,) = errors
    missing = len(data) - path.stat().st_size
    assert f"it ends after {len(frames)} frames, and {missing:,} bytes are missing" in error.what
    assert [f.number for f in frames] == list(range(len(frames)))


def test_videos_whose_count_of_frames_is_no_promise_are_whole(
    tmp_path: Path, coded: Callable[..., Path]
) -> None:
    plain = coded("plain.mp4", "-c:v", "libx264")
    trimmed = tmp_path / "trimmed.mp4"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-ss", "1.3", "-i", str(plain), "-c", "copy", str(trimmed)], check=True
    )
    varying = coded(
        "varying.mkv", "-vf", "select='not(mod(n,3))+lt(n,30)'", "-fps_mode", "vfr", "-c:v", "libx264"
    )
    stream = coded("stream.ts", "-c:v", "libx264")
    live = tmp_path / "live.mkv"  # As of a writer that had no end to go back from.
    with live.open("wb") as file:
        copy = ["ffmpeg", "-v", "error", "-i", str(plain), "-c", "copy", "-f", "matroska", "pipe:1"]
        subprocess.run(copy, stdout=file, check=True)
    counts = {}
    for path in (plain, trimmed, varying, stream, live):
        frames, errors = read_all(open_source(str(path)))
        assert errors == [], path
        counts[path.name] = len(frames)
    assert counts == {
        "plain.mp4": 100, "trimmed.mp4": 67, "varying.mkv": 54, "stream.ts": 100, "live.mkv": 100,
    }  # fmt: skip


def test_a_cut_off_video_without_an_index_does_not_open_and_says_why(
    tmp_path: Path, part: Part, write_video: WriteVideo
) -> None:
    path = write_video(tmp_path / "a.mp4", [part(i) for i in range(20)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"does not open; it is cut off, [\d,]+ more are missing"):
        open_source(str(path)).open()


def test_of_what_is_no_video_nothing_is_missing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    heads = [
        b"", b"x", b"\x1aE\xdf\xa3", b"\x1aE\xdf\xa3\x00", b"\x1aE\xdf\xa3\x81x\x18S\x80g\x01\xff\xff\xff\xff\xff\xff\xff",
        b"RIFF", b"RIFF\0\0\0\0AVI LIST", b"\0\0\0\0ftyp", b"\0\0\0\1ftyp", b"\0\0\0\x08ftyp" * 3,
        bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    ]  # fmt: skip
    for head in heads:
        for tail in (b"", bytes(50), rng.bytes(300)):
            (tmp_path / "x").write_bytes(head + tail)
            assert missing_bytes(tmp_path / "x") >= 0
    assert missing_bytes(tmp_path / "absent") == 0
    assert missing_bytes(tmp_path) == 0


def test_in_real_time_frames_come_when_they_were_recorded(
    tmp_path: Path, part: Part, write_video: WriteVideo
) -> None:
    path = write_video(tmp_path / "a.avi", [part(i) for i in range(12)])  # 10 a second.
    source = open_source(str(path), REALTIME)
    assert source.live
    frames, errors = read_all(source)
    assert errors == []
    assert frames[-1].number == 11
    for frame in frames:
        # Never before its time; on a busy machine it may be later.
        assert frame.captured_ns - frames[0].captured_ns >= (frame.number * 100 - 15) * 1e6
    assert source.fps == 10
    frames_again, _ = read_all(source)
    assert frames_again[0].number == 0


def test_pauses_of_a_recording_are_kept(coded: Callable[..., Path]) -> None:
    # Each third frame alone from the 30th on: 30 frames 40 ms apart, then 24 of 120 ms.
    path = coded(
        "varying.mkv", "-vf", "select='not(mod(n,3))+lt(n,30)'", "-fps_mode", "vfr", "-c:v", "libx264"
    )
    source = open_source(str(path), REALTIME)
    with source:
        first = source.read()
        last = first
        while (frame := source.read()) is not None and frame.number < 34:
            last = frame
    assert first is not None
    assert last is not None
    assert last.number == 33
    # Number 33 is frame 39 of the 25 a second: 1.56 s; evenly it would be 1.32 s.
    assert (last.captured_ns - first.captured_ns) / 1e9 > 1.5


def test_in_real_time_the_newest_frame_wins_and_all_are_counted(
    tmp_path: Path, part: Part, write_video: WriteVideo
) -> None:
    path = write_video(tmp_path / "a.avi", [part(i) for i in range(10)])
    changed = threading.Condition()
    reader = Reader(open_source(str(path), REALTIME), changed)
    reader.start()
    taken = []
    until = time.monotonic() + 60
    while time.monotonic() < until and not (reader.ended and not reader.waiting):
        with changed:
            if reader.waiting:
                taken.append(reader.take().frame.number)
        time.sleep(0.25)  # An engine at 4 a second.
    reader.close()
    assert reader.error is None
    assert taken[-1] == 9
    assert 2 <= len(taken) < 10
    assert reader.captured == 10
    assert reader.dropped == 10 - len(taken)


def test_who_cannot_keep_up_leaves_frames_out_and_counts_them(
    tmp_path: Path, part: Part, write_video: WriteVideo
) -> None:
    path = write_video(tmp_path / "a.avi", [part(i) for i in range(10)])
    with open_source(str(path), REALTIME) as source:
        first = source.read()
        time.sleep(0.55)  # As a machine that does something else meanwhile.
        second, third = source.read(), source.read()
    assert first is not None
    assert second is not None
    assert third is not None
    assert second.number >= 5
    assert second.lost == second.number - 1
    assert third.number == second.number + 1
    assert third.lost == 0


def test_waiting_for_a_frame_is_interrupted(tmp_path: Path, part: Part) -> None:
    import cv2

    path = tmp_path / "slow.avi"
    four = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, four, 0.2, (64, 48))
    for i in range(3):
        writer.write(part(i))
    writer.release()
    source = open_source(str(path), REALTIME)
    source.open()
    source.read()
    timer = threading.Timer(0.2, source.interrupt)
    timer.start()
    began = time.monotonic()
    with pytest.raises(SourceLostError):
        source.read()
    assert time.monotonic() - began < 4.5, "the next frame was due after 5 s"
    with pytest.raises(SourceLostError):
        source.read()
    timer.join()
    source.close()
    source.close()


def test_real_time_means_nothing_to_images_and_cameras(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--realtime"):
        open_source(str(tmp_path), REALTIME)
