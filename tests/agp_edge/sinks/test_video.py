"""Annotated video, read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agp_edge.errors import InputError
from agp_edge.sinks import Judgement
from agp_edge.sinks.video import CODECS, RESERVE_BYTES, VideoSink


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
    cv2 = pytest.importorskip("cv2")
    folder = disk_of(f"{RESERVE_BYTES + (256 << 10)}")
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
