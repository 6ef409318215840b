"""Checks with `vivid`, the kernel's virtual camera: https://docs.kernel.org/admin-guide/media/vivid.html."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from agp_edge.errors import AgpEdgeError, InputError, SourceLostError
from agp_edge.sources import Frame, Source, SourceOptions, open_source
from agp_edge.sources import v4l2_ioctl as v4l2
from agp_edge.sources.v4l2_controls import list_controls, read_control
from agp_edge.sources.v4l2_device import describe_device, open_device
from agp_edge.sources.v4l2_modes import READABLE
from tests.vm.line import Line, wait_for

DEVICE = Path("/dev/video0")
SMALL = (320, 180)
DRIVER = Path("/sys/bus/platform/drivers/vivid")
STILL = {"osd_text_mode": "None", "test_pattern": "100% Color Squares"}
VIDEO_CAPTURE, META_CAPTURE = 1 << 0, 1 << 17


def load_vivid(node_types: int = VIDEO_CAPTURE, **parameters: int) -> None:
    """Load the driver anew, as it is when the machine starts."""
    unload_vivid()
    words = [f"{name}={value}" for name, value in parameters.items()]
    subprocess.run(["modprobe", "vivid", "n_devs=1", f"node_types={node_types:#x}", *words], check=True)
    wait_for("the camera", DEVICE.exists)


def unload_vivid() -> None:
    """Unload the driver, as soon as nobody uses it."""
    wait_for(
        "the driver to go", lambda: subprocess.run(["modprobe", "-r", "vivid"], check=False).returncode == 0
    )


def options(**words: Any) -> SourceOptions:
    """Small, and as fast as this machine is sure to follow."""
    return SourceOptions(**{"size_wh": SMALL, "fps": 10.0, **words})


@contextmanager
def opened(**words: Any) -> Iterator[Source]:
    """The camera, opened."""
    with open_source("0", options(**words)) as source:
        yield source


def read(source: Source) -> Frame:
    """A frame; None is for files."""
    frame = source.read()
    assert frame is not None
    return frame


def refused(work: Callable[[], object], kind: type[AgpEdgeError], *words: str) -> str:
    """What an error says, which has to be of a kind and to have words in it."""
    error = error_of(work)
    assert error is not None, "it was not refused"
    text = f"{error.what} | {error.hint}"
    assert type(error) is kind, f"{type(error).__name__}: {text}"
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"
    return text


def error_of(work: Callable[[], object]) -> AgpEdgeError | None:
    """The error that ends some work, if one does."""
    try:
        work()
    except AgpEdgeError as error:
        return error
    return None


def set_control(name: str, value: int, path: Path = DEVICE, fd: int | None = None) -> None:
    """Set a control as another program would, without looking at what becomes of it."""
    own = open_device(path)[0] if fd is None else fd
    try:
        number = next(control.number for control in list_controls(own) if control.name == name)
        entry = v4l2.ExtControl(id=number)
        entry.u.value = value
        v4l2.call(own, v4l2.S_EXT_CTRLS, v4l2.ExtControls(count=1, controls=ctypes.pointer(entry)))
    finally:
        if fd is None:
            os.close(own)


def describes_itself() -> dict[str, Any]:
    load_vivid()
    found = describe_device(DEVICE)
    assert found["driver"] == "vivid"
    assert "1280x720" in found["formats"]["YUYV"]["sizes"]
    assert found["controls"]["brightness"] == {"takes": "0 to 255", "value": 128}
    assert found["controls"]["test_pattern"]["takes"].startswith("0=75% Colorbar, ")
    return {
        "card": found["card"],
        "formats_read": [code for code, of in found["formats"].items() if of["readable"]],
        "formats_not_read": [code for code, of in found["formats"].items() if not of["readable"]],
        "controls": len(found["controls"]),
    }


def pixel_formats() -> dict[str, Any]:
    """Every format that can be read shows the same picture as BGR3 does."""
    load_vivid()
    with opened(pixel_format="BGR3", controls=STILL) as source:
        reference = read(source).pixels.astype(int)
    offered = describe_device(DEVICE)["formats"]
    differences = {}
    for code in offered:
        if code not in READABLE:
            continue
        with opened(pixel_format=code, controls=STILL) as source:
            pixels = read(source).pixels.astype(int)
        expected = reference
        if pixels.shape[2] == 1:
            # vivid's grey has the weights of ITU-R BT.709.
            expected = (reference @ [0.0722, 0.7152, 0.2126])[..., np.newaxis]
        assert pixels.shape == expected.shape, code
        # Edges are softened by chroma subsampling and demosaicing; the squares between them are not.
        differences[code] = round(float(np.median(np.abs(pixels - expected))), 2)
    wrong = {code: value for code, value in differences.items() if value > 3}
    assert not wrong, wrong
    assert len(differences) >= 25
    return {"median_difference_to_BGR3": differences}


def without_options() -> dict[str, Any]:
    """The driver's size stays, the pixel format is the first in the order of preference."""
    load_vivid()
    with open_source("0", SourceOptions(size_wh=(640, 360))) as source:
        read(source)
    with open_source("v4l2:///dev/video0") as source:
        shape = read(source).pixels.shape
    assert shape == (360, 640, 3), shape
    return {"shape": list(shape), "fps": source.fps}


def sizes_and_rates() -> dict[str, Any]:
    """Sizes come as asked for; so do rates, measured by the frames' own times."""
    load_vivid()
    sizes = []
    for size in ((320, 180), (640, 360), (640, 480), (1280, 720)):
        with open_source("0", SourceOptions(size_wh=size, pixel_format="GREY")) as source:
            height, width, _ = read(source).pixels.shape
        assert (width, height) == size
        sizes.append(f"{width}x{height}")
    rates = {}
    for fps in (5.0, 10.0, 15.0):
        with opened(fps=fps, pixel_format="GREY") as source:
            assert source.fps == fps
            first, *_, last = (read(source) for _ in range(11))
        measured = (last.number - first.number) * 1e9 / (last.captured_ns - first.captured_ns)
        assert abs(measured - fps) < 0.1 * fps, f"{measured} instead of {fps}"
        rates[f"{fps:g}"] = round(measured, 2)
    return {"sizes": sizes, "measured_rate_by_rate": rates}


def refusals() -> dict[str, Any]:
    """What the camera does not offer is refused with what it does."""
    load_vivid(VIDEO_CAPTURE | META_CAPTURE)
    nodes = [path for path in sorted(Path("/dev").glob("video*")) if path != DEVICE]

    def opens(uri: str = "0", **words: Any) -> Callable[[], object]:
        return lambda: open_source(uri, SourceOptions(**words)).open()

    said = {
        "size": refused(opens(size_wh=(641, 481)), InputError, "641x481", "640x480"),
        "size_of_format": refused(
            opens(size_wh=(1, 1), pixel_format="YUYV"), InputError, "1280x720", "(YUYV)"
        ),
        "fps": refused(opens(fps=17.0, size_wh=SMALL), InputError, "17 frames", "15, 25, 30"),
        "format": refused(opens(pixel_format="H264"), InputError, "'H264'", "YUYV"),
        "format_not_read": refused(opens(pixel_format="NV16"), InputError, "NV16", "cannot be read"),
        "control": refused(
            opens(controls={"exposure": "1"}), InputError, "'exposure'", "brightness (0 to 255)"
        ),
        "value": refused(opens(controls={"brightness": "256"}), InputError, "'256'", "0 to 255"),
        "menu": refused(opens(controls={"test_pattern": "99"}), InputError, "'99'", "6=100% White"),
        "automatic": refused(opens(controls={"gain": "7"}), InputError, "gain", "automatic"),
        "metadata": refused(opens(str(nodes[0])), InputError, "gives no pictures", "/dev/video0 (vivid)"),
        "absent": refused(opens("7"), InputError, "/dev/video7", "/dev/video0 (vivid)"),
    }
    with opened():
        said["in_use"] = refused(opens(size_wh=SMALL), InputError, "in use", "fuser")
        describe_device(DEVICE)
    said["user"] = as_nobody(opens())
    assert "group `video`" in said["user"]
    return said


def as_nobody(work: Callable[[], object]) -> str:
    """What an error says to a user without rights."""
    take, give = os.pipe()
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setuid(65534)
        error = error_of(work)
        os.write(give, f"{error.what} | {error.hint}".encode() if error else b"it was not refused")
        os._exit(0)
    os.close(give)
    with os.fdopen(take, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


def controls() -> dict[str, Any]:
    """Controls keep what was set, by name, by number and by label, and do to the picture what they say."""
    load_vivid()
    wanted = {
        "brightness": "77",
        "Contrast": "100",
        "boolean": "on",
        "menu": "Menu Item 3",
        "integer_menu": "5",
        "integer_64_bits": "-9000000000",
        "string": "abcd",
        "bitmask": "0x80002000",
        "gain": "7",
        "gain_automatic": "0",
        "button": "1",
    }
    with opened(controls=wanted):
        fd = open_device(DEVICE)[0]
        kept = {
            c.name: read_control(fd, c)
            for c in list_controls(fd)
            if c.name in map(str.lower, wanted) and c.kind != v4l2.CTRL_TYPE_BUTTON
        }
        os.close(fd)
    expected = {
        "brightness": 77, "contrast": 100, "boolean": 1, "menu": 3, "integer_menu": 5, "integer_64_bits": -9000000000,
        "string": b"abcd", "bitmask": 0x80002000, "gain": 7, "gain_automatic": 0,
    }  # fmt: skip
    assert kept == expected, kept
    means = {}
    for pattern in ("100% Red", "100% Green", "100% Blue"):
        with opened(
            controls={"test_pattern": pattern, "osd_text_mode": "2", "brightness": "128", "contrast": "128"}
        ) as source:
            means[pattern] = [round(float(m)) for m in read(source).pixels.mean((0, 1))]
    assert [int(np.argmax(mean)) for mean in means.values()] == [2, 1, 0], means
    levels = {}
    for brightness in ("64", "128", "192"):
        with opened(controls={**STILL, "brightness": brightness}) as source:
            levels[brightness] = round(float(read(source).pixels.mean()), 1)
    assert levels["64"] < levels["128"] < levels["192"], levels
    return {
        "kept": {k: v if isinstance(v, int) else v.decode() for k, v in kept.items()},
        "bgr_mean_by_pattern": means,
        "mean_by_brightness": levels,
    }


def times() -> dict[str, Any]:
    """The driver's stamp is taken where it is a time that has been; a stamp ahead of the clock is not."""
    load_vivid()
    facts: dict[str, Any] = {}
    for label in ("Start of Exposure", "End of Frame"):
        with opened(controls={"timestamp_source": label}, pixel_format="GREY") as source:
            ages, clocks = [], set()
            for _ in range(10):
                frame = read(source)
                now_ns, now_s = time.monotonic_ns(), time.time()
                assert frame.captured_ns <= now_ns
                assert abs((now_s - frame.wall_s) - (now_ns - frame.captured_ns) / 1e9) < 0.05
                ages.append((now_ns - frame.captured_ns) / 1e6)
                clocks.add(frame.clock)
        facts[label] = {"clocks": sorted(clocks), "age_ms_median": round(float(np.median(ages)), 1)}
    assert facts["Start of Exposure"]["clocks"] == ["sensor"], facts
    return facts


def newest_wins() -> dict[str, Any]:
    """Who reads slowly gets new frames, and the count of those that waited in vain; numbers tell those that the driver lost."""
    load_vivid()
    with opened(fps=25.0, pixel_format="GREY", controls={"timestamp_source": "Start of Exposure"}) as source:
        read(source)
        frames, ages = [], []
        for _ in range(8):
            time.sleep(0.4)
            frame = read(source)
            ages.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
            frames.append(frame)
    gaps = [b.number - a.number for a, b in itertools.pairwise(frames)]
    lost = [frame.lost for frame in frames]
    assert all(1 <= number <= 3 for number in lost), lost
    assert all(gap >= count + 1 for gap, count in zip(gaps, lost[1:], strict=True)), (gaps, lost)
    return {
        "every_ms": 400,
        "numbers_apart": gaps,
        "dropped_of_those_that_waited": lost,
        "age_ms_median": round(float(np.median(ages)), 1),
    }


def injected_errors() -> dict[str, Any]:
    """Faults that the driver can be told to have."""
    load_vivid()
    facts: dict[str, Any] = {}
    with opened(pixel_format="GREY") as source:
        read(source)
        # The driver marks the next buffer.
        set_control("inject_v4l2_buf_flag_error", 1)
        seen = []
        for _ in range(6):
            try:
                read(source)
                seen.append("frame")
            except InputError as error:
                seen.append(error.what)
        assert seen.count("a frame of camera /dev/video0 was damaged on its way") == 1, seen
        assert seen[-1] == "frame", seen
        facts["damaged_buffer"] = seen
        set_control("percentage_of_dropped_buffers", 50)
        numbers = [read(source).number for _ in range(12)]
        lost = numbers[-1] - numbers[0] + 1 - len(numbers)
        assert lost > 0, numbers
        facts["half_of_the_buffers_dropped"] = {"read": 12, "numbers_missing": lost}
        set_control("percentage_of_dropped_buffers", 0)
        set_control("inject_fatal_streaming_error", 1)
        begin = time.monotonic()

        def until_lost() -> None:
            while True:
                read(source)

        facts["fatal_streaming_error"] = refused(until_lost, SourceLostError, "/dev/video0")
        facts["fatal_streaming_error_seconds"] = round(time.monotonic() - begin, 2)
        source.open()
        read(source)
    with opened(pixel_format="GREY", timeout_s=1.0) as source:
        read(source)
        set_control("percentage_of_dropped_buffers", 100)
        time.sleep(0.5)
        facts["no_frames"] = refused(until_lost_of(source), SourceLostError, "no frame for 1 s")
        set_control("percentage_of_dropped_buffers", 0)
        source.open()
        read(source)
    for name in ("inject_vidioc_reqbufs_error", "inject_vidioc_qbuf_error", "inject_vidioc_streamon_error"):
        set_control(name, 1)
        facts[name] = refused(lambda: open_source("0", options()).open(), InputError, "refuses to start")
        with opened() as source:
            read(source)
    return facts


def until_lost_of(source: Source) -> Callable[[], None]:
    """Read on until it raises."""

    def work() -> None:
        while True:
            read(source)

    return work


def interrupts() -> dict[str, Any]:
    """A read that waits is ended from another thread at once."""
    load_vivid()
    with opened(fps=1.0, timeout_s=60.0) as source:
        read(source)
        begin = [0.0]

        def later() -> None:
            begin[0] = time.monotonic()
            source.interrupt()

        timer = threading.Timer(0.2, later)
        timer.start()
        refused(until_lost_of(source), SourceLostError, "was ended")
        took = time.monotonic() - begin[0]
        timer.join()
    assert took < 0.5, took
    return {"seconds": round(took, 3)}


def stream() -> dict[str, Any]:
    """`agp-edge stream --camera 0` gives verdicts, and its counts add up."""
    load_vivid()
    with Line("--camera", "0", flags=FLAGS) as line:
        first = line.wait_for_more(1)
        line.wait_for_more(30)
        foot = line.footprint()
        summary = line.stop()
        verdicts = line.verdicts()
    source = summary["sources"][0]
    assert summary["exit_code"] in (0, 130), line.log
    assert source["captured"] == source["judged"] + source["dropped"] + source["failed"]
    assert source["failed"] == 0
    assert source["judged"] == len(verdicts) >= 30
    assert {v["source"] for v in verdicts} == {"/dev/video0"}
    return {
        "seconds_to_first_verdict_with_start_of_python": round(first, 2),
        "clocks": sorted({v["clock"] for v in verdicts}),
        **{key: source[key] for key in ("captured", "judged", "dropped", "failed")},
        "latency_ms_p50": {stage: values.get("p50") for stage, values in source["latency_ms"].items()},
        "footprint": foot,
        "stop_seconds": summary["stop_seconds"],
    }


def losses(line: Line, lose: Callable[[], None], bring_back: Callable[[], None]) -> dict[str, float]:
    """Lose the camera for 3 s; the seconds from its return to the first verdict."""
    lose()
    time.sleep(3)
    before = line.count()
    time.sleep(0.5)
    assert line.count() == before, "verdicts without a camera"
    bring_back()
    return {"gone_s": 3.5, "seconds_to_first_verdict": round(line.wait_for_more(1), 2)}


def disappears() -> dict[str, Any]:
    """A device that is gone and comes back, in each way that there is: the stream goes on by itself."""
    load_vivid()
    facts: dict[str, Any] = {}
    keeper = [-1]

    def disconnect() -> None:
        keeper[0] = open_device(DEVICE)[0]
        set_control("disconnect", 1, fd=keeper[0])

    with Line("--camera", "0", flags=FLAGS) as line:
        line.wait_for_more(5)
        # vivid connects its camera again when the last of those that had it open closes it.
        facts["disconnect control"] = losses(line, disconnect, lambda: os.close(keeper[0]))
        line.wait_for_more(5)
        facts["driver unbound and bound"] = losses(
            line, lambda: write(DRIVER / "unbind", "vivid.0"), lambda: write(DRIVER / "bind", "vivid.0")
        )
        line.wait_for_more(5)

        def remove() -> None:
            write(DRIVER / "unbind", "vivid.0")
            unload_vivid()

        facts["driver removed and loaded"] = losses(line, remove, load_vivid)
        line.wait_for_more(5)
        summary = line.stop()
        log = line.log
    source = summary["sources"][0]
    assert source["reconnects"] == 3, (source, log)
    assert source["captured"] == source["judged"] + source["dropped"] + source["failed"]
    facts["summary"] = {k: source[k] for k in ("captured", "judged", "dropped", "failed", "reconnects")}
    return facts


def another_number() -> dict[str, Any]:
    """A camera that comes back under another number is found by its name in /dev/v4l/by-id."""
    load_vivid()
    name = Path("/dev/v4l/by-id/usb-vivid-index0")
    name.parent.mkdir(parents=True, exist_ok=True)
    name.unlink(missing_ok=True)
    name.symlink_to("../../video0")
    with Line("--source", str(name), flags=FLAGS) as line:
        line.wait_for_more(5)
        # Someone who does not let go: the number stays taken.
        holder = open_device(DEVICE)[0]
        write(DRIVER / "unbind", "vivid.0")
        name.unlink()
        time.sleep(2)
        write(DRIVER / "bind", "vivid.0")
        wait_for("the other number", Path("/dev/video1").exists)
        # As udev does it.
        name.symlink_to("../../video1")
        seconds = line.wait_for_more(1)
        line.wait_for_more(5)
        summary = line.stop()
        os.close(holder)
    assert summary["sources"][0]["reconnects"] == 1, line.log
    assert not DEVICE.exists()
    return {"seconds_to_first_verdict": round(seconds, 2), "came_back_as": "/dev/video1"}


def many_losses() -> dict[str, Any]:
    """Memory, files and threads of a stream whose camera is lost again and again."""
    load_vivid()
    footprints = []
    with Line("--camera", "0", flags=FLAGS) as line:
        line.wait_for_more(10)
        for _ in range(LOSSES):
            keeper = open_device(DEVICE)[0]
            set_control("disconnect", 1, fd=keeper)
            time.sleep(0.2)
            os.close(keeper)
            line.wait_for_more(3)
            # Frames for longer than the pause between tries has grown: else it grows further, up to half a minute.
            time.sleep(GOOD_AGAIN_S)
            footprints.append(line.footprint())
        summary = line.stop()
    assert summary["sources"][0]["reconnects"] == LOSSES, line.log
    settled = footprints[LOSSES // 4 :]
    assert len({foot["files"] for foot in settled}) == 1, footprints
    assert len({foot["threads"] for foot in settled}) == 1, footprints
    # Memory grows in steps of a MiB or two, as pools are made: so few losses tell a leak of frames, not one of bytes.
    growth = settled[-1]["rss_kib"] - settled[0]["rss_kib"]
    assert growth < 0.05 * settled[0]["rss_kib"], footprints
    return {
        "reconnects": LOSSES,
        "files": settled[-1]["files"],
        "threads": settled[-1]["threads"],
        "rss_kib": [foot["rss_kib"] for foot in footprints[:: max(1, LOSSES // 10)]],
    }


def many_openings() -> dict[str, Any]:
    """Memory and files of a process that opens the camera again and again."""
    load_vivid()
    samples = []
    source = open_source("0", options(fps=50.0, pixel_format="GREY"))
    for cycle in range(OPENINGS):
        with source:
            number = read(source).number
        if cycle >= OPENINGS // 4:
            status = Path("/proc/self/status").read_text()
            rss = int(status.split("VmRSS:")[1].split()[0])
            samples.append((rss, len(list(Path("/proc/self/fd").iterdir()))))
    assert number >= OPENINGS - 1, "numbers go on over openings"
    assert len({files for _, files in samples}) == 1, samples
    growth = (samples[-1][0] - samples[0][0]) / (len(samples) - 1)
    assert growth < 20, samples
    return {
        "openings": OPENINGS,
        "rss_kib": samples[-1][0],
        "rss_kib_an_opening": round(growth, 2),
        "files": samples[-1][1],
    }


def several_planes() -> dict[str, Any]:
    """A device of the multi-planar kind, as those of many boards are."""
    load_vivid(multiplanar=2)
    means = {}
    for code in ("BGR3", "YUYV", "NV12", "GREY"):
        with opened(pixel_format=code, controls=STILL) as source:
            means[code] = round(float(np.median(read(source).pixels)), 1)
    with opened(controls=STILL) as source:
        frames = [read(source) for _ in range(5)]
    assert [frame.number for frame in frames] == sorted({frame.number for frame in frames})
    assert abs(means["BGR3"] - means["YUYV"]) <= 3, means
    return {"median_by_format": means}


def write(path: Path, text: str) -> None:
    """Write to a file of the kernel's."""
    path.write_text(text)


FLAGS = ("--size", "320x180", "--fps", "10")
GOOD_AGAIN_S = 3.0
LOSSES = 30
OPENINGS = 60

CHECKS = {
    "describes itself": describes_itself,
    "pixel formats": pixel_formats,
    "without options": without_options,
    "sizes and rates": sizes_and_rates,
    "refusals": refusals,
    "controls": controls,
    "times": times,
    "newest wins": newest_wins,
    "injected errors": injected_errors,
    "interrupts": interrupts,
    "several planes": several_planes,
    "stream": stream,
    "disappears and returns": disappears,
    "another number": another_number,
    "many losses": many_losses,
    "many openings": many_openings,
}
