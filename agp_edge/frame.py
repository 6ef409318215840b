"""The frame that an artefact takes, and the precisions there are: the words that every layer shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from agp_edge.errors import ArtefactError, InputError, quote

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
"""Of engines, finest first."""
GRAPHS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""Those that a bundle can have a graph of."""


def graph_of(precision: Precision) -> Precision:
    """The graph that an engine of a precision is made of: bfloat16 is the FP32 graph, which the runtime counts in bfloat16."""
    return "fp32" if precision == "bf16" else precision


@dataclass(frozen=True)
class FrameSpec:
    """The frame that an artefact takes: static, as the graph is.

    Attributes:
        width, height: pixels; both 0 where every image is taken in its own size, as a run over several sizes does. A
            graph is static: no bundle and no engine has such a frame.
        channels: 3 for BGR, 1 for mono.
        batch: frames a call.
    """

    width: int
    height: int
    channels: int
    batch: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one frame."""
        return self.height, self.width, self.channels

    @property
    def any_size(self) -> bool:
        """Whether every image is taken in its own size."""
        return self.width == 0

    def of_size(self, width: int, height: int) -> FrameSpec:
        """The same, of a size."""
        return replace(self, width=width, height=height)

    def __str__(self) -> str:
        colour = "BGR" if self.channels == 3 else "mono"
        return f"any size {colour}" if self.any_size else f"{self.width}x{self.height} {colour}"

    def to_dict(self) -> dict[str, int]:
        """As a manifest or a sidecar keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FrameSpec:
        """Read what `to_dict` wrote.

        Raises:
            ArtefactError: a field is missing or is no frame size.
        """
        try:
            fields = {name: value[name] for name in ("width", "height", "channels", "batch")}
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"the frame size lacks {error}", "fetch or build it again") from error
        good = all(type(v) is int and 0 < v <= 1 << 16 for v in fields.values()) and fields["channels"] in (
            1,
            3,
        )
        if not good:
            raise ArtefactError(f"{quote(fields)} is no frame size", "fetch or build it again")
        return cls(**fields)


ANY_SIZE = FrameSpec(0, 0, 3)
"""Colour images, each in its own size."""


def parse_frame_size(text: str) -> tuple[int, int]:
    """`640x480` as (width, height).

    Raises:
        InputError: anything else.
    """
    match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text.strip())
    if not match:
        raise InputError(f"{text!r} is no frame size", "write WIDTHxHEIGHT, as in 640x480")
    return int(match[1]), int(match[2])
