"""What a path is: a data set, a run, a bundle or an engine, and what it says of itself."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agp_edge.bundle import (
    PARTS,
    Bundle,
    FramePart,
    Manifest,
    is_bundle,
    model_file,
    refuse_half_bundle,
    refuse_other_kind,
)
from agp_edge.datasets import check_dataset, load_dataset
from agp_edge.engines.sidecar import is_engine, pair_of, read_sidecar, sidecar_path
from agp_edge.errors import InputError
from agp_edge.files import read_json, sha256_file
from agp_edge.progress import Progress, silent
from agp_edge.trust import standing_of_bundle, standing_of_engine
from agp_edge.verdict import choose_threshold

RUN_FILE = "run.json"
INTERNALS = ("format", "version", "weights_sha256", "backbone_sha256")
"""What a run keeps for the program that reads it again; a person sees it with `--json`."""

Kind = Literal["data set", "run", "runs", "bundle", "engine"]


@dataclass(frozen=True)
class Inspection:
    """What was found at a path.

    Attributes:
        kind: what it is.
        facts: everything, as `--json` gives it.
        text: the same for a person.
    """

    kind: Kind
    facts: dict[str, Any]
    text: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `agp-edge inspect`."""
        return {"kind": self.kind, **self.facts}


def inspect_path(path: Path, progress: Progress = silent) -> Inspection:
    """Say what a path is. Of a data set every image is decoded, of an artefact every hash is checked.

    Raises:
        InputError: there is nothing, or nothing that is known.
        ArtefactError: an artefact is corrupt.
    """
    if is_bundle(path):
        return _bundle(path)
    if not path.exists():
        raise InputError(f"there is nothing at {path}", "give a data set, a run, a bundle or an engine")
    if is_engine(path):
        return _engine(path)
    if not path.is_dir():
        refuse_other_kind(path, "an engine")
        raise InputError(
            f"{path} is no engine", "give a data set, a run, a bundle or an engine (NAME.engine)"
        )
    if (path / RUN_FILE).is_file():
        return _run(path)
    refuse_half_bundle(path)
    runs = [item for item in sorted(path.iterdir()) if (item / RUN_FILE).is_file()]
    if runs:
        return _runs(path, runs)
    if any((path / "training").glob("step-*.json")):
        raise InputError(
            f"{path} is a training that is not finished",
            "go on with it: agp-edge train DATA --out RUN --resume",
        )
    return _dataset(path, progress)


def _dataset(path: Path, progress: Progress) -> Inspection:
    dataset = load_dataset(path)
    check = check_dataset(dataset, progress)
    classes: dict[str, Any] = {}
    lines = [f"data set {path}: layout {dataset.layout}, {_count(len(dataset.classes), 'class', 'classes')}"]
    for data in dataset.classes:
        labels: dict[str, int] = {}
        for sample in data.test:
            labels[sample.label] = labels.get(sample.label, 0) + 1
        sizes = {f"{w}x{h}": n for (w, h), n in check.sizes[data.name].items()}
        masks = sum(len(sample.masks) for sample in data.test if not sample.good)
        classes[data.name] = {
            "train": len(data.train),
            "validation": len(data.validation),
            "test": labels,
            "masks": masks,
            "sizes": sizes,
            "aside": [aside.to_dict() for aside in check.aside[data.name]],
        }
        test = ", ".join(f"{n} {label}" for label, n in labels.items()) or "none"
        lines += [
            f"  {data.name}",
            f"    to learn from  {_count(len(data.train), 'image')}, {len(data.validation)} for validation",
            f"    to test on     {test}; {_count(masks, 'mask')}",
            f"    sizes          {', '.join(f'{size} ({n})' for size, n in sizes.items()) or 'none'}",
        ]
        reasons: dict[str, int] = {}
        for aside in check.aside[data.name]:
            reasons[aside.why] = reasons.get(aside.why, 0) + aside.images
        lines += [f"    put aside      {_count(n, 'image')}: {why}" for why, n in reasons.items()]
    if check.findings:
        lines.append(f"{_count(len(check.findings), 'finding')}:")
        lines += [f"  {finding.describe()}" for finding in check.findings]
    else:
        lines.append("no findings")
    facts = {
        "layout": dataset.layout,
        "classes": classes,
        "findings": [finding.to_dict() for finding in check.findings],
    }
    return Inspection("data set", facts, "\n".join(lines))


def _bundle(path: Path) -> Inspection:
    # To look is not to run: what a policy refuses is shown, and that it is refused.
    bundle = Bundle(path, enforce_policy=False)
    standing = standing_of_bundle(path, bundle.hashes)
    manifest = bundle.manifest
    precisions = {
        precision: {
            "size_bytes": manifest.files[model_file(precision)]["size_bytes"],
            **_threshold(
                manifest.artefacts.get(precision, {}).get("normal_scores") or [], manifest.provisional
            ),
        }
        for precision in manifest.precisions
    }
    gates = {
        precision: {**measured["gate"], "accepted": measured.get("accepted")}
        for precision, measured in manifest.artefacts.items()
        if isinstance(measured.get("gate"), dict)
    }
    splits = {part: len(manifest.splits[part]) for part in PARTS if part in manifest.splits}
    lines = [
        f"bundle {manifest.name} ({bundle.sha256[:12]}): frames {manifest.frame}, batch {manifest.frame.batch}",
        *_paragraph("network", _describe_network(manifest.network)),
        *_paragraph("trained", _describe_training(manifest)),
        *_paragraph("made by", ", ".join(f"{name} {version}" for name, version in manifest.producer.items())),
        *_paragraph("trust", standing.describe()),
        *_describe_precisions(manifest, gates),
        *_paragraph("splits", ", ".join(f"{part} {n}" for part, n in splits.items())),
        *_paragraph("frames", _describe_frames(manifest)),
        *_paragraph("calibrated", _describe_calibration(manifest)),
    ]
    facts = {
        "name": manifest.name,
        "sha256": bundle.sha256,
        "frame": manifest.frame.to_dict(),
        "precisions": precisions,
        "gates": gates,
        "calibrated": manifest.calibrated,
        "provisional": manifest.provisional,
        "calibration": manifest.calibration,
        "splits": splits,
        "frames": len(manifest.frames),
        "trained": len(manifest.trained),
        "held_out": len(manifest.held_out),
        "network": manifest.network,
        "producer": manifest.producer,
        "trust": standing.to_dict(),
    }
    return Inspection("bundle", facts, "\n".join(map(_printable, lines)))


def _describe_precisions(manifest: Manifest, gates: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Each precision's size, threshold and gate; and those that a gate left out."""
    lines = []
    for precision in manifest.precisions:
        scores = manifest.artefacts.get(precision, {}).get("normal_scores") or []
        size = _megabytes(manifest.files[model_file(precision)]["size_bytes"])
        lines.append(f"  {precision}  {_describe_threshold(scores, manifest.provisional)}")
        lines.append(f"        {size}{_describe_int8(manifest) if precision == 'int8' else ''}")
        if precision in gates:
            lines += _gate_lines("        gate ", gates[precision])
    for left_out in sorted(set(gates) - set(manifest.precisions)):
        lines += _gate_lines(f"  {left_out}  left out: gate ", gates[left_out])
    return lines


def _gate_lines(prefix: str, gate: Mapping[str, Any]) -> list[str]:
    figures = [
        f"{name} {gate[key]:{style}}"
        for name, key, style in (("95 % bound", "bound_95", ".1%"), ("drift", "drift_max", ".2g"), ("maps", "map_correlation", ".3f"))
        if gate.get("n") and isinstance(gate.get(key), (int, float))
    ]  # fmt: skip
    prove, bound = gate.get("prove"), gate.get("bound_95")
    if isinstance(prove, (int, float)) and isinstance(bound, (int, float)) and bound > prove:
        figures.append(f"{prove:.3%} was to be proved")
    lines = [prefix + _describe_gate(gate)]
    return [*lines, "          " + ", ".join(figures)] if figures else lines


def _describe_int8(manifest: Manifest) -> str:
    if not manifest.calibration:
        return ""
    quantised, kept = (len(manifest.calibration["int8"][key]) for key in ("quantised", "kept"))
    rest = f", {kept} left as they are" if kept else ""
    return f", {_count(quantised, 'operator')} in INT8{rest}, ranges by {manifest.calibration['method']}"


def _describe_calibration(manifest: Manifest) -> str:
    if not manifest.calibrated:
        return "not yet: agp-edge calibrate BUNDLE DATA"
    if not manifest.calibration:
        return "yes"
    made = manifest.calibration
    seed = "" if made["choice"] == "first" else f", seed {made['seed']}"
    text = f"INT8 ranges from {_count(len(made['frames']), 'frame')}, chosen by {made['choice']}{seed}"
    stale = manifest.find_stale()
    return f"{text}; STALE: {stale}" if stale else text


def _describe_frames(manifest: Manifest) -> str:
    every: tuple[FramePart, ...] = ("reference", *PARTS)
    counts = {part: len(manifest.frames_of(part)) for part in every}
    parts = ", ".join(f"{part} {n}" for part, n in counts.items() if n)
    tests = sum(frame.self_test for frame in manifest.frames)
    if not manifest.frames:
        return "none travel with it"
    outside = manifest.calibrated and not counts["threshold"]
    where = "; those of gate and threshold are outside: a build asks for --data" if outside else ""
    return f"{parts}; {tests} of them are the self-test{where}"


def _describe_network(network: Mapping[str, Any]) -> str:
    """The backbone by its kind and source, then the rest; a manifest leaves open what is in it."""
    backbone = network.get("backbone")
    if not isinstance(backbone, dict):
        return f"backbone {backbone}"
    known = [str(backbone[key]) for key in ("kind", "source") if backbone.get(key)]
    rest = {key: value for key, value in backbone.items() if key not in ("kind", "source", "mean", "std")}
    details = ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in rest.items())
    return f"backbone {' '.join(known)}: {details}" if details else f"backbone {' '.join(known)}"


def _describe_training(manifest: Manifest) -> str:
    config = manifest.network.get("config")
    classes = manifest.network.get("classes")
    size = manifest.network.get("trained_frame")
    texts = [f"{_count(len(manifest.trained), 'image')}, {len(manifest.held_out)} held out"]
    if isinstance(classes, list):
        texts[0] += f", of {_short(classes)}"
    if isinstance(size, dict):
        texts.append(f"at {_short(size)}")
    if isinstance(config, dict):
        texts += [
            f"{key} {config[key]}" for key in ("setup", "shots", "steps", "epochs", "seed") if config.get(key)
        ]
    return "; ".join(texts)


WIDTH = 80
LABEL = 10


def _paragraph(label: str, text: str) -> list[str]:
    """A label and a text that is folded beside it; nothing for no text."""
    head = f"  {label.ljust(LABEL)} "
    folded = textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    )
    return folded if text else []


def _printable(line: str) -> str:
    """A line without what could steer a terminal: texts in an artefact are whoever's."""
    return "".join(c if c.isprintable() else "?" for c in line)


def _engine(path: Path) -> Inspection:
    sidecar = read_sidecar(path)
    standing = standing_of_engine(path, sidecar.unsealed, sidecar.seal)
    size = path.stat().st_size
    device = ", ".join(f"{key} {value}" for key, value in sidecar.device.items())
    lines = [
        f"engine {sidecar.name} ({sidecar.plan_sha256[:12]}): {sidecar.precision} for {sidecar.backend} "
        f"{sidecar.backend_version}, {_megabytes(size)}",
        f"  frames     {sidecar.frame}, batch {sidecar.frame.batch}",
        f"  device     {device}",
        f"  bundle     {sidecar.bundle_sha256[:12]}",
        f"  trust      {standing.describe()}",
        f"  threshold  {_describe_threshold(sidecar.normal_scores, sidecar.provisional)}",
        f"  gate       {_describe_gate(sidecar.gate)}",
    ]
    if path.is_symlink():
        lines.insert(1, f"  leads to   {pair_of(path).name}")
    if sidecar.layers is not None:
        lines.append(f"  layers     {sidecar.layers.describe()}")
    if sidecar.rebuilt is not None:
        lines.append(f"  rebuilt    {sidecar.rebuilt.describe()}")
    if sidecar.accepted is not None:
        lines.append(f"  accepted   {sidecar.accepted}")
    facts = {
        **{k: v for k, v in sidecar.to_dict().items() if k not in ("format", "version", "normal_scores")},
        "sidecar_sha256": sha256_file(sidecar_path(pair_of(path))),
        "size_bytes": size,
        "trust": standing.to_dict(),
        **_threshold(sidecar.normal_scores, sidecar.provisional),
    }
    return Inspection("engine", facts, "\n".join(map(_printable, lines)))


def _run(path: Path) -> Inspection:
    facts = read_json(path / RUN_FILE, f"record of run {path}")
    shown = {key: value for key, value in facts.items() if key not in INTERNALS}
    for key in ("trained", "held_out"):
        if isinstance(shown.get(key), list):
            shown[key] = _count(len(shown[key]), "image")
    config = shown.pop("config", None)
    lines = [f"run {path}", *_fields(shown, "  ")]
    if isinstance(config, dict):
        pairs = ", ".join(f"{key} {_short(value)}" for key, value in config.items())
        lines += textwrap.wrap(
            f"hyper-parameters: {pairs}", WIDTH, initial_indent="  ", subsequent_indent="    "
        )
    return Inspection("run", {"run": facts}, "\n".join(map(_printable, lines)))


def _runs(path: Path, runs: Sequence[Path]) -> Inspection:
    """A folder of runs, one a class, as one-class training over several classes leaves it."""
    facts = {run.name: read_json(run / RUN_FILE, f"record of run {run}") for run in runs}
    each = all(record.get("classes") == [name] for name, record in facts.items())
    lines = [f"{path}: {_count(len(runs), 'run')}{', one a class' if each else ''}"]
    for name, record in facts.items():
        steps, images = record.get("step"), len(record.get("trained", []))
        lines.append(
            _printable(f"  {name}: {record.get('state')}, {steps} steps on {_count(images, 'good image')}")
        )
    lines.append(f"each by itself: agp-edge inspect {runs[0]}")
    if each:
        lines.append(f"all of them: agp-edge evaluate {path} DATA")
    return Inspection("runs", {"runs": facts}, "\n".join(lines))


def _threshold(normal_scores: list[float], provisional: bool) -> dict[str, Any]:
    if not normal_scores:
        return {"n_normal_scores": 0, "threshold": None}
    value = choose_threshold(normal_scores, provisional=provisional).value
    return {"n_normal_scores": len(normal_scores), "threshold": value}


def _describe_threshold(normal_scores: list[float], provisional: bool) -> str:
    if not normal_scores:
        return "no threshold: no normal scores"
    return choose_threshold(normal_scores, provisional=provisional).describe()


def _describe_gate(gate: Mapping[str, Any] | None) -> str:
    if gate is None:
        return "not run where it was built"
    flips = gate.get("flips")
    n_flips = len(flips) if isinstance(flips, list) else "?"
    accepted = f"; accepted by hand: {gate['accepted']}" if gate.get("accepted") else ""
    return f"{str(gate.get('outcome')).upper()}: {n_flips} flips in n = {gate.get('n')} frames{accepted}"


def _fields(record: Mapping[str, Any], indent: str) -> list[str]:
    """A record whose keys are not ours to know, one line each; what is long is counted."""
    width = max((len(key) for key in record), default=0)
    return [f"{indent}{key.ljust(width)}  {_short(value)}" for key, value in record.items()]


def _short(value: Any) -> str:
    if isinstance(value, (list, dict)) and not value:
        return "none"
    if isinstance(value, list):
        simple = all(isinstance(item, (str, int, float)) and len(str(item)) <= 24 for item in value)
        return (
            ", ".join(map(str, value))
            if simple and len(value) <= 8
            else _count(len(value), "entry", "entries")
        )
    if isinstance(value, dict):
        if {"width", "height"} <= set(value):
            return f"{value['width']}x{value['height']}"
        if all(isinstance(item, list) for item in value.values()) and len(value) <= 8:
            return ", ".join(f"{key} {len(item)}" for key, item in value.items())
        simple = not any(isinstance(item, (list, dict)) for item in value.values())
        pairs = ", ".join(f"{key} {item}" for key, item in value.items())
        return pairs if simple and len(value) <= 8 else _count(len(value), "entry", "entries")
    return str(value)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.3g} MB"


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
