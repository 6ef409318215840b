"""Counts and latencies for Prometheus at `/metrics`, and at `/health` whether the stream still judges."""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import agp_edge
from agp_edge.address import format_address, parse_address
from agp_edge.control import Control, StreamStatus
from agp_edge.events import Event
from agp_edge.extras import import_extra
from agp_edge.httpd import Answer, HttpServer, Request, answer_json
from agp_edge.sinks.base import Judgement, Sink

STATUS_INTERVAL_S = 1.0
"""A snapshot costs the stream something, so those who ask more often get the last one."""

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper edges of the latency histogram."""

_PATHS = b"agp-edge\n/metrics  for Prometheus\n/health   200, or 503 when no verdict was given for too long\n"


class PrometheusSink(Sink):
    """Serves `http://HOST:PORT/metrics` and `/health`; changes nothing and asks for no password.

    Args:
        address: `HOST:PORT`; `:PORT` is this machine alone.

    Raises:
        InputError: it is no address, or taken.
        MissingExtraError: there is no prometheus_client.
    """

    name = "--prometheus"

    def __init__(self, address: str) -> None:
        host, port = parse_address(address, self.name)
        core = import_extra("prometheus_client.core", "prometheus", "--prometheus")
        self._exposition = import_extra("prometheus_client.exposition", "prometheus", "--prometheus")
        self._registry = core.CollectorRegistry()
        self._snapshot = _Snapshot()
        self._collector = _Collector(core, self._snapshot)
        self._registry.register(self._collector)
        self._server = HttpServer(host, port, self._answer, flag=self.name)
        self.address = self._server.address
        self._server.start()

    def attach(self, control: Control) -> None:
        """Be given the stream whose counts are served."""
        self._snapshot.control = control

    def write(self, judgement: Judgement) -> None:
        """Count a verdict's latencies."""
        self._collector.count_latencies(judgement)

    def event(self, event: Event) -> None:
        """Count an event by its kind."""
        self._collector.count_event(event)

    def close(self) -> None:
        """Close the port."""
        self._server.close()

    def describe(self) -> str:
        """Where it was served."""
        return f"metrics served at http://{format_address(*self.address)}/metrics"

    def _answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return answer_json(405, {"error": "only GET"}, Allow="GET, HEAD")
        if request.path == "/metrics":
            encode, content_type = self._exposition.choose_encoder(request.headers.get("accept", ""))
            return Answer(200, encode(self._registry), content_type)
        if request.path == "/health":
            return self._answer_health()
        if request.path == "/":
            return Answer(200, _PATHS)
        return answer_json(404, {"error": "there are /metrics and /health"})

    def _answer_health(self) -> Answer:
        status = self._snapshot.get()
        if status is None:
            return answer_json(503, {"healthy": False, "reason": "the stream has not started yet"})
        said = {key: status[key] for key in ("healthy", "reason", "uptime_s", "since_verdict_s")}
        return answer_json(200 if status["healthy"] else 503, said)


class _Snapshot:
    """The stream's status, asked for at most once a second."""

    def __init__(self) -> None:
        self.control: Control | None = None
        self._lock = threading.Lock()
        self._status: StreamStatus | None = None
        self._at = 0.0

    def get(self) -> StreamStatus | None:
        """The status; None before there is a stream."""
        control = self.control
        if control is None:
            return None
        with self._lock:
            now = time.monotonic()
            if self._status is None or now - self._at >= STATUS_INTERVAL_S:
                self._status, self._at = control.status(), now
            return self._status


class _Histogram:
    """Counts of one stage at one source; the last bucket is what is above all edges."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def record(self, value_s: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS_S, value_s)] += 1
        self.sum_s += value_s


class _Collector:
    """Makes the metrics anew whenever they are asked for."""

    def __init__(self, core: Any, snapshot: _Snapshot) -> None:
        self._core = core
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._latencies: dict[tuple[str, str, str], _Histogram] = {}
        self._events: Counter[str] = Counter()

    def count_latencies(self, judgement: Judgement) -> None:
        roi = judgement.roi[0] if judgement.roi else ""
        with self._lock:
            for stage, value_ms in judgement.latency_ms.items():
                key = (judgement.source, roi, stage)
                if key not in self._latencies:
                    self._latencies[key] = _Histogram()
                self._latencies[key].record(value_ms / 1000)

    def count_event(self, event: Event) -> None:
        with self._lock:
            self._events[event.kind] += 1

    def describe(self) -> list[Any]:
        """Nothing: what there is shows when it is collected."""
        return []

    def collect(self) -> Iterator[Any]:
        """All metrics there are, in prometheus_client's classes."""
        status = self._snapshot.get()
        if status is not None:
            yield from self._of_stream(status)
            yield from self._of_sources(status)
            yield from self._of_sinks(status)
        yield from self._of_own_counts()

    def _of_stream(self, status: StreamStatus) -> Iterator[Any]:
        info = self._core.InfoMetricFamily("agp_edge", "Which engine judges, by which version")
        info.add_metric([], {"engine": status["engine"], "version": agp_edge.__version__})
        yield info
        for name, text, value in (
            ("healthy", "1 while verdicts are given", float(status["healthy"])),
            ("uptime_seconds", "How long the stream runs", status["uptime_s"]),
            (
                "since_last_verdict_seconds",
                "How long ago the last verdict was given",
                status["since_verdict_s"],
            ),
            ("threshold", "A score above it is NG", status["threshold"]),
            (
                "false_reject_ratio",
                "The false-reject rate that the threshold promises",
                status["false_reject_rate"],
            ),
        ):
            if value is not None:
                yield self._core.GaugeMetricFamily(f"agp_edge_{name}", text, value)
        for name, text, value in (
            ("triggers", "Triggers that came", status["triggers"]),
            ("triggers_missed", "Triggers for which no frame was judged", status["triggers_missed"]),
        ):
            yield self._core.CounterMetricFamily(f"agp_edge_{name}", text, value)

    def _of_sources(self, status: StreamStatus) -> Iterator[Any]:
        labels = ["source", "roi"]
        counter, gauge = self._core.CounterMetricFamily, self._core.GaugeMetricFamily
        captured = counter("agp_edge_frames_captured", "Frames that a source gave", labels=labels)
        frames = counter("agp_edge_frames", "What became of them", labels=[*labels, "outcome"])
        verdicts = counter("agp_edge_verdicts", "Verdicts", labels=[*labels, "verdict"])
        reconnects = counter("agp_edge_source_reconnects", "How often a source came back", labels=labels)
        connected = gauge("agp_edge_source_connected", "1 while a source gives frames", labels=labels)
        age = gauge(
            "agp_edge_frame_age_seconds", "How old the frame of the newest verdict was then", labels=labels
        )
        for source in status["sources"]:
            named = [source["source"], source["roi"] or ""]
            captured.add_metric(named, source["captured"])
            frames.add_metric([*named, "judged"], source["judged"])
            frames.add_metric([*named, "dropped"], source["dropped"])
            frames.add_metric([*named, "failed"], source["failed"])
            verdicts.add_metric([*named, "OK"], source["ok"])
            verdicts.add_metric([*named, "NG"], source["ng"])
            reconnects.add_metric(named, source["reconnects"])
            connected.add_metric(named, float(source["connected"]))
            if source["frame_age_ms"] is not None:
                age.add_metric(named, source["frame_age_ms"] / 1000)
        yield from (captured, frames, verdicts, reconnects, connected, age)

    def _of_sinks(self, status: StreamStatus) -> Iterator[Any]:
        counter = self._core.CounterMetricFamily
        written = counter("agp_edge_sink_written", "Entries that a sink took", labels=["sink"])
        lost = counter("agp_edge_sink_lost", "Entries that a sink did not get or lost", labels=["sink"])
        waiting = self._core.GaugeMetricFamily("agp_edge_sink_waiting", "Entries that wait", labels=["sink"])
        for metric, key in ((written, "written"), (lost, "lost"), (waiting, "waiting")):
            sums: Counter[str] = Counter()
            for sink in status["sinks"]:
                # A flag that was given twice: two series with the same labels are an error.
                sums[sink["sink"]] += sink[key]  # type: ignore[literal-required]
            for name, value in sums.items():
                metric.add_metric([name], value)
            yield metric

    def _of_own_counts(self) -> Iterator[Any]:
        events = self._core.CounterMetricFamily("agp_edge_events", "Events, by kind", labels=["kind"])
        latencies = self._core.HistogramMetricFamily(
            "agp_edge_latency_seconds", "Parts of a verdict's latency", labels=["source", "roi", "stage"]
        )
        edges = [*(repr(edge) for edge in BUCKETS_S), "+Inf"]
        with self._lock:
            for kind, count in self._events.items():
                events.add_metric([kind], count)
            for key, histogram in self._latencies.items():
                buckets = list(zip(edges, accumulate(histogram.counts), strict=True))
                latencies.add_metric(list(key), buckets, histogram.sum_s)
        yield from (events, latencies)
