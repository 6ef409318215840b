"""Does an engine still say what it said where it was built? Without a bundle, without a picture, in a moment."""

from __future__ import annotations

from agp_edge.engines.base import Session
from agp_edge.engines.sidecar import Sidecar
from agp_edge.errors import ArtefactError
from agp_edge.frame import Precision
from agp_edge.reference_frames import draw_frames

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-3, "bf16": 1e-2, "int8": 2e-3}
"""Precision -> by how much of itself a score may differ. The same engine on the same machine said the same to the last bit,
over processes and over 1 to 8 threads (ONNX Runtime and OpenVINO; ViT-S/16 and filters); once, in INT8 with 8 threads on 2
cores, a sum in another order took a value over the edge of a step, and a score moved by 1.6e-4."""

REBUILD = "build it again on this machine: agp-edge build-engine BUNDLE"


def run_self_test(session: Session) -> list[float]:
    """What an engine says of the reference frames: a score for each, for its sidecar."""
    return [float(score) for score in session.infer(draw_frames(session.frame)).score]


def check_engine_self_test(session: Session, sidecar: Sidecar) -> int:
    """Hold an engine against what it said where it was built.

    Args:
        session: the engine, opened.
        sidecar: its own.

    Returns:
        How many frames it scored.

    Raises:
        ArtefactError: it says something else, or was built before engines wrote down what they say.
    """
    told = sidecar.self_test
    if told is None:
        raise ArtefactError(
            f"engine {sidecar.name} has no self-test: it was built by an earlier version", REBUILD
        )
    now = run_self_test(session)
    if len(now) != len(told):
        raise ArtefactError(
            f"engine {sidecar.name}: its self-test has {len(told)} frames, this version draws {len(now)}",
            REBUILD,
        )
    allowed = TOLERANCE[sidecar.precision]
    for number, (before, score) in enumerate(zip(told, now, strict=True)):
        # Written so that a NaN is refused, too.
        if not abs(score - before) <= allowed * max(abs(before), 1e-12):
            raise ArtefactError(
                f"engine {sidecar.name} fails its self-test: reference frame {number} scores {score:.6g}, "
                f"{before:.6g} where it was built",
                f"{REBUILD}; see what changed since (library, driver): agp-edge doctor",
            )
    return len(now)
