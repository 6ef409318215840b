"""A small data set in MVTec-AD's layout, made of photographs that scikit-image carries: no download.

The pictures are real (brick, grass and gravel, 512x512 each); the defects are drawn on them. Training and
test frames are cut from disjoint areas of a photograph, so that no test pixel was ever trained on. Crops of
one area overlap each other, as neighbouring frames of a line do: the frames held out of training are
therefore easier than those of the test area, and thresholds taken from them a little too tight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.errors import InputError
from agp_edge.progress import Progress, silent

Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]
Floats = NDArray[np.float32]

SURFACES = ("brick", "grass", "gravel")
FRAME_SIZE = 256
CROP_SIZE = 160
TEST_COLUMNS = 208
"""The right-hand columns of a photograph belong to the test frames alone."""


@dataclass(frozen=True)
class SampleCounts:
    """Images of one class: good ones to train on and to test on, and of each kind of defect."""

    train: int = 160
    test_good: int = 40
    test_defect: int = 10


def make_sample_data(
    root: Path,
    *,
    surfaces: tuple[str, ...] = SURFACES,
    counts: SampleCounts | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> None:
    """Write the sample data under `root`, one class a surface.

    Args:
        root: a folder that is absent or empty.
        surfaces: which of `SURFACES`.
        counts: images of one class.
        seed: the same seed gives the same files.
        progress: told after each image.

    Raises:
        InputError: `root` holds something already.
    """
    counts = counts or SampleCounts()
    if root.exists() and any(root.iterdir()):
        raise InputError(f"{root} is not empty", "give an empty folder for the sample data")
    total = len(surfaces) * (counts.train + counts.test_good + counts.test_defect * len(DEFECTS))
    done = 0

    def save(path: Path, image: Image) -> None:
        nonlocal done
        write_png(path, image)
        done += 1
        progress(done, total)

    for surface in surfaces:
        rng = np.random.default_rng([seed, SURFACES.index(surface)])
        camera = _Camera(surface)
        folder = root / surface
        for i in range(counts.train):
            save(folder / "train" / "good" / f"{i:03d}.png", camera.take(rng, "train"))
        for i in range(counts.test_good):
            save(folder / "test" / "good" / f"{i:03d}.png", camera.take(rng, "test"))
        for defect, draw in DEFECTS.items():
            for i in range(counts.test_defect):
                image, mask = draw(camera.take(rng, "test"), rng)
                save(folder / "test" / defect / f"{i:03d}.png", image)
                write_png(folder / "ground_truth" / defect / f"{i:03d}_mask.png", mask[:, :, None])


class _Camera:
    """Takes frames of one surface: another place each time, with small changes of light and sensor noise."""

    TINTS: ClassVar = {"brick": (0.80, 0.90, 1.12), "grass": (0.82, 1.10, 0.95), "gravel": (1.02, 1.0, 0.98)}

    def __init__(self, surface: str) -> None:
        import skimage.data

        self._grey: Image = np.asarray(getattr(skimage.data, surface)(), np.uint8)
        self._tint = np.array(self.TINTS[surface], np.float32)

    def take(self, rng: np.random.Generator, area: str) -> Image:
        """One [256, 256, 3] uint8 BGR frame out of the train or the test area."""
        height, width = self._grey.shape
        split = width - TEST_COLUMNS
        low, high = (0, split - CROP_SIZE) if area == "train" else (split, width - CROP_SIZE)
        x = int(rng.integers(low, high + 1))
        y = int(rng.integers(0, height - CROP_SIZE + 1))
        cut = self._grey[y : y + CROP_SIZE, x : x + CROP_SIZE]
        crop = cv2.resize(cut, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        light = rng.uniform(0.95, 1.05) * (
            1 + rng.uniform(-0.03, 0.03) * np.linspace(-1, 1, FRAME_SIZE, dtype=np.float32)
        )
        frame = (crop * light)[:, :, None] * self._tint
        frame += rng.normal(0, 2, frame.shape)
        return _to_uint8(frame)


def _to_uint8(values: NDArray[np.floating[Any]]) -> Image:
    rounded: Image = np.clip(values, 0, 255).round().astype(np.uint8)
    return rounded


def _soft(mask: Mask, sigma: float) -> Floats:
    soft: Floats = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), sigma)[:, :, None].astype(
        np.float32
    )
    return soft


def _blend(image: Image, other: Floats, weight: Floats) -> Image:
    return _to_uint8(image * (1 - weight) + other * weight)


def _place(rng: np.random.Generator) -> tuple[int, int]:
    x, y = rng.integers(48, FRAME_SIZE - 48, 2)
    return int(x), int(y)


def _blob(rng: np.random.Generator, radius: tuple[float, float]) -> Mask:
    """A closed, wobbling outline, filled."""
    cx, cy = _place(rng)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    waves = [rng.normal(0, 0.10) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)]
    r = rng.uniform(*radius) * (1 + np.sum(waves, axis=0))
    stretch = rng.uniform(0.7, 1.3)
    points = np.stack([cx + r * np.cos(angles) * stretch, cy + r * np.sin(angles) / stretch], axis=1)
    mask = np.zeros((FRAME_SIZE, FRAME_SIZE), np.uint8)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 255)
    return mask


def _scratch(image: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """A thin line, bright or dark, that bends a little."""
    mask = np.zeros(image.shape[:2], np.uint8)
    x, y = (float(v) for v in _place(rng))
    angle = rng.uniform(0, 2 * np.pi)
    points = []
    for _ in range(int(rng.integers(8, 14))):
        points.append((round(x), round(y)))
        angle += rng.normal(0, 0.15)
        x, y = x + 9 * np.cos(angle), y + 9 * np.sin(angle)
    cv2.polylines(mask, [np.array(points, np.int32)], False, 255, int(rng.integers(2, 5)), cv2.LINE_AA)
    mask = np.where(mask > 127, 255, 0).astype(np.uint8)
    shift = rng.choice([-1, 1]) * rng.uniform(55, 90)
    return _blend(image, image.astype(np.float32) + np.float32(shift), _soft(mask, 0.7)), mask


def _stain(image: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """A liquid that darkens and colours the surface, whose texture stays visible."""
    mask = _blob(rng, (14, 30))
    tint = rng.permutation(np.array([0.55, 0.75, 0.95], np.float32))
    return _blend(image, image * tint, _soft(mask, 2.0)), mask


def _hole(image: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """A dark pit with a lit rim on one side."""
    mask = _blob(rng, (7, 15))
    depth = _soft(mask, 1.5)
    rim = np.roll(depth, (2, 2), axis=(0, 1)) - depth
    other = np.full(image.shape, rng.uniform(15, 45), np.float32)
    holed = _blend(image, other, depth)
    return _to_uint8(holed + np.clip(rim, 0, 1) * 60), mask


def _smear(image: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Texture rubbed off: blurred in place, its mean colour kept; at the best of eight places, where there is texture."""
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(5, 8)).astype(np.float32)
    change = np.abs(blurred - image).mean(axis=2)
    mask = max((_blob(rng, (18, 32)) for _ in range(8)), key=lambda m: float(change[m > 0].mean()))
    blurred = blurred + rng.normal(0, 2, blurred.shape)
    return _blend(image, blurred, _soft(mask, 2.0)), mask


DEFECTS: dict[str, Callable[[Image, np.random.Generator], tuple[Image, Mask]]] = {
    "hole": _hole,
    "scratch": _scratch,
    "smear": _smear,
    "stain": _stain,
}
"""Kind of defect -> how it is drawn: (frame, rng) -> (frame, mask), both uint8."""


def main() -> None:
    """`python -m agpnet.sample_data DIR [--small]`: write the sample data."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m agpnet.sample_data", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="absent or empty")
    parser.add_argument("--small", action="store_true", help="fewer images, for a quick trial")
    arguments = parser.parse_args()
    counts = SampleCounts(train=80, test_good=12, test_defect=4) if arguments.small else SampleCounts()
    try:
        make_sample_data(arguments.folder, counts=counts)
    except InputError as error:
        parser.exit(error.exit_code, f"error: {error.what}\n  {error.hint}\n")
    print(f"{arguments.folder}: {', '.join(SURFACES)}; {counts.train} images each to learn from")


if __name__ == "__main__":
    main()
