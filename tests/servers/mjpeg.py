"""A real HTTP server on loopback that sends JPEG pictures in one answer without end, or does it wrong."""

from __future__ import annotations

import base64
import hashlib
import http.server
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

Parts = Callable[[], Iterator[bytes]]


class MjpegServer:
    """Answers every GET with the bytes of `parts`, until it is closed.

    Args:
        parts: called for each viewer.
        headers: of the answer.
        who: (user, password) that it asks for.
        scheme: `Basic` or `Digest`.
        algorithm: of `Digest`.
        status: of the answer.
        chunked: send it in HTTP/1.1's chunks.
        tls: server-side settings; None for plain HTTP.
        port: where it listens; 0 is any that is free.

    Attributes:
        port: where it listens.
        requests: path and `Authorization` of each.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        headers: tuple[tuple[str, str], ...] = (
            ("Content-Type", "multipart/x-mixed-replace; boundary=frame"),
        ),
        who: tuple[str, str] | None = None,
        scheme: str = "Basic",
        algorithm: str | None = "MD5",
        status: int = 200,
        chunked: bool = False,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.over = threading.Event()
        outer = self

        class Camera(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1" if chunked else "HTTP/1.0"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                authorization = self.headers.get("Authorization")
                outer.requests.append((self.path, authorization))
                if who is not None and not _is_allowed(authorization, self.path, who, scheme, algorithm):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", _challenge(scheme, algorithm))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value.replace("PORT", str(outer.port)))
                if chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for part in parts():
                        if outer.over.is_set():
                            break
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
                except OSError:
                    pass
                self.close_connection = True

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A viewer that refuses our certificate is none of this server's faults."""

        self._server = Server(("127.0.0.1", port), Camera)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """End every answer."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> MjpegServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def part(picture: bytes, *, length: bool = True, boundary: bytes = b"--frame") -> bytes:
    """A picture as one part of a multipart answer."""
    head = boundary + b"\r\nContent-Type: image/jpeg\r\n"
    if length:
        head += b"Content-Length: %d\r\n" % len(picture)
    return head + b"\r\n" + picture + b"\r\n"


def _challenge(scheme: str, algorithm: str | None) -> str:
    if scheme == "Basic":
        return 'Basic realm="a camera, of ours"'
    text = 'Digest realm="a camera, of ours", nonce="dcd98b71", qop="auth,auth-int", opaque="5ccc"'
    return text if algorithm is None else f"{text}, algorithm={algorithm}"


def _is_allowed(
    authorization: str | None, path: str, who: tuple[str, str], scheme: str, algorithm: str | None
) -> bool:
    """By RFC 7617 and 7616, written down a second time."""
    if authorization is None:
        return False
    if scheme == "Basic":
        return authorization == "Basic " + base64.b64encode(":".join(who).encode()).decode()
    said = dict(
        re.findall(
            r'(\w+)="?([^",]*)"?',
            authorization.removeprefix("Digest ").replace('realm="a camera, of ours"', ""),
        )
    )
    name = "sha256" if algorithm and algorithm.startswith("SHA-256") else "md5"

    def digest(text: str) -> str:
        return hashlib.new(name, text.encode()).hexdigest()

    secret = digest(f"{who[0]}:a camera, of ours:{who[1]}")
    if algorithm and algorithm.endswith("-sess"):
        secret = digest(f"{secret}:{said['nonce']}:{said['cnonce']}")
    request = digest(f"GET:{path}")
    proof = digest(f"{secret}:{said['nonce']}:{said['nc']}:{said['cnonce']}:{said['qop']}:{request}")
    return bool(said["response"] == proof and said["uri"] == path and said["opaque"] == "5ccc")
