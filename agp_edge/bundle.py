"""The bundle: the only contract between the host that trains and the device that runs.

A folder, read strictly: every file is named in `manifest.json` with its hash, and nothing else is there.

    manifest.json          versions, hashes, frame size, layers, splits, what each artefact measured
    model.fp32.onnx        uint8 [N, H, W, C] frames in, `score` [N] and `anomaly_map` [N, h, w] out
    model.fp16.onnx        the same with a half-precision core
    model.int8.onnx        the same with Q/DQ, once calibrated
    frames/*.png           the held-out good frames of the gate and of the threshold
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import atomic_path, read_json, sha256_bytes, sha256_file, to_json
from agp_edge.frame import PRECISIONS, FrameSpec, Precision

FORMAT = "agp-edge-bundle"
VERSION = 1
MANIFEST = "manifest.json"
SELF_TEST_FRAMES = 4
FILE_NAME = re.compile(r"[\w-][\w.-]{0,99}(/[\w-][\w.-]{0,99})?", re.ASCII)
"""What a file of a bundle may be called: no absolute path, no `..`, nothing hidden, one folder deep at most."""

Part = Literal["ranges", "search", "gate", "threshold"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class BundleFrame:
    """A held-out good frame in the bundle.

    Attributes:
        file: its path inside the bundle.
        name: the image it came from, relative to its data set.
        sha256: content hash of that image file: what the splits are made of.
        part: `gate` or `threshold`.
        self_test: it belongs to the quick self-test.
        score: what the FP32 reference scored it with.
    """

    file: str
    name: str
    sha256: str
    part: Part
    self_test: bool
    score: float


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes:
        name: the bundle's name; engines are called after it.
        frame: the frame the graphs take.
        network: what was trained: backbone, grid, layers, hyper-parameters, classes.
        producer: versions of what made it.
        trained: content hashes of the images that the network was trained on.
        held_out: content hashes of the good images that training left out.
        files: path inside the bundle -> {sha256, size_bytes}.
        splits: part -> content hashes of its frames, sorted.
        frames: the frames that travel with it.
        artefacts: precision -> what it measured here: `normal_scores` and, against FP32, `gate`.
    """

    name: str
    frame: FrameSpec
    network: dict[str, Any]
    producer: dict[str, str]
    trained: list[str]
    held_out: list[str]
    files: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, list[str]] = field(default_factory=dict)
    frames: list[BundleFrame] = field(default_factory=list)
    artefacts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether thresholds can be taken from it."""
        return bool(self.artefacts.get("fp32", {}).get("normal_scores"))

    @property
    def precisions(self) -> list[Precision]:
        """The precisions it has a graph of."""
        return [p for p in PRECISIONS if model_file(p) in self.files]

    def normal_scores(self, precision: Precision) -> list[float]:
        """Scores of the threshold part, measured with this precision's graph.

        Raises:
            ArtefactError: it is not calibrated.
        """
        scores = self.artefacts.get(precision, {}).get("normal_scores")
        if not scores:
            raise ArtefactError(
                f"bundle {self.name} has no normal scores for {precision}",
                "run: agp-edge calibrate BUNDLE DATA",
            )
        return [float(s) for s in scores]

    def split_hashes(self) -> dict[str, str]:
        """One hash a part, of its sorted frame hashes: what a gate's record names."""
        return {
            part: sha256_bytes("\n".join(sorted(hashes)).encode()) for part, hashes in self.splits.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that is written."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "frame": self.frame.to_dict(),
            "network": self.network,
            "producer": self.producer,
            "trained": sorted(self.trained),
            "held_out": sorted(self.held_out),
            "files": self.files,
            "splits": {part: sorted(hashes) for part, hashes in self.splits.items()},
            "frames": [vars(frame) for frame in self.frames],
            "artefacts": self.artefacts,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str) -> Manifest:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactError: another format or version, or a field that is missing, unknown or of another type.
        """
        rebuild = "export it again with this version of agp-edge"
        if value.get("format") != FORMAT:
            raise ArtefactError(
                f"{where} is no manifest of a bundle", "give the folder that `agp-edge export` wrote"
            )
        if value.get("version") != VERSION:
            raise ArtefactError(
                f"{where} has version {value.get('version')!r}, this agp-edge reads {VERSION}", rebuild
            )
        known = {
            "name": str, "network": dict, "producer": dict, "trained": list, "held_out": list,
            "files": dict, "splits": dict, "frames": list, "artefacts": dict,
        }  # fmt: skip
        extra = set(value) - set(known) - {"format", "version", "frame"}
        if extra:
            raise ArtefactError(f"{where} has unknown fields: {', '.join(sorted(extra))}", rebuild)
        for name, kind in known.items():
            if not isinstance(value.get(name), kind):
                raise ArtefactError(f"{where}: field {name!r} is missing or no {kind.__name__}", rebuild)
        wrong = _wrong_inside(value)
        if wrong is not None:
            raise ArtefactError(f"{where}: an entry of field {wrong!r} is not right", rebuild)
        frames = [BundleFrame(**frame) for frame in value["frames"]]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", value["name"]):
            raise ArtefactError(f"{where}: {value['name']!r} is no name", rebuild)
        fields = {name: value[name] for name in known if name != "frames"}
        return cls(frame=FrameSpec.from_dict(value.get("frame") or {}), frames=frames, **fields)


def _wrong_inside(value: Mapping[str, Any]) -> str | None:
    """The first field of a manifest whose entries are not of their type."""
    good = {
        "producer": all(isinstance(version, str) for version in value["producer"].values()),
        "trained": _are_texts(value["trained"]),
        "held_out": _are_texts(value["held_out"]),
        "files": all(FILE_NAME.fullmatch(name) for name in value["files"]),
        "splits": all(part in PARTS and _are_texts(hashes) for part, hashes in value["splits"].items()),
        "frames": all(map(_is_frame, value["frames"])),
        "artefacts": all(
            precision in PRECISIONS and isinstance(measured, dict) and _are_numbers(measured.get("normal_scores", []))
            for precision, measured in value["artefacts"].items()
        ),
    }  # fmt: skip
    return next((name for name, fits in good.items() if not fits), None)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(item) in (int, float) and math.isfinite(item) for item in value
    )


def _is_frame(value: Any) -> bool:
    kinds = {"file": str, "name": str, "sha256": str, "part": str, "self_test": bool}
    return (
        isinstance(value, dict)
        and set(value) == {*kinds, "score"}
        and all(isinstance(value[name], kind) for name, kind in kinds.items())
        and value["part"] in PARTS
        and _are_numbers([value["score"]])
    )


def model_file(precision: Precision) -> str:
    """Where a bundle keeps the graph of a precision."""
    return f"model.{precision}.onnx"


class Bundle:
    """A bundle on disk that was read strictly.

    Args:
        path: the folder.

    Raises:
        InputError: there is no such folder, or it is a run, or an engine.
        ArtefactError: its manifest cannot be read, a file is missing, extra or changed, or a path leaves the folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise InputError(f"there is no bundle at {path}", "make one: agp-edge export RUN --out BUNDLE")
        if not is_bundle(path):
            refuse_other_kind(path, "a bundle")
            raise ArtefactError(
                f"{path} has no {MANIFEST}: it is no bundle", "make one: agp-edge export RUN --out BUNDLE"
            )
        self.path = path
        manifest_path = path / MANIFEST
        self.manifest = Manifest.from_dict(
            read_json(manifest_path, f"manifest of bundle {path}"), str(manifest_path)
        )
        self.sha256 = sha256_file(manifest_path)
        self._verify_files()

    def _verify_files(self) -> None:
        again = "fetch the bundle again, or export it again"
        inside = list(self.path.rglob("*"))
        for item in inside:
            if item.is_symlink():
                raise ArtefactError(f"bundle {self.path}: {item.name} is a link and leaves the folder", again)
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise ArtefactError(f"bundle {self.path}: {name} is missing", again)
            if entry != {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}:
                raise ArtefactError(
                    f"bundle {self.path}: {name} was changed: its hash is not the manifest's", again
                )
        present = {p.relative_to(self.path).as_posix() for p in inside if not p.is_dir()}
        extra = present - set(self.manifest.files) - {MANIFEST}
        if extra:
            raise ArtefactError(
                f"bundle {self.path} has files its manifest does not name: {', '.join(sorted(extra))}", again
            )
        for frame in self.manifest.frames:
            if frame.file not in self.manifest.files:
                raise ArtefactError(f"bundle {self.path}: frame {frame.file!r} is not among its files", again)

    def model_path(self, precision: Precision) -> Path:
        """The ONNX graph of a precision.

        Raises:
            InputError: the bundle has none.
        """
        name = model_file(precision)
        if name not in self.manifest.files:
            has = ", ".join(self.manifest.precisions)
            hint = f"run: agp-edge calibrate {self.path} DATA" if precision == "int8" else f"it has: {has}"
            raise InputError(f"bundle {self.path} has no {precision} graph", hint)
        return self.path / name

    def load_frames(
        self, part: Part | None = None, *, self_test: bool = False
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
}
"""What to do where one kind was given and another is wanted."""


def describe_kind(path: Path) -> str | None:
    """Which kind of artefact a path is by its looks, in words; nothing of it is checked. None for anything else."""
    if is_bundle(path):
        return "a bundle"
    if (path / "run.json").is_file():
        return "a run"
    if path.is_file():
        for suffix, kind in (
            (".engine", "an engine"),
            (".engine.json", "the sidecar of an engine"),
            (".onnx", "an ONNX graph"),
        ):
            if path.name.endswith(suffix):
                return kind
    return None


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
    raise InputError(
        f"{path} is {kind}, not {wanted}",
        hint.format(path=path, engine=path.with_name(path.name.removesuffix(".json"))),
    )


def is_bundle(path: Path) -> bool:
    """Whether a folder says that it is a bundle."""
    return (path / MANIFEST).is_file()


def check_out(path: Path) -> None:
    """Refuse to write a bundle over something else.

    Raises:
        InputError: `path` holds something that is no bundle.
    """
    if path.exists() and not is_bundle(path) and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is no bundle", "give another --out")


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, Path | bytes]) -> Bundle:
    """Write a bundle, whole or not at all; an existing bundle at `path` is replaced.

    Args:
        path: the folder to make.
        manifest: everything but `files`, which is taken from what is written.
        files: path inside the bundle -> its bytes, or a file to copy.

    Raises:
        InputError: `path` is something else than a bundle or an empty folder, or cannot be written.
        DiskFullError: no space left.
    """
    check_out(path)
    with atomic_path(path) as work:
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
    return Bundle(path)


def split_held_out(hashes: Iterable[str]) -> dict[str, list[str]]:
    """Divide the hashes of held-out good frames between gate and threshold: in order of hash, in turn.

    The first goes to the threshold, so that with an odd number it has one more.
    """
    ordered = sorted(set(hashes))
    return {"threshold": ordered[0::2], "gate": ordered[1::2]}


def split_trained(hashes: Iterable[str], *, at_most: int) -> dict[str, list[str]]:
    """Choose frames for INT8 ranges and for the precision search among those trained on: in order of hash, in turn."""
    ordered = sorted(set(hashes))
    return {"ranges": ordered[0::2][:at_most], "search": ordered[1::2][:at_most]}
