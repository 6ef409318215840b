"""Sinks: one file a place where verdicts go."""

from __future__ import annotations

from agp_edge.sinks.base import Judgement, Sink

__all__ = ["Judgement", "Sink"]
