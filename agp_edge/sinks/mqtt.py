"""Verdicts and events to an MQTT broker, over a buffer that bridges the time when it is away."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

from agp_edge.broker import Link, Publish, User, parse_broker
from agp_edge.control import Control
from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.files import to_json
from agp_edge.sinks.base import Judgement, Sink

DEFAULT_PREFIX = "agp-edge"
BUFFER_ENTRIES = 50_000
BUFFER_BYTES = 32 << 20
"""Whichever is reached first. At 30 verdicts a second the first is 28 minutes."""
IN_FLIGHT = 20
"""Messages that are sent and not yet acknowledged: as many as mosquitto and paho have under way by default."""
STATE_INTERVAL_S = 5.0
CLOSE_S = 1.0


class Message(NamedTuple):
    """What goes to a broker."""

    topic: str
    payload: bytes


class Outbox:
    """Messages in order, from when they are written until they are acknowledged; a full one loses the oldest.

    One thread appends, another one sends.

    Args:
        entries, size_bytes: its bounds. What is in flight is within them and is not lost.

    Attributes:
        lost: how many messages there was no room for.
    """

    def __init__(self, entries: int = BUFFER_ENTRIES, size_bytes: int = BUFFER_BYTES) -> None:
        self._most_entries, self._most_bytes = entries, size_bytes
        self._waiting: deque[Message] = deque()
        self._in_flight: dict[int, Message] = {}
        self._bytes = 0
        self._changed = threading.Condition()
        self.lost = 0

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def append(self, message: Message) -> None:
        """Add one; the oldest that are not in flight make room for it."""
        with self._changed:
            self._waiting.append(message)
            self._bytes += len(message.payload)
            while len(self._waiting) > 1 and (
                self._count() > self._most_entries or self._bytes > self._most_bytes
            ):
                self._bytes -= len(self._waiting.popleft().payload)
                self.lost += 1

    def send(self, publish: Publish) -> None:
        """Publish the oldest, as many as may be in flight."""
        while True:
            with self._changed:
                if not self._waiting or len(self._in_flight) >= IN_FLIGHT:
                    return
                message = self._waiting.popleft()
                # In the same breath: a number that is not known here yet cannot be acknowledged.
                self._in_flight[publish(message.topic, message.payload)] = message

    def acknowledged(self, number: int) -> bool:
        """Let go of what was published under this number; whether it was one of these."""
        with self._changed:
            message = self._in_flight.pop(number, None)
            if message is None:
                return False
            self._bytes -= len(message.payload)
            self._changed.notify_all()
            return True

    def take_back(self) -> None:
        """Nothing is in flight any more: what was is sent again, before the rest and in its order."""
        with self._changed:
            self._waiting.extendleft(reversed(self._in_flight.values()))
            self._in_flight.clear()

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until everything is acknowledged; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count(), timeout_s)

    def _count(self) -> int:
        return len(self._waiting) + len(self._in_flight)


class MqttSink(Sink, User):
    """An MQTT broker: `PREFIX/verdict` and `PREFIX/event` in JSON with QoS 1; retained `PREFIX/status` and `PREFIX/state`.

    A broker that is away is looked for again for ever. What it has not acknowledged is sent again when it is back: every
    message arrives at least once, in order, and after a broken connection the last few may come twice.

    Args:
        url: `mqtt://user:pw@HOST:PORT/PREFIX`, see `agp_edge.broker.parse_broker`.
        outbox: what waits for the broker.

    Raises:
        InputError: the URL is none.
        MissingExtraError: there is no paho.
    """

    name = "--mqtt"

    def __init__(self, url: str, outbox: Outbox | None = None) -> None:
        self._broker = parse_broker(url, self.name)
        prefix = self._broker.topic.strip("/") or DEFAULT_PREFIX
        if "+" in prefix or "#" in prefix:
            raise InputError(f"--mqtt {self._broker.name} publishes under {prefix!r}", "leave out + and #")
        self._prefix = prefix
        self._outbox = Outbox() if outbox is None else outbox
        self._control: Control | None = None
        self._state_at = 0.0
        self._arrived = 0
        self._farewell: int | None = None
        self._connected = False
        self._leaving = self._closed = False
        self._left = threading.Event()
        self.trouble: str | None = None
        self._link = Link(self._broker, self, will=(f"{prefix}/status", b"offline"))
        self._link.start()

    def attach(self, control: Control) -> None:
        """Be given the stream whose state is told."""
        self._control = control

    def write(self, judgement: Judgement) -> None:
        """Take one verdict; never waits."""
        self._append("verdict", judgement.to_dict())

    def event(self, event: Event) -> None:
        """Take one event; never waits."""
        self._append("event", event.to_dict())

    def close(self) -> None:
        """Send what waits, for a second at most, and say `offline`."""
        if self._closed:
            return
        self._closed = True
        until = time.monotonic() + CLOSE_S
        if len(self._outbox):
            self._link.hurry()
            self._outbox.wait_until_empty(0.7 * CLOSE_S)
        self._leaving = True
        self._link.wake()
        if self._connected:
            self._left.wait(until - time.monotonic())
        self._link.close(max(0.1, until - time.monotonic()))
        self.lost = self._outbox.lost + len(self._outbox)

    def describe(self) -> str:
        """How many messages arrived where, and how many did not."""
        lost = f", {self.lost} lost" if self.lost else ""
        return f"{self._arrived} messages sent to {self._broker.name}{lost}"

    def connected(self, publish: Publish) -> None:
        """Say `online`, and begin with what is not acknowledged."""
        self._outbox.take_back()
        publish(f"{self._prefix}/status", b"online", retain=True)
        self._connected, self.trouble = True, None
        self._state_at = 0.0

    def turn(self, publish: Publish) -> None:
        """Send what waits; now and then the state."""
        self._outbox.send(publish)
        now = time.monotonic()
        if self._leaving:
            if self._farewell is None:
                self._publish_state(publish)
                self._farewell = publish(f"{self._prefix}/status", b"offline", retain=True)
        elif now - self._state_at >= STATE_INTERVAL_S:
            self._state_at = now
            self._publish_state(publish)

    def acknowledged(self, number: int) -> None:
        """One message arrived."""
        self._arrived += self._outbox.acknowledged(number)
        if number == self._farewell:
            self._left.set()

    def lost_connection(self, why: str) -> None:
        """Nothing arrives for a while."""
        self._connected, self.trouble = False, f"{self._broker.name}: {why}"

    def _append(self, kind: str, value: dict[str, object]) -> None:
        self._outbox.append(Message(f"{self._prefix}/{kind}", to_json(value, indent=None).rstrip().encode()))
        self.lost = self._outbox.lost
        self._link.wake()

    def _publish_state(self, publish: Publish) -> None:
        if self._control is not None:
            state = to_json(self._control.status(), indent=None).rstrip().encode()
            publish(f"{self._prefix}/state", state, retain=True)
