"""Triggers by HTTP: a POST says that a part lies before the camera."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qsl, unquote, urlsplit

from agp_edge.address import is_local, parse_address
from agp_edge.errors import InputError
from agp_edge.events import Event, OnEvent, nobody
from agp_edge.httpd import Answer, HttpServer, Request, answer_json
from agp_edge.sources.uri import redact
from agp_edge.triggers.base import Fire, Trigger
from agp_edge.triggers.message import LARGEST_MESSAGE, Message, read_message

_HINT = (
    "write http://:8090/trigger, or http://0.0.0.0:8090/trigger?token=${TOKEN} for others than this machine"
)
SHORTEST_TOKEN = 8


class HttpTrigger(Trigger):
    """Listens at `http://HOST:PORT/PATH?token=TOKEN`.

    `POST` answers 202 and `{"accepted": n}`, n being how many sources will have a frame judged. The part's id is the body, or
    `?part=`; see `read_message`. With a token, `Authorization: Bearer TOKEN` is asked for; without one only this machine is
    listened to, and no web page on it.

    Args:
        url: with its secrets put in.

    Raises:
        InputError: it is no such URL, or it listens to others than this machine and has no token.
    """

    def __init__(self, url: str) -> None:
        self.name = redact(url)
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        strange = sorted(set(options) - {"token"})
        if strange or "@" in parts.netloc or parts.fragment:
            what = f"has no {strange[0]!r}" if strange else "takes a token and no password"
            raise InputError(f"--trigger {self.name}: a trigger by HTTP {what}", _HINT)
        self._host, self._port = parse_address(parts.netloc, "--trigger http://")
        self._path = unquote(parts.path) or "/"
        self._token = options.get("token")
        if self._token is None and not is_local(self._host):
            raise InputError(f"--trigger {self.name} listens to others and has no token", _HINT)
        if self._token is not None and len(self._token) < SHORTEST_TOKEN:
            raise InputError(
                f"--trigger {self.name} has a token of less than {SHORTEST_TOKEN} characters", _HINT
            )
        self._server: HttpServer | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, as soon as it is started."""
        return (self._host, self._port) if self._server is None else self._server.address

    def start(self, fire: Fire, on_event: OnEvent = nobody) -> None:
        """Listen.

        Raises:
            InputError: the port is taken.
        """
        self._fire, self._on_event = fire, on_event
        self._server = HttpServer(
            self._host, self._port, self._answer, flag="--trigger", largest_body=LARGEST_MESSAGE
        )
        self._server.start()

    def close(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.close()

    def _answer(self, request: Request) -> Answer:
        if request.path != self._path:
            return answer_json(404, {"error": "no trigger listens here"})
        if self._token is not None:
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(token.encode(), self._token.encode()):
                return answer_json(401, {"error": "the token is missing or wrong"}, WWW_Authenticate="Bearer")
        elif "origin" in request.headers:
            # Any page in a browser on this machine may post to it.
            return answer_json(403, {"error": "a web page triggers only where there is a token"})
        if request.method != "POST":
            return answer_json(405, {"error": "POST triggers"}, Allow="POST")
        try:
            message = read_message(request.body)
            if "part" in request.query or "source" in request.query:
                message = _of_query(request, message)
            return answer_json(202, {"accepted": message.fire(self._fire, request.arrived_ns)})
        except InputError as error:
            self._on_event(Event("trigger-refused", f"{self.name}: {error.what}"))
            return answer_json(400, {"error": error.what, "hint": error.hint})


def _of_query(request: Request, of_body: Message) -> Message:
    if of_body != Message():
        raise InputError("a trigger has a body and a query", "send the part's id in one of them")
    strange = sorted(set(request.query) - {"part", "source"})
    if strange:
        raise InputError(f"a trigger's query has no {strange[0]!r}", "it has part and source")
    return Message(request.query.get("part") or None, request.query.get("source") or None)
