"""The Prometheus sink: what it serves is read by Prometheus' own parsers."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.sinks import prometheus
from agp_edge.sinks.prometheus import PrometheusSink
from tests.agp_edge.sinks.streams import SOURCE, PlainControl, make_judgement, make_source

text_parser = pytest.importorskip("prometheus_client.parser")
openmetrics_parser = pytest.importorskip("prometheus_client.openmetrics.parser")

# What a Prometheus server asks with.
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"


@pytest.fixture
def sink() -> Iterator[PrometheusSink]:
    made = PrometheusSink(":0")
    yield made
    made.close()
    made.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prometheus")]


def ask(sink: PrometheusSink, path: str, method: str = "GET", accept: str = "") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(*sink.address, timeout=60)
    try:
        connection.request(method, path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type") or "", answer.read().decode()
    finally:
        connection.close()


def samples(families: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) -> value; no series may come twice."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in families:
        assert family.name.startswith("agp_edge")
        assert family.documentation
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def fill(sink: PrometheusSink) -> PlainControl:
    nasty = 'a"b\\c\nd'
    control = PlainControl(make_source(), make_source(nasty, roi="left", frame_age_ms=None, connected=False))
    control.now["sinks"] = [*control.now["sinks"], *control.now["sinks"]]
    sink.attach(control)
    for frame in range(3):
        sink.write(make_judgement(frame))
    sink.write(make_judgement(0, source=nasty, roi="left"))
    sink.event(Event("frozen", "x"))
    sink.event(Event("frozen", "x"))
    return control


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_prometheus_can_read_every_count(sink: PrometheusSink, accept: str) -> None:
    fill(sink)
    status, content_type, text = ask(sink, "/metrics", accept=accept)
    assert status == 200
    assert ("openmetrics" in content_type) == bool(accept)
    parser = openmetrics_parser if accept else text_parser
    found = samples(parser.text_string_to_metric_families(text))

    def of(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    here = {"source": SOURCE, "roi": ""}
    there = {"source": 'a"b\\c\nd', "roi": "left"}
    assert of("agp_edge_frames_captured_total", **here) == 10
    parts = [of("agp_edge_frames_total", outcome=o, **here) for o in ("judged", "dropped", "failed")]
    assert parts == [8, 1, 1]
    assert of("agp_edge_verdicts_total", verdict="NG", **there) == 2
    assert of("agp_edge_source_reconnects_total", **here) == 3
    assert of("agp_edge_source_connected", **here) == 1
    assert of("agp_edge_source_connected", **there) == 0
    assert of("agp_edge_frame_age_seconds", **here) == 0.0125
    assert ("agp_edge_frame_age_seconds", tuple(sorted(there.items()))) not in found
    assert of("agp_edge_latency_seconds_count", stage="total", **here) == 3
    assert of("agp_edge_latency_seconds_sum", stage="total", **here) == pytest.approx(0.0045)
    assert of("agp_edge_latency_seconds_bucket", stage="total", le="0.001", **here) == 0
    assert of("agp_edge_latency_seconds_bucket", stage="total", le="0.0025", **here) == 3
    assert of("agp_edge_latency_seconds_bucket", stage="total", le="+Inf", **here) == 3
    assert of("agp_edge_events_total", kind="frozen") == 2
    assert of("agp_edge_sink_lost_total", sink="--jsonl") == 4
    assert of("agp_edge_threshold") == 0.5
    assert of("agp_edge_false_reject_ratio") == 0.01
    assert of("agp_edge_since_last_verdict_seconds") == 0.1
    assert of("agp_edge_healthy") == 1
    (info,) = (dict(labels) for name, labels in found if name == "agp_edge_info")
    assert info["engine"] == "0123456789ab"


def test_a_verdict_in_the_last_bucket_counts(sink: PrometheusSink) -> None:
    slow = make_judgement(0)
    slow.latency_ms["total"] = 60_000.0
    sink.write(slow)
    found = samples(text_parser.text_string_to_metric_families(ask(sink, "/metrics")[2]))
    labels = {"source": SOURCE, "roi": "", "stage": "total"}
    assert found["agp_edge_latency_seconds_bucket", tuple(sorted({**labels, "le": "10.0"}.items()))] == 0
    assert found["agp_edge_latency_seconds_bucket", tuple(sorted({**labels, "le": "+Inf"}.items()))] == 1


def test_health_is_503_when_the_stream_does_not_judge(
    sink: PrometheusSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, text = ask(sink, "/health")
    assert (status, json.loads(text)["reason"]) == (503, "the stream has not started yet")
    control = PlainControl()
    sink.attach(control)
    monkeypatch.setattr(prometheus, "STATUS_INTERVAL_S", 0.0)
    status, _, text = ask(sink, "/health")
    assert (status, json.loads(text)["healthy"]) == (200, True)
    control.now["healthy"], control.now["reason"] = False, "no verdict for 61 s"
    status, _, text = ask(sink, "/health")
    assert (status, json.loads(text)["reason"]) == (503, "no verdict for 61 s")


def test_the_stream_is_asked_once_a_second_however_many_ask(
    sink: PrometheusSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "STATUS_INTERVAL_S", 3600.0)
    control = fill(sink)
    for path in ("/metrics", "/health", "/metrics", "/health"):
        assert ask(sink, path)[0] == 200
    assert control.asked == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("HEAD", "/metrics", 200), ("POST", "/metrics", 405), ("GET", "/metrics/x", 404)],
)
def test_other_requests(sink: PrometheusSink, method: str, path: str, status: int) -> None:
    assert ask(sink, path, method)[0] == status


def test_it_listens_to_this_machine_alone_unless_told_otherwise(sink: PrometheusSink) -> None:
    assert sink.address[0] == "127.0.0.1"
    assert sink.describe() == f"metrics served at http://127.0.0.1:{sink.address[1]}/metrics"
    with pytest.raises(InputError, match="--prometheus"):
        PrometheusSink(f":{sink.address[1]}")
    with pytest.raises(InputError, match="--prometheus"):
        PrometheusSink("http://x")
