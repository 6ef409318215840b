"""What the picture itself tells: frozen, covered, blurred, or exposed otherwise than good frames. No verdict changes.

A picture is measured small: halved until its longer side is at most 320 pixels, which leaves noise behind and costs little.
Sharpness is the deviation of the Laplacian (its variance: Pech-Pacheco et al., 2000) by the mean: light alone does not change it.
What good frames are like is measured by `build-engine` on the bundle's held-out good frames. docs/scene.md has the rates.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agp_edge.errors import ArtefactError
from agp_edge.events import Event, OnEvent
from agp_edge.extras import import_cv2

LONGEST_SIDE = 320
"""Pixels. Noise of single pixels is mostly gone; a defocus of 1 % of the picture's side is still seen."""
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
"""Of each figure over the good frames; limits are taken from the second and the fourth, which one odd frame does not move."""

INTERVAL_NS = 200_000_000
"""A picture is looked at five times a second at most."""
SHARE = 50
"""And so seldom that looking takes a fiftieth of the time of the loop that judges."""
HOLD_S = 5.0
FEWEST_LOOKS = 8
AGREE = 0.9
"""Something is so once nine looks in ten say it over 5 s and 8 looks, and is over once nine in ten no longer do."""
FROZEN_S = 30.0
"""Still for so long is frozen. A network camera may send frames without any change until its next key picture: x264, on a still scene
under noise, gave frames alike to the bit for up to 8 of the 10 s between two of them (benchmarks/scene_watch.py)."""


class Limit(NamedTuple):
    """Where a figure is no longer that of good frames, as shares of theirs, and where it is again."""

    beyond: float
    back: float


TOO_EVEN = Limit(0.25, 0.35)
TOO_DARK = Limit(0.25, 0.35)
BLURRED = Limit(0.7, 0.8)
DARKER = Limit(0.8, 0.87)
BRIGHTER = Limit(1.2, 1.13)


class Figures(NamedTuple):
    """A picture in three numbers.

    Attributes:
        brightness: mean grey level, 0 to 255.
        contrast: standard deviation of the grey levels.
        sharpness: standard deviation of the Laplacian by the mean grey level.
    """

    brightness: float
    contrast: float
    sharpness: float


def measure_picture(pixels: NDArray[np.uint8]) -> Figures:
    """The figures of a frame.

    Args:
        pixels: [H, W, C] uint8, BGR or mono.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = import_cv2("watching the picture")
    grey = pixels[..., 0] if pixels.shape[2] == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    while max(grey.shape) > LONGEST_SIDE:
        # By two at a time: for that OpenCV has instructions of its own.
        half = (max(1, grey.shape[1] // 2), max(1, grey.shape[0] // 2))
        grey = cv2.resize(grey, half, interpolation=cv2.INTER_AREA)
    mean, deviation = cv2.meanStdDev(grey)
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    brightness = float(mean[0, 0])
    return Figures(brightness, float(deviation[0, 0]), float(edges[0, 0]) / max(brightness, 1.0))


@dataclass(frozen=True)
class SceneReference:
    """What good frames are like.

    Attributes:
        frames: how many were measured.
        brightness, contrast, sharpness: `QUANTILES` of each over them.
    """

    frames: int
    brightness: tuple[float, ...]
    contrast: tuple[float, ...]
    sharpness: tuple[float, ...]

    @classmethod
    def measure(cls, frames: Iterable[NDArray[np.uint8]]) -> SceneReference:
        """Measure good frames, [H, W, C] uint8 each, at least one.

        Raises:
            MissingExtraError: OpenCV is not installed.
        """
        figures = np.array([measure_picture(pixels) for pixels in frames])  # [N, 3]
        # As many digits as say something, so that a sidecar stays readable.
        rows = [tuple(float(f"{v:.6g}") for v in np.quantile(column, QUANTILES)) for column in figures.T]
        return cls(len(figures), *rows)

    def to_dict(self) -> dict[str, Any]:
        """As a sidecar keeps it."""
        return {"frames": self.frames, **{name: list(getattr(self, name)) for name in Figures._fields}}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str) -> SceneReference:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactError: it is something else.
        """
        rows = [value.get(name) for name in Figures._fields]
        n = value.get("frames")
        if (
            set(value) != {"frames", *Figures._fields}
            or not (type(n) is int and n > 0)
            or not all(_are_quantiles(r) for r in rows)
        ):
            raise ArtefactError(
                f"{where}: what it says of good frames cannot be read",
                "build it again: agp-edge build-engine BUNDLE",
            )
        return cls(n, *(tuple(map(float, row)) for row in rows if row is not None))


def _are_quantiles(row: Any) -> bool:
    return (
        isinstance(row, list)
        and len(row) == len(QUANTILES)
        and all(type(v) in (int, float) and math.isfinite(v) and v >= 0 for v in row)
        and row == sorted(row)
    )


class _Agreement:
    """Whether something is so, once looks have agreed for long enough."""

    def __init__(self) -> None:
        self.on = False
        self.since_ns = self.until_ns = 0
        self._looks: deque[tuple[int, bool]] = deque()

    def add(self, now_ns: int, says: bool) -> bool:
        """Add a look; whether it changed anything."""
        looks = self._looks
        looks.append((now_ns, says))
        while len(looks) > FEWEST_LOOKS and now_ns - looks[1][0] >= HOLD_S * 1e9:
            looks.popleft()
        if len(looks) < FEWEST_LOOKS or now_ns - looks[0][0] < HOLD_S * 1e9:
            return False
        if sum(said != self.on for _, said in looks) < AGREE * len(looks):
            return False
        self.on = not self.on
        if self.on:
            self.since_ns = looks[0][0]
        else:
            self.until_ns = looks[0][0]
        return True


class SceneWatch:
    """Looks at the frames of one camera and tells what is wrong with the picture, once, and when it is over.

    Not thread-safe: it belongs to whoever judges.

    Args:
        reference: of the engine; None watches for a frozen picture alone.
        on_event: told of each change.
        source: the source's name, with that of its region of interest where there is one.

    Attributes:
        reference: another engine's may be put here while it runs.
    """

    def __init__(self, reference: SceneReference | None, on_event: OnEvent, source: str) -> None:
        self.reference = reference
        self._on_event = on_event
        self._source = source
        self._looked_ns: int | None = None
        self._interval_ns = INTERVAL_NS
        self._states = {kind: _Agreement() for kind in ("frozen", "covered", "blurred", "exposure")}
        self._sample = b""
        self._still: NDArray[np.uint8] | None = None
        self._still_ns = 0
        self._still_looks = 0

    @property
    def wrong(self) -> list[str]:
        """The kinds of event that are so now."""
        return [kind for kind, state in self._states.items() if state.on]

    def look(self, pixels: NDArray[np.uint8], captured_ns: int) -> None:
        """Look at a frame, unless the last look was a moment ago.

        Args:
            pixels: [H, W, C] uint8, BGR or mono: what the engine sees.
            captured_ns: monotonic clock at capture.

        Raises:
            MissingExtraError: OpenCV is not installed.
        """
        if self._looked_ns is not None and 0 <= captured_ns - self._looked_ns < self._interval_ns:
            return
        self._looked_ns = captured_ns
        begin = time.thread_time_ns()
        if self.reference is not None:
            self._compare(measure_picture(pixels), self.reference, captured_ns)
        self._look_for_freeze(self._is_still(pixels, captured_ns), captured_ns)
        # A look at 20 megapixels takes as long as the network: then there are fewer.
        self._interval_ns = max(INTERVAL_NS, SHARE * (time.thread_time_ns() - begin))

    def _is_still(self, pixels: NDArray[np.uint8], now_ns: int) -> bool:
        """Whether a frame is that of the last look, to the bit: first by a sample, and only where that is alike by all of it."""
        sample = pixels[::16, ::16].tobytes()
        same, self._sample = sample == self._sample, sample
        if same and self._still is not None and np.array_equal(self._still, pixels):
            self._still_looks += 1
            return True
        # A copy, and only of what might be still: the frame itself belongs to the source, which may write there again.
        self._still = pixels.copy() if same else None
        self._still_ns, self._still_looks = now_ns, 1
        return False

    def _look_for_freeze(self, still: bool, now_ns: int) -> None:
        state = self._states["frozen"]
        if state.on:
            if state.add(now_ns, still):
                self._tell_over("frozen")
        elif self._states["covered"].on:
            return  # Without light a picture can be black to the bit, whoever sends it.
        elif still and self._still_looks >= FEWEST_LOOKS and now_ns - self._still_ns >= FROZEN_S * 1e9:
            state.on, state.since_ns = True, self._still_ns
            seconds = (now_ns - self._still_ns) / 1e9
            text = f"the picture has not changed by a bit for {seconds:.0f} s: the camera repeats it"
            self._tell("frozen", text, {"seconds": round(seconds, 1)})

    def _compare(self, now: Figures, good: SceneReference, now_ns: int) -> None:
        too_dark = _below(now.brightness, good.brightness, TOO_DARK, self._states["covered"].on)
        too_even = _below(now.contrast, good.contrast, TOO_EVEN, self._states["covered"].on)
        covered = too_dark or too_even
        figure = "brightness" if too_dark else "contrast"
        self._add("covered", covered, "dark" if too_dark else "even", figure, now, now_ns)
        if covered:
            return  # A picture of nothing is neither sharp nor well lit; what was known of both stays.
        blurred = _below(now.sharpness, good.sharpness, BLURRED, self._states["blurred"].on)
        self._add("blurred", blurred, "blurred", "sharpness", now, now_ns)
        on = self._states["exposure"].on
        darker = _below(now.brightness, good.brightness, DARKER, on)
        brighter = now.brightness > good.brightness[3] * (BRIGHTER.back if on else BRIGHTER.beyond)
        self._add(
            "exposure", darker or brighter, "darker" if darker else "brighter", "brightness", now, now_ns
        )

    def _add(self, kind: str, says: bool, word: str, figure: str, now: Figures, now_ns: int) -> None:
        state = self._states[kind]
        if not state.add(now_ns, says):
            return
        if not state.on:
            self._tell_over(kind)
            return
        assert self.reference is not None
        row, value = getattr(self.reference, figure), getattr(now, figure)
        text = f"the picture is {word}: {figure} {value:.3g}, of good frames {row[1]:.3g} to {row[3]:.3g}"
        if kind == "covered":
            text += "; is the lens covered, or the light off?"
        self._tell(kind, text, {figure: round(value, 4), "good": [row[1], row[3]]})

    def _tell(self, kind: str, text: str, data: Mapping[str, Any]) -> None:
        self._on_event(Event(kind, f"{self._source}: {text}", self._source, data=data))

    def _tell_over(self, kind: str) -> None:
        state = self._states[kind]
        seconds = (state.until_ns - state.since_ns) / 1e9
        words = {"exposure": "exposed otherwise than good frames"}.get(kind, kind)
        text = f"{self._source}: the picture is no longer {words}, as it was for {seconds:.0f} s"
        data = {"was": kind, "seconds": round(seconds, 1)}
        self._on_event(Event("scene-good", text, self._source, "info", data=data))


def _below(value: float, good: tuple[float, ...], limit: Limit, on: bool) -> bool:
    return value < good[1] * (limit.back if on else limit.beyond)
