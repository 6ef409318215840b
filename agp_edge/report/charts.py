"""Charts as inline SVG: they scale, print, and take their colours from the page, in light and in dark.

What a colour tells is also told by a place, a dash or a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from agp_edge.metrics import Curve
from agp_edge.report.markup import Markup, element, join

WIDTH, HEIGHT = 380, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 370, 22, 222
BINS = 32


def histogram(good: Sequence[float], defect: Sequence[float], threshold: float | None) -> Markup:
    """How the scores of good images (upwards) and of defects (downwards) are spread, on one scale.

    Args:
        good, defect: scores; at least one of them all.
        threshold: the score above which an image is NG, marked; None without one.
    """
    every = [*good, *defect, *([] if threshold is None else [threshold])]
    low, high = min(every), max(every)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    margin = 0.03 * (high - low)
    low, high = low - margin, high + margin
    edges = np.linspace(low, high, BINS + 1)
    up, _ = np.histogram(good, edges)
    down, _ = np.histogram(defect, edges)
    x = _Scale(low, high, LEFT, RIGHT)
    # Both kinds on one scale of counts, the room shared out as they need it.
    most = int(up.max(initial=0)) + int(down.max(initial=0))
    zero = TOP + (BOTTOM - TOP) * int(up.max(initial=0)) / most
    unit = (BOTTOM - TOP) / most
    parts = [_tick_y(zero - n * unit, str(n)) for n in _counts(int(up.max(initial=0))) if n]
    parts += [_tick_y(zero + n * unit, str(n)) for n in _counts(int(down.max(initial=0))) if n]
    parts += [_tick_x(x(value), text) for value, text in _round_ticks(low, high)]
    for counts, kind, sign in ((up, "good", -1), (down, "defect", 1)):
        for i in np.flatnonzero(counts):
            height = float(counts[i]) * unit
            left, right = x(edges[i]), x(edges[i + 1])
            parts.append(
                element(
                    "rect", x=left + 0.5, y=zero - height if sign < 0 else zero, width=right - left - 1,
                    height=height, class_=f"bar {kind}",
                )
            )  # fmt: skip
    parts.append(_line(LEFT, zero, RIGHT, zero, "axis"))
    if threshold is not None:
        at = x(threshold)
        parts.append(_line(at, TOP - 6, at, BOTTOM, "mark"))
        parts.append(_beside(at, TOP - 9, f"threshold {threshold:.4g}", above=True))
    parts.append(_text((LEFT + RIGHT) / 2, HEIGHT - 8, "anomaly score", "label", "middle"))
    parts.append(_label_y("images"))
    title = (
        f"Histogram of scores: {len(good)} good images upwards, {len(defect)} defects downwards"
        + ("" if threshold is None else f", threshold {threshold:.4g}")
    )  # fmt: skip
    return _svg(title, *parts)


def roc_chart(
    image: Curve | None, pixel: Curve | None, operating_point: tuple[float, float] | None = None
) -> Markup:
    """ROC curves of images (solid) and of pixels (dashed).

    Args:
        image, pixel: the curves; one that is None is left out.
        operating_point: (false-reject rate, share of defects found) at the artefact's threshold, marked with a circle.
    """
    x, y = _Scale(0, 1, LEFT, RIGHT), _Scale(0, 1, BOTTOM, TOP)
    parts = [*_unit_axes(x, y, 1.0), _line(x(0), y(0), x(1), y(1), "chance")]
    for curve, kind in ((pixel, "pixel"), (image, "image")):
        if curve is not None:
            parts.append(element("path", d=_path(curve.x, curve.y, x, y), class_=f"curve {kind}"))
    if operating_point is not None:
        px, py = x(operating_point[0]), y(operating_point[1])
        parts.append(element("circle", cx=px, cy=py, r="5", class_="point"))
    parts += [
        _text((LEFT + RIGHT) / 2, HEIGHT - 8, "false-positive rate", "label", "middle"),
        _label_y("true-positive rate"),
    ]
    return _svg("ROC curves of images and pixels", *parts)


def pro_chart(curve: Curve, limit: float) -> Markup:
    """The PRO curve, and the area below it up to the limit of AUPRO; the axis ends at twice the limit."""
    end = min(1.0, 2 * limit)
    x, y = _Scale(0, end, LEFT, RIGHT), _Scale(0, 1, BOTTOM, TOP)
    line_x, line_y = _cut(curve, end)
    area_x, area_y = _cut(curve, limit)
    area = f"{_path(area_x, area_y, x, y)}L{x(limit):.1f} {y(0):.1f}L{x(0):.1f} {y(0):.1f}Z"
    return _svg(
        f"PRO curve, its area marked up to a false-positive rate of {limit:g}",
        element("path", d=area, class_="area"),
        *_unit_axes(x, y, end),
        element("path", d=_path(line_x, line_y, x, y), class_="curve image"),
        _line(x(limit), TOP - 4, x(limit), BOTTOM, "mark"),
        _beside(x(limit), BOTTOM - 10, f"limit {limit:g}"),
        _text((LEFT + RIGHT) / 2, HEIGHT - 8, "false-positive rate of pixels", "label", "middle"),
        _label_y("mean overlap of regions"),
    )


class _Scale:
    """From a value to a place: linear."""

    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        self.low, self.begin = low, begin
        self.unit = (end - begin) / (high - low)

    def __call__(self, value: float) -> float:
        return float(self.begin + (value - self.low) * self.unit)


def _svg(title: str, *parts: Markup) -> Markup:
    return element(
        "svg", element("title", title), *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title
    )


def _cut(curve: Curve, end: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The part of a curve up to a false-positive rate, interpolated there."""
    inside = curve.x <= end
    last = np.interp(end, curve.x, curve.y)
    return np.append(curve.x[inside], end), np.append(curve.y[inside], last)


def _path(xs: NDArray[np.float64], ys: NDArray[np.float64], x: _Scale, y: _Scale) -> str:
    points = (f"{x(px):.1f} {y(py):.1f}" for px, py in zip(xs.tolist(), ys.tolist(), strict=True))
    # Points that fall on one tenth of a pixel are one.
    return "M" + "L".join(point for point, _ in groupby(points))


def _unit_axes(x: _Scale, y: _Scale, end: float) -> list[Markup]:
    parts = [_tick_y(y(value), f"{value:g}") for value in (0, 0.25, 0.5, 0.75, 1)]
    return parts + [_tick_x(x(value), f"{value:g}") for value in np.linspace(0, end, 5).round(4).tolist()]


def _tick_x(at: float, text: str) -> Markup:
    return join(_line(at, BOTTOM, at, BOTTOM + 4, "axis"), _text(at, BOTTOM + 18, text, "tick", "middle"))


def _tick_y(at: float, text: str) -> Markup:
    return join(_line(LEFT, at, RIGHT, at, "grid"), _text(LEFT - 7, at + 4, text, "tick", "end"))


def _label_y(text: str) -> Markup:
    middle = (TOP + BOTTOM) / 2
    return element(
        "text", text, x=0.0, y=0.0, class_="label", text_anchor="middle",
        transform=f"translate(12 {middle:.0f}) rotate(-90)",
    )  # fmt: skip


def _beside(at: float, y: float, text: str, *, above: bool = False) -> Markup:
    """A word beside an upright line, or above its end; it reaches to the side with more room."""
    left = at > (LEFT + RIGHT) / 2
    gap = -6 if above else 6
    return _text(at - gap if left else at + gap, y, text, "note", "end" if left else "start")


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> Markup:
    return element("text", text, x=x, y=y, class_=kind, text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Three to seven round values inside a range."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, f"{i * step:.6g}") for i in range(first, last + 1)]


def _counts(most: int) -> list[int]:
    """Zero, and one or two round counts up to the most."""
    if most <= 1:
        return list(range(most + 1))
    step = next(m * 10**p for p in range(10) for m in (1, 2, 5) if m * 10**p * 2 >= most * 0.8)
    return list(range(0, most + 1, step))
