"""A camera in a process of its own: whatever its library does, time-outs hold and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from agp_edge.errors import InputError, MissingExtraError, SourceLostError
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.isolated import IsolatedSource
from agp_edge.sources.options import SourceOptions
from agp_edge.sources.reader import Reader
from tests.stand_ins import cameras
from tests.waiting import wait_until

URI = "rtsp://admin:gehe1m/no@10.0.0.5/live"
SECRET = "gehe1m"


def isolated(kind: type[cameras.Steady], timeout_s: float = 30.0, note: Path | None = None) -> IsolatedSource:
    options = SourceOptions(timeout_s=timeout_s, controls={"note": str(note)} if note else {})
    return IsolatedSource(kind(URI, options), URI, options)


def read(source: Source, frames: int = 1) -> Frame:
    """The last of so many frames."""
    for _ in range(frames - 1):
        source.read()
    frame = source.read()
    assert frame is not None
    return frame


def children() -> set[int]:
    """Processes that this one started and has not reaped."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def test_frames_come_as_they_are_and_the_process_ends_with_close() -> None:
    before = children()
    with isolated(cameras.Steady) as source:
        assert source.fps == 12.5
        frames = [read(source) for _ in range(10)]
        assert len(children() - before) == 1
    assert children() == before
    source.close()
    for frame in frames:
        assert frame.pixels.shape == (48, 64, 3)
        assert frame.pixels.flags.c_contiguous
        assert frame.pixels.flags.writeable
        assert np.all(frame.pixels == frame.number % 251)
        assert frame.source == "rtsp://admin:***@10.0.0.5/live"
        assert frame.clock == "sensor"
        assert 0 < time.monotonic_ns() - frame.captured_ns < 60e9
        assert abs(time.time() - frame.wall_s) < 60
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))


def test_a_frame_that_nobody_asks_for_gives_way_and_is_counted() -> None:
    with isolated(cameras.Steady) as source:
        first = read(source)
        time.sleep(0.3)
        second = read(source)
        third = read(source)
    assert second.lost >= 5
    assert second.number == first.number + 1 + second.lost
    # None of those that came meanwhile waited for its turn.
    assert third.number == second.number + 1 + third.lost


def test_numbers_go_on_when_it_is_opened_again() -> None:
    source = isolated(cameras.Steady)
    numbers = []
    for _ in range(2):
        with source:
            numbers += [read(source).number for _ in range(3)]
    assert numbers == sorted(set(numbers))
    assert numbers[3] >= numbers[2] + 1


def test_sizes_and_channels_change() -> None:
    with isolated(cameras.Grows) as source:
        for _ in range(30):
            frame = read(source)
            size = 16 * (1 + frame.number % 20)
            assert frame.pixels.shape == (size, 2 * size, 3 if frame.number % 2 else 1)
            assert np.all(frame.pixels == frame.number % 251)


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        (cameras.Absent, MissingExtraError, "needs gevcam"),
        (cameras.Wrong, InputError, "there is no rtsp://admin:***@10.0.0.5/live"),
    ],
)
def test_errors_of_open_come_as_themselves(
    kind: type[cameras.Steady], error: type[Exception], text: str
) -> None:
    before = children()
    source = isolated(kind)
    with pytest.raises(error, match=text.replace("*", r"\*")) as caught:
        source.open()
    assert type(caught.value) is error
    assert children() == before


def test_errors_of_read_come_as_themselves() -> None:
    with isolated(cameras.Lost) as source, pytest.raises(SourceLostError, match="fell over\npick it up"):
        read(source, 4)


def test_a_library_that_never_comes_back_from_open_is_killed() -> None:
    before = children()
    source = isolated(cameras.HangsInOpen, timeout_s=0.2)
    with pytest.raises(SourceLostError, match=r"gives nothing for 1\.2 s"):
        source.open()
    assert children() == before


def test_a_library_that_never_comes_back_from_read_is_killed() -> None:
    before = children()
    with isolated(cameras.HangsInRead, timeout_s=2) as source:
        read(source)
        begin = time.monotonic()
        # Sooner than in the sixth where frames were lost before they were asked for.
        with pytest.raises(SourceLostError, match="gives nothing for 2 s"):
            read(source, 6)
        assert 2 <= time.monotonic() - begin < 30
        assert children() == before


def test_a_library_that_never_comes_back_from_close_is_killed() -> None:
    before = children()
    with isolated(cameras.HangsInClose) as source:
        source.read()
    assert children() == before


def test_a_library_that_crashes_takes_nothing_with_it() -> None:
    before = children()
    with isolated(cameras.Crashes) as source:
        with pytest.raises(SourceLostError, match=r"ended by itself \(SIGSEGV\)"):
            read(source, 6)
        assert children() == before
        # And it can be opened again.
        source.open()
        source.read()


def test_a_camera_is_told_goodbye(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with isolated(cameras.SaysGoodbye, note=note) as source:
        source.read()
    assert note.read_text() == "goodbye"


@pytest.mark.parametrize("kind", [cameras.HangsInOpen, cameras.HangsInRead])
def test_a_blocked_call_ends_when_it_is_interrupted(kind: type[cameras.Steady]) -> None:
    source = isolated(kind, timeout_s=50)
    failures: list[BaseException] = []
    reached = threading.Event()

    def work() -> None:
        try:
            if kind is cameras.HangsInOpen:
                reached.set()
            source.open()
            reached.set()
            read(source, 100)
        except SourceLostError as error:
            failures.append(error)
        finally:
            source.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert reached.wait(60)
    time.sleep(0.3)
    begin = time.monotonic()
    source.interrupt()
    thread.join(30)
    assert not thread.is_alive()
    assert time.monotonic() - begin < 20
    assert "told to stop" in str(failures)
    # For good: a thread that was between two calls does not block in the next.
    with pytest.raises(SourceLostError, match="told to stop"):
        source.open()
    source.close()


def test_the_counts_of_a_reader_hold_though_frames_are_lost_in_the_process() -> None:
    changed = threading.Condition()
    reader = Reader(isolated(cameras.Floods), changed, every=3)
    reader.start()
    taken = 0
    end = time.monotonic() + 60
    highest = 0
    while taken < 20 and time.monotonic() < end:
        with changed:
            if changed.wait_for(lambda: reader.waiting > 0, 1):
                frame = reader.take().frame
                highest = frame.number
                assert highest % 3 == 0
                taken += 1
        time.sleep(0.02)
    reader.close()
    assert taken == 20
    assert reader.error is None
    assert reader.dropped > 20
    assert reader.first_failure is not None
    failed = reader.captured - reader.dropped - taken
    assert failed >= 1
    # Every third frame up to the last one was captured, and nothing beside but those that cannot be read.
    assert abs(reader.captured - failed - highest // 3) <= 0.1 * highest


def test_the_password_is_nowhere(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "gehe1m/no")
    monkeypatch.setenv("CAMERA_URL", URI)
    monkeypatch.setenv("CAMERA_NAME", "left")
    before = children()
    source = isolated(cameras.Chatters)
    source.open()
    source.read()
    (child,) = children() - before
    process = Path(f"/proc/{child}")
    assert "agp_edge.sources.worker" in process.joinpath("cmdline").read_text()
    environment = process.joinpath("environ").read_text()
    assert "CAMERA_NAME=left" in environment
    seen = [environment, process.joinpath("cmdline").read_text()]
    seen += [subprocess.run(["ps", "-ef"], capture_output=True, text=True, check=True).stdout]
    with pytest.raises(SourceLostError, match="RuntimeError") as caught:
        read(source, 4)
    source.close()
    seen += [str(caught.value), repr(caught.value), *capfd.readouterr()]
    assert SECRET not in "".join(seen)


def test_a_process_that_holds_everything_ends_with_its_stream() -> None:
    code = """
from tests.agp_edge.sources.test_isolated import cameras, children, isolated
source = isolated(cameras.HangsInRead, timeout_s=600)
source.open()
print(*children(), flush=True)
while True:
    source.read()
"""
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True
    ) as stream:
        assert stream.stdout is not None
        child = int(stream.stdout.readline())
        time.sleep(0.5)
        stream.kill()
    wait_until(lambda: not is_alive(child))


def test_ctrl_c_and_a_service_manager_leave_it_to_the_stream() -> None:
    before = children()
    with isolated(cameras.Steady) as source:
        source.read()
        (child,) = children() - before
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(child, number)
        for _ in range(10):
            source.read()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
