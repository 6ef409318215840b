"""The frame an artefact takes."""

from __future__ import annotations

from typing import Any

import pytest

from agp_edge.errors import ArtefactError, InputError
from agp_edge.frame import FrameSpec, parse_frame_size


def test_a_frame_size_is_width_by_height() -> None:
    assert parse_frame_size("640x480") == (640, 480)
    assert parse_frame_size(" 1920X1080 ") == (1920, 1080)


@pytest.mark.parametrize(
    "text", ["", "640", "640x", "x480", "0x480", "640x-1", "640x480x3", "6.4x4", "１x１"]
)
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(InputError, match="no frame size") as caught:
        parse_frame_size(text)
    assert "640x480" in caught.value.hint


def test_a_frame_travels_through_a_manifest() -> None:
    spec = FrameSpec(640, 480, 1, 4)
    assert FrameSpec.from_dict(spec.to_dict()) == spec
    assert spec.shape == (480, 640, 1)
    assert (str(spec), str(FrameSpec(8, 4, 3))) == ("640x480 mono", "8x4 BGR")


@pytest.mark.parametrize(
    "change",
    [{"width": 0}, {"width": 1 << 17}, {"height": -1}, {"channels": 2}, {"batch": 0}, {"batch": 1.0}, {"width": True}, {"height": "4"}],
)  # fmt: skip
def test_a_frame_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtefactError, match="no frame size"):
        FrameSpec.from_dict({**FrameSpec(8, 4, 3).to_dict(), **change})


@pytest.mark.parametrize("value", [{}, {"width": 1}, [], "640x480"])
def test_a_frame_with_a_field_missing_is_refused(value: Any) -> None:
    with pytest.raises(ArtefactError, match="lacks"):
        FrameSpec.from_dict(value)
