"""Checks with a USB camera: the kernel's `uvcvideo`, and `usb_camera` behind it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources import SourceOptions, open_source
from agp_edge.sources.v4l2_device import describe_device
from tests.vm.line import Line, wait_for
from tests.vm.usb_camera import Camera
from tests.vm.vivid_checks import opened, read, refused, unload_vivid, until_lost_of

DEVICE = Path("/dev/video0")
METADATA = Path("/dev/video1")


@contextmanager
def plugged() -> Iterator[Camera]:
    """The only camera of the machine."""
    unload_vivid()
    for module in ("vhci_hcd", "uvcvideo"):
        subprocess.run(["modprobe", module], check=True)
    camera = Camera()
    camera.plug()
    try:
        wait_for("the camera", lambda: DEVICE.exists() and METADATA.exists())
        yield camera
    finally:
        camera.unplug()
        wait_for("the camera to go", lambda: not DEVICE.exists())


def describes_itself() -> dict[str, Any]:
    with plugged():
        found = describe_device(DEVICE)
        said = refused(lambda: describe_device(METADATA), InputError, "gives no pictures", "/dev/video0 (")
    assert found["driver"] == "uvcvideo"
    assert found["formats"]["MJPG"]["sizes"]["640x360"] == ["30", "15", "5"], found
    assert found["formats"]["YUYV"]["sizes"]["640x360"] == ["15", "5"], found
    assert found["controls"]["exposure_time_absolute"]["takes"] == "10 to 1000 in steps of 10"
    return {**found, "second_node": said}


def formats() -> dict[str, Any]:
    """Both formats show the camera's picture; which is taken depends on the rate that is asked for."""
    facts: dict[str, Any] = {}
    with plugged() as camera:
        for code in ("MJPG", "YUYV"):
            for size in ((320, 180), (640, 360)):
                with opened(size_wh=size, pixel_format=code, fps=15.0) as source:
                    frame = read(source)
                difference = np.abs(frame.pixels.astype(int) - camera.picture(*size)).mean()
                assert difference < 2, (code, size, difference)
                facts[f"{code} {size[0]}x{size[1]}"] = {
                    "mean_difference": round(float(difference), 2),
                    "clock": frame.clock,
                }
        for fps, expected in ((15.0, "yuyv"), (30.0, "mjpeg")):
            with opened(fps=fps) as source:
                taken = source._capture.pixel_format  # type: ignore[attr-defined]
                assert taken == expected, (fps, taken)
            facts[f"taken at {fps:g} fps"] = taken
        facts["refused"] = refused(
            lambda: open_source("0", SourceOptions(fps=30, pixel_format="YUYV")).open(),
            InputError,
            "15, 5 (YUYV)",
        )
    return facts


def exposure() -> dict[str, Any]:
    """Exposure by the names that v4l2-ctl has; an automatic that holds it is told."""
    facts: dict[str, Any] = {}
    with plugged() as camera:
        facts["held"] = refused(
            lambda: open_source("0", SourceOptions(controls={"exposure_time_absolute": "300"})).open(),
            InputError, "exposure_time_absolute", "auto_exposure=1",
        )  # fmt: skip
        levels = {}
        for time_100us in ("100", "200", "400"):
            # The number before its automatic: the order of the flags does not matter.
            controls = {"exposure_time_absolute": time_100us, "auto_exposure": "Manual Mode"}
            with opened(pixel_format="YUYV", fps=15.0, controls=controls) as source:
                levels[time_100us] = round(float(read(source).pixels[:, 100:].mean()), 1)
            assert camera.exposure == int(time_100us)
        assert levels["100"] < levels["200"] < levels["400"], levels
        facts["mean_by_exposure"] = levels
        facts["step"] = refused(
            lambda: open_source("0", SourceOptions(controls={"auto_exposure": "1", "exposure_time_absolute": "305"})).open(),
            InputError, "'305'", "in steps of 10",
        )  # fmt: skip
    return facts


def times() -> dict[str, Any]:
    with plugged(), opened(pixel_format="MJPG", fps=15.0) as source:
        frames = []
        ages = []
        for _ in range(30):
            frames.append(read(source))
            ages.append((time.monotonic_ns() - frames[-1].captured_ns) / 1e6)
    clocks = {frame.clock for frame in frames}
    assert clocks == {"sensor"}, clocks
    rate = 29e9 / (frames[-1].captured_ns - frames[0].captured_ns)
    return {
        "clock": "sensor",
        "age_ms_median": round(float(np.median(ages)), 1),
        "measured_fps": round(rate, 1),
        "numbers": [frames[0].number, frames[-1].number],
        "lost": sum(f.lost for f in frames),
    }


def faults() -> dict[str, Any]:
    """What a bad cable does: a frame marked as damaged, a picture that breaks off, silence, and the plug."""
    facts: dict[str, Any] = {}
    with plugged() as camera, opened(pixel_format="MJPG", fps=15.0, timeout_s=1.0) as source:
        read(source)
        # The driver throws away what the camera marks as damaged: its number is missing.
        before = read(source).number
        camera.damaged = 1
        assert not failures(source, 10)
        missing = read(source).number - before - 11
        assert missing == 1, missing
        facts["marked as damaged"] = {"numbers_missing": missing}
        camera.cut = 1
        said = [f"{error.what} | {error.hint}" for error in failures(source, 10)]
        assert len(said) == 1, said
        assert "not whole" in said[0], said
        facts["picture that breaks off"] = said[0]
        camera.stalled = True
        facts["silence"] = refused(until_lost_of(source), SourceLostError, "no frame for 1 s")
        camera.stalled = False
        source.open()
        read(source)
        camera.unplug()
        begin = time.monotonic()
        facts["plug"] = refused(until_lost_of(source), SourceLostError, "/dev/video0")
        facts["plug_seconds"] = round(time.monotonic() - begin, 3)
        source.close()
        wait_for("the camera to go", lambda: not DEVICE.exists())
        facts["gone"] = refused(source.open, SourceLostError, "no longer there", "plug it in")
        camera.plug()
        wait_for("the camera", DEVICE.exists)
        source.open()
        read(source)
    return facts


def failures(source: Any, number: int) -> list[InputError]:
    """Read so many times; the frames that failed."""
    found = []
    for _ in range(number):
        try:
            read(source)
        except InputError as error:
            found.append(error)
    return found


def unplugged() -> dict[str, Any]:
    """The plug is pulled and put in again, under a running stream."""
    facts: dict[str, Any] = {}
    with plugged() as camera, Line("--camera", "0", flags=("--size", "320x180", "--fps", "15")) as line:
        line.wait_for_more(10)
        waits = []
        feet = []
        for _ in range(UNPLUGS):
            camera.unplug()
            wait_for("the camera to go", lambda: not DEVICE.exists())
            time.sleep(1)
            camera.plug()
            waits.append(round(line.wait_for_more(1), 2))
            line.wait_for_more(3)
            feet.append(line.footprint())
        summary = line.stop()
        log = line.log
    source = summary["sources"][0]
    assert source["reconnects"] == UNPLUGS, (source, log)
    assert source["captured"] == source["judged"] + source["dropped"] + source["failed"]
    assert len({foot["files"] for foot in feet[1:]}) == 1, feet
    assert len({foot["threads"] for foot in feet[1:]}) == 1, feet
    facts["seconds_to_first_verdict_after_the_plug"] = waits
    facts["footprint"] = feet[-1]
    facts["rss_kib"] = [foot["rss_kib"] for foot in feet]
    facts["summary"] = {k: source[k] for k in ("captured", "judged", "dropped", "failed", "reconnects")}
    return facts


UNPLUGS = 10

CHECKS = {
    "describes itself": describes_itself,
    "formats": formats,
    "exposure": exposure,
    "times": times,
    "faults": faults,
    "unplugged": unplugged,
}
