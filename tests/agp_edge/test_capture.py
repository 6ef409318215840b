"""Collecting a data set: what is kept, what is left out, and counts that add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.capture import CaptureReport, FrameFilter, capture, difference_hash, sharpness
from agp_edge.datasets.images import read_image, write_png
from agp_edge.errors import InputError
from agp_edge.sources import open_source

cv2 = pytest.importorskip("cv2")
Pixels = NDArray[np.uint8]


def texture(seed: int) -> Pixels:
    """[96, 128, 3] uint8: a coarse random pattern, sharp, and another one for every seed."""
    small = np.random.default_rng(seed).integers(30, 220, (12, 16, 3), np.uint8)
    grown: Pixels = cv2.resize(small, (128, 96), interpolation=cv2.INTER_NEAREST)
    return grown


def blur(pixels: Pixels) -> Pixels:
    blurred: Pixels = cv2.GaussianBlur(pixels, (0, 0), 3)
    return blurred


def noise(pixels: Pixels, seed: int) -> Pixels:
    grain = np.random.default_rng(seed).normal(0, 2, pixels.shape)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def folder_of(path: Path, frames: Sequence[Pixels]) -> Path:
    for i, pixels in enumerate(frames):
        write_png(path / f"{i:03d}.png", pixels)
    return path


def check(report: CaptureReport) -> None:
    left_out = report.duplicates + report.blurred + report.skipped + report.failed
    assert report.captured == report.kept + left_out
    assert len(list(Path(report.folder).glob("*.png"))) >= report.kept


def test_duplicates_and_blur_are_left_out_and_counted(tmp_path: Path) -> None:
    frames = [texture(i) for i in range(8)]
    frames += [noise(texture(7), seed) for seed in range(3)]
    frames += [blur(texture(20)), texture(8), noise(texture(0), 9)]
    report = capture(open_source(str(folder_of(tmp_path / "shots", frames))), tmp_path / "data")
    check(report)
    assert (report.captured, report.kept, report.duplicates, report.blurred) == (14, 9, 4, 1)
    kept = sorted((tmp_path / "data" / "train" / "good").iterdir())
    for path, pixels in zip(kept, frames[:8] + frames[12:13], strict=True):
        np.testing.assert_array_equal(read_image(path), pixels)


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shots = folder_of(tmp_path / "shots", [texture(i) for i in range(3)])
    monkeypatch.setattr("agp_edge.sources.images.time.time", lambda: 1_769_999_999.0)
    for run in (1, 2):
        report = capture(open_source(str(shots)), tmp_path / "data", keep_similar=True)
        assert report.kept == 3
        assert len(list(Path(report.folder).iterdir())) == 3 * run


def test_what_is_in_the_folder_is_not_captured_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    capture(open_source(str(folder_of(tmp_path / "shots", [texture(i) for i in range(3)]))), data)
    (data / "train" / "good" / "broken.png").write_bytes(b"no image")
    frames = [noise(texture(i), 5) for i in range(5)]
    report = capture(open_source(str(folder_of(tmp_path / "again", frames))), data)
    check(report)
    assert (report.kept, report.duplicates) == (2, 3)


def test_every_and_frames(tmp_path: Path) -> None:
    shots = folder_of(tmp_path / "shots", [texture(i) for i in range(12)])
    report = capture(open_source(str(shots)), tmp_path / "data", every=3, frames=2)
    check(report)
    assert (report.captured, report.kept, report.skipped) == (4, 2, 2)
    for wrong in ({"every": 0}, {"frames": 0}):
        with pytest.raises(InputError):
            capture(open_source(str(shots)), tmp_path / "data", **wrong)  # type: ignore[arg-type]


def test_being_stopped_keeps_what_there_is(tmp_path: Path) -> None:
    shots = folder_of(tmp_path / "shots", [texture(i) for i in range(9)])
    report = CaptureReport("")
    capture(open_source(str(shots)), tmp_path / "data", stopping=lambda: report.kept == 4, report=report)
    check(report)
    assert report.captured == 4


def test_unreadable_images(tmp_path: Path) -> None:
    shots = folder_of(tmp_path / "shots", [texture(0)])
    (shots / "broken.png").write_bytes(b"no image")
    report = capture(open_source(str(shots)), tmp_path / "data")
    check(report)
    assert (report.kept, report.failed) == (1, 1)
    (shots / "000.png").unlink()
    with pytest.raises(InputError, match=r"broken\.png"):
        capture(open_source(str(shots)), tmp_path / "data")


def test_an_even_surface_under_noise_is_one_part() -> None:
    even = np.full((96, 128, 3), 120, np.uint8)
    chosen = FrameFilter()
    reasons = [chosen.reason_against(noise(even, seed)) for seed in range(6)]
    assert reasons == [None] + ["duplicates"] * 5


def test_blur_is_measured_against_what_is_usual() -> None:
    chosen = FrameFilter()
    # A scene without much detail is no blur by itself.
    assert [chosen.reason_against(blur(texture(i))) for i in range(6)] == [None] * 6
    assert sharpness(texture(1)[..., 0]) > 4 * sharpness(blur(texture(1))[..., 0])


def test_the_hash_tells_parts_apart() -> None:
    first, second = (difference_hash(texture(i)[..., 0]) for i in (1, 2))
    assert first.shape == (256,)
    assert np.count_nonzero(first != second) > 50


def test_mono_frames(part: Callable[..., Pixels]) -> None:
    assert FrameFilter().reason_against(part(0)[..., :1]) is None


def test_parts_that_look_alike_are_kept_on_request() -> None:
    chosen = FrameFilter(keep_similar=True)
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    assert [chosen.reason_against(frame) for _ in range(6)] == [None] * 6
