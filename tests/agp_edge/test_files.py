"""Files are whole or absent: crashes, interrupts and full disks in the middle of a write."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from agp_edge import files
from agp_edge.errors import ArtefactError, DiskFullError, InputError
from agp_edge.files import atomic_path, read_json, sha256_bytes, sha256_file, to_json, write_bytes, write_json


class SmallDisk(Protocol):
    path: Path

    def leave(self, free_bytes: int) -> None: ...
    def listing(self) -> dict[str, bytes]: ...


def write_half(path: Path, stop: BaseException, *, folder: bool = False) -> None:
    """Begin to write, and be stopped."""
    with atomic_path(path) as work:
        if folder:
            work.mkdir()
            (work / "half").touch()
        else:
            work.write_bytes(b"ha")
        raise stop


def write_folder(path: Path, names: list[str], size: int) -> None:
    """Write a folder of files of a size."""
    with atomic_path(path) as work:
        work.mkdir()
        for name in names:
            (work / name).write_bytes(bytes(size))


def everything(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_hashes_are_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 700_000)
    assert sha256_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(path) == sha256_bytes(path.read_bytes())


def test_a_file_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert everything(tmp_path) == ["a", "a/b", "a/b/file"]


@pytest.mark.parametrize("stop", [RuntimeError("crash"), KeyboardInterrupt()])
def test_what_stops_half_way_leaves_the_old_file_alone(tmp_path: Path, stop: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(stop)):
        write_half(path, stop)
    assert path.read_bytes() == b"old"
    assert everything(tmp_path) == ["file"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("old", "new"):
        write_folder(path, [name], 3)
    assert everything(tmp_path) == ["folder", "folder/new"]
    with pytest.raises(RuntimeError):
        write_half(path, RuntimeError(), folder=True)
    assert everything(tmp_path) == ["folder", "folder/new"]


def test_an_interrupt_between_the_two_renames_of_a_folder_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()

    def interrupted(self: Path, target: Path) -> None:
        assert not path.exists(), "the old folder is aside already"
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    # As on a file system that cannot exchange two folders in one step.
    monkeypatch.setattr(files, "exchange", lambda a, b: False)
    with pytest.raises(KeyboardInterrupt):
        write_folder(path, ["new"], 3)
    assert everything(tmp_path) == ["folder", "folder/old"]


def test_what_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "file" / "under"))):
        write_bytes(tmp_path / "file" / "under", b"")


def test_a_full_disk_keeps_the_old_file(small_disk: SmallDisk) -> None:
    path = small_disk.path / "file"
    write_bytes(path, b"old")
    small_disk.leave(8192)
    with pytest.raises(DiskFullError, match="file"):
        write_bytes(path, bytes(100_000))
    assert small_disk.listing() == {"file": b"old"}


def test_a_full_disk_keeps_the_old_folder(small_disk: SmallDisk) -> None:
    path = small_disk.path / "folder"
    path.mkdir()
    write_bytes(path / "file", b"old")
    small_disk.leave(20_000)
    with pytest.raises(DiskFullError):
        write_folder(path, list("abcdefghij"), 10_000)
    assert small_disk.listing() == {"folder/file": b"old"}


def test_a_json_result_on_a_full_disk_ends_in_five(
    small_disk: SmallDisk, command: Callable[..., tuple[int, str, str]], tiny_engine: Path
) -> None:
    target = small_disk.path / "result.json"
    small_disk.leave(0)
    code, _, err = command("inspect", tiny_engine, "--json", target)
    assert code == 5
    assert err.splitlines()[0] == f"error: no space left to write {target}"
    assert small_disk.listing() == {}


def test_json_is_the_same_bytes_for_the_same_value(tmp_path: Path) -> None:
    assert to_json({"b": 1, "a": "ü"}) == '{\n  "a": "ü",\n  "b": 1\n}\n'
    path = tmp_path / "value.json"
    write_json(path, {"b": 1, "a": [2.5]})
    assert read_json(path, "value") == {"a": [2.5], "b": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json({"a": float("nan")})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"[" * 100_000,
        b'{"a": ' * 100_000,
    ],
    ids=["empty", "cut", "list", "no utf-8", "nan", "infinity", "deep list", "deep object"],
)
def test_json_that_is_not_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="the value"):
        read_json(path, "the value")


def test_json_that_is_missing_or_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(ArtefactError, match="missing"):
        read_json(path, "the value")
    with path.open("wb") as file:
        os.truncate(file.fileno(), 65 << 20)
    with pytest.raises(ArtefactError, match="more than the"):
        read_json(path, "the value")
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_json(tmp_path, "a folder")
