"""The small HTTP server, with real clients and with sockets that behave badly."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agp_edge import httpd
from agp_edge.errors import InputError
from agp_edge.httpd import Answer, HttpServer, Request, answer_json

LOCAL = "127.0.0.1"


def echo(request: Request) -> Answer:
    assert request.arrived_ns <= time.monotonic_ns()
    said = [
        request.method,
        request.path,
        dict(request.query),
        request.body.decode(),
        request.headers.get("x-a"),
    ]
    return answer_json(200, said, X_Said="yes")


@pytest.fixture
def serve() -> Iterator[Callable[..., HttpServer]]:
    """`serve(answer)`: a server on a free port."""
    made: list[HttpServer] = []

    def start(answer: Callable[[Request], Answer] = echo, host: str = LOCAL) -> HttpServer:
        server = HttpServer(host, 0, answer, flag="--test", largest_body=64)
        made.append(server)
        server.start()
        return server

    yield start
    for server in made:
        server.close()
        server.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test")]


def ask(
    server: HttpServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_what_is_asked_comes_whole(serve: Callable[..., HttpServer]) -> None:
    status, headers, body = ask(serve(), "POST", "/a%20b?x=1&y=&x=2", b"body", X_A="here")
    assert (status, json.loads(body)) == (200, ["POST", "/a b", {"x": "2", "y": ""}, "body", "here"])
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Said"] == "yes"
    assert headers["Server"].strip() == "agp-edge"


def test_head_has_no_body(serve: Callable[..., HttpServer]) -> None:
    status, headers, body = ask(serve(), "HEAD", "/")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST / HTTP/1.1\r\nContent-Length: 65\r\n\r\n" + 65 * "x", 413),
        ("POST / HTTP/1.1\r\nContent-Length: " + 99 * "9" + "\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: ５\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 411),
        ("BREW / HTTP/1.1\r\n\r\n", 501),
        ("GET /" + 70_000 * "a" + " HTTP/1.1\r\n\r\n", 414),
        ("nonsense\r\n\r\n", 400),
    ],
)
def test_what_cannot_be_answered_is_refused(serve: Callable[..., HttpServer], head: str, status: int) -> None:
    server = serve()
    with socket.create_connection(server.address, 60) as sock:
        sock.sendall(head.encode())
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert str(status).encode() in answer.split(b"\r\n")[0]
    assert ask(server, "GET", "/")[0] == 200


def test_a_fault_of_ours_is_a_500(serve: Callable[..., HttpServer]) -> None:
    def fail(request: Request) -> Answer:
        raise RuntimeError("with s3cret in it")

    server = serve(fail)
    for _ in range(2):
        assert ask(server, "GET", "/")[::2] == (500, b'{"error": "RuntimeError"}\n')


def test_who_is_too_large_can_read_why(serve: Callable[..., HttpServer]) -> None:
    """A client that has sent half a mebibyte when it is refused is not cut off before it has read the answer."""
    assert ask(serve(), "POST", "/", bytes(1 << 19))[0] == 413


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(
    serve: Callable[..., HttpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpd, "LONGEST_REQUEST_S", 0.5)
    server = serve()
    with socket.create_connection(server.address, 60) as sock:
        sock.settimeout(0.05)
        began = time.monotonic()
        cut = False
        while not cut and time.monotonic() - began < 60:
            try:
                sock.send(b"G")
                cut = sock.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                cut = True
        assert cut
    assert ask(server, "GET", "/")[0] == 200


def test_too_many_at_once_are_told_so_and_the_threads_stay_few(serve: Callable[..., HttpServer]) -> None:
    server = serve()
    idle = [socket.create_connection(server.address, 60) for _ in range(httpd.MOST_CONNECTIONS)]
    try:
        assert ask(server, "GET", "/")[0] == 503
        assert sum(t.name == "test request" for t in threading.enumerate()) == httpd.MOST_CONNECTIONS
    finally:
        for sock in idle:
            sock.close()
    until = time.monotonic() + 60
    while ask(server, "GET", "/")[0] != 200:
        assert time.monotonic() < until


def test_it_closes_under_those_who_are_connected(serve: Callable[..., HttpServer]) -> None:
    server = serve()
    with socket.create_connection(server.address, 60) as sock:
        until = time.monotonic() + 60
        while not [t for t in threading.enumerate() if t.name == "test request"]:
            assert time.monotonic() < until
            time.sleep(0.01)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < httpd.LONGEST_REQUEST_S / 2
        sock.settimeout(60)
        assert sock.recv(1) == b""


def test_a_port_that_is_taken_is_named(serve: Callable[..., HttpServer]) -> None:
    host, port = serve().address
    with pytest.raises(InputError, match=rf"--test 127.0.0.1:{port} cannot be listened at"):
        HttpServer(host, port, echo, flag="--test")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be listened at"):
        HttpServer("192.0.2.1", 0, echo, flag="--test")
    with pytest.raises(InputError, match="cannot be listened at"):
        HttpServer("no-such-host.invalid", 0, echo, flag="--test")


def test_it_listens_on_ipv6(serve: Callable[..., HttpServer]) -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        server = serve(host="::1")
    except InputError:
        pytest.skip("this machine has no IPv6")
    assert ask(server, "GET", "/")[0] == 200
