"""A mask: pixels of a frame that never count, as of a conveyor's edge or a lamp's reflection.

The engine sees them all the same, and the network looks around each place: what happens under a mask can still raise cells
beside it. So draw a mask a little larger than what is to be left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agp_edge.datasets.images import read_image
from agp_edge.errors import InputError

WHITE = 128
"""From this grey level on a pixel of a mask's picture is masked."""


class Mask:
    """Pixels that never count.

    Args:
        masked: [H, W] bool, true where a pixel does not count.
        name: where it came from, for errors.

    Raises:
        InputError: no pixel counts.
    """

    def __init__(self, masked: NDArray[np.bool_], name: str) -> None:
        if masked.all():
            raise InputError(f"{name} masks every pixel: nothing could ever be NG", "leave black what counts")
        self.name = name
        self._masked = masked
        self._cells: dict[tuple[int, int], NDArray[np.bool_]] = {}

    @classmethod
    def read(cls, path: Path, size_wh: tuple[int, int] | None = None) -> Mask:
        """Read a picture: white (grey level 128 and above) never counts, black does.

        Args:
            path: PNG, or another image without loss.
            size_wh: (width, height) that it must have: the engine's frame, or the camera's where regions are cut out of it.

        Raises:
            InputError: it is no picture, has another size, or masks every pixel.
        """
        mask = cls(read_image(path, mono=True)[..., 0] >= WHITE, f"mask {path}")
        if size_wh is not None:
            mask.check_size(size_wh)
        return mask

    @property
    def size_wh(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width = self._masked.shape
        return width, height

    @property
    def share(self) -> float:
        """Share of the pixels that never count."""
        return float(self._masked.mean())

    @property
    def warning(self) -> str | None:
        """What is odd about it, in one line; None if nothing."""
        if self._masked.any():
            return None
        return f"{self.name} masks nothing: white, grey level {WHITE} and above, is what never counts"

    def check_size(self, size_wh: tuple[int, int]) -> None:
        """Refuse a frame of another size: a mask is never scaled.

        Raises:
            InputError: they differ.
        """
        if self.size_wh != size_wh:
            width, height = self.size_wh
            raise InputError(
                f"{self.name} is {width}x{height}, the frame {size_wh[0]}x{size_wh[1]}",
                f"draw it over a picture of the camera, {size_wh[0]}x{size_wh[1]}",
            )

    def crop(self, x: int, y: int, width: int, height: int) -> Mask:
        """The mask of a region of interest.

        Args:
            x, y, width, height: a box in pixels, inside the mask.

        Raises:
            InputError: the box reaches beyond the mask, or no pixel in it counts.
        """
        cut = self._masked[y : y + height, x : x + width]
        if cut.shape != (height, width):
            raise InputError(
                f"region {x},{y},{width},{height} reaches beyond {self.name}, "
                f"which is {self.size_wh[0]}x{self.size_wh[1]}",
                "a mask covers the camera's whole frame",
            )
        return Mask(cut.copy(), f"{self.name} in region {x},{y},{width},{height}")

    def cells(self, map_shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Which cells of an anomaly map count: those that no masked pixel touches.

        Args:
            map_shape_hw: (rows, columns) of the map; it covers the same frame at its own resolution.

        Returns:
            [h, w] bool, at least one of them true; kept for the next call, so not to be changed.

        Raises:
            InputError: a masked pixel touches every cell.
        """
        if map_shape_hw not in self._cells:
            counts = ~_touched(self._masked, map_shape_hw)
            if not counts.any():
                raise InputError(
                    f"{self.name} touches every one of the map's {map_shape_hw[1]}x{map_shape_hw[0]} cells",
                    "leave larger areas unmasked",
                )
            counts.flags.writeable = False
            self._cells[map_shape_hw] = counts
        return self._cells[map_shape_hw]


def _touched(masked: NDArray[np.bool_], map_shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """[h, w] bool: cells that share any area with a masked pixel, whatever the two resolutions are."""
    # sums[y, x] is how many pixels are masked above and left of (y, x): that of any box follows from its four corners.
    sums = np.zeros((masked.shape[0] + 1, masked.shape[1] + 1), np.int64)
    sums[1:, 1:] = masked.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    (top, bottom), (left, right) = (
        _edges(pixels, cells) for pixels, cells in zip(masked.shape, map_shape_hw, strict=True)
    )
    boxes = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    touched: NDArray[np.bool_] = boxes > 0
    return touched


def _edges(pixels: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel of each cell, and the one behind its last, as the boxes of regions are rounded."""
    at = np.arange(cells, dtype=np.int64)
    return at * pixels // cells, -(-(at + 1) * pixels // cells)
