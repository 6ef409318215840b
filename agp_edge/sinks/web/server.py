"""The page's HTTP server: its own event loop in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any

from agp_edge.address import format_address
from agp_edge.control import Control, StreamStatus
from agp_edge.errors import AgpEdgeError, InputError
from agp_edge.extras import import_extra
from agp_edge.sinks.web.board import Board, Failure, to_json
from agp_edge.sinks.web.guard import Guard, Refusal

FILES = {
    "": ("index.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "tile.js": ("tile.js", "text/javascript"),
    "chart.js": ("chart.js", "text/javascript"),
    "rejects.js": ("rejects.js", "text/javascript"),
    "dom.js": ("dom.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path -> file and type. There are no others: no path of a request is ever a path of a disk."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "agp-edge",
}
"""What a browser may load for the page: what is here, and nothing of another host. And no versions for scanners."""

BEAT_S = 0.05
"""Viewers who wait are told of changes at these intervals, all at once."""

STATUS_S = 1.0
ANSWERS_A_SECOND = 100
"""Of `/api/live`, to all viewers together: fifty get two changes a second each, and the line does not feel them."""

LONGEST_WAIT_S = 15.0
"""Shorter than the time-outs of common proxies."""

LONGEST_SEND_S = 20.0
MOST_VIEWERS = 100
MOST_CONNECTIONS = 300
"""Connections beyond that are closed at once: descriptors belong to the cameras."""

SILENT_S = 10.0
WRONG_DELAY_S = 0.5
MOST_BODY = 4096
STOP_S = 5.0


class Server:
    """Serves a board until it is closed.

    Args:
        board: what is shown.
        guard: who may look.
        host: name or number to listen at.
        port: 0 for any that is free.

    Attributes:
        address: (host, port) where it listens.
        failure: what went wrong last.
        most_viewers: how many looked at once.

    Raises:
        InputError: the address is taken, or is not this machine's.
        MissingExtraError: aiohttp is not installed.
    """

    def __init__(self, board: Board, guard: Guard, host: str, port: int) -> None:
        self._web = import_extra("aiohttp.web", "web", "--web")
        self._board, self._guard = board, guard
        self._files = _read_files()
        self._socket = _listen(host, port)
        self.address: tuple[str, int] = (host, self._socket.getsockname()[1])
        self.failure: Failure | None = None
        self.most_viewers = 0
        self._control: Control | None = None
        self._known: tuple[float, StreamStatus] | None = None
        self._viewers = 0
        self._next_answer = 0.0
        self._silent: set[Any] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._beat = asyncio.Event()
        self._someone = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="web server", daemon=True)
        self._thread.start()

    def attach(self, control: Control) -> None:
        """Be given the running stream."""
        self._control = control

    def close(self) -> None:
        """End the thread; safe to call twice. Who waits for an answer is not kept waiting."""
        with contextlib.suppress(RuntimeError):  # The loop is closed already.
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:
            self.failure = Failure.of(error)
        finally:
            self._loop.close()
            self._socket.close()

    async def _serve(self) -> None:
        app = self._web.Application(middlewares=[self._middleware()], client_max_size=MOST_BODY)
        app.router.add_get("/health", self._health)
        app.router.add_get("/api/status", self._viewing(self._status))
        app.router.add_get("/api/live", self._viewing(self._live))
        app.router.add_get(r"/api/rejects/{number:\d{1,18}}", self._viewing(self._reject))
        app.router.add_post("/api/threshold", self._changing(self._threshold))
        app.router.add_post("/api/trigger", self._changing(self._trigger))
        for path in FILES:
            app.router.add_get(f"/{path}", self._file)
        logger = logging.getLogger("agp_edge.web")
        # What scanners send is no news, and what we do wrong goes to `failure`.
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        runner = self._web.AppRunner(
            app,
            access_log=None,
            logger=logger,
            keepalive_timeout=30,
            handler_cancellation=True,
            shutdown_timeout=0.2,
        )
        await runner.setup()
        server = await self._loop.create_server(lambda: self._protocol(runner.server), sock=self._socket)
        beat = self._loop.create_task(self._beat_forever())
        try:
            await self._stop.wait()
        finally:
            server.close()
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            await runner.cleanup()

    def _protocol(self, server: Any) -> asyncio.Protocol:
        """One more connection, if there is room; one that says nothing is closed after a while."""
        if len(server.connections) >= MOST_CONNECTIONS:
            return _Full()
        protocol = server()
        self._silent.add(protocol)
        self._loop.call_later(SILENT_S, self._close_if_silent, protocol)
        return protocol  # type: ignore[no-any-return]

    def _close_if_silent(self, protocol: Any) -> None:
        if protocol in self._silent:
            self._silent.discard(protocol)
            protocol.force_close()

    async def _beat_forever(self) -> None:
        """While somebody waits, ask the stream for its counts now and then, and wake the viewers when there is news."""
        told, asked = 0, 0.0
        while True:
            await self._someone.wait()
            now = self._loop.time()
            if self._control is not None and now - asked >= STATUS_S:
                asked = now
                try:
                    self._board.set_status(self._status_now(self._control))
                except Exception as error:
                    self.failure = Failure.of(error)
            if self._board.change != told:
                told = self._board.change
                beat, self._beat = self._beat, asyncio.Event()
                beat.set()
            if not self._viewers:
                self._someone.clear()
            await asyncio.sleep(BEAT_S)

    def _middleware(self) -> Any:
        web = self._web

        @web.middleware  # type: ignore[untyped-decorator]
        async def guarded(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
            self._silent.discard(request.protocol)
            try:
                host, origin = request.headers.get("Host"), request.headers.get("Origin")
                refusal = self._guard.check_host(host, origin) if request.path != "/health" else None
                response = self._refuse(refusal) if refusal else await handler(request)
            except web.HTTPException as error:
                response = error
            except AgpEdgeError as error:
                response = self._json({"error": error.what, "hint": error.hint}, 400)
            except (asyncio.CancelledError, ConnectionError):
                raise
            except Exception as error:
                self.failure = Failure.of(error)
                response = self._json(
                    {"error": "the page's server failed", "hint": "see the stream's log"}, 500
                )
            if not response.prepared:
                response.headers.update(HEADERS)
                response.headers.setdefault("Cache-Control", "no-store")
            if isinstance(response, web.HTTPException):
                raise response
            return response

        return guarded

    def _viewing(self, handler: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def checked(request: Any) -> Any:
            authorization = request.headers.get("Authorization")
            refusal = self._guard.check_view(authorization, request.remote or "", list(request.headers))
            return await self._answer(refusal, authorization, handler, request)

        return checked

    def _changing(self, handler: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        async def checked(request: Any) -> Any:
            authorization = request.headers.get("Authorization")
            refusal = self._guard.check_change(authorization, request.remote or "")
            if refusal is None and request.content_type != "application/json":
                refusal = Refusal(415, "this takes JSON", "send Content-Type: application/json")
            return await self._answer(refusal, authorization, handler, request)

        return checked

    async def _answer(
        self,
        refusal: Refusal | None,
        authorization: str | None,
        handler: Callable[[Any], Awaitable[Any]],
        request: Any,
    ) -> Any:
        if refusal is None:
            return await handler(request)
        if refusal.status == 401 and authorization:
            await asyncio.sleep(WRONG_DELAY_S)
        return self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> Any:
        response = self._json({"error": refusal.what, "hint": refusal.hint}, refusal.status)
        if refusal.status == 401:
            response.headers["WWW-Authenticate"] = 'Bearer realm="agp-edge"'
        if refusal.status == 429:
            response.headers["Retry-After"] = "60"
        return response

    def _json(self, value: Mapping[str, Any], status: int = 200) -> Any:
        return self._web.Response(body=to_json(value), status=status, content_type="application/json")

    async def _file(self, request: Any) -> Any:
        body, kind, tag = self._files[request.path[1:]]
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == tag:
            return self._web.Response(status=304, headers=headers)
        return self._web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    async def _health(self, request: Any) -> Any:
        if self._control is None:
            return self._json({"healthy": False, "reason": "the stream has not begun"}, 503)
        status = self._status_now(self._control)
        said = {name: status[name] for name in ("healthy", "reason", "since_verdict_s", "uptime_s")}
        return self._json(said, 200 if status["healthy"] else 503)

    async def _status(self, request: Any) -> Any:
        if self._control is None:
            return self._json({"error": "the stream has not begun", "hint": "try again"}, 503)
        return self._json(self._status_now(self._control))

    def _status_now(self, control: Control) -> StreamStatus:
        """The stream's counts, asked for at most twice in `STATUS_S`: however often others ask, the line does not feel it."""
        now = self._loop.time()
        if self._known is None or now - self._known[0] > STATUS_S / 2:
            self._known = now, control.status()
        return self._known[1]

    async def _reject(self, request: Any) -> Any:
        body = self._board.reject(int(request.match_info["number"]))
        if body is None:
            return self._json(
                {"error": "this reject is not kept any more", "hint": "look into --rejects"}, 404
            )
        return self._web.Response(body=body, content_type="application/octet-stream")

    async def _live(self, request: Any) -> Any:
        """What is new, as soon as there is something; the newest only, and no more than `ANSWERS_A_SECOND` to all."""
        if self._viewers >= MOST_VIEWERS:
            refusal = Refusal(503, f"{MOST_VIEWERS} viewers look already", "close the page elsewhere")
            return self._refuse(refusal)
        self._viewers += 1
        self.most_viewers = max(self.most_viewers, self._viewers)
        try:
            seen = request.query.get("seen", "")
            self._board.watch()
            self._someone.set()
            await self._wait_for_news(seen)
            now = self._loop.time()
            turn = max(now, self._next_answer)
            self._next_answer = turn + 1 / ANSWERS_A_SECOND
            if turn > now:
                await asyncio.sleep(turn - now)
            self._board.watch()
            body = self._board.since(seen, {"can_change": self._guard.has_token})
            response = self._web.StreamResponse(headers={**HEADERS, "Cache-Control": "no-store"})
            response.content_type = "application/octet-stream"
            response.content_length = len(body)
            await response.prepare(request)
            try:
                await asyncio.wait_for(_send(response, body), LONGEST_SEND_S)
            except asyncio.TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
            return response
        finally:
            self._viewers -= 1

    async def _wait_for_news(self, seen: str) -> None:
        until = self._loop.time() + LONGEST_WAIT_S
        while self._board.seen_change(seen) >= self._board.change:
            left = until - self._loop.time()
            if left <= 0:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._beat.wait(), left)

    async def _threshold(self, request: Any) -> Any:
        rate = (await _read_object(request)).get("false_reject_rate")
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise InputError("there is no false-reject rate", 'send {"false_reject_rate": 0.01}')
        threshold = self._running().set_false_reject_rate(float(rate))
        self._known = None
        return self._json({"false_reject_rate": float(rate), "threshold": threshold})

    async def _trigger(self, request: Any) -> Any:
        part = (await _read_object(request)).get("part")
        if part is not None and not isinstance(part, str):
            raise InputError("a part's id is a text", 'send {"part": "A-17"}, or {}')
        return self._json({"sources": self._running().trigger(part or None)})

    def _running(self) -> Control:
        if self._control is None:
            raise InputError("the stream has not begun", "try again")
        return self._control


class _Full(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def _send(response: Any, body: bytes) -> None:
    await response.write(body)
    await response.write_eof()


async def _read_object(request: Any) -> dict[str, Any]:
    try:
        body = await asyncio.wait_for(request.read(), SILENT_S)
        value = json.loads(body)
    except (ValueError, RecursionError, asyncio.TimeoutError):
        value = None
    if not isinstance(value, dict):
        raise InputError("the request holds no JSON object", 'send {"false_reject_rate": 0.01}')
    return value


def _read_files() -> dict[str, tuple[bytes, str, str]]:
    """Path -> body, type and ETag; read once, so that an update on the disk cannot give half of each version."""
    folder = resources.files("agp_edge.sinks.web") / "page"
    found = {}
    for path, (name, kind) in FILES.items():
        body = (folder / name).read_bytes()
        found[path] = body, kind, f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return found


def _listen(host: str, port: int) -> socket.socket:
    where = format_address(host, port)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, dualstack_ipv6=both)
    except OSError as error:
        raise InputError(
            f"--web cannot listen at {where}: {error.strerror or error}",
            "take another port, or an address of this machine",
        ) from error
