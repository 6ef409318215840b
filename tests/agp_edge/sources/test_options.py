"""The flags of a source: what they become, what is refused, and who heeds which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agp_edge.cli.options import source_options
from agp_edge.errors import InputError
from agp_edge.sources import open_source
from agp_edge.sources.options import AS_IT_IS, SourceOptions


def test_nothing_given_is_as_it_is() -> None:
    assert source_options() == AS_IT_IS
    assert AS_IT_IS.given() == []


def test_what_flags_become() -> None:
    options = source_options(
        size="1280x720",
        fps=29.97,
        pixel_format="YUYV",
        control=["exposure_auto=1", " exposure_time_absolute = 200", "name=a=b"],
        transport="udp",
        decode="software",
        timeout=0.5,
        realtime=True,
        follow=True,
    )
    controls = {"exposure_auto": "1", "exposure_time_absolute": "200", "name": "a=b"}
    assert options == SourceOptions(
        (1280, 720), 29.97, "YUYV", controls, "udp", "software", 0.5, realtime=True, follow=True
    )
    # The order in which they are set can matter: a camera takes no exposure while it chooses its own.
    assert list(options.controls) == ["exposure_auto", "exposure_time_absolute", "name"]
    assert SourceOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": "1280"}, "no frame size"),
        ({"fps": 0}, "--fps 0 is none"),
        ({"fps": float("nan")}, "--fps nan is none"),
        ({"timeout": -1}, "--timeout -1 is none"),
        ({"timeout": float("inf")}, "--timeout inf is none"),
        ({"control": ["gain"]}, "--control gain is none"),
        ({"control": ["=4"]}, "--control =4 is none"),
        ({"control": ["gain="]}, "--control gain= is none"),
        ({"control": ["gain=4", "gain=5"]}, "--control gain was given twice"),
        ({"transport": "TCP"}, "--transport TCP is none"),
        ({"decode": "gpu"}, "--decode gpu is none"),
    ],
)
def test_values_that_are_none(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        source_options(**wrong)


def test_a_source_that_cannot_heed_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--control does not apply to .*shots"):
        open_source(str(tmp_path / "shots.png"), source_options(control=["gain=4"]))
