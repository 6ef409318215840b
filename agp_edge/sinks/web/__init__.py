"""A page to look at while a stream runs: `--web HOST:PORT`."""

from __future__ import annotations

from agp_edge.sinks.web.sink import WebSink

__all__ = ["WebSink"]
