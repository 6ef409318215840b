"""An HTTP connection whose every wait ends at one deadline, or when another thread says so.

`http.client` over a socket with a time-out waits anew for each byte: a camera that sends one now and then holds it for ever.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import ssl
import threading
import time
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import SplitResult

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class TimedConnection(http.client.HTTPConnection):
    """A connection to a host, plain or over TLS.

    Args:
        parts: the URL; without user and password.
        deadline: see below.

    Attributes:
        deadline: `time.monotonic()` at which whatever waits raises TimeoutError.
    """

    def __init__(self, parts: SplitResult, deadline: float) -> None:
        self._tls = parts.scheme == "https"
        super().__init__(parts.hostname or "", parts.port or (443 if self._tls else 80))
        self.deadline = deadline
        self._lock = threading.Lock()
        self._interrupted = False
        self._plain: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the first of the host's addresses that answers."""
        failure: OSError = OSError("the host has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM
        ):
            try:
                self._connect(socket.socket(family, kind, protocol), address)
            except OSError as error:
                failure = error
                if self._interrupted or isinstance(error, TimeoutError | ssl.SSLError):
                    break
            else:
                return
        raise failure

    def has_more(self) -> bool:
        """Whether bytes have come that were not read."""
        plain = self._plain
        if plain is None:
            return False
        if isinstance(plain, ssl.SSLSocket) and plain.pending():
            return True
        poll = select.poll()
        poll.register(plain, select.POLLIN)
        return bool(poll.poll(0))

    def interrupt(self) -> None:
        """End whatever waits, now and later; from any thread."""
        with self._lock:
            self._interrupted = True
            if self._plain is not None:
                with contextlib.suppress(OSError):
                    # Not that of TLS, which would take its state away from under a read in another thread.
                    socket.socket.shutdown(self._plain, socket.SHUT_RDWR)

    def end(self) -> None:
        """Let go; safe to call twice. `close` is what `http.client` calls once an answer has begun, to read on."""
        self.close()
        with self._lock:
            plain, self._plain = self._plain, None
        if plain is not None:
            plain.close()

    def left_s(self) -> float:
        """Seconds until the deadline.

        Raises:
            TimeoutError: it has passed.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _connect(self, plain: socket.socket, address: Any) -> None:
        self._take(plain)
        plain.settimeout(self.left_s())
        plain.connect(address)
        # A request is small and in one piece: there is nothing to wait for before it is sent.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            plain.settimeout(self.left_s())
            wrapped = ssl.create_default_context().wrap_socket(
                plain, server_hostname=self.host, do_handshake_on_connect=False
            )
            self._take(wrapped)
            wrapped.do_handshake()
        assert self._plain is not None
        # What `http.client` uses of a socket.
        self.sock = _TimedSocket(self, self._plain)

    def _take(self, plain: socket.socket) -> None:
        """Own a socket; the one before is closed, or was wrapped in this one."""
        with self._lock:
            before, self._plain = self._plain, plain
            interrupted = self._interrupted
        if before is not None:
            before.close()
        if interrupted:
            raise OSError("interrupted")


class _TimedSocket:
    """A socket as `http.client` uses it, with what is left until the deadline as the time-out of each call."""

    def __init__(self, connection: TimedConnection, plain: socket.socket) -> None:
        self._connection = connection
        self._plain = plain

    def sendall(self, data: ReadableBuffer) -> None:
        self._plain.settimeout(self._connection.left_s())
        self._plain.sendall(data)

    def makefile(self, mode: str) -> IO[bytes]:
        assert mode == "rb"
        return io.BufferedReader(_TimedReader(self._connection, self._plain))

    def close(self) -> None:
        """Nothing: `http.client` closes a socket whose answer it has begun to read; the connection owns it."""


class _TimedReader(io.RawIOBase):
    def __init__(self, connection: TimedConnection, plain: socket.socket) -> None:
        self._connection = connection
        self._plain = plain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._plain.settimeout(self._connection.left_s())
        return self._plain.recv_into(buffer)
