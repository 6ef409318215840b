"""What needs no camera. With the kernel's own virtual cameras, in a virtual machine: tests/vm."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agp_edge.errors import AgpEdgeError, InputError, SourceLostError
from agp_edge.sources import SourceOptions, open_source, v4l2_modes
from agp_edge.sources import v4l2_ioctl as v4l2
from agp_edge.sources.pixels import MJPEG, PIXEL_FORMATS
from agp_edge.sources.v4l2_controls import Control, control_name
from agp_edge.sources.v4l2_device import describe_device, list_devices, translate
from agp_edge.sources.v4l2_modes import READABLE, Mode, RateOffer, SizeOffer


def test_every_pixel_format_is_one_that_can_be_converted() -> None:
    assert set(READABLE.values()) <= {*PIXEL_FORMATS, MJPEG}
    assert all(v4l2.fourcc(v4l2.fourcc_code(code)) == code for code in READABLE)
    order = list(READABLE)
    assert order.index("YUYV") < order.index("GREY") < order.index("Y12") < order.index("MJPG")


def test_sizes_are_held_against_a_range_and_its_steps() -> None:
    single = SizeOffer((640, 640, 1), (480, 480, 1))
    assert single.has((640, 480))
    assert not single.has((480, 640))
    assert str(single) == "640x480"
    many = SizeOffer((16, 1920, 16), (16, 1080, 2))
    assert many.has((1280, 720))
    assert many.has((1920, 1080))
    assert not many.has((1288, 720)), "between two steps"
    assert not many.has((1936, 1080))
    assert str(many) == "16x16 to 1920x1080 in steps of 16x2"
    assert SizeOffer((2, 4, 0), (2, 4, 0)).has((3, 3)), "a step of 0 is a driver's way to say any"


def test_a_rate_may_be_rounded_as_people_do() -> None:
    ntsc = RateOffer(30000 / 1001, 30000 / 1001)
    assert ntsc.has(30)
    assert ntsc.has(29.97)
    assert not ntsc.has(29)
    assert str(ntsc) == "29.97"
    assert RateOffer(0.0, math.inf).has(17)
    assert str(RateOffer(1.0, 60.0)) == "1 to 60"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Exposure Time, Absolute", "exposure_time_absolute"),
        ("White Balance, Automatic", "white_balance_automatic"),
        ("Gain", "gain"),
        ("Exposure, Auto Priority ", "exposure_auto_priority"),
        ("LED1 Mode (µ)", "led1_mode"),
    ],
)
def test_controls_are_called_as_v4l2_ctl_calls_them(title: str, name: str) -> None:
    assert control_name(title) == name


NUMBER = Control("gain", 1, v4l2.CTRL_TYPE_INTEGER, -10, 100, 10, 0)
SWITCH = Control("auto", 2, v4l2.CTRL_TYPE_BOOLEAN, 0, 1, 1, 0)
MENU = Control(
    "auto_exposure", 3, v4l2.CTRL_TYPE_MENU, 0, 3, 1, 0, {1: "Manual Mode", 3: "Aperture Priority"}
)
BITS = Control("bits", 4, v4l2.CTRL_TYPE_BITMASK, 0, 0x80000001 - (1 << 32), 0, 0)
TEXT = Control("text", 5, v4l2.CTRL_TYPE_STRING, 2, 4, 1, 0)
BUTTON = Control("button", 6, v4l2.CTRL_TYPE_BUTTON, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("control", "text", "value"),
    [
        (NUMBER, "-10", -10),
        (NUMBER, "0x14", 20),
        (SWITCH, "on", 1),
        (SWITCH, "False", 0),
        (MENU, "3", 3),
        (MENU, "manual mode", 1),
        (BITS, "0x80000001", 0x80000001),
        (TEXT, "abc", b"abc"),
        (BUTTON, "1", 1),
    ],
)
def test_values_are_read_as_the_control_has_them(control: Control, text: str, value: int | bytes) -> None:
    assert control.parse(text) == value


@pytest.mark.parametrize(
    ("control", "text"),
    [
        (NUMBER, "5"),
        (NUMBER, "110"),
        (NUMBER, "-20"),
        (NUMBER, "much"),
        (NUMBER, "1.5"),
        (SWITCH, "2"),
        (MENU, "0"),
        (MENU, "2"),
        (MENU, "Manual"),
        (BITS, "0x2"),
        (TEXT, "a"),
        (TEXT, "abcde"),
        (BUTTON, "0"),
    ],
)
def test_values_that_a_control_does_not_take(control: Control, text: str) -> None:
    with pytest.raises(ValueError):
        control.parse(text)


def test_a_control_tells_what_it_takes() -> None:
    told = [str(control) for control in (NUMBER, SWITCH, MENU, BITS, TEXT, BUTTON)]
    assert told == [
        "gain (-10 to 100 in steps of 10)",
        "auto (0 or 1)",
        "auto_exposure (1=Manual Mode, 3=Aperture Priority)",
        "bits (bits of 0x80000001)",
        "text (2 to 4 characters)",
        "button (1 presses it)",
    ]
    locked = Control("locked", 7, v4l2.CTRL_TYPE_INTEGER, 0, 1, 1, v4l2.CTRL_FLAG_READ_ONLY)
    assert NUMBER.settable
    assert not locked.settable


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENODEV, SourceLostError, "plugged in"),
        (errno.EIO, SourceLostError, "plugged in"),
        (errno.EPROTO, SourceLostError, "plugged in"),
        (errno.EBUSY, InputError, "fuser -v /dev/video0"),
        (errno.EACCES, InputError, "group `video`"),
        (errno.ENOSPC, InputError, "--pixel-format MJPG"),
        (errno.EINVAL, InputError, "v4l2-ctl -d /dev/video0"),
    ],
)
def test_what_a_driver_answers_says_what_to_do(number: int, kind: type[AgpEdgeError], words: str) -> None:
    error = translate(OSError(number, os.strerror(number)), "/dev/video0", "start")
    assert type(error) is kind
    assert words in error.hint
    assert "/dev/video0" in error.what


@pytest.mark.parametrize(
    "uri", ["97", "/dev/video97", "v4l2:///dev/video97", "/dev/v4l/by-id/usb-none-index0"]
)
def test_a_camera_that_is_not_there(uri: str) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    source = open_source(uri)
    with pytest.raises(InputError, match="there is no camera at /dev/v"):
        source.open()
    source.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_device_that_is_no_camera() -> None:
    with pytest.raises(InputError, match="/dev/null is no camera"):
        describe_device(Path("/dev/null"))
    source = open_source("/dev/null")
    with pytest.raises(InputError, match="/dev/null is no camera"):
        source.open()
    with pytest.raises(SourceLostError, match="not open"):
        source.read()
    source.close()
    source.close()


def test_an_interrupted_camera_does_not_open_again() -> None:
    source = open_source("/dev/null")
    source.interrupt()
    with pytest.raises(SourceLostError, match="was ended"):
        source.open()


def test_it_takes_what_a_camera_can_be_told_and_nothing_else() -> None:
    open_source("0", SourceOptions(size_wh=(640, 480), fps=30, pixel_format="MJPG", controls={"gain": "1"}))
    with pytest.raises(InputError, match="--follow does not apply to 0"):
        open_source("0", SourceOptions(follow=True))


def test_devices_are_in_order_of_their_numbers() -> None:
    numbers = [int(path.name.removeprefix("video")) for path in list_devices()]
    assert numbers == sorted(numbers)


class Offers:
    """What a camera offers, in the place of what the kernel would say: MJPG is fast, YUYV slow, GREY small."""

    SIZES: ClassVar = {
        "MJPG": [(640, 480), (1920, 1080)],
        "YUYV": [(640, 480), (1920, 1080)],
        "GREY": [(320, 240)],
    }
    RATES: ClassVar = {
        ("YUYV", (640, 480)): [30.0],
        ("YUYV", (1920, 1080)): [5.0],
        ("GREY", (320, 240)): [60.0],
    }

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.formats = ["MJPG", "H264", "GREY", "YUYV"]
        monkeypatch.setattr(v4l2_modes, "list_formats", lambda fd, kind: self.formats)
        monkeypatch.setattr(v4l2_modes, "list_sizes", lambda fd, code: self.sizes(code))
        monkeypatch.setattr(v4l2_modes, "list_rates", lambda fd, mode: self.rates(mode))

    def sizes(self, code: str) -> list[SizeOffer]:
        return [SizeOffer((w, w, 1), (h, h, 1)) for w, h in self.SIZES[code]]

    def rates(self, mode: Mode) -> list[RateOffer]:
        return [RateOffer(fps, fps) for fps in self.RATES.get((mode.code, mode.size_wh), [30.0, 60.0])]

    def choose(self, drivers: tuple[int, int] = (640, 480), **options: Any) -> Mode:
        return v4l2_modes.choose_mode(0, "/dev/video0", 1, drivers, SourceOptions(**options))


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch) -> Offers:
    return Offers(monkeypatch)


@pytest.mark.parametrize(
    ("options", "code", "size_wh"),
    [
        ({}, "YUYV", (640, 480)),
        ({"size_wh": (1920, 1080)}, "YUYV", (1920, 1080)),
        ({"size_wh": (1920, 1080), "fps": 5.0}, "YUYV", (1920, 1080)),
        ({"size_wh": (1920, 1080), "fps": 30.0}, "MJPG", (1920, 1080)),
        ({"size_wh": (320, 240)}, "GREY", (320, 240)),
        ({"pixel_format": "mjpg"}, "MJPG", (640, 480)),
    ],
)
def test_the_first_format_is_taken_that_comes_in_size_and_rate(
    offers: Offers, options: dict[str, Any], code: str, size_wh: tuple[int, int]
) -> None:
    assert offers.choose(**options) == Mode(code, size_wh)


def test_a_size_of_the_driver_that_no_format_has_is_left_to_it(offers: Offers) -> None:
    drivers = (800, 600)
    assert offers.choose(drivers) == Mode("YUYV", drivers)


@pytest.mark.parametrize(
    ("options", "what", "hint"),
    [
        ({"size_wh": (800, 600)}, "800x600", "640x480, 1920x1080 (YUYV, MJPG); 320x240 (GREY)"),
        ({"size_wh": (320, 240), "pixel_format": "YUYV"}, "320x240", "640x480, 1920x1080 (YUYV)"),
        ({"fps": 25.0}, "25 frames a second at 640x480", "30 (YUYV); 30, 60 (MJPG)"),
        ({"pixel_format": "H264"}, "H264 of camera /dev/video0 cannot be read", "YUYV, GREY, MJPG"),
        ({"pixel_format": "NV12"}, "'NV12'", "YUYV, GREY, MJPG (cannot be read: H264)"),
    ],
)
def test_what_is_not_offered_is_refused_with_what_is(
    offers: Offers, options: dict[str, Any], what: str, hint: str
) -> None:
    with pytest.raises(InputError) as refusal:
        offers.choose(**options)
    assert what in refusal.value.what
    assert hint in refusal.value.hint


def test_a_camera_without_a_format_that_can_be_read(offers: Offers) -> None:
    offers.formats = ["H264"]
    with pytest.raises(InputError, match="no pixel format that can be read: H264"):
        offers.choose()
