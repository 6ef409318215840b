"""A region of interest: the part of a camera's frame that an engine sees."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agp_edge.errors import InputError, quote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST_NAME = 40
HOW = "write X,Y,W,H in pixels of the camera's frame, or NAME=X,Y,W,H, as in cap=640,0,320,240"


@dataclass(frozen=True)
class Roi:
    """A box in a camera's frame.

    Attributes:
        name: tells several of one camera apart: letters, digits, `_`, `-` and `.`, or its own box where it was given none.
        x, y: its left upper pixel.
        width, height: pixels.
    """

    name: str
    x: int
    y: int
    width: int
    height: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height)."""
        return self.x, self.y, self.width, self.height

    def check(self, size_wh: tuple[int, int], source: str) -> None:
        """Refuse a frame in which it does not lie.

        Args:
            size_wh: (width, height) of the frame.
            source: the source's name, for the error.

        Raises:
            InputError: it reaches beyond the frame.
        """
        width, height = size_wh
        if self.x + self.width > width or self.y + self.height > height:
            raise InputError(
                f"--roi {self.x},{self.y},{self.width},{self.height} reaches beyond a frame of {source}, "
                f"which is {width}x{height}",
                f"give a box inside 0,0,{width},{height}",
            )

    def crop(self, pixels: NDArray[np.uint8], source: str) -> NDArray[np.uint8]:
        """Its pixels of a frame.

        Args:
            pixels: [H, W, C] uint8.
            source: the source's name, for the error.

        Returns:
            [height, width, C] uint8, C-contiguous; a copy, so that the frame can go.

        Raises:
            InputError: as `check`.
        """
        self.check((pixels.shape[1], pixels.shape[0]), source)
        cut: NDArray[np.uint8] = pixels[self.y : self.y + self.height, self.x : self.x + self.width].copy()
        return cut


def parse_roi(text: str, size_wh: tuple[int, int] | None = None) -> Roi:
    """`X,Y,W,H`, `X,Y` where a size is known, or either behind `NAME=`.

    Args:
        text: the flag's value.
        size_wh: (width, height) that is taken where the text has none: the engine's frame.

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(
        r"(?:([A-Za-z0-9_.-]+)=)?([0-9]{1,5}),([0-9]{1,5})(?:,([0-9]{1,5}),([0-9]{1,5}))?", text.strip()
    )
    if match is None or len(match[1] or "") > LONGEST_NAME:
        raise InputError(f"--roi {quote(text)} is no region", HOW)
    x, y = int(match[2]), int(match[3])
    if match[4] is not None:
        size_wh = int(match[4]), int(match[5])
    if size_wh is None:
        raise InputError(f"--roi {quote(text)} has no size", HOW)
    width, height = size_wh
    if not (width and height):
        raise InputError(f"--roi {quote(text)} is empty", HOW)
    return Roi(match[1] or f"{x},{y},{width},{height}", x, y, width, height)


def parse_rois(texts: list[str], size_wh: tuple[int, int] | None = None) -> list[Roi]:
    """Several, as `parse_roi`.

    Raises:
        InputError: one is none, or two have the same name.
    """
    rois = [parse_roi(text, size_wh) for text in texts]
    names = [roi.name for roi in rois]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"--roi {twice[0]} was given twice", "give each region a name of its own: NAME=X,Y,W,H"
        )
    return rois
