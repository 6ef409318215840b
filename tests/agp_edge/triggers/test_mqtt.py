"""Triggers by MQTT, with a real broker that is killed and comes back."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agp_edge.errors import InputError
from agp_edge.triggers import open_trigger
from agp_edge.triggers.mqtt import MqttTrigger
from tests.agp_edge.sinks.streams import wait_for
from tests.agp_edge.triggers.fired import Fired
from tests.servers.mosquitto import Mosquitto, running

pytest.importorskip("paho.mqtt.client")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(Mosquitto(tmp_path)) as started:
        yield started


def publish(broker: Mosquitto, topic: str, text: str, *flags: str) -> None:
    """As a plant would: `mosquitto_pub`, acknowledged."""
    subprocess.run(
        ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", topic, "-m", text, *flags], check=True
    )


def test_each_message_triggers_once_and_a_retained_one_not_at_all(broker: Mosquitto) -> None:
    publish(broker, "line3/part", "long ago", "-r")
    fired = Fired()
    trigger = open_trigger(f"mqtt://127.0.0.1:{broker.port}/line3/part")
    trigger.start(fired, fired.events.append)
    wait_for(lambda: _subscribed(broker, fired), "the subscription")
    before = time.monotonic_ns()
    for text in ("", "P-1", '{"part": "P-2", "source": "left"}'):
        publish(broker, "line3/part", text)
    publish(broker, "line3/part", '{"part": "P-3", "id": "7"}')
    publish(broker, "line3/part", '{"part": "P-3", "id": "7"}')
    publish(broker, "line3/part", "last")
    wait_for(lambda: "last" in fired.parts, "the last one")
    trigger.close()
    trigger.close()
    came = [trigger for trigger in fired.all if trigger[0] != "probe"]
    assert [(part, source) for part, source, _ in came] == [
        (None, None), ("P-1", None), ("P-2", "left"), ("P-3", None), ("last", None),
    ]  # fmt: skip
    assert all(at_ns is not None and before < at_ns < time.monotonic_ns() for _, _, at_ns in came)
    assert fired.events == []
    assert not [t for t in threading.enumerate() if t.name.startswith("mqtt")]


def _subscribed(broker: Mosquitto, fired: Fired) -> bool:
    publish(broker, "line3/part", "probe")
    return "probe" in fired.parts


def test_a_broker_that_was_killed_triggers_again_and_what_makes_no_sense_is_an_event(
    broker: Mosquitto,
) -> None:
    fired = Fired()
    trigger = MqttTrigger(f"mqtt://127.0.0.1:{broker.port}/line3/+")
    trigger.start(fired, fired.events.append)
    wait_for(lambda: _subscribed(broker, fired), "the subscription")
    broker.kill()
    wait_for(lambda: fired.kinds() == ["trigger-lost"], "the event")
    broker.start()
    wait_for(lambda: fired.kinds() == ["trigger-lost", "trigger-back"], "that it is back")
    assert fired.events[1].data["gap_s"] > 0
    fired.all.clear()
    wait_for(lambda: _subscribed(broker, fired), "the subscription")
    for text in ('{"source": "third"}', '{"part": 1}', "x" * 65):
        publish(broker, "line3/a", text)
    wait_for(lambda: fired.kinds()[2:] == 3 * ["trigger-refused"], "three refusals")
    assert "there is no source third" in fired.events[2].text
    trigger.close()


def test_a_broker_that_is_away_at_first_is_told_once_and_without_its_password() -> None:
    fired = Fired()
    trigger = MqttTrigger("mqtt://me:s3cret@127.0.0.1:1/line3")
    trigger.start(fired, fired.events.append)
    wait_for(lambda: fired.events, "the event")
    time.sleep(0.6)  # It is tried again meanwhile.
    trigger.close()
    assert fired.kinds() == ["trigger-lost"]
    assert "***@127.0.0.1" in fired.events[0].text
    assert "s3cret" not in repr(fired.events)


def test_a_broker_that_does_not_let_it_in_is_told(tmp_path: Path) -> None:
    with running(Mosquitto(tmp_path, users={"line": "pw"})) as broker:
        fired = Fired()
        trigger = MqttTrigger(f"mqtt://line:wrong@127.0.0.1:{broker.port}/line3")
        trigger.start(fired, fired.events.append)
        wait_for(lambda: fired.events, "the event")
        trigger.close()
    assert "refuses" in fired.events[0].text
    assert "wrong" not in fired.events[0].text


def test_a_packet_that_comes_again_on_one_connection_triggers_once() -> None:
    """What a broker sends again carries `dup` and the number of the first; mosquitto does so only after a new connection."""
    fired = Fired()
    trigger = MqttTrigger("mqtt://127.0.0.1:1/line3")
    trigger._fire, trigger._on_event = fired, fired.events.append

    def packet(mid: int, *, dup: bool) -> SimpleNamespace:
        return SimpleNamespace(mid=mid, dup=dup, retain=False, payload=b"%d" % mid)

    for mid, dup in ((1, False), (1, True), (2, True), (2, True), (1, False)):
        trigger.received(packet(mid, dup=dup))
    assert fired.parts == ["1", "2", "1"]
    trigger.close()


def test_a_url_without_a_topic_is_refused() -> None:
    for url in ("mqtt://127.0.0.1", "mqtt://127.0.0.1/"):
        with pytest.raises(InputError, match="no topic"):
            MqttTrigger(url)
