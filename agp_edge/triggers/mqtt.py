"""Triggers by MQTT: each message of a topic says that a part lies before the camera."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from agp_edge.broker import Link, Publish, User, parse_broker
from agp_edge.errors import InputError
from agp_edge.events import Event, OnEvent, nobody
from agp_edge.triggers.base import Fire, Trigger
from agp_edge.triggers.message import read_message

REMEMBERED = 1000
"""Of so many triggers with an `id` it is known that they came."""
CLOSE_S = 1.0


class MqttTrigger(Trigger, User):
    """Subscribed to `mqtt://user:pw@HOST:PORT/TOPIC` with QoS 1.

    A message says what `read_message` reads. What is retained is of a part that passed long ago, and no trigger; so is what
    was published while the broker was away. What the broker delivers twice triggers once, and so does what the publisher
    sends twice with the same `id`.

    Args:
        url: with its secrets put in; `+` and `#` in the topic are the broker's wildcards.

    Raises:
        InputError: the URL is none, or has no topic.
        MissingExtraError: there is no paho.
    """

    def __init__(self, url: str) -> None:
        self._broker = parse_broker(url, "--trigger")
        self.name = self._broker.name
        if not self._broker.topic:
            raise InputError(f"--trigger {self.name} has no topic", "write mqtt://HOST:PORT/TOPIC")
        self._link = Link(self._broker, self, subscribe=self._broker.topic)
        self._started = False
        self._away_since: float | None = None
        self._packets: deque[int] = deque(maxlen=REMEMBERED)
        self._ids: deque[str] = deque(maxlen=REMEMBERED)

    def start(self, fire: Fire, on_event: OnEvent = nobody) -> None:
        """Begin; a broker that is away is looked for again for ever."""
        self._fire, self._on_event = fire, on_event
        self._link.start()

    def close(self) -> None:
        """End the subscription."""
        self._link.close(CLOSE_S)

    def connected(self, publish: Publish) -> None:
        """Triggers can come again."""
        # Numbers of packets are of one connection.
        self._packets.clear()
        if self._away_since is not None:
            gap_s = round(time.monotonic() - self._away_since, 3)
            self._away_since = None
            text = f"{self.name}: triggers can come again"
            self._on_event(Event("trigger-back", text, level="info", data={"gap_s": gap_s}))

    def lost_connection(self, why: str) -> None:
        """No triggers can come; said once."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._on_event(Event("trigger-lost", f"{self.name}: {why}", level="error"))

    def received(self, message: Any) -> None:
        """One message of the topic."""
        at_ns = time.monotonic_ns()
        if message.retain or (message.dup and message.mid in self._packets):
            return
        self._packets.append(message.mid)
        try:
            read = read_message(message.payload)
            if read.id is not None:
                if read.id in self._ids:
                    return
                self._ids.append(read.id)
            read.fire(self._fire, at_ns)
        except InputError as error:
            self._on_event(Event("trigger-refused", f"{self.name}: {error.what}"))
