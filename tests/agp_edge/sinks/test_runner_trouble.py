"""What a sink's runner says while a broker is away: a real one, which is killed and comes back."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from agp_edge.events import Event
from agp_edge.sinks.mqtt import MqttSink, Outbox
from agp_edge.sinks.runner import SinkRunner
from tests.agp_edge.sinks.streams import make_judgement, wait_for
from tests.servers.mosquitto import Mosquitto, running

pytest.importorskip("paho.mqtt.client")


def test_a_broker_that_is_away_is_an_event_and_its_return_another(tmp_path: Path) -> None:
    told: list[Event] = []
    frames = itertools.count()
    with running(Mosquitto(tmp_path)) as broker:
        sink = MqttSink(f"mqtt://me:s3cret@127.0.0.1:{broker.port}/line3", Outbox(entries=25))
        runner = SinkRunner(sink, live=True, on_event=told.append)
        runner.start()

        def offer_until(count: int) -> bool:
            runner.offer(make_judgement(next(frames)))
            return len(told) >= count

        wait_for(lambda: offer_until(0) and sink.describe()[0] != "0", "the first one's acknowledgement")
        broker.kill()
        wait_for(lambda: offer_until(1), "the event")
        assert (told[0].kind, told[0].data["lost"] >= 0) == ("sink-failed", True)
        assert "--mqtt keeps what it is given: mqtt://me:***@127.0.0.1" in told[0].text
        assert runner.status()["error"] == sink.trouble
        for _ in range(100):
            runner.offer(make_judgement(next(frames)))
        wait_for(lambda: runner.status()["lost"] >= 75, "that the buffer is full")
        broker.start()
        wait_for(lambda: offer_until(2), "its return")
        assert told[1].kind == "sink-back"
        assert told[1].data["lost"] >= 75
        runner.close()
    assert runner.status()["error"] is None
    assert [event.kind for event in told] == ["sink-failed", "sink-back"]
