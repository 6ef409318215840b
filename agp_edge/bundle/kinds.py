"""What a path is by its looks, so that the wrong thing is called by its name."""

from __future__ import annotations

from pathlib import Path

from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import translate_read_errors

MANIFEST = "manifest.json"

KIND_HINTS = {
    ("a bundle", "an engine"): "build one: agp-edge build-engine {path}",
    ("a bundle", "a run"): "it is exported already; give the run that it was exported from",
    (
        "a run",
        "an engine",
    ): "export it first: agp-edge export {path} --out BUNDLE; then calibrate, then build-engine",
    ("a run", "a bundle"): "export it first: agp-edge export {path} --out BUNDLE",
    ("the sidecar of an engine", "an engine"): "give the engine beside it: {engine}",
    ("an ONNX graph", "an engine"): "build one from its bundle: agp-edge build-engine BUNDLE",
    ("an ONNX graph", "a bundle"): "give the bundle's folder, which holds it with its manifest",
}
"""What to do where one kind was given and another is wanted."""

UNPACK = {
    "a zip archive": "unzip {path}",
    "a tar archive": "tar -xf {path}",
    "a compressed file": "tar -xf {path}",
}
"""Nothing is unpacked for anyone: an archive can hold paths that leave it, and more bytes than a disk."""

SUFFIXES = (
    (".engine", "an engine"),
    (".engine.json", "the sidecar of an engine"),
    (".onnx", "an ONNX graph"),
)
MAGIC = (
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "a zip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x1f\x8b", "a compressed file"),
    (0, b"BZh", "a compressed file"),
    (0, b"\xfd7zXZ\x00", "a compressed file"),
    (0, b"\x28\xb5\x2f\xfd", "a compressed file"),
)
"""Where in a file, which bytes: zip (and empty zip), tar, gzip, bzip2, xz, Zstandard."""


def is_bundle(path: Path) -> bool:
    """Whether a folder says that it is a bundle.

    Raises:
        InputError: this user may not look.
    """
    with translate_read_errors(path):
        return (path / MANIFEST).is_file()


def refuse_inside_bundle(path: Path, *, may_be_one: bool = False) -> None:
    """Refuse to write something of another kind into a bundle: read strictly, it would be refused from then on.

    Args:
        path: what is to be written, a file or a folder; it need not be there.
        may_be_one: it may be a bundle itself, which is then replaced.

    Raises:
        InputError: it lies in a bundle, or is one.
    """
    whole = path.resolve()
    for folder in whole.parents if may_be_one else (whole, *whole.parents):
        # Others have a manifest.json, too: a bundle has its FP32 graph beside it.
        if (folder / MANIFEST).is_file() and (folder / "model.fp32.onnx").is_file():
            raise InputError(
                f"{path} {'is' if folder == whole else 'lies in'} the bundle {folder.name}, which holds what its manifest names alone",
                "give a place outside of it",
            )


def refuse_half_bundle(path: Path) -> None:
    """Refuse a folder that has a bundle's graphs and not its manifest.

    Raises:
        ArtefactError: it is one.
    """
    if path.is_dir() and not is_bundle(path) and any(path.glob("model.*.onnx")):
        raise ArtefactError(
            f"{path} has no {MANIFEST}: it is no whole bundle",
            "fetch it again, or remove it and export it again",
        )


def describe_kind(path: Path) -> str | None:
    """Which kind of artefact a path is by its looks, in words; nothing of it is checked. None for anything else.

    Raises:
        InputError: this user may not look.
    """
    if is_bundle(path):
        return "a bundle"
    with translate_read_errors(path):
        if (path / "run.json").is_file():
            return "a run"
        if not path.is_file():
            return None
        for suffix, kind in SUFFIXES:
            if path.name.endswith(suffix):
                return kind
        with path.open("rb") as file:
            head = file.read(512)
    return next((kind for at, magic, kind in MAGIC if head.startswith(magic, at)), None)


def refuse_other_kind(path: Path, wanted: str) -> None:
    """Refuse what is plainly another kind of artefact than the one that is wanted.

    Args:
        path: what was given.
        wanted: a kind as `describe_kind` says it.

    Raises:
        InputError: it is another kind.
    """
    kind = describe_kind(path)
    if kind is None or kind == wanted:
        return
    hint = KIND_HINTS.get((kind, wanted), f"give {wanted}")
    if kind in UNPACK:
        hint = f"unpack it and give what is inside, nothing is unpacked here: {UNPACK[kind]}"
    raise InputError(
        f"{path} is {kind}, not {wanted}",
        hint.format(path=path, engine=path.with_name(path.name.removesuffix(".json"))),
    )
