"""OpenCV's own voice, in each place where its versions keep the switch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from agp_edge.extras import CV2_SILENT, set_cv2_log_level


def test_opencv_is_silenced_and_given_its_voice_back() -> None:
    before = set_cv2_log_level(cv2, CV2_SILENT)
    assert set_cv2_log_level(cv2, before) == CV2_SILENT
    assert set_cv2_log_level(cv2, before) == before


@pytest.mark.parametrize("place", ["top", "module"])
def test_the_switch_is_found_where_a_version_has_it(place: str) -> None:
    levels = [3]

    def switch(level: int) -> int:
        levels.append(level)
        return levels[-2]

    # 4.8 has no `utils.logging`, 5 nothing at the top.
    module: Any = SimpleNamespace(utils=SimpleNamespace())
    if place == "top":
        module.setLogLevel = switch
    else:
        module.utils.logging = SimpleNamespace(setLogLevel=switch)
    assert set_cv2_log_level(module, CV2_SILENT) == 3
    assert levels == [3, 0]
