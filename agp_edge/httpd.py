"""A small HTTP server for machines that ask: a few connections at a time, each with one request and a time to end by.

It is the standard library's, with what that leaves open closed: the number of threads, clients that send a byte now and
then, bodies without end. One request a connection: those who ask here ask every few seconds.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from agp_edge.address import format_address
from agp_edge.errors import InputError
from agp_edge.files import to_json

MOST_CONNECTIONS = 16
LONGEST_REQUEST_S = 10.0
"""From the first byte to the last one of the answer."""
POLL_S = 0.25
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LARGEST_UNREAD = 1 << 20


@dataclass(frozen=True)
class Request:
    """What was asked.

    Attributes:
        method: in upper case.
        path: without the query, decoded.
        query: of several values of one name, the last.
        headers: names in lower case.
        body: whole.
        arrived_ns: when its head was there, on the monotonic clock.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    arrived_ns: int


@dataclass(frozen=True)
class Answer:
    """What is answered.

    Attributes:
        status: HTTP's number.
        body: of any method but HEAD.
        content_type: what the body is.
        headers: others.
    """

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def answer_json(status: int, value: object, **headers: str) -> Answer:
    """An answer in JSON; of a header's name, `_` stands for `-`."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, to_json(value, indent=None).encode(), "application/json", named)


class HttpServer:
    """Listens from when it is made, and answers from when it is started.

    Args:
        host, port: where; port 0 is any that is free.
        answer: called from several threads at once.
        flag: what it is for, as in `--prometheus`: in errors and names of threads.
        largest_body: bytes of a request's body; more is refused with 413.

    Attributes:
        address: (host, port) that it listens at.

    Raises:
        InputError: the address is taken, or is none of this machine's.
    """

    def __init__(
        self, host: str, port: int, answer: Callable[[Request], Answer], *, flag: str, largest_body: int = 0
    ) -> None:
        self._name = flag.lstrip("-")
        try:
            self._server = _Server(host, port, answer, self._name, largest_body)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"{flag} {format_address(host, port)} cannot be listened at: {getattr(error, 'strerror', None) or error}",
                "take a port that is free (ss -ltn shows those that are not) and an address of this machine",
            ) from None
        self.address: tuple[str, int] = self._server.server_address[:2]  # type: ignore[assignment]
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name=self._name, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Close the port and whatever is connected; safe to call twice."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.close()


class _Server(HTTPServer):
    """Accepts in one thread and answers in others."""

    def __init__(
        self,
        host: str,
        port: int,
        answer: Callable[[Request], Answer],
        name: str,
        largest_body: int,
    ) -> None:
        self.answer, self.largest_body = answer, largest_body
        self._name = name
        self._lock = threading.Lock()
        self._connected: dict[socket.socket, threading.Thread] = {}
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__(address[:2] if family == socket.AF_INET else address, _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """As the base's, which asks a name server for this machine's name and so may hang."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or say at once that there are too many."""
        with self._lock:
            room = len(self._connected) < MOST_CONNECTIONS
            if room:
                thread = threading.Thread(
                    target=self._work,
                    args=(request, client_address),
                    name=f"{self._name} request",
                    daemon=True,
                )
                self._connected[request] = thread
        if room:
            thread.start()
            return
        request.settimeout(0)
        with contextlib.suppress(OSError):
            request.send(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def _work(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # The client went away, or took too long.
        finally:
            self.shutdown_request(request)
            with self._lock:
                self._connected.pop(request, None)

    def close(self) -> None:
        """Close the port, and the connections under their threads."""
        self.server_close()
        with self._lock:
            connected = list(self._connected.items())
            for sock, _ in connected:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for _, thread in connected:
            if thread.ident is not None:
                thread.join(1.0)


class _UntilDeadline(io.RawIOBase):
    """What a socket brings, until a time; a time-out of the socket alone would begin anew at each byte."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.0"
    server_version = "agp-edge"
    sys_version = ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"

    def setup(self) -> None:
        super().setup()
        self._deadline = time.monotonic() + LONGEST_REQUEST_S
        self.rfile.close()
        self.rfile = io.BufferedReader(_UntilDeadline(self.connection, self._deadline))

    def _respond(self) -> None:
        arrived_ns = time.monotonic_ns()
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self._refuse(411)
            return
        if not (length.isascii() and length.isdecimal()):
            self._refuse(400)
            return
        if len(length) > 9 or int(length) > self.server.largest_body:
            self._refuse(413)
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return  # The client went away.
        parts = urlsplit(self.path)
        request = Request(
            self.command,
            unquote(parts.path),
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            {name.lower(): value for name, value in self.headers.items()},
            body,
            arrived_ns,
        )
        try:
            answer = self.server.answer(request)
        except Exception as error:
            # A fault of ours: the client learns that it is none of his, and the next one is answered.
            answer = answer_json(500, {"error": type(error).__name__})
        self._send(answer)

    def _refuse(self, status: int) -> None:
        """Answer before the body came, and let it come: who is cut off while he sends never reads the answer."""
        self.send_error(status)
        self.connection.shutdown(socket.SHUT_WR)
        left = LARGEST_UNREAD
        while left > 0 and (chunk := self.rfile.read1(min(left, 65536))):
            left -= len(chunk)

    def _send(self, answer: Answer) -> None:
        self.connection.settimeout(max(0.1, self._deadline - time.monotonic()))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is worth it is an event."""


for _method in METHODS:
    setattr(_Handler, f"do_{_method}", _Handler._respond)
