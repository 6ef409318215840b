"""Writing a bundle: whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from agp_edge.bundle.folder import Bundle
from agp_edge.bundle.kinds import MANIFEST, is_bundle, refuse_inside_bundle
from agp_edge.bundle.manifest import Manifest
from agp_edge.errors import InputError
from agp_edge.files import atomic_path, sha256_file, to_json, translate_read_errors

OURS = re.compile(r"manifest\.json|model\.sig|model\.[a-z0-9]+\.onnx|frames")
"""What lies in the folder of a bundle of any version."""


def check_out(path: Path) -> None:
    """Refuse to write a bundle over something else, or into another bundle.

    Raises:
        InputError: `path` holds something that is no bundle, or more than a bundle does; or it lies in one.
    """
    refuse_inside_bundle(path, may_be_one=True)
    with translate_read_errors(path):
        if not path.exists():
            return
        whole = is_bundle(path)
        names = sorted(item.name for item in path.iterdir()) if path.is_dir() else None
    if names is None or (names and not whole):
        raise InputError(f"{path} exists and is no bundle", "give another --out, or remove it")
    foreign = [name for name in names if not OURS.fullmatch(name)] if whole else []
    if foreign:
        raise InputError(
            f"{path} is a bundle that holds something else, which would be lost: {', '.join(foreign[:4])}",
            "move that away, or give another --out",
        )


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, Path | bytes]) -> Bundle:
    """Write a bundle, whole or not at all; an existing bundle at `path` is replaced.

    It is read again, as a device would read it, before it takes its place: a bundle that cannot be read replaces none.

    Args:
        path: the folder to make.
        manifest: everything but `files`, which is taken from what is written.
        files: path inside the bundle -> its bytes, or a file to copy.

    Raises:
        InputError: `path` is something else than a bundle or an empty folder, or cannot be written.
        ArtefactError: what was to be written is no bundle.
        DiskFullError: no space left.
    """
    check_out(path)
    # A link to a bundle stays one: what it points to is replaced.
    with atomic_path(path.resolve()) as work:
        work.mkdir()
        entries = {}
        for name, content in sorted(files.items()):
            target = work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                shutil.copyfile(content, target)
            entries[name] = {"sha256": sha256_file(target), "size_bytes": target.stat().st_size}
        (work / MANIFEST).write_text(to_json(replace(manifest, files=entries).to_dict()), encoding="utf-8")
        bundle = Bundle(work, enforce_policy=False)
    bundle.path = path
    return bundle
