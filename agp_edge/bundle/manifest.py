"""What `manifest.json` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from agp_edge.bundle.schema import bundle_schema, find_fault
from agp_edge.errors import ArtefactError
from agp_edge.files import sha256_bytes
from agp_edge.frame import GRAPHS, FrameSpec, Precision

FORMAT = "agp-edge-bundle"
VERSION = 1

Part = Literal["ranges", "search", "gate", "threshold"]
PARTS: tuple[Part, ...] = get_args(Part)
FramePart = Literal["ranges", "search", "gate", "threshold", "reference"]
"""What a frame in a bundle serves: a part of the good frames, or `reference`, which is in no split."""


@dataclass(frozen=True)
class BundleFrame:
    """A frame in the bundle.

    Attributes:
        file: its path inside the bundle.
        name: the image it came from, relative to its data set; of a reference frame what was drawn.
        sha256: content hash of that image file: what the splits are made of.
        part: `gate` or `threshold` for a held-out good frame, `reference` for one that `export` drew.
        self_test: it belongs to the quick self-test.
        score: what the FP32 reference scored it with; of a reference frame, what torch did.
    """

    file: str
    name: str
    sha256: str
    part: FramePart
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
        calibration: what the INT8 ranges come from, bound to the hashes of model and frames; empty before calibration.
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
    calibration: dict[str, Any] = field(default_factory=dict)

    @property
    def calibrated(self) -> bool:
        """Whether thresholds can be taken from it."""
        return bool(self.artefacts.get("fp32", {}).get("normal_scores"))

    @property
    def provisional(self) -> bool:
        """Whether its normal scores are of images that the network was trained on, and so promise nothing."""
        return bool(self.artefacts.get("fp32", {}).get("provisional"))

    @property
    def graphs(self) -> list[Precision]:
        """The precisions it has a graph of, whatever a gate said of it."""
        return [p for p in GRAPHS if model_file(p) in self.files]

    @property
    def refused(self) -> list[Precision]:
        """Those of its graphs that the gate refused when it was calibrated, and nobody accepted."""
        return [p for p in self.graphs if self._gate(p).get("outcome") == "refused" and not self._accepted(p)]

    @property
    def precisions(self) -> list[Precision]:
        """The precisions that engines can be built of."""
        return [p for p in self.graphs if p not in self.refused]

    def breaks_allowance(self, precision: Precision) -> bool:
        """Whether the gate found something beyond its allowance in a graph; one that only proves too little does not."""
        return bool(self._gate(precision).get("reasons"))

    def _gate(self, precision: Precision) -> dict[str, Any]:
        found: dict[str, Any] = self.artefacts.get(precision, {}).get("gate") or {}
        return found

    def _accepted(self, precision: Precision) -> bool:
        return bool(self.artefacts.get(precision, {}).get("accepted"))

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
        return {part: hash_of_hashes(hashes) for part, hashes in self.splits.items()}

    def frames_of(self, part: FramePart) -> list[BundleFrame]:
        """The frames of a part that travel with it."""
        return [frame for frame in self.frames if frame.part == part]

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
            "calibration": self.calibration,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str) -> Manifest:
        """Read what `to_dict` wrote: exactly what the published schema allows.

        Args:
            value: as `agp_edge.files.parse_json` gives it.
            where: what it is, for the error.

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
                f"{where} has version {value.get('version')!r:.60}, this agp-edge reads {VERSION}", rebuild
            )
        schema = bundle_schema()
        fault = find_fault(value, schema, schema)
        if fault is not None:
            raise ArtefactError(f"{where}: {fault}", rebuild)
        fields = {key: item for key, item in value.items() if key not in ("format", "version")}
        # JSON has one kind of number: 64.0 is an integer to a schema.
        fields["frame"] = FrameSpec(**{key: int(number) for key, number in value["frame"].items()})
        fields["frames"] = [BundleFrame(**frame) for frame in value["frames"]]
        return cls(**fields)

    def find_contradiction(self) -> str | None:
        """The first thing in which it contradicts itself, in words: what a schema cannot say."""
        files = [frame.file for frame in self.frames]
        for frame in self.frames:
            if frame.file not in self.files:
                return f"frame {frame.file!r} is not among its files"
            if frame.part != "reference" and frame.sha256 not in self.splits.get(frame.part, []):
                return f"frame {frame.file!r} is not of the {frame.part} part"
        if len(set(files)) < len(files):
            return "two of its frames are one file"
        hashes = [digest for part in self.splits.values() for digest in part]
        if len(set(hashes)) < len(hashes):
            return "a frame is in two of its splits"
        if "int8" in self.graphs and not self.calibration:
            return "it has an INT8 graph, and no record of the calibration that made it"
        for precision, measured in self.artefacts.items():
            if "normal_scores" in measured and f"model.{precision}.onnx" not in self.files:
                return f"it has normal scores of {precision} and no graph of it"
        return None

    def find_stale(self) -> str | None:
        """Why its calibration is not of what is in it, in words; None where it is, or where there is none yet."""
        if not self.calibration:
            return None
        if self.calibration["model_sha256"] != self.files[model_file("fp32")]["sha256"]:
            return "its calibration is of another FP32 graph"
        sets = [frame["sha256"] for frame in self.calibration["frames"]], self.splits.get("ranges", [])
        if any(self.calibration["set_sha256"] != hash_of_hashes(hashes) for hashes in sets):
            return "its calibration is of another set of frames"
        return None


def hash_of_hashes(hashes: Iterable[str]) -> str:
    """One hash for a set of frames, of their content hashes in order."""
    return sha256_bytes("\n".join(sorted(hashes)).encode())


def model_file(precision: Precision) -> str:
    """Where a bundle keeps the graph of a precision."""
    return f"model.{precision}.onnx"
