"""Sources -> newest frame -> engine -> verdict -> sinks: owns the threads and the counts."""

from __future__ import annotations

from agp_edge.stream.feed import STAGES, Feed, check_feeds
from agp_edge.stream.loop import BATCH_WAIT_MS, HEALTHY_WITHIN_S, Stream, check_batch_wait

__all__ = ["BATCH_WAIT_MS", "HEALTHY_WITHIN_S", "STAGES", "Feed", "Stream", "check_batch_wait", "check_feeds"]
