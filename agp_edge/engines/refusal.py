"""What a gate refused, to look at: a folder with a picture of every frame whose verdict flipped.

The folder stands beside what was judged, as `NAME.refused`. It holds `gate.json` (the report, and both artefacts'
scores of the frames shown) and a PNG a frame: the frame, the reference's map and the candidate's side by side.
Where no verdict flipped and the gate refused all the same, it shows the frames that changed most. When the same step
passes later, its folder goes.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.engines.measure import HeldOut
from agp_edge.errors import AgpEdgeError, ArtefactError, InputError
from agp_edge.extras import import_cv2
from agp_edge.files import atomic_path, read_json, translate_write_errors, write_json
from agp_edge.gate import GateReport, Scores, map_correlations
from agp_edge.rendering import NG_BGR, OK_BGR, heat
from agp_edge.verdict import VerdictName

FORMAT = "agp-edge-refusal"
VERSION = 1
RECORD = "gate.json"

Step = Literal["calibrate", "build-engine", "compare"]

MAX_PICTURES = 64
"""A candidate that flips hundreds of frames is understood from fewer."""
MOST_CHANGED = 4
"""Pictures where nothing flipped."""

TILE_SIDE = 360
MARGIN = 16
PAPER, INK, FAINT, CONTOUR = (248, 247, 246), (48, 40, 36), (120, 110, 104), (255, 255, 0)


@dataclass(frozen=True)
class Side:
    """What one artefact says of a frame.

    Attributes:
        name: `reference` or `candidate`, with its precision.
        anomaly_map: [h, w] float32.
        score, threshold: its own.
    """

    name: str
    anomaly_map: NDArray[np.float32]
    score: float
    threshold: float

    @property
    def verdict(self) -> VerdictName:
        """At its own threshold; a score that is no number is NG."""
        return "OK" if self.score <= self.threshold else "NG"

    def describe(self) -> str:
        """As in `NG 15.31 > 14.02`."""
        return f"{self.verdict} {self.score:.5g} {'<=' if self.verdict == 'OK' else '>'} {self.threshold:.5g}"

    def to_dict(self) -> dict[str, Any]:
        """As `gate.json` has it."""
        score = self.score if np.isfinite(self.score) else None
        return {"score": score, "threshold": self.threshold, "verdict": self.verdict}


def refusal_folder(artefact: Path, flips: Path | None = None) -> Path:
    """Where the frames of a refused artefact are shown: `NAME.refused` beside it, or in the folder `flips`.

    Raises:
        InputError: `flips` is there and is no folder.
    """
    if flips is not None and flips.exists() and not flips.is_dir():
        raise InputError(f"--flips {flips} is no folder", "give a folder, which is made if need be")
    if artefact.name in ("", ".."):
        artefact = artefact.resolve()
    return (flips or artefact.parent) / f"{artefact.name}.refused"


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else, before any work is done for it.

    Raises:
        InputError: it is a file, or a folder that is neither empty nor an earlier refusal.
    """
    if not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or _step_of(folder))):
        return
    raise InputError(
        f"{folder} is there and is no folder of refused frames: it would be lost",
        "give another place: --flips DIR",
    )


def show_refusal(
    folder: Path, step: Step, artefact: str, report: GateReport, both: tuple[Scores, Scores], frames: HeldOut
) -> str | None:
    """Write what a gate refused, or clear away what the same step was refused for earlier.

    A place that cannot be written does not hide what the gate said: the answer tells of it.

    Args:
        folder: checked by `check_folder`; an earlier refusal there is replaced.
        step: which command judges.
        artefact: what was judged, for the record.
        report: the gate's.
        both: what reference and candidate measured.
        frames: what they were measured on.

    Returns:
        Where the frames are, in words for `GateReport.check`; None where nothing is beyond the allowance.
    """
    try:
        if not report.reasons or not report.n:
            if _step_of(folder) == step:
                with translate_write_errors(folder):
                    shutil.rmtree(folder)
            return None
        _write(folder, step, artefact, report, both, frames)
    except AgpEdgeError as error:
        return f"the frames could not be shown: {error.what}"
    return f"see both maps in {folder}"


def _step_of(folder: Path) -> str | None:
    """The step that an earlier refusal came from; None for anything else."""
    if not (folder / RECORD).is_file():
        return None
    try:
        record = read_json(folder / RECORD, f"record of {folder}")
    except ArtefactError:
        return None
    return str(record.get("step")) if record.get("format") == FORMAT else None


def _write(
    folder: Path, step: Step, artefact: str, report: GateReport, both: tuple[Scores, Scores], frames: HeldOut
) -> None:
    reference, candidate = both
    correlations = map_correlations(reference.maps, candidate.maps)
    shown = choose_frames(report, both, correlations)
    entries = []
    check_folder(folder)
    with atomic_path(folder) as work:
        work.mkdir()
        for rank, index in enumerate(shown):
            name = frames.names[index]
            sides = tuple(
                Side(f"{role} {scores.precision}", scores.maps[index], float(scores.gate[index]), threshold)
                for role, scores, threshold in (
                    ("reference", reference, report.reference_threshold),
                    ("candidate", candidate, report.candidate_threshold),
                )
            )
            flipped = sides[0].verdict != sides[1].verdict
            picture = f"{rank:03d}-{_stem(name)}.png"
            title = f"{'flipped' if flipped else 'moved'}: {name}"
            write_png(work / picture, draw_refusal(frames.gate[index], sides, title))
            entries.append(
                {
                    "name": name,
                    "picture": picture,
                    "flipped": flipped,
                    "reference": sides[0].to_dict(),
                    "candidate": sides[1].to_dict(),
                    "map_correlation": float(correlations[index]),
                }
            )
        write_json(
            work / RECORD,
            {
                "format": FORMAT,
                "version": VERSION,
                "step": step,
                "artefact": artefact,
                "gate": report.to_dict(),
                "frames": entries,
            },
        )


def choose_frames(
    report: GateReport,
    both: tuple[Scores, Scores],
    correlations: NDArray[np.float64],
) -> list[int]:
    """Which gate frames to show: those that flipped, or without any those that moved most and whose maps changed most.

    Args:
        report: the gate's.
        both: what reference and candidate measured.
        correlations: [N] of the maps.

    Returns:
        Indices into the gate part.
    """
    before, after = (np.asarray(scores.gate, np.float64) for scores in both)
    ng = ~(before <= report.reference_threshold), ~(after <= report.candidate_threshold)
    flipped = np.flatnonzero(ng[0] != ng[1])
    if len(flipped):
        return [int(i) for i in flipped[:MAX_PICTURES]]
    drift = np.nan_to_num(np.abs(after - before), nan=np.inf)
    half = MOST_CHANGED // 2
    # Stable: of frames that changed alike the first are shown, on every machine.
    order = [
        *np.argsort(-drift, kind="stable")[:half],
        *np.argsort(correlations, kind="stable")[:MOST_CHANGED],
    ]
    return list(dict.fromkeys(int(i) for i in order))[:MOST_CHANGED]


def draw_refusal(pixels: NDArray[np.uint8], sides: tuple[Side, ...], title: str) -> NDArray[np.uint8]:
    """The frame and each artefact's map side by side, with scores and thresholds as text.

    Both maps are coloured on the scale of their own threshold: black up to half of it, and a line around what lies
    above it. So equal pictures mean equal verdicts, whatever the scores' scale.

    Args:
        pixels: [H, W, C] uint8, BGR or mono.
        sides: the artefacts.
        title: above the picture.

    Returns:
        [height, width, 3] uint8 BGR.
    """
    cv2: Any = import_cv2("drawing refused frames")
    scale = TILE_SIDE / max(pixels.shape[:2])
    width, height = (max(round(side * scale), 1) for side in pixels.shape[1::-1])
    # A line frame is low and wide: the text above a column needs its room all the same.
    column = max(width, 250) + MARGIN
    top = 92
    canvas = np.full((top + height + 40, MARGIN + column * (1 + len(sides)), 3), PAPER, np.uint8)

    def text(line: str, x: int, baseline: int, colour: tuple[int, int, int], size: float = 0.5) -> None:
        # OpenCV's fonts know ASCII alone.
        shown = line.encode("ascii", "replace").decode()
        cv2.putText(canvas, shown, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)

    def tile(picture: NDArray[np.uint8], x: int, colour: tuple[int, int, int]) -> None:
        canvas[top : top + height, x : x + width] = picture
        cv2.rectangle(canvas, (x - 2, top - 2), (x + width + 1, top + height + 1), colour, 2)

    text(title, MARGIN, 28, INK, 0.6)
    frame = cv2.resize(
        pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    if frame.ndim == 2:
        frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
    text("frame", MARGIN, 58, INK)
    text(f"{pixels.shape[1]}x{pixels.shape[0]}", MARGIN, 80, FAINT)
    tile(frame, MARGIN, FAINT)
    for i, side in enumerate(sides, 1):
        x = MARGIN + i * column
        colour = OK_BGR if side.verdict == "OK" else NG_BGR
        text(side.name, x, 58, INK)
        text(side.describe(), x, 80, colour)
        values = cv2.resize(np.nan_to_num(side.anomaly_map), (width, height), interpolation=cv2.INTER_LINEAR)
        painted = cv2.applyColorMap(
            (heat(values, side.threshold) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO
        )
        above = (values > side.threshold).astype(np.uint8)
        contours, _ = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, contours, -1, CONTOUR, 1, cv2.LINE_AA)
        tile(painted, x, colour)
    text(
        "black: up to half its own threshold; within the line: above it",
        MARGIN,
        top + height + 26,
        FAINT,
        0.45,
    )
    return canvas


def _stem(name: str) -> str:
    """A frame's name as a file's: letters, digits, `.`, `_`, `-`; its end tells it from others."""
    return (
        re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).with_suffix("").as_posix()).strip("-.")[-80:] or "frame"
    )
