"""Rejects on a bounded disk: the oldest go first, whole, and nothing that is not theirs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.datasets.images import read_image
from agp_edge.errors import DiskFullError, InputError
from agp_edge.sinks import Judgement
from agp_edge.sinks.disk import OwnFiles, on_disk, parse_bytes
from agp_edge.sinks.rejects import STEM, SUFFIXES, RejectsSink, file_stem

WALL_S = 1_769_999_999.123


def kept(folder: Path) -> list[int]:
    """The frames whose rejects are there, in order of name; each of them whole."""
    stems = sorted({p.name.split(".json")[0] for p in folder.glob("*.json")})
    assert len(list(folder.glob("*.png"))) == 2 * len(stems)
    for stem in stems:
        read_image(folder / f"{stem}.png")
        read_image(folder / f"{stem}.overlay.png")
    return [json.loads((folder / f"{stem}.json").read_text())["frame"] for stem in stems]


def rejects_of(judgement: Judgement, count: int, first: int = 0) -> list[Judgement]:
    """NG frames a second apart, each of noise, so that they take about as much room."""
    rng = np.random.default_rng(first)
    return [
        replace(judgement, frame=i, wall_s=WALL_S + i, pixels=rng.integers(0, 256, (48, 64, 3), np.uint8))
        for i in range(first, first + count)
    ]


def size_of(folder: Path) -> int:
    return sum(on_disk(p.stat().st_size) for p in folder.iterdir())


def test_a_reject_is_three_files_whose_names_sort_by_time(tmp_path: Path, judgement: Judgement) -> None:
    sink = RejectsSink(tmp_path)
    later = replace(judgement, wall_s=WALL_S + 0.001, frame=7)
    for item in (later, judgement, replace(judgement, verdict="OK", frame=9)):
        sink.write(item)
    sink.close()
    records = sorted(tmp_path.glob("*.json"))
    assert [json.loads(p.read_text())["frame"] for p in records] == [42, 7]
    assert len(list(tmp_path.iterdir())) == 6
    stem = records[0].name.removesuffix(".json")
    np.testing.assert_array_equal(read_image(tmp_path / f"{stem}.png"), judgement.pixels)
    assert read_image(tmp_path / f"{stem}.overlay.png").shape == (48, 64, 3)
    assert "/" not in stem
    assert "***" not in stem


def test_a_full_disk_leaves_no_half_reject(
    disk_of: Callable[[str], Path], judgement: Judgement, fill: Callable[..., int]
) -> None:
    folder = disk_of("128k")
    sink = RejectsSink(folder)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    assert fill(sink, (replace(judgement, pixels=noise, frame=i) for i in range(1000))) > 1
    for path in folder.glob("*.png"):
        read_image(path)
    for path in folder.glob("*.json"):
        json.loads(path.read_text())


def test_at_the_limit_the_oldest_go(tmp_path: Path, judgement: Judgement) -> None:
    folder = tmp_path / "ng"
    sink = RejectsSink(folder, limit_bytes=150_000)
    for item in rejects_of(judgement, 20):
        sink.write(item)
        assert size_of(folder) <= 150_000
    sink.close()
    frames = kept(folder)
    assert len(frames) > 3
    assert frames == list(range(20))[-len(frames) :]
    assert sink.describe() == f"20 rejects in {folder}, the {20 - len(frames)} oldest there deleted"


def test_what_an_earlier_run_left_counts(tmp_path: Path, judgement: Judgement) -> None:
    for first in (0, 10, 20):
        sink = RejectsSink(tmp_path, limit_bytes=150_000)
        for item in rejects_of(judgement, 10, first):
            sink.write(item)
            assert size_of(tmp_path) <= 150_000
        sink.close()
    assert kept(tmp_path)[-1] == 29
    # With less room than is there, the first reject makes room at once.
    sink = RejectsSink(tmp_path, limit_bytes=70_000)
    sink.write(rejects_of(judgement, 1, 30)[0])
    assert size_of(tmp_path) <= 70_000
    assert kept(tmp_path)[-1] == 30


def test_files_of_others_are_never_touched(tmp_path: Path, judgement: Judgement) -> None:
    stem = file_stem(judgement)
    others = [
        "notes.txt", "20200101T000000.png", "20200101T000000.000000Z_cam.png", f"{stem}.bmp", f"x{stem}.png", f"{stem}.json.bak",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).write_bytes(bytes(100_000))
    old = "20200101T000000.000000Z_cam_000001"
    (tmp_path / f"{old}.json").symlink_to(tmp_path / "notes.txt")
    (tmp_path / f"{old}.png").mkdir()
    sink = RejectsSink(tmp_path, limit_bytes=70_000)
    for item in rejects_of(judgement, 10):
        sink.write(item)
    sink.close()
    there = {p.name for p in tmp_path.iterdir()}
    assert {*others, f"{old}.json", f"{old}.png"} <= there
    assert len(there) - len(others) - 2 == 6, "two rejects have room"


def test_a_half_reject_of_a_kill_goes_like_a_whole_one(tmp_path: Path, judgement: Judgement) -> None:
    old = "20200101T000000.000000Z_cam_000001"
    (tmp_path / f"{old}.png").write_bytes(bytes(60_000))
    stale = tmp_path / f".{old}.overlay.png.abcd1234"
    fresh = tmp_path / f".{old}.overlay.png.abcd5678"
    foreign = tmp_path / ".notes.abcd1234"
    for folder in (stale, fresh, foreign):
        folder.mkdir()
        (folder / f"{old}.overlay.png").write_bytes(bytes(1000))
        os.utime(folder, (time.time() - 7200,) * 2)
    os.utime(fresh)
    sink = RejectsSink(tmp_path, limit_bytes=70_000)
    for item in rejects_of(judgement, 2):
        sink.write(item)
    sink.close()
    assert kept(tmp_path) == [0, 1]
    assert {p.name for p in tmp_path.iterdir() if p.name.startswith(".")} == {fresh.name, foreign.name}


def test_of_a_triple_the_json_goes_first(
    tmp_path: Path, judgement: Judgement, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = RejectsSink(tmp_path, limit_bytes=70_000)
    for item in rejects_of(judgement, 2):
        sink.write(item)
    gone: list[str] = []
    real = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        gone.append(path.name)
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    sink.write(rejects_of(judgement, 1, 2)[0])
    stem = file_stem(rejects_of(judgement, 1)[0])
    assert gone[:3] == [f"{stem}.json", f"{stem}.overlay.png", f"{stem}.png"]


def test_after_the_clock_was_set_back_what_is_new_stays(tmp_path: Path, judgement: Judgement) -> None:
    def at(wall_s: float, frame: int) -> Judgement:
        return replace(rejects_of(judgement, 1, frame)[0], wall_s=wall_s)

    sink = RejectsSink(tmp_path, limit_bytes=90_000)
    year = 365 * 86400
    for i in range(5):
        sink.write(at(time.time() + year + i, i))  # While the clock was wrong.
    before = len(kept(tmp_path))
    for i in range(5, 10):
        sink.write(at(time.time() + 0.01 * i, i))
    sink.close()
    assert before == 3
    assert kept(tmp_path) == [7, 8, 9]


def test_names_deleted_by_hand_make_room(tmp_path: Path, judgement: Judgement) -> None:
    sink = RejectsSink(tmp_path, limit_bytes=90_000)
    for item in rejects_of(judgement, 5):
        sink.write(item)
    for path in tmp_path.iterdir():
        path.unlink()
    for item in rejects_of(judgement, 5, 5):
        sink.write(item)
    assert kept(tmp_path) == [7, 8, 9]


def test_a_reject_larger_than_the_limit_is_refused(tmp_path: Path, judgement: Judgement) -> None:
    sink = RejectsSink(tmp_path, limit_bytes=20_000)
    with pytest.raises(DiskFullError, match=r"20,000 bytes of --rejects"):
        sink.write(rejects_of(judgement, 1)[0])
    assert not list(tmp_path.iterdir())


def test_where_others_fill_the_disk_a_new_reject_takes_the_place_of_the_oldest(
    small_disk: Any, judgement: Judgement
) -> None:
    folder = small_disk.path / "ng"
    sink = RejectsSink(folder, limit_bytes=10 << 20, reserve_bytes=1 << 20)
    for item in rejects_of(judgement, 10):
        sink.write(item)
    assert len(kept(folder)) == 10
    small_disk.leave(512 << 10)  # Less than the reserve, though nothing of ours.
    for item in rejects_of(judgement, 5, 10):
        sink.write(item)
    frames = kept(folder)
    assert 9 <= len(frames) <= 10, "not all was given up because somebody else took the disk"
    assert frames[-5:] == [10, 11, 12, 13, 14]
    small_disk.leave(3 << 20)
    sink.write(rejects_of(judgement, 1, 15)[0])
    assert kept(folder) == [*frames, 15]


def test_nothing_left_to_delete_is_a_full_disk_until_there_is_room(
    small_disk: Any, judgement: Judgement
) -> None:
    folder = small_disk.path / "ng"
    sink = RejectsSink(folder, limit_bytes=10 << 20, reserve_bytes=1 << 20)
    small_disk.leave(512 << 10)
    for _ in range(2):
        with pytest.raises(DiskFullError, match="no space left"):
            sink.write(rejects_of(judgement, 1)[0])
    small_disk.leave(2 << 20)
    sink.write(rejects_of(judgement, 1)[0])
    sink.close()
    assert kept(folder) == [0]


def test_without_limits_nothing_is_deleted(
    small_disk: Any, judgement: Judgement, fill: Callable[..., int]
) -> None:
    small_disk.leave(256 << 10)
    folder = small_disk.path / "ng"
    sink = RejectsSink(folder)
    written = fill(sink, rejects_of(judgement, 100))
    assert kept(folder) == list(range(written))
    small_disk.leave(256 << 10)
    sink.write(rejects_of(judgement, 1, 100)[0])
    assert kept(folder) == [*range(written), 100]


def test_names_carry_region_and_part_and_stay_names(tmp_path: Path, judgement: Judgement) -> None:
    sink = RejectsSink(tmp_path)
    part = "../../etc/passwd\n Ä" + "9" * 300
    for roi in ("left half", "left-half"):
        sink.write(replace(judgement, part=part, roi=(roi, (0, 0, 64, 48))))
    sink.close()
    stems = sorted(p.name.removesuffix(".json") for p in tmp_path.glob("*.json"))
    assert len(stems) == 2, "two regions whose names look alike do not overwrite each other"
    assert stems[0].endswith(f"_000042_roi-left-half_part-{'9' * 40}")
    assert stems[1] == f"{stems[0]}_2"
    assert {json.loads((tmp_path / f"{stem}.json").read_text())["part"] for stem in stems} == {part}
    # What an own name looks like is known again.
    own = OwnFiles(tmp_path, STEM, SUFFIXES, "--rejects", limit_bytes=1)
    with pytest.raises(DiskFullError):
        own.make_room(2)
    assert not list(tmp_path.iterdir())


def test_more_files_than_are_looked_at_at_once(
    tmp_path: Path, judgement: Judgement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agp_edge.sinks.disk.LOOK_AHEAD", 7)  # Two triples and a part of a third.
    sink = RejectsSink(tmp_path, limit_bytes=250_000)
    for item in rejects_of(judgement, 40):
        sink.write(item)
        assert size_of(tmp_path) <= 250_000
    frames = kept(tmp_path)
    assert len(frames) > 5
    assert frames == list(range(40))[-len(frames) :]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("4096", 4096),
        ("500M", 500 << 20),
        ("10G", 10 << 30),
        ("1.5k", 1536),
        ("2 TiB", 2 << 40),
        ("3MB", 3 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, "--rejects-limit") == size


@pytest.mark.parametrize("text", ["", "0", "-1", "G", "10X", "1e9", "nan", "1,000", "0.1", "9" * 30])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InputError, match="--rejects-limit"):
        parse_bytes(text, "--rejects-limit")
