"""Time stamps as people and programs read them."""

from __future__ import annotations

import datetime


def utc(wall_s: float) -> datetime.datetime:
    """A time stamp in seconds since the epoch as a date in UTC."""
    return datetime.datetime.fromtimestamp(wall_s, datetime.timezone.utc)


def rfc3339_ms(wall_s: float) -> str:
    """A time stamp as RFC 3339 in UTC with milliseconds, as in `2026-02-03T04:05:06.789Z`."""
    return utc(wall_s).isoformat(timespec="milliseconds").replace("+00:00", "Z")
