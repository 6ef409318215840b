"""Collecting a data set: what is kept, what is left out, and counts that add up."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.capture import CaptureReport, FrameFilter, Pace, capture, difference_hash, sharpness
from agp_edge.datasets.images import read_image, write_png
from agp_edge.errors import InputError
from agp_edge.events import Event, OnEvent, nobody
from agp_edge.roi import parse_roi
from agp_edge.sources import open_source
from agp_edge.triggers import Fire, Trigger, open_trigger
from agp_edge.triggers.http import HttpTrigger
from tests.servers import mjpeg

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
    left_out = report.duplicates + report.blurred + report.skipped + report.dropped + report.failed
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
    report = capture(open_source(str(shots)), tmp_path / "data", pace=Pace(every=3), frames=2)
    check(report)
    assert (report.captured, report.kept, report.skipped) == (4, 2, 2)
    with pytest.raises(InputError, match="--frames 0 is no number"):
        capture(open_source(str(shots)), tmp_path / "data", frames=0)


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


def test_the_oldest_hashes_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agp_edge.capture.MOST_REMEMBERED", 128)
    chosen = FrameFilter()
    for seed in range(200):
        chosen.remember(texture(seed))
    reasons = [chosen.reason_against(texture(seed)) for seed in (199, 72, 71, 0)]
    assert reasons == ["duplicates", "duplicates", None, None]


def test_an_interval_in_a_video_is_that_of_its_frames(
    tmp_path: Path, write_video: Callable[[Path, Sequence[Pixels]], Path]
) -> None:
    video = write_video(tmp_path / "parts.mkv", [texture(i) for i in range(50)])  # 10 a second.
    report = capture(open_source(str(video)), tmp_path / "data", pace=Pace(interval_s=1.5))
    check(report)
    assert (report.captured, report.kept, report.skipped) == (50, 4, 46)
    kept = sorted((tmp_path / "data" / "train" / "good").iterdir())
    assert [path.stem[-6:] for path in kept] == ["000000", "000015", "000030", "000045"]


def test_images_were_taken_at_no_time(tmp_path: Path) -> None:
    shots = folder_of(tmp_path / "shots", [texture(0)])
    with pytest.raises(InputError, match="--interval does not apply to"):
        capture(open_source(str(shots)), tmp_path / "data", pace=Pace(interval_s=1))


@pytest.mark.parametrize(
    ("pace", "says"),
    [
        ({"every": 0}, "--every 0 is no number"),
        ({"interval_s": 0}, "--interval 0 is no time"),
        ({"interval_s": float("nan")}, "--interval nan is no time"),
        ({"interval_s": 1, "every": 2}, "two of"),
    ],
)
def test_a_pace_that_is_none(tmp_path: Path, pace: dict[str, float], says: str) -> None:
    shots = folder_of(tmp_path / "shots", [texture(0)])
    with pytest.raises(InputError, match=says):
        capture(open_source(str(shots)), tmp_path / "data", pace=Pace(**pace))  # type: ignore[arg-type]


def test_a_region_of_interest(tmp_path: Path) -> None:
    shots = folder_of(tmp_path / "shots", [texture(i) for i in range(3)])
    report = capture(open_source(str(shots)), tmp_path / "data", roi=parse_roi("16,8,64,48"))
    assert report.kept == 3
    kept = sorted((tmp_path / "data" / "train" / "good").iterdir())
    np.testing.assert_array_equal(read_image(kept[1]), texture(1)[8:56, 16:80])
    report = CaptureReport("")
    with pytest.raises(InputError, match="reaches beyond a frame"):
        capture(open_source(str(shots)), tmp_path / "data", roi=parse_roi("100,8,64,48"), report=report)
    assert (report.captured, report.failed) == (1, 1)


def jpeg(seed: int) -> bytes:
    encoded: NDArray[np.uint8] = cv2.imencode(".jpg", texture(seed), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    return encoded.tobytes()


class CameraOnTheNet:
    """50 pictures a second by HTTP, each another one; it can be switched off."""

    def __init__(self) -> None:
        self.on = threading.Event()
        self.on.set()
        self._seeds = itertools.count()

    def pictures(self) -> Iterator[bytes]:
        while self.on.is_set():
            yield mjpeg.part(jpeg(next(self._seeds)))
            time.sleep(0.02)


@pytest.fixture
def camera() -> Iterator[tuple[CameraOnTheNet, str]]:
    """A camera by HTTP, and its URL with a password."""
    device = CameraOnTheNet()
    with mjpeg.MjpegServer(device.pictures) as server:
        yield device, f"http://u:secret@127.0.0.1:{server.port}/live"
        device.on.clear()


def test_a_camera_that_is_lost_is_waited_for(tmp_path: Path, camera: tuple[CameraOnTheNet, str]) -> None:
    device, url = camera
    told: list[Event] = []
    report = CaptureReport("")
    folder = tmp_path / "data" / "train" / "good"
    deadline = time.monotonic() + 60

    def on_event(event: Event) -> None:
        told.append(event)
        device.on.set()

    def stopping() -> bool:
        if report.kept >= 3 and not told:
            device.on.clear()
        return time.monotonic() > deadline

    source = open_source(url)
    capture(source, tmp_path / "data", frames=12, stopping=stopping, report=report, on_event=on_event)
    check(report)
    assert report.kept == 12
    assert [event.kind for event in told][:1] == ["source-lost"]
    assert "source-back" in [event.kind for event in told]
    # The newest frame wins, and nothing is lost from sight.
    assert report.captured == report.looked_at + report.dropped + report.failed
    assert not [path for path in folder.iterdir() if "secret" in path.name]
    assert not any("secret" in event.text for event in told)
    assert not [t for t in threading.enumerate() if t.name.startswith(f"read {source.name}")]


def test_an_interval_of_a_camera(tmp_path: Path, camera: tuple[CameraOnTheNet, str]) -> None:
    _, url = camera
    report = capture(open_source(url), tmp_path / "data", frames=4, pace=Pace(interval_s=0.4))
    check(report)
    assert report.kept == 4
    times = [
        datetime.strptime(path.name[:22], "%Y%m%dT%H%M%S.%f")
        for path in sorted(Path(report.folder).iterdir())
    ]
    gaps = [(after - before).total_seconds() for before, after in itertools.pairwise(times)]
    # From one due time to the next: a frame that came a little late makes the next gap a little shorter.
    assert sum(gaps) > 3 * 0.4 - 0.2
    assert report.skipped + report.dropped > 10


def test_a_frame_for_each_trigger(tmp_path: Path, camera: tuple[CameraOnTheNet, str]) -> None:
    _, url = camera
    trigger = open_trigger("http://127.0.0.1:0/part")
    assert isinstance(trigger, HttpTrigger)
    report = CaptureReport("")
    parts = ["A 1/../7", "", "b" * 100, "ß"]
    answers: list[int] = []

    def press() -> None:
        """As a controller would: the next part comes once there is a picture of the one before."""
        for n, part in enumerate(parts):
            while report.kept < n or trigger.address[1] == 0:
                time.sleep(0.02)
            connection = http.client.HTTPConnection(*trigger.address, timeout=60)
            connection.request("POST", "/part", part.encode())
            answers.append(connection.getresponse().status)
            connection.close()

    thread = threading.Thread(target=press)
    thread.start()
    try:
        capture(
            open_source(url),
            tmp_path / "data",
            frames=len(parts),
            pace=Pace(trigger=trigger),
            keep_similar=True,
            report=report,
        )
    finally:
        thread.join()
    check(report)
    assert answers == [202] * 4
    assert (report.captured, report.kept, report.missed) == (4, 4, 0)
    names = [path.stem.partition("_")[2].partition("_")[2] for path in sorted(Path(report.folder).iterdir())]
    assert names == ["part-A-1-7", "", "part-" + "b" * 40, "part-x"]
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", trigger.address[1], timeout=5).connect()


def test_a_trigger_without_a_frame_is_missed(
    tmp_path: Path, camera: tuple[CameraOnTheNet, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agp_edge.capture.TRIGGER_WAIT_S", 0.2)
    device, url = camera
    told: list[Event] = []

    class Once(Trigger):
        name = "once"
        fire: Fire

        def start(self, fire: Fire, on_event: OnEvent = nobody) -> None:
            self.fire = fire

        def close(self) -> None:
            pass

    trigger = Once()

    def on_event(event: Event) -> None:
        told.append(event)
        if event.kind == "source-lost" and len(told) == 1:
            with pytest.raises(InputError, match="no such source"):
                trigger.fire("7", "another")
            with pytest.raises(InputError, match="a part's id of 0 characters"):
                trigger.fire("")
            assert trigger.fire("7") == 1

    device.on.clear()
    report = capture(
        open_source(url),
        tmp_path / "data",
        pace=Pace(trigger=trigger),
        stopping=lambda: any(event.kind == "trigger-missed" for event in told),
        on_event=on_event,
    )
    check(report)
    assert (report.captured, report.missed) == (0, 1)
    assert "1 triggers missed" in report.describe()
