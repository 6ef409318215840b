"""Waiting for what another thread or process does: looked at often, and given up late."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_S = 0.005


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Wait until something is so; fail when it is not within the time."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(LOOK_S)
