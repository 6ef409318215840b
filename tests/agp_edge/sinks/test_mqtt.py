"""The MQTT sink with a real broker, which is killed and comes back, and a real subscriber."""

from __future__ import annotations

import datetime
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agp_edge.broker import parse_broker
from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.sinks.mqtt import IN_FLIGHT, Message, MqttSink, Outbox
from tests.agp_edge.sinks.streams import PlainControl, make_judgement, wait_for
from tests.servers.mosquitto import Mosquitto, running

mqtt = pytest.importorskip("paho.mqtt.client")
enums = pytest.importorskip("paho.mqtt.enums")


class Subscriber:
    """Everything that a broker has, as paho brings it; it comes back when the broker does.

    Attributes:
        messages: (topic, payload, retained), in order.
    """

    def __init__(self, port: int, user: str | None = None, password: str | None = None) -> None:
        self.messages: list[tuple[str, str, bool]] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(enums.CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(1, 1)
        if user is not None:
            self._client.username_pw_set(user, password)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = lambda _client, _data, m: self.messages.append(
            (m.topic, m.payload.decode(), bool(m.retain))
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.wait()

    def wait(self) -> None:
        assert self._subscribed.wait(60)

    def of(self, topic: str) -> list[str]:
        return [payload for at, payload, _ in list(self.messages) if at == topic]

    def frames(self) -> list[int]:
        return [json.loads(payload)["frame"] for payload in self.of("line3/verdict")]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(Mosquitto(tmp_path)) as started:
        yield started


@pytest.fixture
def subscriber(broker: Mosquitto) -> Iterator[Subscriber]:
    made = Subscriber(broker.port)
    yield made
    made.close()


def url(broker: Mosquitto) -> str:
    return f"mqtt://127.0.0.1:{broker.port}/line3"


def test_a_verdict_an_event_and_the_state_arrive(broker: Mosquitto, subscriber: Subscriber) -> None:
    sink = MqttSink(url(broker))
    control = PlainControl()
    sink.attach(control)
    judgement = make_judgement(7, "NG", part="P-1")
    event = Event("frozen", "the picture stands", source="cam")
    sink.write(judgement)
    sink.event(event)
    wait_for(lambda: subscriber.of("line3/event") and subscriber.of("line3/state"), "event and state")
    assert [json.loads(text) for text in subscriber.of("line3/verdict")] == [judgement.to_dict()]
    assert [json.loads(text) for text in subscriber.of("line3/event")] == [event.to_dict()]
    state = json.loads(subscriber.of("line3/state")[0])
    assert state["sources"][0]["captured"] == 10
    assert state["healthy"] is True
    assert subscriber.of("line3/status") == ["online"]
    sink.close()
    sink.close()
    wait_for(lambda: subscriber.of("line3/status") == ["online", "offline"], "offline")
    assert sink.lost == 0
    assert sink.describe() == f"2 messages sent to mqtt://127.0.0.1:{broker.port}/line3"


def test_who_comes_later_learns_the_state_and_no_old_verdict(
    broker: Mosquitto, subscriber: Subscriber
) -> None:
    sink = MqttSink(url(broker))
    sink.attach(PlainControl())
    sink.write(make_judgement(1))
    wait_for(lambda: subscriber.frames() == [1] and subscriber.of("line3/state"), "all there is")
    late = Subscriber(broker.port)
    wait_for(lambda: len(late.messages) >= 2, "what is retained")
    first_two = sorted((topic, retained) for topic, _, retained in late.messages[:2])
    assert first_two == [("line3/state", True), ("line3/status", True)]
    assert late.frames() == []
    late.close()
    sink.close()


USERS = {"line": "p@ss/wo?rd", "watch": "w"}


@pytest.mark.parametrize(("entries", "first_left"), [(1000, 50), (300, 250)])
def test_a_broker_that_is_killed_and_comes_back_gets_what_was_buffered(
    tmp_path: Path, entries: int, first_left: int
) -> None:
    """500 verdicts come while it is away: all of them arrive, or, where the buffer has room for 300, the last 300."""
    with running(Mosquitto(tmp_path, users=USERS)) as broker:
        subscriber = Subscriber(broker.port, "watch", "w")
        sink = MqttSink(f"mqtt://line:p@ss/wo?rd@127.0.0.1:{broker.port}/line3", Outbox(entries))
        for frame in range(50):
            sink.write(make_judgement(frame))
        wait_for(lambda: len(subscriber.frames()) == 50, "the first verdicts")
        wait_for(lambda: len(sink._outbox) == 0, "their acknowledgements")
        broker.kill()
        wait_for(lambda: sink.trouble, "that it is noticed")
        for frame in range(50, 550):
            sink.write(make_judgement(frame))
        assert sink.lost == first_left - 50

        # It comes back and does not let the sink in before somebody listens: that is the order this test needs.
        broker.let_in({"watch": "w"})
        broker.start()
        subscriber.wait()
        wait_for(lambda: "refuses" in (sink.trouble or ""), "that the broker refuses it")
        assert "p@ss" not in (sink.trouble or "")
        assert "***@127.0.0.1" in (sink.trouble or "")
        broker.let_in(USERS)
        wait_for(lambda: len(subscriber.frames()) >= 50 + 550 - first_left, "what was buffered")
        sink.write(make_judgement(550))
        wait_for(lambda: 550 in subscriber.frames(), "the next one")
        sink.close()
        subscriber.close()
    assert subscriber.frames() == [*range(50), *range(first_left, 551)]
    assert sink.describe().startswith(f"{551 - sink.lost} messages sent to mqtt://line:***@127.0.0.1")


def test_the_last_will_says_that_a_process_was_killed(broker: Mosquitto, subscriber: Subscriber) -> None:
    program = textwrap.dedent(f"""
        import time
        from agp_edge.sinks.mqtt import MqttSink
        sink = MqttSink({url(broker)!r})
        time.sleep(600)
    """)
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_for(lambda: subscriber.of("line3/status") == ["online"], "online")
        process.send_signal(signal.SIGKILL)
        wait_for(lambda: subscriber.of("line3/status") == ["online", "offline"], "the last will")
    finally:
        process.kill()
        process.wait()


def test_a_broker_that_hangs_holds_nobody_up(broker: Mosquitto, subscriber: Subscriber) -> None:
    sink = MqttSink(url(broker), Outbox(entries=5000))
    wait_for(lambda: subscriber.of("line3/status"), "the connection")
    broker.freeze(on=True)
    began = time.monotonic()
    for frame in range(20_000):
        sink.write(make_judgement(frame))
    assert time.monotonic() - began < 30
    assert sink.lost == 15_000
    began = time.monotonic()
    sink.close()
    # A second for what is in flight; the rest is for a machine that is busy.
    assert time.monotonic() - began < 5
    assert sink.lost == 20_000
    broker.freeze(on=False)


def test_a_stream_ends_within_a_second_where_there_is_no_broker() -> None:
    sink = MqttSink("mqtt://127.0.0.1:1/line3")
    wait_for(lambda: "Connection refused" in (sink.trouble or ""), "trouble")
    sink.write(make_judgement(1))
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 5
    assert sink.lost == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("mqtt")]


def test_it_works_beyond_a_thousand_open_files(broker: Mosquitto, subscriber: Subscriber) -> None:
    """`select()` takes file numbers up to 1023 and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("needs 2048 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        sink = MqttSink(url(broker))
        sink.write(make_judgement(3))
        wait_for(lambda: subscriber.frames() == [3], "the verdict")
        sink.close()
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def make_certificates(folder: Path) -> None:
    """`ca.pem`, and `server.pem` with `server.key` for `localhost` that it signed."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.timezone.utc)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server")}
    names = {
        name: x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, common)])
        for name, common in (("ca", "A plant's CA"), ("server", "localhost"))
    }
    for name, extension in (
        ("ca", x509.BasicConstraints(ca=True, path_length=0)),
        ("server", x509.SubjectAlternativeName([x509.DNSName("localhost")])),
    ):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(names[name])
            .issuer_name(names["ca"])
            .public_key(keys[name].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=name == "ca")
            .sign(keys["ca"], hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        keys["server"].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def test_tls_with_a_plants_own_authority(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    tls = [f"certfile {tmp_path}/server.pem", f"keyfile {tmp_path}/server.key"]
    with running(Mosquitto(tmp_path, tls)) as broker:
        sink = MqttSink(f"mqtts://localhost:{broker.port}/line3?ca={tmp_path}/ca.pem")
        sink.write(make_judgement(1))
        wait_for(lambda: sink.describe().startswith("1 "), "the acknowledgement")
        sink.close()

        # Who vouches for the broker is unknown, or it is another host: nothing is sent.
        for host, ca in (("localhost", ""), ("127.0.0.1", f"?ca={tmp_path}/ca.pem")):
            sink = MqttSink(f"mqtts://{host}:{broker.port}/line3{ca}")
            wait_for(lambda: "certificate" in (sink.trouble or ""), "the refusal")  # noqa: B023
            sink.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mqtt://", "no broker"),
        ("http://host/x", "no broker"),
        ("mqtt://host:99999/x", "no broker"),
        ("mqtt://host/x?retain=1", "'retain'"),
        ("mqtt://host/x?ca=ca.pem", "without TLS"),
        ("mqtts://host/x?ca=/nowhere/ca.pem", "ca=/nowhere/ca.pem cannot be used"),
        ("mqtts://host/x?cert=/nowhere/c.pem", "cert=/nowhere/c.pem cannot be used"),
        ("mqtt://host/a/+/b", "publishes under"),
        ("mqtt://host/a/#", "publishes under"),
        ("mqtt://host/a%00b", "no topic"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_before_the_first_frame(text: str, said: str) -> None:
    with pytest.raises(InputError, match="--mqtt") as caught:
        MqttSink(text.replace("://", "://me:s3cret@"))
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_what_a_url_says() -> None:
    broker = parse_broker("mqtt://me:a%2Fb%40c@[::1]/x%20y/z?client_id=line-3", "--mqtt")
    assert (broker.host, broker.port, broker.user, broker.password, broker.topic, broker.client_id) == (
        "::1", 1883, "me", "a/b@c", "x y/z", "line-3",
    )  # fmt: skip
    assert "a/b@c" not in repr(broker)


class Published:
    """A broker that takes everything and acknowledges when told."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def __call__(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        self.sent.append(payload)
        return len(self.sent)


def message(text: str) -> Message:
    return Message("t", text.encode())


def test_the_outbox_sends_again_what_was_not_acknowledged_and_in_its_order() -> None:
    outbox, publish = Outbox(), Published()
    for number in range(IN_FLIGHT + 5):
        outbox.append(message(str(number)))
    outbox.send(publish)
    assert publish.sent == [b"%d" % n for n in range(IN_FLIGHT)]
    assert outbox.acknowledged(1)
    assert outbox.acknowledged(3)
    assert not outbox.acknowledged(3)
    outbox.take_back()
    publish.sent.clear()
    outbox.send(publish)
    assert publish.sent == [b"1", *(b"%d" % n for n in range(3, IN_FLIGHT + 2))]
    assert not outbox.wait_until_empty(0)


def test_the_outbox_keeps_to_its_bounds() -> None:
    publish: Any = Published()
    outbox = Outbox(entries=100, size_bytes=50)
    for _ in range(5):
        outbox.append(message("0123456789"))
    assert (len(outbox), outbox.lost) == (5, 0)
    outbox.append(message("0123456789" * 2))
    assert (len(outbox), outbox.lost) == (4, 2)
    outbox.append(message("x" * 200))  # Larger than all: it is the newest, so it stays.
    assert (len(outbox), outbox.lost) == (1, 6)
    outbox.send(publish)
    outbox.append(message("y"))
    assert (len(outbox), outbox.lost) == (2, 6)  # What is in flight is not lost.
    assert outbox.acknowledged(1)
    assert len(outbox) == 1
