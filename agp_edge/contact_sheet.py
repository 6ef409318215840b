"""A contact sheet: one row an image, with frame, anomaly map, truth and verdict side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.datasets.images import read_frame, read_truth, write_png
from agp_edge.evaluation import JudgedImage
from agp_edge.extras import import_cv2
from agp_edge.frame import FrameSpec
from agp_edge.rendering import NG_BGR, OK_BGR

Canvas = NDArray[np.uint8]
Colour = tuple[int, int, int]

# BGR. Right and wrong are also words and shapes.
PAPER: Colour = (248, 247, 246)
INK: Colour = (48, 40, 36)
FAINT: Colour = (140, 130, 124)
RULE: Colour = (224, 220, 216)
OK_COLOUR: Colour = OK_BGR
NG_COLOUR: Colour = NG_BGR
CONTOUR: Colour = (255, 255, 0)

TILE_WIDTH = 220
MAX_TILE_HEIGHT = 300
MIN_COLUMN_WIDTH = 150
PANEL_WIDTH = 280
MARGIN = 24
GAP = 12
HEADER_HEIGHT = 104


@dataclass(frozen=True)
class Row:
    """What one row shows.

    Attributes:
        class_name: its class.
        label: `good`, or the kind of defect.
        name: the image's name.
        frame: [H, W, 3 or 1] uint8.
        anomaly_map: [h, w] float32.
        truth: [H, W] bool; None for a defect without a mask.
        score: its anomaly score.
    """

    class_name: str
    label: str
    name: str
    frame: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32]
    truth: NDArray[np.bool_] | None
    score: float


def choose_rows(images: Sequence[JudgedImage], *, good: int = 3, each_defect: int = 2) -> list[JudgedImage]:
    """Choose some good images and some of each kind of defect, spread evenly over the order of their scores.

    So the sheet shows the clear cases and the hard ones alike: the first is the one with the lowest score of its
    kind, the last the one with the highest.

    Args:
        images: judged images, of one class or of several.
        good: good images of each class.
        each_defect: images of each kind of defect of each class.
    """
    kinds: dict[tuple[str, bool, str], list[JudgedImage]] = {}
    for image in images:
        kind = (image.class_name, not image.sample.good, image.sample.label)
        kinds.setdefault(kind, []).append(image)
    chosen: list[JudgedImage] = []
    for (_, defect, _), members in sorted(kinds.items()):
        ordered = sorted(members, key=lambda image: (image.score, image.sample.name))
        n = min(each_defect if defect else good, len(ordered))
        step = (len(ordered) - 1) / max(n - 1, 1)
        chosen += [ordered[round(i * step)] for i in range(n)]
    return chosen


def load_rows(images: Iterable[JudgedImage], frame: FrameSpec) -> list[Row]:
    """The rows of judged images whose maps were kept; their frames and masks are read again.

    Args:
        images: those without a map are left out.
        frame: the frame that they were judged as.

    Raises:
        InputError: an image or mask cannot be read any more.
    """
    return [
        Row(
            class_name=image.class_name,
            label=image.sample.label,
            name=image.sample.name,
            frame=read_frame(image.sample, frame),
            anomaly_map=image.anomaly_map,
            truth=read_truth(image.sample, frame),
            score=image.score,
        )
        for image in images
        if image.anomaly_map is not None
    ]


def draw_contact_sheet(
    rows: Sequence[Row], path: Path, *, threshold: float | None = None, title: str = "Contact sheet"
) -> None:
    """Draw rows as a PNG.

    All maps share one colour scale, on which the threshold is marked; on the frame a line surrounds what lies
    above it.

    Args:
        rows: at least one.
        path: the PNG to write.
        threshold: the score above which a frame is NG; without one there are scores and no verdicts.
        title: what was judged.

    Raises:
        InputError, DiskFullError: it cannot be written.
        MissingExtraError: OpenCV is not installed.
    """
    write_png(path, render_contact_sheet(rows, threshold=threshold, title=title))


def render_contact_sheet(rows: Sequence[Row], *, threshold: float | None, title: str) -> Canvas:
    """The picture that `draw_contact_sheet` writes.

    Returns:
        [H, W, 3] uint8 BGR.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    return _Sheet(rows, threshold).render(title)


class Tiles:
    """Frame, map and truth of some rows as tiles of one size, their maps on one colour scale.

    Args:
        rows: at least one; the first one's frame gives the size.
        threshold: lies on the scale, and what a map has above it is surrounded on the frame; None for neither.
        width, max_height: the room of a tile, in pixels.

    Attributes:
        wh: (width, height) of every tile.
        low, high: the ends of the colour scale.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """

    def __init__(self, rows: Sequence[Row], threshold: float | None, width: int, max_height: int) -> None:
        self._cv2: Any = import_cv2("drawing anomaly maps")
        self._threshold = threshold
        frame_height, frame_width = rows[0].frame.shape[:2]
        scale = min(width / frame_width, max_height / frame_height)
        self.wh = max(round(frame_width * scale), 1), max(round(frame_height * scale), 1)
        values = np.concatenate([row.anomaly_map.ravel() for row in rows])
        # One hot pixel must not darken all the rest; a threshold must lie on the scale to be marked.
        self.low, self.high = (float(v) for v in np.percentile(values, (1, 99.8)))
        if threshold is not None:
            self.low, self.high = min(self.low, threshold), max(self.high, threshold)
        if self.high <= self.low:
            self.high = self.low + 1

    def frame(self, row: Row) -> Canvas:
        """The frame, and a line around what the map has above the threshold."""
        cv2 = self._cv2
        tile: Canvas = self._resize(row.frame)
        if tile.ndim == 2 or tile.shape[2] == 1:
            tile = cv2.cvtColor(tile, cv2.COLOR_GRAY2BGR)
        if self._threshold is not None:
            # Linear, not by area: shrunk by area, a peak just above the threshold would vanish.
            values = cv2.resize(row.anomaly_map, self.wh, interpolation=cv2.INTER_LINEAR)
            above = (values > self._threshold).astype(np.uint8)
            contours, _ = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(tile, contours, -1, INK, 3, cv2.LINE_AA)
            cv2.drawContours(tile, contours, -1, CONTOUR, 1, cv2.LINE_AA)
        return tile

    def heat(self, row: Row) -> Canvas:
        """The anomaly map in colours."""
        return self.colour(self._resize(row.anomaly_map))

    def truth(self, row: Row) -> Canvas | None:
        """White where anomalous; None without a mask."""
        if row.truth is None:
            return None
        # By area, so that a scratch of one pixel still shows.
        share = self._resize(row.truth.astype(np.float32))
        grey = (40 + 215 * np.clip(share * 2, 0, 1)).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[..., np.newaxis], 3, axis=2))

    def colour(self, values: NDArray[np.float32]) -> Canvas:
        """The colours of [h, w] values on the scale: [h, w, 3] BGR."""
        share = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        coloured: Canvas = self._cv2.applyColorMap((share * 255).astype(np.uint8), self._cv2.COLORMAP_INFERNO)
        return coloured

    def _resize(self, picture: NDArray[Any]) -> NDArray[Any]:
        cv2 = self._cv2
        method = cv2.INTER_AREA if picture.shape[1] > self.wh[0] else cv2.INTER_LINEAR
        resized: NDArray[Any] = cv2.resize(picture, self.wh, interpolation=method)
        return resized


class _Sheet:
    """The layout of one sheet."""

    def __init__(self, rows: Sequence[Row], threshold: float | None) -> None:
        self.cv2: Any = import_cv2("drawing a contact sheet")
        self.rows = rows
        self.threshold = threshold
        self.tiles = Tiles(rows, threshold, TILE_WIDTH, MAX_TILE_HEIGHT)
        self.row_height = max(self.tiles.wh[1], 132)
        self.columns = [MARGIN + i * (max(self.tiles.wh[0], MIN_COLUMN_WIDTH) + GAP) for i in range(4)]

    def render(self, title: str) -> Canvas:
        width = self.columns[3] + PANEL_WIDTH + MARGIN
        height = HEADER_HEIGHT + len(self.rows) * (self.row_height + GAP) + MARGIN
        self.canvas: Canvas = np.full((height, width, 3), PAPER, np.uint8)
        self._header(title)
        for i, row in enumerate(self.rows):
            self._row(row, HEADER_HEIGHT + i * (self.row_height + GAP))
        return self.canvas

    def _header(self, title: str) -> None:
        right = self.columns[3] + PANEL_WIDTH
        self._text(title, MARGIN, 36, 0.75, INK, weight=2, max_width=self.columns[2] - 2 * MARGIN)
        self._scale_bar(right)
        for x, head in zip(self.columns, ("frame", "anomaly map", "truth", "verdict"), strict=True):
            self._text(head, x, HEADER_HEIGHT - 18, 0.5, FAINT)
        y = HEADER_HEIGHT - 8
        self.cv2.line(self.canvas, (MARGIN, y), (right, y), RULE, 1)

    def _scale_bar(self, right: int) -> None:
        """The colours of the maps from low to high, with a tick at the threshold."""
        left, top, bottom = self.columns[2] + 20, 18, 34
        low, high = self.tiles.low, self.tiles.high
        ramp = np.linspace(low, high, right - left, dtype=np.float32)
        self.canvas[top:bottom, left:right] = self.tiles.colour(
            np.repeat(ramp[np.newaxis], bottom - top, axis=0)
        )
        self._text(f"{low:.3g}", left, bottom + 16, 0.4, FAINT)
        self._text(f"{high:.3g}", right, bottom + 16, 0.4, FAINT, align="right")
        if self.threshold is not None:
            x = left + round((self.threshold - low) / (high - low) * (right - left - 1))
            self.cv2.line(self.canvas, (x, top - 5), (x, bottom + 5), INK, 2, self.cv2.LINE_AA)
            text = f"threshold {self.threshold:.4g}"
            half = self._text_width(text, 0.4) // 2
            middle = min(max(x, left + 60 + half), right - 60 - half)
            self._text(text, middle - half, bottom + 16, 0.4, INK)

    def _row(self, row: Row, top: int) -> None:
        truth = self.tiles.truth(row)
        shown = (self.tiles.frame(row), self.tiles.heat(row), self._no_mask() if truth is None else truth)
        for left, tile in zip(self.columns[:3], shown, strict=True):
            above = top + (self.row_height - self.tiles.wh[1]) // 2
            self.canvas[above : above + tile.shape[0], left : left + tile.shape[1]] = tile
        self._panel(row, self.columns[3], top + (self.row_height - 132) // 2)

    def _no_mask(self) -> Canvas:
        width, height = self.tiles.wh
        tile = np.full((height, width, 3), RULE, np.uint8)
        self._text("no mask", width // 2 - 28, height // 2, 0.45, FAINT, on=tile)
        return tile

    def _panel(self, row: Row, x: int, top: int) -> None:
        """Verdict as a chip (NG filled, OK outlined), right or wrong in words, then the numbers."""
        good = row.label == "good"
        y = top + 12
        if self.threshold is not None:
            ok = row.score <= self.threshold
            self._chip("OK" if ok else "NG", x, y, OK_COLOUR if ok else NG_COLOUR, filled=not ok)
            words = "right" if ok == good else "WRONG: missed" if ok else "WRONG: false reject"
            right = ok == good
            self._text(words, x + 70, y + 22, 0.55, FAINT if right else NG_COLOUR, weight=1 if right else 2)
            y += 34
        self._text(f"score {row.score:.4g}", x, y + 24, 0.55, INK)
        self._text(f"{row.class_name} / {row.label}", x, y + 48, 0.5, INK, max_width=PANEL_WIDTH)
        self._text(row.name, x, y + 70, 0.42, FAINT, max_width=PANEL_WIDTH, keep_end=True)

    def _chip(self, text: str, x: int, y: int, colour: Colour, *, filled: bool) -> None:
        cv2 = self.cv2
        cv2.rectangle(self.canvas, (x, y), (x + 58, y + 32), colour, cv2.FILLED if filled else 2, cv2.LINE_AA)
        left = x + (58 - self._text_width(text, 0.7, 2)) // 2
        self._text(text, left, y + 24, 0.7, (255, 255, 255) if filled else colour, weight=2)

    def _text_width(self, text: str, scale: float, weight: int = 1) -> int:
        (width, _), _ = self.cv2.getTextSize(text, self.cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
        return int(width)

    def _text(
        self,
        text: str,
        x: int,
        baseline: int,
        scale: float,
        colour: Colour,
        *,
        weight: int = 1,
        max_width: int | None = None,
        keep_end: bool = False,
        align: str = "left",
        on: Canvas | None = None,
    ) -> None:
        """Draw one line; too long, it loses its end (or its start, as a path does best) to an ellipsis."""
        # OpenCV's fonts know ASCII alone.
        shown = text = text.encode("ascii", "replace").decode()
        while max_width is not None and len(text) > 1 and self._text_width(shown, scale, weight) > max_width:
            text = text[1:] if keep_end else text[:-1]
            shown = "..." + text if keep_end else text + "..."
        if align == "right":
            x -= self._text_width(shown, scale, weight)
        cv2 = self.cv2
        cv2.putText(
            self.canvas if on is None else on,
            shown, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA,
        )  # fmt: skip
