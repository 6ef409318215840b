"""The sidecar beside an engine: hashes, versions, the machine it was built for, what was measured there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agp_edge.bundle import Manifest, refuse_other_kind
from agp_edge.errors import ArtefactError, InputError, quote
from agp_edge.files import read_json, sha256_bytes, sha256_file, translate_load_errors, translate_read_errors
from agp_edge.frame import PRECISIONS, FrameSpec, Precision
from agp_edge.scene import SceneReference
from agp_edge.trust.seal import is_seal

FORMAT = "agp-edge-engine"
VERSION = 1
SUFFIX = ".engine"
OPTIONAL: dict[str, tuple[type, ...]] = {"self_test": (list,), "scene": (dict,)}
"""Keys that sidecars of earlier versions lack: key -> type."""


@dataclass(frozen=True)
class Layers:
    """What an engine is made of.

    Attributes:
        source: who said so: `the runtime` asked about the compiled engine, or `the network before the build`.
        counts: (type of layer, precision it counts in) -> how many; names are the library's own.
    """

    source: str
    counts: Mapping[tuple[str, str], int]

    def to_dict(self) -> dict[str, Any]:
        """As a sidecar keeps it."""
        rows = [{"type": t, "precision": p, "count": n} for (t, p), n in sorted(self.counts.items())]
        return {"source": self.source, "layers": rows}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str) -> Layers:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactError: it is something else.
        """
        try:
            rows = [(str(row["type"]), str(row["precision"]), int(row["count"])) for row in value["layers"]]
            return cls(str(value["source"]), {(t, p): n for t, p, n in rows})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"{where}: its layers cannot be read", "build it again: agp-edge build-engine BUNDLE"
            ) from error

    def describe(self) -> str:
        """As in `57 int8, 112 fp16 (said by the runtime)`, most first."""
        totals: dict[str, int] = {}
        for (_, precision), n in self.counts.items():
            totals[precision] = totals.get(precision, 0) + n
        ordered = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
        return f"{', '.join(f'{n} {p}' for p, n in ordered)} (said by {self.source})"


@dataclass(frozen=True)
class Rebuilt:
    """How an engine answers otherwise than the one that stood in its place, built from the same bundle.

    Attributes:
        previous: hash of that one's plan.
        previous_version: of the backend that built it.
        drift_max: by how much a normal score moved, the sorted lists held side by side, in gaps of the previous one.
        noise: up to how much two builds of this precision differ and are still alike.
        flips: names of the gate frames whose verdict it changed.
    """

    previous: str
    previous_version: str
    drift_max: float
    noise: float
    flips: list[str]

    def describe(self) -> str:
        """One line, for a person."""
        flips = f", and {len(self.flips)} verdicts changed: {', '.join(self.flips[:8])}" if self.flips else ""
        return (
            f"it answers otherwise than the engine of {self.previous_version} that was here "
            f"({self.previous[:12]}): a score moved by {self.drift_max:.2g} gaps, "
            f"{self.noise:g} is usual{flips}"
        )

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str) -> Rebuilt:
        """Read what `vars` of one wrote.

        Raises:
            ArtefactError: it is something else.
        """
        kinds = {
            "previous": str, "previous_version": str, "drift_max": (int, float), "noise": (int, float), "flips": list,
        }  # fmt: skip
        good = set(value) == set(kinds) and all(
            isinstance(value[key], kind) and not isinstance(value[key], bool)  # type: ignore[arg-type]
            for key, kind in kinds.items()
        )
        if not good or not all(isinstance(name, str) for name in value["flips"]):
            raise ArtefactError(
                f"{where}: what it says of the engine before it cannot be read",
                "build it again: agp-edge build-engine BUNDLE",
            )
        return cls(**value)


@dataclass(frozen=True)
class Sidecar:
    """What `….engine.json` says.

    Attributes:
        name: the bundle's name.
        precision, backend, backend_version: what it was built with.
        frame: the frame it takes.
        plan_sha256: hash of the plan beside it.
        bundle_sha256: hash of the manifest it was built from.
        device: where it runs: `machine`, and `compute_capabilities` for a GPU.
        build_seconds: wall time of the build.
        normal_scores: scores of the bundle's threshold frames, measured with this engine on this machine;
            empty where it could not be run, and then it gives no verdicts.
        gate: the gate's report against the FP32 reference, or None where it could not be run.
        accepted: the reason given to `--accept` when the gate did not pass.
        seal: this device's, where a policy accepts the signer of the bundle; see `agp_edge.trust.seal`.
        provisional: the normal scores are of images that the network was trained on, and promise nothing.
        layers: what it is made of; None where nobody could be asked.
        rebuilt: how it answers otherwise than the engine that it replaced; None where it does not, or replaced none.
        self_test: its scores of the drawn reference frames on this machine; None where it could not be run, or was built
            by an earlier version.
        scene: what the bundle's good frames are like as pictures; None as `self_test`.
    """

    name: str
    precision: Precision
    backend: str
    backend_version: str
    frame: FrameSpec
    plan_sha256: str
    bundle_sha256: str
    device: dict[str, Any]
    build_seconds: float
    normal_scores: list[float]
    gate: dict[str, Any] | None
    accepted: str | None = None
    provisional: bool = False
    seal: dict[str, Any] | None = None
    layers: Layers | None = None
    rebuilt: Rebuilt | None = None
    self_test: list[float] | None = None
    scene: SceneReference | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that is written; what is optional and absent is left out, as in sidecars from before it."""
        value = {
            "format": FORMAT,
            "version": VERSION,
            **vars(self),
            "frame": self.frame.to_dict(),
            "layers": self.layers.to_dict() if self.layers else None,
            "rebuilt": dict(vars(self.rebuilt)) if self.rebuilt else None,
            "scene": self.scene.to_dict() if self.scene else None,
        }
        # A seal is over what was written: a key that is added on the way would break those of earlier versions.
        return {key: v for key, v in value.items() if v is not None or key not in OPTIONAL}

    @property
    def unsealed(self) -> dict[str, Any]:
        """What a seal is over: everything that is written but the seal."""
        value = self.to_dict()
        del value["seal"]
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str) -> Sidecar:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactError: another format or version, or a field that is missing, unknown or of another type.
        """
        rebuild = "build it again: agp-edge build-engine BUNDLE"
        if value.get("format") != FORMAT or value.get("version") != VERSION:
            raise ArtefactError(f"{where} is no sidecar of version {VERSION}", rebuild)
        kinds: dict[str, tuple[type, ...]] = {
            "name": (str,), "precision": (str,), "backend": (str,), "backend_version": (str,), "frame": (dict,),
            "plan_sha256": (str,), "bundle_sha256": (str,), "device": (dict,), "build_seconds": (int, float),
            "normal_scores": (list,), "gate": (dict, type(None)), "accepted": (str, type(None)),
            "provisional": (bool,), "seal": (dict, type(None)), "layers": (dict, type(None)),
            "rebuilt": (dict, type(None)),
        }  # fmt: skip
        fields = {k: v for k, v in value.items() if k not in ("format", "version")}
        kinds |= {k: kind for k, kind in OPTIONAL.items() if k in fields}
        wrong = [k for k in kinds if k not in fields or not isinstance(fields[k], kinds[k])]
        wrong += sorted(set(fields) - set(kinds))
        if wrong:
            names = ", ".join(quote(name, 40) for name in wrong[:3])
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ArtefactError(
                f"{where}: fields missing, unknown or of a wrong type: {names}{more}", rebuild
            )
        if fields["precision"] not in PRECISIONS:
            raise ArtefactError(f"{where}: there is no precision {quote(fields['precision'])!r}", rebuild)
        if not _are_numbers(fields["normal_scores"]):
            raise ArtefactError(f"{where}: a normal score is no number", rebuild)
        if "self_test" in fields and not (fields["self_test"] and _are_numbers(fields["self_test"])):
            raise ArtefactError(f"{where}: its self-test is none", rebuild)
        if fields["seal"] is not None and not is_seal(fields["seal"]):
            raise ArtefactError(f"{where}: its seal is none", rebuild)
        layers = Layers.from_dict(fields["layers"], where) if fields["layers"] is not None else None
        rebuilt = Rebuilt.from_dict(fields["rebuilt"], where) if fields["rebuilt"] is not None else None
        scene = SceneReference.from_dict(fields["scene"], where) if "scene" in fields else None
        frame = FrameSpec.from_dict(fields["frame"])
        return cls(**{**fields, "frame": frame, "layers": layers, "rebuilt": rebuilt, "scene": scene})


def _are_numbers(values: list[Any]) -> bool:
    """Whether each is a finite number."""
    return all(type(v) in (int, float) and math.isfinite(v) for v in values)


def sidecar_path(engine: Path) -> Path:
    """Where an engine's sidecar lies."""
    return engine.with_name(engine.name + ".json")


def pair_of(engine: Path) -> Path:
    """The engine that a path leads to, whose sidecar lies beside it: itself, or where a link to one leads.

    Plan and sidecar of a default engine are two links. Whoever follows the first alone has a pair that belongs together,
    also in the moment in which the two are replaced.
    """
    return engine.resolve() if engine.is_symlink() else engine


def engine_name(manifest: Manifest, precision: Precision, backend: str) -> str:
    """`NAME.<precision>.<backend>.engine`."""
    return f"{manifest.name}.{precision}.{backend}{SUFFIX}"


def is_engine(path: Path) -> bool:
    """Whether a path looks like an engine."""
    return path.name.endswith(SUFFIX) and not path.is_dir()


def read_sidecar(engine: Path) -> Sidecar:
    """Read an engine's sidecar and hold the plan against it.

    Raises:
        InputError: there is no such engine, or it is a bundle, a run, a sidecar or an ONNX graph.
        ArtefactError: no sidecar, one that cannot be read, or a plan that is not the one it names.
    """
    pair = pair_of(engine)
    sidecar = _read(pair)
    with translate_load_errors(pair):
        sha256 = sha256_file(pair)
    _check_plan(engine, sidecar, sha256)
    return sidecar


def read_engine(engine: Path) -> tuple[Sidecar, bytes]:
    """As `read_sidecar`, with the very bytes of the plan that were hashed, for a runtime to load.

    Raises:
        InputError, ArtefactError: as `read_sidecar`.
    """
    pair = pair_of(engine)
    sidecar = _read(pair)
    with translate_load_errors(pair):
        plan = pair.read_bytes()
    _check_plan(engine, sidecar, sha256_bytes(plan))
    return sidecar, plan


def _read(engine: Path) -> Sidecar:
    refuse_other_kind(engine, "an engine")
    if not engine.is_file():
        raise InputError(f"there is no engine at {engine}", "build one: agp-edge build-engine BUNDLE")
    path = sidecar_path(engine)
    with translate_read_errors(path):
        found = path.is_file()
    if not found:
        raise ArtefactError(
            f"sidecar of engine {engine} is missing: {path}",
            f"{path.name} must travel beside the engine: copy it from where the engine was built",
        )
    return Sidecar.from_dict(read_json(path, f"sidecar of engine {engine}"), str(path))


def _check_plan(engine: Path, sidecar: Sidecar, sha256: str) -> None:
    if sha256 != sidecar.plan_sha256:
        raise ArtefactError(
            f"engine {engine} was changed: its hash is not its sidecar's",
            "build it again: agp-edge build-engine BUNDLE",
        )


def cast_precision(text: str) -> Precision:
    """A precision by name.

    Raises:
        InputError: there is no such precision.
    """
    for precision in PRECISIONS:
        if precision == text:
            return precision
    raise InputError(f"there is no precision {text!r}", f"take one of: {', '.join(PRECISIONS)}")
