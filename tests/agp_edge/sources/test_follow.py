"""A folder that is watched: every image once, when it is whole, whatever happens to the folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import encode_png, write_png
from agp_edge.errors import InputError, SourceLostError
from agp_edge.sources import Frame, Source, SourceOptions, open_source
from agp_edge.sources.reader import Reader

pytest.importorskip("cv2")
Part = Callable[..., NDArray[np.uint8]]
FOLLOW = SourceOptions(follow=True)


class Collector:
    """Reads a source in a thread, as a stream does.

    Attributes:
        frames: what it gave.
        failures: what could not be read.
        told: what was said of it.
    """

    def __init__(self, source: Source) -> None:
        self.frames: list[Frame] = []
        self.told: list[str] = []
        self._changed = threading.Condition()
        self.reader = Reader(source, self._changed, on_event=lambda event: self.told.append(event.text))
        self.reader.start()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with self._changed:
                self._changed.wait_for(lambda: self.reader.waiting > 0, timeout=0.02)
                while self.reader.waiting:
                    self.frames.append(self.reader.take().frame)
            if condition():
                return
        pytest.fail(f"waited for {what} in vain")

    def wait_for_frames(self, count: int) -> list[Frame]:
        self.wait_for(lambda: len(self.frames) >= count, f"{count} frames")
        return self.frames

    @property
    def numbers(self) -> list[int]:
        """Which parts were seen, by where their scratch is."""
        return [(int(np.flatnonzero(f.pixels[0, :, 0] == 40)[0]) - 2) // 5 for f in self.frames]


@pytest.fixture
def follow() -> Iterator[Callable[[Path], Collector]]:
    """`follow(folder)`: have it read."""
    made: list[Collector] = []

    def begin(pattern: Path) -> Collector:
        made.append(Collector(open_source(str(pattern), FOLLOW)))
        return made[-1]

    yield begin
    for collector in made:
        collector.reader.close()
        assert collector.reader.error is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks more often, and gives up sooner."""
    monkeypatch.setattr("agp_edge.sources.folder_watch.LOOK_S", 0.02)
    monkeypatch.setattr("agp_edge.sources.folder_watch.BROKEN_S", 0.6)


def test_what_is_there_comes_first_and_then_what_is_added(
    tmp_path: Path, part: Part, follow: Callable[[Path], Collector]
) -> None:
    for number, age in ((0, 30), (1, 20), (2, 10)):
        # Names against the order of time: time decides.
        path = tmp_path / f"{9 - number}.png"
        write_png(path, part(number))
        os.utime(path, (time.time() - age,) * 2)
    seen = follow(tmp_path)
    seen.wait_for_frames(3)
    write_png(tmp_path / "sub" / "a.png", part(3))
    write_png(tmp_path / ".hidden" / "a.png", part(9))
    (tmp_path / "notes.txt").write_text("no image")
    seen.wait_for_frames(4)
    write_png(tmp_path / "new.png", part(4))
    seen.wait_for_frames(5)
    time.sleep(0.6)  # Two looks more bring nothing twice.
    seen.wait_for_frames(5)
    assert seen.numbers == [0, 1, 2, 3, 4]
    assert [f.number for f in seen.frames] == [0, 1, 2, 3, 4]
    assert {f.clock for f in seen.frames} == {"arrival"}
    assert (seen.reader.captured, seen.reader.dropped) == (5, 0)


def test_an_empty_folder_and_an_empty_glob_are_waited_for(
    tmp_path: Path, part: Part, follow: Callable[[Path], Collector]
) -> None:
    folder, pattern = follow(tmp_path), follow(tmp_path / "shot-*.png")
    write_png(tmp_path / "other.png", part(0))
    folder.wait_for_frames(1)
    write_png(tmp_path / "shot-1.png", part(1))
    folder.wait_for_frames(2)
    pattern.wait_for_frames(1)
    assert (folder.numbers, pattern.numbers) == ([0, 1], [1])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_a_file_that_is_written_in_pieces_is_taken_when_it_is_whole(
    tmp_path: Path, part: Part, follow: Callable[[Path], Collector], suffix: str
) -> None:
    import cv2

    data = cv2.imencode(suffix, part(1))[1].tobytes()
    seen = follow(tmp_path)
    with (tmp_path / f"a{suffix}").open("wb") as file:
        for i in range(4):
            file.write(data[i * len(data) // 4 : (i + 1) * len(data) // 4])
            file.flush()
            # Far longer than between two looks: it seems to be finished each time, and is not.
            time.sleep(0.15)
            assert i == 3 or not seen.frames
    seen.wait_for_frames(1)
    assert np.abs(seen.frames[0].pixels.astype(int) - part(1)).mean() < 3
    assert seen.reader.captured == 1, "nothing failed on the way"
    assert seen.told == []


@pytest.mark.usefixtures("impatient")
def test_a_file_that_stays_broken_fails_once_and_is_taken_when_it_is_mended(
    tmp_path: Path, part: Part, follow: Callable[[Path], Collector]
) -> None:
    data = encode_png(part(0))
    (tmp_path / "broken.png").write_bytes(data[:-20])
    (tmp_path / "empty.png").touch()
    seen = follow(tmp_path)
    write_png(tmp_path / "good.png", part(1))
    seen.wait_for_frames(1)
    assert seen.numbers == [1], "nothing waits for a broken one"
    seen.wait_for(lambda: seen.reader.captured == 3, "two failures")
    time.sleep(1.0)
    seen.wait_for_frames(1)
    assert seen.reader.captured == 3, "each failed once"
    assert len(seen.told) == 2
    assert any("broken.png" in text for text in seen.told)
    (tmp_path / "broken.png").write_bytes(data)
    seen.wait_for_frames(2)
    assert seen.numbers == [1, 0]
    assert seen.frames[0].number < seen.frames[1].number


@pytest.mark.usefixtures("impatient")
def test_files_deleted_at_once_are_no_error(
    tmp_path: Path, part: Part, follow: Callable[[Path], Collector]
) -> None:
    seen = follow(tmp_path)
    for i in range(40):
        path = tmp_path / f"{i}.png"
        path.write_bytes(encode_png(part(0))[: 100 if i % 2 else None])
        time.sleep(0.005 * (i % 5))
        path.unlink()
    write_png(tmp_path / "last.png", part(7))
    seen.wait_for(lambda: 7 in seen.numbers, "the last one")
    assert seen.told == []
    assert seen.reader.captured == len(seen.frames)


def test_a_name_that_comes_again_is_a_new_image(
    tmp_path: Path, part: Part, follow: Callable[[Path], Collector]
) -> None:
    path = tmp_path / "part.png"
    seen = follow(tmp_path)
    for number in (1, 2, 3):
        write_png(path, part(number))
        seen.wait_for_frames(number)
        path.unlink()
        # So long that a look finds it gone.
        time.sleep(0.7)
    assert seen.numbers == [1, 2, 3]


def test_a_share_that_goes_away_and_comes_back_brings_nothing_twice(
    tmp_path: Path, part: Part, follow: Callable[[Path], Collector]
) -> None:
    folder, away = tmp_path / "share", tmp_path / "away"
    for i in range(3):
        write_png(folder / f"{i}.png", part(i))
    seen = follow(folder)
    seen.wait_for_frames(3)
    # An unmounted share is an empty folder; one whose server is gone cannot be looked at.
    folder.rename(away)
    folder.mkdir()
    time.sleep(0.8)
    folder.rmdir()
    seen.wait_for(lambda: bool(seen.told), "the loss to be told")
    assert "cannot be looked at" in seen.told[0]
    away.rename(folder)
    write_png(folder / "3.png", part(3))
    seen.wait_for_frames(4)
    assert seen.numbers == [0, 1, 2, 3]
    assert [f.number for f in seen.frames] == [0, 1, 2, 3]
    assert seen.reader.reconnects == 1


def test_a_mounted_folder_that_is_unmounted_and_mounted_again(
    tmp_path: Path, part: Part, follow: Callable[[Path], Collector]
) -> None:
    real, share = tmp_path / "real", tmp_path / "share"
    share.mkdir()
    write_png(real / "0.png", part(0))
    bind = ["mount", "--bind", str(real), str(share)]
    if not shutil.which("mount") or subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        seen = follow(share)
        seen.wait_for_frames(1)
        subprocess.run(["umount", str(share)], check=True)
        time.sleep(0.8)
        write_png(real / "1.png", part(1))
        subprocess.run(bind, check=True)
        seen.wait_for_frames(2)
        assert seen.numbers == [0, 1]
        seen.reader.close()
    finally:
        subprocess.run(["umount", "--lazy", str(share)], check=True)


WRITER = """
import sys, time
from pathlib import Path
data = Path(sys.argv[1]).read_bytes()
for i in range(int(sys.argv[3])):
    with (Path(sys.argv[2]) / f"{i:03}.png").open("wb") as file:
        for at in range(0, len(data), 64):
            file.write(data[at : at + 64])
            file.flush()
"""


def test_another_process_writes_many_and_each_is_taken_once(
    tmp_path: Path, part: Part, follow: Callable[[Path], Collector]
) -> None:
    write_png(tmp_path / "model.png", part(1))
    folder = tmp_path / "shots"
    folder.mkdir()
    seen = follow(folder)
    subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path / "model.png"), str(folder), "200"], check=True
    )
    seen.wait_for_frames(200)
    assert len(seen.frames) == seen.reader.captured == 200
    assert seen.told == []
    assert set(seen.numbers) == {1}


def test_what_is_known_of_files_that_are_gone_is_bounded(
    tmp_path: Path, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agp_edge.sources import folder_watch

    monkeypatch.setattr(folder_watch, "MOST_GONE", 5)
    watch = folder_watch.FolderWatch(str(tmp_path))
    for i in range(30):
        path = tmp_path / f"{i}.png"
        path.write_bytes(b"x")
        os.utime(path, (1000, 1000))
        assert watch.next() == path
        watch.took(path)
        assert watch.next() is None
        path.unlink()
        assert watch.next() is None
    known = [len(v) for v in vars(watch).values() if isinstance(v, dict)]
    assert sorted(known) == [0, 0, 0, 5]


def test_a_look_that_takes_long_is_made_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agp_edge.sources import folder_watch

    watch = folder_watch.FolderWatch(str(tmp_path))
    real = folder_watch.FolderWatch._look

    def slow(self: folder_watch.FolderWatch) -> None:
        time.sleep(0.2)
        real(self)

    monkeypatch.setattr(folder_watch.FolderWatch, "_look", slow)
    assert watch.next() is None
    assert watch.pause_s >= 0.8


def test_a_waiting_read_is_interrupted(tmp_path: Path) -> None:
    source = open_source(str(tmp_path), FOLLOW)
    source.open()
    timer = threading.Timer(0.2, source.interrupt)
    timer.start()
    with pytest.raises(SourceLostError):
        source.read()
    with pytest.raises(SourceLostError):
        source.read()
    timer.join()
    source.close()


@pytest.mark.parametrize("name", ["shot.png", "absent", "shot.avi"])
def test_what_cannot_be_watched_is_refused(tmp_path: Path, part: Part, name: str) -> None:
    write_png(tmp_path / "shot.png", part(0))
    with pytest.raises(InputError, match=r"--follow|no folder"):
        open_source(str(tmp_path / name), FOLLOW).open()


def test_a_folder_that_is_not_there_yet_may_come(tmp_path: Path, part: Part) -> None:
    source = open_source(str(tmp_path / "share"), FOLLOW)
    with pytest.raises(InputError, match="there is no folder"):
        source.open()
    write_png(tmp_path / "share" / "a.png", part(0))
    with source:
        assert source.read() is not None
    shutil.rmtree(tmp_path / "share")
    with pytest.raises(SourceLostError):
        source.open()


def test_without_follow_a_folder_has_an_end(tmp_path: Path, part: Part) -> None:
    write_png(tmp_path / "a.png", part(0))
    source = open_source(str(tmp_path))
    assert not source.endless
    with source:
        assert source.read() is not None
        assert source.read() is None
