"""What is handed over as a bundle and is none, or one that somebody spoiled: each is told from the others, and nothing hangs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.bundle import Bundle, BundleFrame, Manifest, hash_of_hashes, write_bundle
from agp_edge.datasets.images import write_png
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import MAX_JSON_BYTES, sha256_bytes
from agp_edge.frame import FrameSpec

Command = Callable[..., tuple[int, str, str]]
SPEC = FrameSpec(8, 6, 3)
GRAPH = bytes([0x3A, 0])
"""The shortest ONNX file there is: field 7 of a model, its graph, with nothing in it."""
A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def calibrated(folder: Path) -> tuple[Manifest, dict[str, Path | bytes]]:
    write_png(folder / "0.png", np.zeros(SPEC.shape, np.uint8))
    frame = BundleFrame("frames/0.png", "0.png", B, "gate", True, 1.0)
    manifest = Manifest(
        "part", SPEC, {}, {}, [A], [B, C],
        splits={"ranges": [A], "search": [], "gate": [B], "threshold": [C]},
        frames=[frame],
        artefacts={"fp32": {"normal_scores": [1.0]}},
        calibration={
            "model_sha256": sha256_bytes(GRAPH), "set_sha256": hash_of_hashes([A]), "frames": [{"name": "a", "sha256": A}],
            "choice": "first", "seed": 0, "method": "max", "int8": {"quantised": [], "kept": []},
        },
    )  # fmt: skip
    return manifest, {"model.fp32.onnx": GRAPH, "frames/0.png": folder / "0.png"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "part.bundle", *calibrated(tmp_path)).path


def pack_zip(bundle: Path) -> Path:
    path = bundle.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(bundle.rglob("*")):
            archive.write(file, file.relative_to(bundle.parent))
    return path


def pack_tar(bundle: Path) -> Path:
    path = bundle.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        archive.add(bundle, bundle.name)
    return path


def pack_tgz(bundle: Path) -> Path:
    path = bundle.with_suffix(".tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(bundle, bundle.name)
    return path


def pack_as_a_bundle(bundle: Path) -> Path:
    """By its name it is none; by its bytes it is."""
    return pack_zip(bundle).rename(bundle.with_name("again.bundle"))


@pytest.mark.parametrize(
    ("pack", "kind", "hint"),
    [
        (pack_zip, "a zip archive", "unzip "),
        (pack_tar, "a tar archive", "tar -xf "),
        (pack_tgz, "a compressed file", "tar -xf "),
        (pack_as_a_bundle, "a zip archive", "unzip "),
    ],
)
def test_an_archive_is_for_the_user_to_unpack(
    pack: Callable[[Path], Path], kind: str, hint: str, bundle: Path, tmp_path: Path, command: Command
) -> None:
    archive = pack(bundle)
    before = sorted(tmp_path.rglob("*"))
    for arguments in (
        ("verify", archive),
        ("inspect", archive),
        ("build-engine", archive),
        ("calibrate", archive, tmp_path),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (2, ""), err
        what, todo = err.splitlines()[-2:]
        assert f"{archive} is {kind}" in what
        assert todo.endswith(f"nothing is unpacked here: {hint}{archive}")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_bundle_says_so(tmp_path: Path, bundle: Path, command: Command) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "letter.txt").write_text("Dear Sir")
    (tmp_path / "nothing.bundle").touch()
    for name in ("empty", "letter.txt", "nothing.bundle"):
        code, out, err = command("build-engine", tmp_path / name)
        assert (code, out, len(err.splitlines())) == (4, "", 2)
        assert "has no manifest.json: it is no bundle" in err
    code, _, err = command("build-engine", bundle / "model.fp32.onnx")
    assert code == 2
    assert "is an ONNX graph, not a bundle" in err
    assert "with its manifest" in err
    code, _, err = command("build-engine", bundle / "manifest.json")
    assert code == 4
    assert "it is no bundle" in err


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything; for a while this is somebody else."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("where", [".", "frames", "manifest.json", "model.fp32.onnx"])
def test_what_may_not_be_read_says_so(where: str, bundle: Path, command: Command) -> None:
    command("verify", bundle)  # Whatever is imported is imported while that is allowed.
    Bundle(bundle)
    place = bundle / where
    mode = place.stat().st_mode
    for parent in (bundle.parent, bundle.parent.parent):
        parent.chmod(parent.stat().st_mode | 0o055)
    place.chmod(0)
    try:
        with as_nobody():
            with pytest.raises((InputError, ArtefactError)) as caught:
                Bundle(bundle)
            code, out, err = command("verify", bundle)
    finally:
        place.chmod(mode)
    assert "Permission denied" in caught.value.what
    assert (code, out, len(err.splitlines())) == (caught.value.exit_code, "", 2), err


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def do(bundle: Path) -> None:
        path = bundle / "manifest.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return do


def replace_text(old: str, new: str) -> Callable[[Path], object]:
    def do(bundle: Path) -> None:
        path = bundle / "manifest.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return do


def rewrite(make: Callable[[str], bytes]) -> Callable[[Path], object]:
    def do(bundle: Path) -> None:
        path = bundle / "manifest.json"
        path.write_bytes(make(path.read_text()))

    return do


def grow(bundle: Path) -> None:
    """A manifest of 1 GB, as a file with a hole: whoever reads it notices."""
    os.truncate(bundle / "manifest.json", 1 << 30)


def make_folder(name: str) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).mkdir(parents=True)


def link_elsewhere(name: str) -> Callable[[Path], object]:
    def do(bundle: Path) -> None:
        (bundle / name).rename(bundle.parent / "elsewhere")
        (bundle / name).symlink_to(bundle.parent / "elsewhere")

    return do


def dangle(bundle: Path) -> None:
    (bundle / "more.txt").symlink_to("nowhere")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a key twice": (replace_text('"version": 1', '"version": 1, "version": 1'), "key 'version' is there twice"),
    "a key twice, deep inside": (replace_text('"width": 8', '"width": 8, "width": 9'), "key 'width' is there twice"),
    "NaN": (replace_text('"score": 1.0', '"score": NaN'), "NaN is no JSON"),
    "infinity": (replace_text('"score": 1.0', '"score": -Infinity'), "-Infinity is no JSON"),
    "a number beyond all": (replace_text('"score": 1.0', '"score": 1e999'), "1e999 is no finite number"),
    "an integer without end": (replace_text('"score": 1.0', '"score": ' + "9" * 5000), "too large an integer"),
    "half a letter": (replace_text('"name": "part"', '"name": "\\ud800"'), "surrogates not allowed"),
    "a network without end": (replace_text('"network": {}', '"network": {"a": ' + "[" * 900 + "]" * 900 + "}"), "nested deeper than 64"),
    "brackets without end": (rewrite(lambda text: b"[" * 1_000_000), "cannot be read"),
    "no UTF-8": (rewrite(lambda text: text.replace("part", "größe").encode("latin-1")), "codec can't decode"),
    "UTF-16": (rewrite(lambda text: text.encode("utf-16")), "codec can't decode"),
    "a byte order mark": (rewrite(lambda text: text.encode("utf-8-sig")), "BOM"),
    "cut off": (rewrite(lambda text: text.encode()[:-20]), "cannot be read"),
    "nothing": (rewrite(lambda text: b""), "cannot be read"),
    "two of them": (rewrite(lambda text: 2 * text.encode()), "Extra data"),
    "a gigabyte": (grow, f"has 1,073,741,824 bytes, more than the {MAX_JSON_BYTES:,} allowed"),
    "an empty folder": (make_folder("more"), "what its manifest does not name: more"),
    "an empty folder inside": (make_folder("frames/more"), "what its manifest does not name: frames/more"),
    "a folder for a signature": (make_folder("model.sig"), "model.sig is no plain file"),
    "a link to the frames": (link_elsewhere("frames"), "frames is a link"),
    "a link to the manifest": (link_elsewhere("manifest.json"), "it is a link"),
    "a link to a graph": (link_elsewhere("model.fp32.onnx"), "model.fp32.onnx is a link"),
    "a link to a frame": (link_elsewhere("frames/0.png"), "frames/0.png is a link"),
    "a link to nowhere": (dangle, "more.txt is a link"),
    "a frame that is not there": (edit(lambda m: m["files"].pop("frames/0.png")), "'frames/0.png' is not among its files"),
    "a frame of another part": (edit(lambda m: m["frames"][0].update(part="threshold")), "is not of the threshold part"),
    "a frame twice": (edit(lambda m: m["frames"].append(m["frames"][0])), "two of its frames are one file"),
    "a frame in two splits": (edit(lambda m: m["splits"]["threshold"].append(B)), "a frame is in two of its splits"),
    "scores of no graph": (edit(lambda m: m["artefacts"].update(int8={"normal_scores": [1.0]})), "normal scores of int8 and no graph"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_bundle_ends_in_four_and_says_why(name: str, bundle: Path, command: Command) -> None:
    spoil, message = SPOILED[name]
    spoil(bundle)
    with pytest.raises(ArtefactError) as caught:
        Bundle(bundle)
    assert message in caught.value.what
    assert len(caught.value.what) < 600
    for verb in ("verify", "inspect"):
        code, out, err = command(verb, bundle)
        assert (code, out, len(err.splitlines())) == (4, "", 2), err
        assert message in err


def test_the_folder_itself_may_be_a_link(bundle: Path, tmp_path: Path) -> None:
    """As a device has it that switches from one version to another."""
    (tmp_path / "current").symlink_to(bundle.name)
    assert Bundle(tmp_path / "current").sha256 == Bundle(bundle).sha256


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda made: made.update(model_sha256=C), "another FP32 graph"),
        (lambda made: made.update(set_sha256=C), "another set of frames"),
        (lambda made: made["frames"].append({"name": "b", "sha256": B}), "another set of frames"),
        (lambda made: made.update(frames=[{"name": "b", "sha256": B}], set_sha256=hash_of_hashes([B])), "another set of frames"),
    ],
)  # fmt: skip
def test_a_stale_calibration_is_shown_and_never_used(
    change: Callable[[dict[str, Any]], object], words: str, bundle: Path, command: Command
) -> None:
    edit(lambda m: change(m["calibration"]))(bundle)
    assert f"STALE: its calibration is of {words}" in " ".join(command("inspect", bundle)[1].split())
    with pytest.raises(ArtefactError, match=words) as caught:
        Bundle(bundle).model_bytes("fp32")
    assert "agp-edge calibrate" in caught.value.hint
    for verb in ("verify", "build-engine"):
        code, _, err = command(verb, bundle)
        assert code == 4
        assert words in err


def test_a_graph_that_is_changed_after_it_was_verified_reaches_no_runtime(bundle: Path) -> None:
    read = Bundle(bundle)
    (bundle / "model.fp32.onnx").write_bytes(GRAPH + GRAPH)
    with pytest.raises(ArtefactError, match="changed while it was read"):
        read.model_bytes("fp32")


def test_what_could_not_be_read_again_replaces_nothing(bundle: Path, tmp_path: Path) -> None:
    manifest, files = calibrated(tmp_path)
    before = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    for wrong in (replace(manifest, name="../x"), replace(manifest, splits={})):
        with pytest.raises(ArtefactError):
            write_bundle(bundle, wrong, files)
    with pytest.raises(ArtefactError, match="no ONNX graph"):
        write_bundle(bundle, manifest, {**files, "model.fp32.onnx": b"garbage"})
    assert {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.png", "part.bundle"]


def test_inspect_prints_nothing_that_steers_a_terminal(bundle: Path, command: Command) -> None:
    edit(lambda m: m["producer"].update(agp_edge="1\x1b]0;owned\x07\x1b[31m"))(bundle)
    code, out, _ = command("inspect", bundle)
    assert code == 0
    assert "made by    agp_edge 1?]0;owned??[31m" in out


KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from agp_edge.bundle import Bundle, write_bundle
sys.path.insert(0, {here!r})
from test_bundle_input import calibrated

place, scratch = Path(sys.argv[1]), Path(sys.argv[2])
manifest, files = calibrated(scratch)
names = ["old", "new"]
write_bundle(place, replace(manifest, name="old"), files)
writes, steps = 0, 0
while True:
    child = os.fork()
    if child == 0:
        count = 0
        def stop(event, arguments):
            global count
            if event != "os.kill" and event.partition(".")[0] in ("open", "os", "shutil", "ctypes", "tempfile"):
                count += 1
                if count > steps:
                    os.kill(os.getpid(), 9)
        sys.addaudithook(stop)
        write_bundle(place, replace(manifest, name=names[writes % 2 - 1]), files)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, 9), status
    found = Bundle(place).manifest.name
    print(found, flush=True)
    if status == 0:
        break
    if found == names[writes % 2 - 1]:
        writes += 1
    steps += 1
"""


def test_a_kill_at_any_point_leaves_the_old_bundle_or_the_new_one(tmp_path: Path) -> None:
    """Killed at each step in turn that the system is asked for: the first kill that comes too late ends it."""
    (tmp_path / "scratch").mkdir()
    script = KILLED.format(here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "part.bundle", tmp_path / "scratch"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = done.stdout.split()
    assert set(found) == {"old", "new"}
    assert found[0] == "old", "the first kill comes before anything was done"
    assert len(found) > 30, "so many steps there are at least"
