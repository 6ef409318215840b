"""Open whatever a user names: a run on a host, a bundle, or an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agp_edge.cli.console import note, require_host
from agp_edge.errors import InputError

if TYPE_CHECKING:
    from agp_edge.bundle import Bundle
    from agp_edge.datasets import Dataset
    from agp_edge.engines.base import Session

KINDS = "a run, a bundle or an engine"
RUN_FILE = "run.json"


def kind_of(path: Path) -> str:
    """`run`, `bundle` or `engine`.

    Raises:
        InputError: nothing of the kind is there.
    """
    from agp_edge.bundle import is_bundle, refuse_half_bundle, refuse_other_kind
    from agp_edge.engines.sidecar import is_engine

    if is_bundle(path):
        return "bundle"
    if not path.exists():
        raise InputError(f"{path} does not exist", f"give {KINDS}")
    if is_engine(path):
        return "engine"
    if (path / RUN_FILE).is_file():
        return "run"
    refuse_half_bundle(path)
    refuse_other_kind(path, "an engine")
    runs = class_runs(path)
    if runs:
        raise InputError(
            f"{path} is a folder of runs, one a class: {', '.join(runs)}",
            f"give one of them: {next(iter(runs.values()))}",
        )
    if any((path / "training").glob("step-*.json")):
        raise InputError(
            f"{path} is a training that is not finished",
            "go on with it: agp-edge train DATA --out RUN --resume",
        )
    raise InputError(
        f"{path} is neither a run, a bundle nor an engine",
        "give a run's or a bundle's folder, or NAME.engine",
    )


def class_runs(path: Path) -> dict[str, Path]:
    """Class -> its run, of a folder that one-class training filled: RUN/CLASS/run.json. Empty for anything else."""
    if not path.is_dir() or (path / RUN_FILE).is_file():
        return {}
    return {item.name: item for item in sorted(path.iterdir()) if (item / RUN_FILE).is_file()}


def with_classes(path: Path, dataset: Dataset) -> list[tuple[Path, Dataset]]:
    """What is evaluated on what: one artefact on all classes, or of a folder of runs each on its own class.

    Raises:
        InputError: a class has test images and no run.
    """
    runs = class_runs(path)
    if not runs:
        return [(path, dataset)]
    tested = [data for data in dataset.classes if data.test]
    missing = [data.name for data in tested if data.name not in runs]
    if missing or not tested:
        raise InputError(
            f"{path} has runs of {', '.join(runs)}, and none of {', '.join(missing) or 'a class with test images'}",
            "train what is missing: agp-edge train DATA --out RUN --setup one-class --resume",
        )
    return [(runs[data.name], replace(dataset, classes=[data])) for data in tested]


def warn_of_unknown_classes(path: Path, dataset: Dataset) -> None:
    """A note if an artefact says which classes it learned, and only some of a data set's are among them."""
    from agp_edge.bundle import is_bundle, read_manifest
    from agp_edge.files import read_json

    if is_bundle(path):
        learned = read_manifest(path)[0].network.get("classes", [])
    elif (path / RUN_FILE).is_file():
        learned = read_json(path / RUN_FILE, f"run {path}").get("classes", [])
    else:
        return
    names = [data.name for data in dataset.classes if data.test]
    unknown = [name for name in names if name not in learned]
    if unknown and len(unknown) < len(names):
        note(
            f"warning: {path} learned {', '.join(learned)}; it never saw {', '.join(unknown)}, which count all the same"
        )


def warn_if_interrupted(path: Path) -> None:
    """A note if a path is a run whose training was interrupted; anything else is left to whoever opens it."""
    from agp_edge.files import read_json

    if not (path / RUN_FILE).is_file():
        return
    record = read_json(path / RUN_FILE, f"run {path}")
    if record.get("state") == "interrupted":
        note(
            f"warning: the training of {path} was interrupted after step {record.get('step')}: train it again"
        )


def open_artefact(path: Path) -> tuple[Session, list[float], str]:
    """A session over a run, a bundle's FP32 graph, or an engine.

    Returns:
        The session, its normal scores (none for a run, or an uncalibrated bundle), and what it is, in words.

    Raises:
        InputError, ArtefactError: it cannot be read.
    """
    kind = kind_of(path)
    if kind == "engine":
        from agp_edge.engines import open_engine

        session, sidecar = open_engine(path)
        return session, sidecar.normal_scores, f"engine {path.name}"
    if kind == "bundle":
        from agp_edge.bundle import Bundle
        from agp_edge.engines.onnxruntime import open_graph

        bundle = Bundle(path)
        scores = bundle.manifest.artefacts.get("fp32", {}).get("normal_scores", [])
        return open_graph(bundle), scores, f"bundle {path.name} fp32"
    session = require_host("agpnet.run", "with a run").open_run(path)
    return session, [], f"run {path.name}"


def is_provisional(path: Path) -> bool:
    """Whether the normal scores that `open_artefact` gives promise nothing.

    Raises:
        InputError, ArtefactError: it cannot be read.
    """
    from agp_edge.bundle import is_bundle, read_manifest
    from agp_edge.engines.sidecar import is_engine, read_sidecar

    if is_engine(path):
        return read_sidecar(path).provisional
    return is_bundle(path) and read_manifest(path)[0].provisional


def find_bundle(paths: list[Path]) -> Bundle:
    """The first calibrated bundle among some artefacts, or beside an engine among them that was built from it.

    Raises:
        InputError: there is none.
    """
    for path in paths:
        for bundle in _bundles_of(path):
            if bundle.manifest.frames_of("threshold"):
                return bundle
    raise InputError(
        "neither carries held-out frames to compare on", "give DATA with good images, or a calibrated bundle"
    )


def seen_hashes(bundle: Bundle) -> set[str]:
    """Content hashes of the images that a bundle's graphs were made with: trained on, or behind INT8's ranges and search."""
    splits = bundle.manifest.splits
    return {*bundle.manifest.trained, *splits.get("ranges", []), *splits.get("search", [])}


def trained_hashes(paths: list[Path]) -> set[str]:
    """Content hashes of the images that any of some artefacts was made with, as far as they say."""
    from agp_edge.files import read_json

    known: set[str] = set()
    for path in paths:
        if kind_of(path) == "run":
            known.update(read_json(path / RUN_FILE, f"run {path}").get("trained", []))
        for bundle in _bundles_of(path):
            known |= seen_hashes(bundle)
    return known


def _bundles_of(path: Path) -> list[Bundle]:
    """A bundle itself, or those beside an engine that it was built from."""
    from agp_edge.bundle import MANIFEST, Bundle, is_bundle
    from agp_edge.engines.sidecar import is_engine, read_sidecar
    from agp_edge.files import sha256_file

    if is_bundle(path):
        return [Bundle(path)]
    if not is_engine(path):
        return []
    wanted = read_sidecar(path).bundle_sha256
    beside = (folder for folder in sorted(path.parent.iterdir()) if folder.is_dir() and is_bundle(folder))
    return [Bundle(folder) for folder in beside if sha256_file(folder / MANIFEST) == wanted]
