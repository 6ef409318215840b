"""An MQTT broker: its URL, and a connection to it that is made again whenever it is lost.

MQTT 3.1.1, which every broker speaks, with a clean session: what was under way when a connection broke is the caller's
to send again. paho brings the protocol and one thread here does all calls of it, so that nothing of it needs a lock.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from agp_edge.errors import InputError, quote
from agp_edge.extras import import_extra
from agp_edge.sources.uri import escape_userinfo, redact

PORTS = {"mqtt": 1883, "mqtts": 8883}
PARAMETERS = ("ca", "cert", "key", "client_id")
KEEPALIVE_S = 10
"""A broker that is silent for longer than twice this is gone, whatever TCP says."""
CONNECT_TIMEOUT_S = 5.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 30.0
GOOD_CONNECTION_S = 10.0
"""A connection that held for so long was one: after it the first delay is a short one again."""
LONGEST_TURN_S = 0.5


@dataclass(frozen=True)
class Broker:
    """Where a broker is, and how it is entered.

    Attributes:
        name: the URL without any password.
        host, port: where it listens.
        topic: the path of the URL, without the first slash.
        user, password: None where the URL has none.
        tls: for `mqtts`.
        client_id: as the broker knows this client; the same at each connection, so that a broker which has not yet noticed
            that the last one is gone ends it.
    """

    name: str
    host: str
    port: int
    topic: str
    user: str | None
    password: str | None
    tls: ssl.SSLContext | None
    client_id: str

    def __repr__(self) -> str:
        return f"Broker({self.name})"


def parse_broker(url: str, flag: str) -> Broker:
    """Read `mqtt://user:pw@HOST:PORT/TOPIC`, or `mqtts://…?ca=FILE&cert=FILE&key=FILE`.

    Args:
        url: with its secrets put in.
        flag: what was given it, for the errors, as in `--mqtt`.

    Raises:
        InputError: it is no such URL, or a file of it cannot be used.
    """
    name = redact(url)
    wrong = f"{flag} {name} is no broker's URL"
    hint = "write mqtt://HOST:PORT/TOPIC or mqtts://user:${PASSWORD}@HOST:PORT/TOPIC?ca=ca.pem"
    try:
        parts = urlsplit(escape_userinfo(url))
        port = parts.port
    except ValueError:
        raise InputError(wrong, hint) from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise InputError(wrong, hint)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for option in options:
        if option not in PARAMETERS:
            raise InputError(f"{flag}: a broker's URL has no {option!r}", f"it has {', '.join(PARAMETERS)}")
    topic = unquote(parts.path[1:]) + ("#" if url.endswith("#") else "")
    if "\0" in topic or len(topic.encode()) > 4096:
        raise InputError(f"{flag} {name} has no topic that a broker takes", hint)
    return Broker(
        name=name,
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        topic=topic,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        tls=_tls(options, flag, secure=parts.scheme == "mqtts"),
        client_id=options.get("client_id") or f"agp-edge-{secrets.token_hex(6)}",
    )


def _tls(options: dict[str, str], flag: str, *, secure: bool) -> ssl.SSLContext | None:
    if not secure:
        given = [name for name in ("ca", "cert", "key") if name in options]
        if given:
            raise InputError(
                f"{flag}: {given[0]}= means nothing without TLS", "write mqtts:// in place of mqtt://"
            )
        return None
    what = "ca"
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        # From Python 3.13 on certificates without key identifiers are refused, which a plant's own authority often makes.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if "cert" in options or "key" in options:
            what = "cert" if "cert" in options else "key"
            context.load_cert_chain(options.get("cert", ""), options.get("key"), password="")
    except (OSError, ssl.SSLError, ValueError, TypeError) as error:
        # A path is shown: it is no secret, and without it nobody finds the fault.
        raise InputError(
            f"{flag}: {what}={options.get(what, '')} cannot be used: {quote(error)}",
            "give PEM files: ca= of who signed the broker's certificate, cert= and key= of this device, the key unlocked",
        ) from None
    return context


class Publish(Protocol):
    """Sends one message over the connection there is."""

    def __call__(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        """Give a number that `User.acknowledged` will have. What fails shows as the end of the connection."""


class User:
    """What is done over a `Link`; all calls come from its thread, one at a time."""

    def connected(self, publish: Publish) -> None:
        """A new connection stands; nothing of an earlier one is under way any more."""

    def turn(self, publish: Publish) -> None:
        """Send what there is: after whatever happened, after `Link.wake`, and twice a second."""

    def acknowledged(self, number: int) -> None:
        """The broker has what `publish` gave this number."""

    def received(self, message: Any) -> None:
        """A message of the topic that was subscribed: paho's `MQTTMessage`."""

    def lost_connection(self, why: str) -> None:
        """The connection ended, or none came about; it is tried again."""


class Link:
    """A connection to a broker, for ever. It is made in a thread of its own, which ends with `close`.

    Args:
        broker: where to.
        user: told of everything.
        subscribe: a topic that is listened to with QoS 1.
        will: (topic, payload), retained, which the broker publishes when this client is gone without a word.

    Raises:
        MissingExtraError: there is no paho.
    """

    def __init__(
        self,
        broker: Broker,
        user: User,
        *,
        subscribe: str | None = None,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        self._mqtt = import_extra("paho.mqtt.client", "mqtt", "a broker")
        enums = import_extra("paho.mqtt.enums", "mqtt", "a broker")
        self._callbacks = enums.CallbackAPIVersion.VERSION2
        self._broker = broker
        self._user = user
        self._subscribe = subscribe
        self._will = will
        self._up = False
        self._refused: str | None = None
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._run, name=f"mqtt {broker.host}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def wake(self) -> None:
        """Have `User.turn` called soon; from any thread."""
        with self._lock:
            if self._open:
                # A full pipe has woken it already.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b"x")

    def hurry(self) -> None:
        """Try now, if it waits before it tries again; from any thread."""
        self._hurry.set()

    def close(self, wait_s: float) -> None:
        """End the connection and the thread; safe to call twice.

        Args:
            wait_s: a thread that hangs in a system call for longer is left behind, to end by itself.
        """
        self._stopping.set()
        self._hurry.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(wait_s)
        else:
            self._close_pipe()

    def _run(self) -> None:
        delay = FIRST_DELAY_S
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                try:
                    why = self._connect_and_serve()
                except Exception as error:
                    # Whatever it is, of the system, of TLS or of paho: this thread is the only one that tries again.
                    why = _say(error)
                if self._stopping.is_set():
                    break
                if self._up and time.monotonic() - began > GOOD_CONNECTION_S:
                    delay = FIRST_DELAY_S
                self._user.lost_connection(self._refused or why)
                # Half of it by chance: a plant's devices do not all come back in the same instant.
                if self._hurry.wait(delay * random.uniform(0.5, 1.0)) and not self._stopping.is_set():
                    self._hurry.clear()
                delay = min(2 * delay, LONGEST_DELAY_S)
        finally:
            self._close_pipe()

    def _connect_and_serve(self) -> str:
        self._up, self._refused = False, None
        client = self._make_client()
        tls = None
        if self._broker.tls is not None:
            tls = _TlsOfOneConnection(self._broker.tls)
            client.tls_set_context(tls)
        sock: socket.socket | None = None
        try:
            client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
            sock = client.socket()
            return self._serve(client)
        finally:
            if self._up:
                # Said in so many words, or the broker tells everybody the last will.
                client.disconnect()
            if tls is not None and tls.sock is not None:
                tls.sock.close()
            if sock is not None:
                sock.close()

    def _make_client(self) -> Any:
        broker = self._broker
        client = self._mqtt.Client(
            self._callbacks,
            client_id=broker.client_id,
            clean_session=True,
            protocol=self._mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if self._will is not None:
            client.will_set(*self._will, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = lambda _client, _data, number, *_: self._user.acknowledged(number)
        client.on_message = lambda _client, _data, message: self._user.received(message)
        return client

    def _on_connect(self, client: Any, _data: object, _flags: object, reason: Any, *_: object) -> None:
        if reason.is_failure:
            self._refused = f"the broker refuses: {reason}"
            return
        self._up = True
        if self._subscribe is not None:
            client.subscribe(self._subscribe, qos=1)

    def _on_subscribe(self, _client: Any, _data: object, _number: int, reasons: Any, *_: object) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refused = f"the broker refuses this client to listen to {self._subscribe}"

    def _serve(self, client: Any) -> str:
        """Be connected until that ends; why it did."""

        def publish(topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
            number: int = client.publish(topic, payload, qos=qos, retain=retain).mid
            return number

        greeted = False
        while not self._stopping.is_set() and not self._refused:
            if self._up:
                if not greeted:
                    greeted = True
                    self._user.connected(publish)
                self._user.turn(publish)
            sock = client.socket()
            if sock is None:
                return "the connection broke"
            code = self._wait_and_serve(client, sock)
            if code:
                return f"the connection broke: {self._mqtt.error_string(code)}"
        return "the connection ended"

    def _wait_and_serve(self, client: Any, sock: Any) -> int:
        """One turn of paho's loop; its error code. Own waiting, because paho's takes no file numbers from 1024 on."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(sock, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        # Of TLS the system may have delivered more than was read.
        pending = self._broker.tls is not None and sock.pending() > 0
        ready = dict(poll.poll(0 if pending else LONGEST_TURN_S * 1000))
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        happened = ready.get(sock.fileno(), 0)
        code: int = 0
        if pending or happened & ~select.POLLOUT:
            code = client.loop_read()
        if not code and happened & select.POLLOUT:
            code = client.loop_write()
        return code or int(client.loop_misc())

    def _close_pipe(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._wake_read)
                os.close(self._wake_write)


class _TlsOfOneConnection:
    """What paho calls of a TLS context. It leaves the socket open where a handshake fails, so that is remembered here."""

    check_hostname = True

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.sock: ssl.SSLSocket | None = None

    def wrap_socket(self, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        self.sock = self._context.wrap_socket(sock, **options)
        return self.sock


def _say(error: Exception) -> str:
    """An error without what the system says around it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate is not accepted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be reached: {error.strerror}"
    return f"it cannot be reached: {quote(error) or type(error).__name__}"
