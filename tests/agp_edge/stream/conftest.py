"""A real engine in every number of slots, and a camera's delays cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.judging import JudgingEngine, open_judging_engine
from agp_edge.sources import reader as reading
from tests.agp_edge.stream.rig import with_slots

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]


@pytest.fixture(params=[0, 1, 2, 3], ids=["its-own-slot", "1-slot", "2-slots", "3-slots"])
def engine(tiny_engine: Path, request: pytest.FixtureRequest) -> Iterator[JudgingEngine]:
    with open_judging_engine(tiny_engine) as opened:
        yield with_slots(opened, request.param) if request.param else opened


@pytest.fixture(autouse=True)
def _short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FIRST_DELAY_S", 0.01)
