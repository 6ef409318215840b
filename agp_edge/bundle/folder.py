"""Reading a bundle: every file is verified before anything is used."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agp_edge.bundle.kinds import MANIFEST, is_bundle, refuse_other_kind
from agp_edge.bundle.manifest import BundleFrame, FramePart, Manifest, model_file
from agp_edge.bundle.onnx_file import check_onnx_bytes
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import parse_json, read_limited, sha256_bytes, translate_read_errors
from agp_edge.frame import Precision
from agp_edge.trust import SIGNATURE, Signer, check_bundle

CHUNK_BYTES = 1 << 20
AGAIN = "fetch the bundle again, or export it again"


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read the manifest of a bundle, and its hash; the files it names are not looked at.

    Args:
        path: the bundle's folder.

    Raises:
        ArtefactError: it is a link, too large, no JSON, not what the schema allows, or it contradicts itself.
    """
    file = path / MANIFEST
    data = read_limited(file, f"manifest of bundle {path}", follow_links=False)
    manifest = Manifest.from_dict(parse_json(data, f"manifest of bundle {path}: {file}"), str(file))
    contradiction = manifest.find_contradiction()
    if contradiction is not None:
        raise ArtefactError(f"{file}: {contradiction}", AGAIN)
    return manifest, sha256_bytes(data)


class Bundle:
    """A bundle on disk that was read strictly.

    Args:
        path: the folder; it may itself be a link.
        enforce_policy: refuse what this machine's policy does not accept. Only what looks, signs or has just written
            the bundle, and gives it to no runtime, says False.

    Attributes:
        manifest: what it says.
        sha256: hash of its manifest, and so of everything in it.
        signer: who signed it, where this machine's policy accepts the signature; else None.

    Raises:
        InputError: there is no such folder, it may not be read, or it is something else that we know.
        ArtefactError: its manifest cannot be read, a file is missing, extra, changed or a link, or a graph is not one that
            a runtime may see; or this machine's policy requires a signature that it has not.
    """

    def __init__(self, path: Path, *, enforce_policy: bool = True) -> None:
        with translate_read_errors(path):
            if not path.exists():
                raise InputError(
                    f"there is no bundle at {path}", "make one: agp-edge export RUN --out BUNDLE"
                )
        if not is_bundle(path):
            refuse_other_kind(path, "a bundle")
            raise ArtefactError(
                f"{path} has no {MANIFEST}: it is no bundle", "make one: agp-edge export RUN --out BUNDLE"
            )
        self.path = path
        self.manifest, self.sha256 = read_manifest(path)
        # Over the hashes that the manifest names: nothing is looked into before its signature is good.
        self.signer: Signer | None = check_bundle(path, self.hashes) if enforce_policy else None
        with translate_read_errors(path):
            self._verify_files()

    @property
    def hashes(self) -> dict[str, str]:
        """Path inside the bundle -> SHA-256, of every file and of the manifest: what a signature is over."""
        files = {name: entry["sha256"] for name, entry in self.manifest.files.items()}
        return {MANIFEST: self.sha256, **files}

    def _verify_files(self) -> None:
        # Manifest names are `model.….onnx` and `frames/….png`: two folders are all there is to look into.
        named = self.manifest.files
        folders = {name.partition("/")[0] for name in named if "/" in name}
        self._look_for_extras("", {*named, MANIFEST, SIGNATURE}, folders)
        for folder in sorted(folders):
            self._look_for_extras(f"{folder}/", set(named), set())
        for name, entry in named.items():
            if self._verify_file(name, entry["size_bytes"]) != entry["sha256"]:
                raise self._changed(name)

    def _look_for_extras(self, inside: str, files: set[str], folders: set[str]) -> None:
        """Refuse what is no plain file or folder that was named: extra files, links, pipes, even an empty folder."""
        try:
            with os.scandir(self.path / inside) as found:
                for item in found:
                    name = inside + item.name
                    if item.is_symlink():
                        raise ArtefactError(
                            f"bundle {self.path}: {name} is a link, and a bundle has plain files alone", AGAIN
                        )
                    if item.is_dir(follow_symlinks=False) and name in folders:
                        continue
                    if name not in files:
                        raise ArtefactError(
                            f"bundle {self.path} has what its manifest does not name: {name}",
                            f"move it away if it is yours; else {AGAIN}",
                        )
                    if not item.is_file(follow_symlinks=False):
                        raise ArtefactError(f"bundle {self.path}: {name} is no plain file", AGAIN)
        except FileNotFoundError as error:
            raise ArtefactError(f"bundle {self.path}: {inside} is missing", AGAIN) from error

    def _verify_file(self, name: str, size_bytes: int) -> str:
        """The hash of a file, which is opened and read once; of a graph also what a runtime must not see."""
        try:
            # Never through a link; and a pipe would make whoever opens it wait.
            descriptor = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise ArtefactError(f"bundle {self.path}: {name} is missing", AGAIN) from error
        with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor, no path
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ArtefactError(f"bundle {self.path}: {name} is no plain file", AGAIN)
            if status.st_size != size_bytes:
                raise self._changed(name)
            if not size_bytes:
                # Nothing can be mapped of an empty file, and none of ours is.
                raise ArtefactError(f"bundle {self.path}: {name} is empty", AGAIN)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                digest = hashlib.sha256()
                for start in range(0, size_bytes, CHUNK_BYTES):
                    digest.update(data[start : start + CHUNK_BYTES])
                if name.endswith(".onnx") and digest.hexdigest() == self.manifest.files[name]["sha256"]:
                    check_onnx_bytes(data, f"{self.path / name}")
            return digest.hexdigest()

    def _changed(self, name: str) -> ArtefactError:
        return ArtefactError(f"bundle {self.path}: {name} was changed: its hash is not the manifest's", AGAIN)

    def model_path(self, precision: Precision) -> Path:
        """The ONNX graph of a precision.

        Raises:
            InputError: the bundle has none.
            ArtefactError: its calibration is of another graph or another set of frames.
        """
        name = model_file(precision)
        if precision in self.manifest.refused:
            raise InputError(
                f"bundle {self.path} has a {precision} graph that the gate refused when it was calibrated",
                f"take one of: {', '.join(self.manifest.precisions)}; or calibrate it again",
            )
        if name not in self.manifest.files:
            has = ", ".join(self.manifest.precisions)
            hint = f"run: agp-edge calibrate {self.path} DATA" if precision == "int8" else f"it has: {has}"
            raise InputError(f"bundle {self.path} has no {precision} graph", hint)
        stale = self.manifest.find_stale()
        if stale is not None:
            raise ArtefactError(
                f"bundle {self.path}: {stale}", f"calibrate it again: agp-edge calibrate {self.path} DATA"
            )
        return self.path / name

    def model_bytes(self, precision: Precision) -> bytes:
        """The same graph's bytes, hashed once more as they are read: hand these to a runtime, not the path.

        Raises:
            InputError: the bundle has none.
            ArtefactError: it was changed since the bundle was read, or as `model_path`.
        """
        path = self.model_path(precision)
        data = path.read_bytes()
        if sha256_bytes(data) != self.manifest.files[path.name]["sha256"]:
            raise ArtefactError(
                f"bundle {self.path}: {path.name} was changed while it was read", "let nobody write there"
            )
        return data

    def load_frames(
        self, part: FramePart | None = None, *, self_test: bool = False
    ) -> tuple[list[BundleFrame], NDArray[np.uint8]]:
        """The bundle's frames, decoded.

        Args:
            part: only those of this part.
            self_test: only those marked as the quick self-test.

        Returns:
            Their entries, and [N, H, W, C] uint8.

        Raises:
            ArtefactError: a frame has another size than the manifest says.
        """
        from agp_edge.datasets.images import read_image

        spec = self.manifest.frame
        chosen = [
            f for f in self.manifest.frames if part in (None, f.part) and (f.self_test or not self_test)
        ]
        frames = np.empty((len(chosen), *spec.shape), np.uint8)
        for i, frame in enumerate(chosen):
            pixels = read_image(self.path / frame.file, mono=spec.channels == 1)
            if pixels.shape != spec.shape:
                raise ArtefactError(
                    f"bundle {self.path}: {frame.file} is {pixels.shape[1]}x{pixels.shape[0]}, not {spec}",
                    "export and calibrate it again",
                )
            frames[i] = pixels
        return chosen, frames
