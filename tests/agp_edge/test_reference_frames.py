"""Reference frames are the same on every machine, for ever."""

from __future__ import annotations

import hashlib

import numpy as np

from agp_edge.frame import FrameSpec
from agp_edge.reference_frames import draw_frames


def test_reference_frames_are_drawn_alike_for_ever() -> None:
    frames = draw_frames(FrameSpec(64, 48, 3))
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    assert digest == "90ee3860f3a3a319cedd410fc6e16a420292768896c41373ccedd8f2038cc8c1"
    assert [len(np.unique(frame)) > 50 for frame in frames] == [True] * 4
    assert draw_frames(FrameSpec(1920, 1080, 1)).shape == (4, 1080, 1920, 1)
