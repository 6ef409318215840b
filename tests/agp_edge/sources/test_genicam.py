"""GigE Vision against Aravis' fake camera, a process of its own on loopback that speaks the real protocol."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import InputError, SourceLostError
from agp_edge.judging import open_judging_engine
from agp_edge.sources import SourceOptions, aravis_binding, open_source
from agp_edge.sources.aravis_binding import Camera, find_devices
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.genicam import BUFFERS, GenicamSource
from agp_edge.sources.genicam_features import our_format
from agp_edge.sources.isolated import IsolatedSource
from agp_edge.stream import Stream
from tests.servers import gige
from tests.servers.gige import FakeCamera
from tests.waiting import wait_until

SMALL = (64, 48)

pytestmark = pytest.mark.xdist_group("gige")
"""One after another: a camera's port is one and fixed."""


@pytest.fixture(scope="module")
def shared_camera() -> Iterator[FakeCamera]:
    lacks = gige.missing()
    if lacks:
        pytest.skip(lacks)
    with gige.fake_camera() as camera:
        yield camera


@pytest.fixture
def camera(shared_camera: FakeCamera) -> FakeCamera:
    shared_camera.restart()
    return shared_camera


def options(**given: object) -> SourceOptions:
    return SourceOptions(**{"size_wh": SMALL, **given})  # type: ignore[arg-type]


@contextmanager
def opened(uri: str, told: SourceOptions) -> Iterator[GenicamSource]:
    source = GenicamSource(uri, told)
    source.open()
    try:
        yield source
    finally:
        source.close()


def read(camera: FakeCamera, frames: int = 1, **given: object) -> list[Frame]:
    with opened(camera.uri, options(**given)) as source:
        return [source.read() for _ in range(frames)]


def pattern(frame_id: int, size_wh: tuple[int, int] = SMALL, scale: float = 1.0) -> NDArray[np.float64]:
    """What the fake camera shows in 0..255, by its documentation a diagonal ramp that moves by one a frame."""
    y, x = np.mgrid[: size_wh[1], : size_wh[0]]
    ramp: NDArray[np.float64] = np.clip((x + y + frame_id) % 255 * scale, 0, 255)
    return ramp


def best_id(pixels: NDArray[np.uint8], expected: Callable[[int], NDArray[np.float64]]) -> tuple[int, float]:
    """The frame number that explains a picture best, and the mean of what it does not explain."""
    rests = [float(np.mean(np.abs(pixels - expected(i)))) for i in range(255)]
    return int(np.argmin(rests)), min(rests)


def test_frames_of_the_camera_as_it_is(camera: FakeCamera) -> None:
    uri = f"genicam://{camera.serial}"
    source = GenicamSource(uri)
    assert source.live
    source.open()
    try:
        frames = [source.read() for _ in range(8)]
    finally:
        source.close()
        source.close()
    assert source.fps == 25
    for frame in frames:
        assert frame.pixels.shape == (512, 512, 1)
        assert frame.source == uri
    # The camera numbers its frames, and shows each number in its picture: ours have the same gaps.
    shown = [int(f.pixels[0, 0, 0]) for f in frames]
    assert [(s - shown[0]) % 255 for s in shown] == [f.number for f in frames]
    np.testing.assert_array_equal(frames[-1].pixels[..., 0], pattern(shown[-1], (512, 512)))
    assert frames[0].number == 0


def test_time_stamps_are_the_camera_s_on_our_clocks(camera: FakeCamera) -> None:
    before = time.monotonic_ns()
    frames = read(camera, 20, fps=50.0)
    for frame in frames:
        assert frame.clock == "sensor"
        assert before < frame.captured_ns < time.monotonic_ns()
        assert abs(time.time() - time.monotonic() - (frame.wall_s - frame.captured_ns / 1e9)) < 1
    # The camera waits for whole multiples of 20 ms of its own clock; a busy machine wakes it late.
    steps = np.diff([f.captured_ns for f in frames]) / np.diff([f.number for f in frames]) / 1e6
    assert abs(np.median(steps) - 20) < 5


def test_the_newest_frame_wins_and_the_others_are_counted(camera: FakeCamera) -> None:
    with opened(camera.uri, options(fps=100.0)) as source:
        source.read()
        time.sleep(
            0.3
        )  # Longer than the buffers last: of thirty frames five wait, and the others found no room.
        frame, follower = source.read(), source.read()
    assert (frame.number, frame.lost) == (BUFFERS, BUFFERS - 1)
    assert follower.lost == 0
    assert follower.number - frame.number >= 15
    assert (
        int(follower.pixels[0, 0, 0]) - int(frame.pixels[0, 0, 0])
    ) % 255 == follower.number - frame.number


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_mono(camera: FakeCamera, scale: float) -> None:
    controls = {"GainRaw": f"{scale - 1:.0f}"}
    (mono8,) = read(camera, pixel_format="Mono8", controls=controls)
    assert mono8.pixels.shape == (48, 64, 1)
    assert best_id(mono8.pixels[..., 0], lambda i: np.floor(pattern(i, scale=scale)))[1] == 0
    (mono16,) = read(camera, pixel_format="Mono16", controls=controls)
    y, x = np.mgrid[:48, :64]

    def high_byte(frame_id: int) -> NDArray[np.float64]:
        deep = np.clip(256 * (x + y + frame_id) % 65535 * scale, 0, 65535)
        return np.asarray(deep // 256, float)

    assert mono16.pixels.shape == (48, 64, 1)
    assert best_id(mono16.pixels[..., 0], high_byte)[1] <= 1


def jet(frame_id: int) -> NDArray[np.float64]:
    """[H, W, 3] BGR: the fake camera's colours of its ramp, dark blue over green to dark red."""
    i = pattern(frame_id).astype(int)
    blue, green, red = (np.minimum(4 * (i - a), 4 * (b - i)) for a, b in ((-33, 159), (31, 223), (95, 287)))
    return np.asarray(np.clip(np.stack([blue, green, red], axis=-1), 0, 255), float)


@pytest.mark.parametrize("name", ["RGB8", "BayerGR8", "BayerGB8", "BayerRG8", "BayerBG8"])
def test_colours(camera: FakeCamera, name: str) -> None:
    (frame,) = read(camera, pixel_format=name)
    assert frame.pixels.shape == (48, 64, 3)
    pixels = frame.pixels
    if name in ("BayerRG8", "BayerBG8"):
        # Aravis 0.8 lays these two the wrong way round in its fake camera: arvfakecamera.c has blue first in `RG`.
        pixels = pixels[..., ::-1]
    assert best_id(pixels, jet)[1] <= (0 if name == "RGB8" else 4)
    assert best_id(pixels[..., ::-1], jet)[1] > 20


def test_an_exposure_that_is_set_is_in_the_picture(camera: FakeCamera) -> None:
    # The fake camera adds log10 of the exposure to its gain.
    (frame,) = read(camera, controls={"ExposureTimeAbs": "100000"})
    assert best_id(frame.pixels[..., 0], lambda i: np.floor(pattern(i, scale=2.0)))[1] == 0


def test_the_area_lies_in_the_middle_or_where_it_is_told(camera: FakeCamera) -> None:
    with opened(camera.uri, options()) as source:
        assert _offsets(source) == ((2048 - 64) // 2, (2048 - 48) // 2)
    with opened(camera.uri, options(controls={"OffsetX": "12", "OffsetY": "8"})) as source:
        assert _offsets(source) == (12, 8)
        assert source.read().pixels.shape == (48, 64, 1)
    # And back to all of the sensor, from an area that was moved.
    with opened(camera.uri, options(size_wh=(2048, 2048))) as source:
        assert _offsets(source) == (0, 0)


def _offsets(source: GenicamSource) -> tuple[int, int]:
    assert source._camera is not None
    return source._camera.get_integer("OffsetX"), source._camera.get_integer("OffsetY")


def test_every_kind_of_feature(camera: FakeCamera) -> None:
    controls = {"TestBoolean": "true", "GainAuto": "Once", "GainRaw": "0x3", "AcquisitionFrameRate": "40", "TriggerSoftware": "1"}  # fmt: skip
    with opened(camera.uri, options(controls=controls)) as source:
        own = source._camera
        assert own is not None
        assert own.get_string("GainAuto") == "Once"
        assert own.get_integer("GainRaw") == 3
        assert own.get_integer("TestRegister") == 321  # What the camera's description says of `true`.
        assert source.fps == 40


def test_a_camera_that_is_triggered(camera: FakeCamera) -> None:
    controls = {"TriggerSource": "Software", "TriggerMode": "On"}
    with opened(camera.uri, options(controls=controls, timeout_s=0.6)) as source:
        with pytest.raises(SourceLostError, match=r"no frame for 0\.6 s") as waited:
            source.read()
        assert "longer --timeout" in waited.value.hint
        assert source._camera is not None
        for number in range(3):
            source._camera.execute("TriggerSoftware")
            assert source.read().number == number


@pytest.mark.parametrize(
    ("given", "what", "hint"),
    [
        ({"pixel_format": "Mono12"}, "no pixel format 'Mono12'", "BayerBG8, BayerGB8, BayerGR8, BayerRG8, Mono8, RGB8"),
        ({"controls": {"ExposureTime": "100"}}, "no feature 'ExposureTime'", "ExposureTimeAbs"),
        ({"controls": {"GainRaw": "11"}}, "GainRaw cannot be '11'", "a whole number from 0 to 10"),
        ({"controls": {"GainRaw": "much"}}, "GainRaw cannot be 'much'", "a whole number from 0 to 10"),
        ({"controls": {"ExposureTimeAbs": "nan"}}, "ExposureTimeAbs cannot be 'nan'", "a number from 10 to 1e"),
        ({"controls": {"TriggerMode": "Maybe"}}, "TriggerMode cannot be 'Maybe'", "one of Off, On"),
        ({"controls": {"TestBoolean": "2"}}, "TestBoolean cannot be '2'", "true or false"),
        ({"controls": {"TriggerSoftware": "now"}}, "TriggerSoftware cannot be 'now'", "command"),
        ({"size_wh": (5000, 48)}, "Width cannot be '5000'", "from 1 to 2048"),
        ({"fps": 5000.0}, "AcquisitionFrameRate cannot be '5000.0'", "from 0.1 to 1000"),
    ],
)  # fmt: skip
def test_what_the_camera_cannot_do_is_refused_with_what_it_can(
    camera: FakeCamera, given: dict[str, object], what: str, hint: str
) -> None:
    with pytest.raises(InputError, match=what) as refused:
        GenicamSource(camera.uri, options(**given)).open()
    assert hint in refused.value.hint


def test_a_camera_s_names(camera: FakeCamera) -> None:
    serial = camera.serial
    (device,) = find_devices()
    assert device.id == f"Aravis-Fake-{serial}"
    assert (device.serial, device.address) == (serial, "127.0.0.1")
    for name in (serial, device.id, "127.0.0.1", ""):
        with opened(f"genicam://{name}", options()) as source:
            assert source.read().pixels.shape == (48, 64, 1)
            assert source.name == f"genicam://{name}"
    with pytest.raises(InputError, match="no camera genicam://WRONG") as wrong:
        GenicamSource("genicam://WRONG").open()
    assert wrong.value.hint == f"cameras here: genicam://{serial} (Aravis-Fake-{serial}, 127.0.0.1)"


def test_no_camera_at_all(camera: FakeCamera) -> None:
    camera.kill()
    assert find_devices() == []
    with pytest.raises(InputError, match="no camera genicam://WRONG") as wrong:
        GenicamSource("genicam://WRONG").open()
    assert "no camera answers" in wrong.value.hint
    with pytest.raises(InputError, match="means the only camera, and there are 0"):
        GenicamSource("genicam://").open()
    with pytest.raises(InputError, match=r"no camera genicam://127\.0\.0\.1"):
        GenicamSource("genicam://127.0.0.1").open()


def test_a_password_that_is_of_no_use_here_is_not_shown() -> None:
    source = GenicamSource("genicam://admin:secret@10.0.0.5")
    assert "secret" not in source.name


def test_aravis_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aravis_binding, "LIBRARY", "libaravis-0.none.so.0")
    aravis_binding._library.cache_clear()
    try:
        with pytest.raises(InputError, match="needs Aravis") as missing:
            GenicamSource("genicam://").open()
    finally:
        aravis_binding._library.cache_clear()
    assert "apt install libaravis-0.8-0" in missing.value.hint


def test_a_camera_that_another_program_controls(camera: FakeCamera) -> None:
    script = (
        "import sys; from agp_edge.sources import open_source; s = open_source(sys.argv[1]); s.open(); s.read();"
        "print('mine', flush=True); sys.stdin.read(); s.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, camera.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        source = GenicamSource(camera.uri)
        with pytest.raises(SourceLostError, match="controlled by another program"):
            source.open()
        other.stdin.close()
        other.wait()
    source.open()
    assert source.read().number == 0
    source.close()


def test_frames_with_holes_are_none(camera: FakeCamera) -> None:
    # Of 1000 packets 30 are lost, and this camera cannot send one again: of 200 in a frame hardly ever all come.
    camera.restart("-r", "30")
    with opened(camera.uri, SourceOptions(timeout_s=2)) as source:
        with pytest.raises(SourceLostError, match="no whole frame for 2 s") as lost:
            _ = [source.read() for _ in range(100)]
        assert source.incomplete >= 20
        assert "packets of" in lost.value.hint
        assert "docs/cameras.md" in lost.value.hint
    # Of frames of three packets most come whole; the others leave a gap.
    with opened(camera.uri, options(fps=100.0)) as source:
        frames = [source.read() for _ in range(100)]
        assert source.incomplete >= 3
        assert frames[-1].number - 99 >= source.incomplete - 1
        for frame in frames:
            np.testing.assert_array_equal(frame.pixels[..., 0], pattern(int(frame.pixels[0, 0, 0])))


def test_a_read_that_waits_is_interrupted(camera: FakeCamera) -> None:
    controls = {"TriggerSource": "Software", "TriggerMode": "On"}
    with opened(camera.uri, options(controls=controls, timeout_s=600.0)) as source:
        thread = threading.Thread(target=read_until_told_to_stop, args=[source])
        thread.start()
        source.interrupt()
        thread.join(30)
        assert not thread.is_alive()
    with pytest.raises(SourceLostError, match="told to stop"):
        source.open()


class Running:
    """A stream of a camera with the brightness engine, in a thread of its own."""

    def __init__(self, engine_path: Path, source: Source) -> None:
        self.events: list[str] = []
        self._engine = open_judging_engine(engine_path)
        self.stream = Stream([source], self._engine, on_event=lambda event: self.events.append(str(event)))
        self._thread = threading.Thread(target=self.stream.run)
        self._thread.start()

    def wait_for_verdicts(self, more: int) -> None:
        wanted = self.stream.judged + more
        wait_until(lambda: self.stream.judged >= wanted)

    def stop(self) -> None:
        self.stream.stop()
        self._thread.join()
        self._engine.close()


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("stalled", [False, True])
def test_a_camera_that_is_gone_and_back(
    camera: FakeCamera, tiny_mono_engine: Path, isolated: bool, stalled: bool
) -> None:
    make = open_source if isolated else GenicamSource
    running = Running(tiny_mono_engine, make(f"genicam://{camera.serial}", options(timeout_s=1.0)))
    try:
        running.wait_for_verdicts(5)
        if stalled:
            camera.stall()
        else:
            camera.kill()
        wait_until(lambda: any("frame for 1 s" in e or "nothing for 1 s" in e for e in running.events))
        # It comes back as a camera does that was switched off: with all that it was told forgotten.
        camera.restart()
        running.wait_for_verdicts(5)
    finally:
        running.stop()
    (counts,) = running.stream.summary()["sources"]
    assert counts["reconnects"] == 1
    assert counts["failed"] == 0
    assert counts["captured"] == counts["judged"] + counts["dropped"]
    assert any("is back" in event for event in running.events)


def test_a_process_of_its_own_leaves_the_camera_to_the_next(camera: FakeCamera) -> None:
    told = options(controls={"TriggerSource": "Software", "TriggerMode": "On"}, timeout_s=600.0)
    for _ in range(2):
        # A camera that was not given back is nobody's for the 3 s of its heartbeat.
        source = open_source(camera.uri, told)
        assert isinstance(source, IsolatedSource)
        source.open()
        reading = threading.Thread(target=read_until_told_to_stop, args=[source])
        reading.start()
        source.interrupt()
        reading.join()
        source.close()
    with pytest.raises(InputError, match="GainRaw cannot be '11'"):
        open_source(camera.uri, options(controls={"GainRaw": "11"})).open()


def test_a_camera_without_frames_is_lost_by_its_heartbeat(camera: FakeCamera) -> None:
    controls = {"TriggerSource": "Software", "TriggerMode": "On"}
    with opened(camera.uri, options(controls=controls, timeout_s=600.0)) as source:
        camera.kill()
        with pytest.raises(SourceLostError, match="does not answer any more"):
            source.read()


def test_opened_and_closed_over_and_over_nothing_is_left(camera: FakeCamera) -> None:
    source = GenicamSource(camera.uri, options(fps=200.0, controls={"GainRaw": "1"}))

    def left() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))  # noqa: PTH208 - of this instant

    def once() -> None:
        source.open()
        source.read()
        source.close()

    wrong = GenicamSource(camera.uri, options(fps=1e6))
    once()
    find_devices()
    before = left()
    for round_ in range(40):
        once()
        if round_ % 20 == 0:
            # And from errors on the way.
            with pytest.raises(InputError):
                wrong.open()
            find_devices()
    assert left() == before


def test_a_closed_camera_gives_nothing(camera: FakeCamera) -> None:
    source = GenicamSource(camera.uri)
    with pytest.raises(SourceLostError, match="is not open"):
        source.read()


def test_what_a_camera_says_of_its_features(camera: FakeCamera) -> None:
    own = Camera("127.0.0.1")
    try:
        assert own.is_controlled
        assert own.type_of("Width") == "integer"
        assert own.type_of("PixelFormat") == "enumeration"
        assert own.type_of("AcquisitionStart") == "command"
        assert own.type_of("NoSuchFeature") is None
        assert {"Width", "ExposureTimeAbs", "TriggerMode"} <= set(own.features())
    finally:
        own.close()
        own.close()


def test_names_of_pixel_formats() -> None:
    for theirs, ours in (
        ("Mono8", "mono8"), ("Mono12Packed", "mono12packed"), ("BayerRG12p", "bayerrg12p"), ("RGB8", "rgb"),
        ("BGR8Packed", "bgr"), ("YUV422_8", "yuyv"), ("YUV422Packed", "uyvy"),
    ):  # fmt: skip
        assert our_format(theirs) == ours
    # A name of ours is none of theirs; three planes and depth are no picture.
    for other in ("rgb", "nv12", "RGB8_Planar", "Coord3D_C16", "Mono1p", "RGB10"):
        assert our_format(other) is None


def read_until_told_to_stop(source: Source) -> None:
    with pytest.raises(SourceLostError, match="told to stop"):
        source.read()
