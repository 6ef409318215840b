"""A bundle is read strictly: every kind of tampering ends in exit code 4, before anything is used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from agp_edge.bundle import Bundle, BundleFrame, Manifest, Part, split_held_out, split_trained, write_bundle
from agp_edge.datasets.images import write_png
from agp_edge.errors import ArtefactError, DiskFullError, InputError
from agp_edge.files import sha256_file
from agp_edge.frame import FrameSpec


class SmallDisk(Protocol):
    path: Path

    def leave(self, free_bytes: int) -> None: ...
    def listing(self) -> dict[str, bytes]: ...


SPEC = FrameSpec(8, 6, 3)
GRAPH = bytes([0x3A, 0])
"""The shortest ONNX file there is: field 7 of a model, its graph, with nothing in it. It is never run here."""


def make_manifest() -> Manifest:
    parts: tuple[Part, ...] = ("gate", "threshold")
    frames = [
        BundleFrame(f"frames/{i}.png", f"good/{i}.png", str(i) * 64, part, i == 0, 1.5)
        for i, part in enumerate(parts)
    ]
    return Manifest(
        name="part",
        frame=SPEC,
        network={"width": 8},
        producer={"agp_edge": "1"},
        trained=["b" * 64, "a" * 64],
        held_out=["c" * 64],
        splits={"gate": ["0" * 64], "threshold": ["1" * 64]},
        frames=frames,
        artefacts={"fp32": {"normal_scores": [1.0, 2.0]}},
    )


def make_files(folder: Path) -> dict[str, Path | bytes]:
    files: dict[str, Path | bytes] = {"model.fp32.onnx": GRAPH}
    for i in range(2):
        write_png(folder / f"{i}.png", np.full(SPEC.shape, 40 * i, np.uint8))
        files[f"frames/{i}.png"] = folder / f"{i}.png"
    return files


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle: its graph is never run here."""
    return write_bundle(tmp_path / "part.bundle", make_manifest(), make_files(tmp_path)).path


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_written_is_read(bundle: Path) -> None:
    read = Bundle(bundle)
    assert read.manifest.frames == make_manifest().frames
    assert read.manifest.precisions == ["fp32"]
    assert read.manifest.calibrated
    assert read.manifest.normal_scores("fp32") == [1.0, 2.0]
    assert read.sha256 == sha256_file(bundle / "manifest.json")
    entries, frames = read.load_frames()
    assert frames.shape == (2, 6, 8, 3)
    assert frames[:, 0, 0, 0].tolist() == [0, 40]
    assert [e.part for e in entries] == ["gate", "threshold"]
    assert [e.file for e in read.load_frames("threshold")[0]] == ["frames/1.png"]
    assert [e.file for e in read.load_frames(self_test=True)[0]] == ["frames/0.png"]


def test_the_same_input_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    files = dict(reversed(make_files(tmp_path).items()))
    again = replace(make_manifest(), trained=["a" * 64, "b" * 64])
    assert contents(write_bundle(tmp_path / "again", again, files).path) == contents(bundle)


def test_another_order_of_a_split_has_the_same_hash() -> None:
    manifest = replace(make_manifest(), splits={"gate": ["a", "b"]})
    assert manifest.split_hashes() == replace(manifest, splits={"gate": ["b", "a"]}).split_hashes()
    assert manifest.split_hashes() != replace(manifest, splits={"gate": ["a", "c"]}).split_hashes()


def remove(name: str) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).unlink()


def to_folder(name: str) -> Callable[[Path], object]:
    def change(bundle: Path) -> None:
        (bundle / name).unlink()
        (bundle / name).mkdir()

    return change


def flip_a_bit(name: str) -> Callable[[Path], object]:
    def flip(bundle: Path) -> None:
        data = bytearray((bundle / name).read_bytes())
        data[len(data) // 2] ^= 1
        (bundle / name).write_bytes(data)

    return flip


def add(name: str) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).write_bytes(b"extra")


def link(name: str) -> Callable[[Path], object]:
    def make(bundle: Path) -> None:
        outside = bundle.parent / "outside"
        (bundle / name).rename(outside)
        (bundle / name).symlink_to(outside)

    return make


def field(*keys: Any, value: Any) -> Callable[[Path], object]:
    """Set `manifest[keys[0]][keys[1]]…`."""

    def change(manifest: dict[str, Any]) -> None:
        inside: Any = manifest
        for key in keys[:-1]:
            inside = inside[key]
        inside[keys[-1]] = value

    return lambda bundle: edit(bundle, change)


def name_a_file(name: str) -> Callable[[Path], object]:
    """Name a file outside, with its right hash."""

    def change(bundle: Path) -> None:
        outside = bundle.parent / "outside"
        outside.write_bytes(b"outside")
        entry = {"sha256": sha256_file(outside), "size_bytes": 7}
        edit(bundle, lambda m: m["files"].__setitem__(name.format(outside=outside), entry))

    return change


def text(old: str, new: str) -> Callable[[Path], object]:
    def change(bundle: Path) -> None:
        path = bundle / "manifest.json"
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1))

    return change


TAMPERING: dict[str, Callable[[Path], object]] = {
    "no manifest": remove("manifest.json"),
    "no model": remove("model.fp32.onnx"),
    "no frame": remove("frames/1.png"),
    "a bit of the model": flip_a_bit("model.fp32.onnx"),
    "a bit of a frame": flip_a_bit("frames/0.png"),
    "an extra file": add("notes.txt"),
    "an extra frame": add("frames/2.png"),
    "a hidden file": add(".hidden"),
    "a pipe": lambda bundle: os.mkfifo(bundle / "pipe"),
    "a linked model": link("model.fp32.onnx"),
    "a linked folder": link("frames"),
    "a linked manifest": link("manifest.json"),
    "a folder in place of a file": to_folder("model.fp32.onnx"),
    "a path upwards": name_a_file("../outside"),
    "a path upwards by way of a folder": name_a_file("frames/../../outside"),
    "an absolute path": name_a_file("{outside}"),
    "an empty path": name_a_file(""),
    "a path with a zero byte": name_a_file("a\0b"),
    "a path without end": name_a_file("a" * 5000),
    "another hash": field("files", "model.fp32.onnx", "sha256", value="0" * 64),
    "another size": field("files", "model.fp32.onnx", "size_bytes", value=8),
    "a file's entry that is no object": field("files", "model.fp32.onnx", value="hash"),
    "a frame that is no file": field("frames", 0, "file", value="frames/9.png"),
    "a frame's file that is a list": field("frames", 0, "file", value=[]),
    "a frame with a field too many": field("frames", 0, "more", value=1),
    "a frame of a part that is not": field("frames", 0, "part", value="training"),
    "a frame's score that is text": field("frames", 0, "score", value="1.5"),
    "a frame that is no object": field("frames", 0, value=7),
    "another format": field("format", value="agp-edge-engine"),
    "another version": field("version", value=2),
    "an unknown field": field("surprise", value=1),
    "a missing field": lambda bundle: edit(bundle, lambda m: m.pop("trained")),
    "a field of another type": field("trained", value="a"),
    "a hash that is a number": field("trained", value=[1]),
    "a split that is not": field("splits", "best", value=[]),
    "a name that leaves the folder": field("name", value="../part"),
    "a precision that is not": field("artefacts", "fp64", value={}),
    "an artefact that is no object": field("artefacts", "fp32", value=[]),
    "normal scores that are text": field("artefacts", "fp32", "normal_scores", value=["1.0"]),
    "a frame size of no pixels": field("frame", "width", value=0),
    "no frame size": field("frame", value=None),
    "a score that is NaN": text("2.0", "NaN"),
    "a score that is infinite": text("2.0", "1e999"),
    "no JSON": text("{", ""),
    "a list": lambda bundle: (bundle / "manifest.json").write_text("[]"),
    "a huge manifest": lambda bundle: os.truncate(bundle / "manifest.json", 65 << 20),
}  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERING.values(), ids=TAMPERING.keys())
def test_tampering_is_found(
    bundle: Path, tamper: Callable[[Path], object], command: Callable[..., tuple[int, str, str]]
) -> None:
    tamper(bundle)
    with pytest.raises(ArtefactError):
        Bundle(bundle)
    code, out, err = command("verify", bundle)
    assert (code, out) == (4, "")
    assert len(err.splitlines()) == 2


def test_a_bundle_that_was_swapped_is_no_longer_the_one_an_engine_names(bundle: Path) -> None:
    before = Bundle(bundle).sha256
    edit(bundle, lambda m: m["network"].update(width=9))
    assert Bundle(bundle).sha256 != before


def test_no_bundle_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no bundle"):
        Bundle(tmp_path / "nothing")


def test_a_frame_of_another_size_is_found_when_it_is_read(
    bundle: Path, reseal: Callable[[Path], None]
) -> None:
    write_png(bundle / "frames" / "0.png", np.zeros((6, 9, 3), np.uint8))
    reseal(bundle)
    with pytest.raises(ArtefactError, match="9x6, not 8x6"):
        Bundle(bundle).load_frames()


def test_a_precision_that_is_not_there_says_which_are(bundle: Path) -> None:
    read = Bundle(bundle)
    assert read.model_path("fp32") == bundle / "model.fp32.onnx"
    with pytest.raises(InputError, match="no fp16 graph") as caught:
        read.model_path("fp16")
    assert caught.value.hint == "it has: fp32"
    with pytest.raises(InputError) as caught:
        read.model_path("int8")
    assert "calibrate" in caught.value.hint
    with pytest.raises(ArtefactError, match="no normal scores for fp16"):
        read.manifest.normal_scores("fp16")


def test_a_bundle_is_replaced_and_nothing_else_is(bundle: Path, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    write_bundle(bundle, replace(make_manifest(), name="other"), files)
    assert Bundle(bundle).manifest.name == "other"
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", make_manifest(), files)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").touch()
    for place in (tmp_path / "mine", tmp_path / "mine" / "letters.txt"):
        with pytest.raises(InputError, match="exists and is no bundle"):
            write_bundle(place, make_manifest(), files)
    assert contents(tmp_path / "mine") == {"letters.txt": b""}


def test_a_full_disk_keeps_the_old_bundle(bundle: Path, tmp_path: Path, small_disk: SmallDisk) -> None:
    place = small_disk.path / "part.bundle"
    shutil.copytree(bundle, place)
    before = small_disk.listing()
    small_disk.leave(30_000)
    files = {**make_files(tmp_path), "model.fp32.onnx": bytes(200_000)}
    with pytest.raises(DiskFullError):
        write_bundle(place, make_manifest(), files)
    assert small_disk.listing() == before
    Bundle(place)


def test_splits_follow_the_content_and_do_not_meet() -> None:
    hashes = [f"{i * 7919 % 101:03}" for i in range(101)]
    parts = split_held_out(hashes)
    assert parts == split_held_out(reversed(hashes))
    assert sorted(parts["gate"] + parts["threshold"]) == sorted(hashes)
    assert (len(parts["threshold"]), len(parts["gate"])) == (51, 50)
    assert split_held_out(["a", "a"]) == {"threshold": ["a"], "gate": []}, "copies count once"
    trained = split_trained(hashes, at_most=20)
    assert not set(trained["ranges"]) & set(trained["search"])
    assert [len(part) for part in trained.values()] == [20, 20]
