"""The live page as a sink."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agp_edge.address import format_address, parse_address
from agp_edge.control import Control
from agp_edge.events import Event
from agp_edge.extras import import_cv2
from agp_edge.sinks.base import Judgement, Sink, Wants
from agp_edge.sinks.web.board import Board
from agp_edge.sinks.web.guard import Guard
from agp_edge.sinks.web.painter import Painter
from agp_edge.sinks.web.server import Server

RECENT_S = 60.0


class WebSink(Sink):
    """A page with pictures, verdicts, scores and counts, served while the stream runs.

    `write` files a verdict and returns: pictures are coded in a thread of their own, and but for those of rejects only
    while somebody looks.

    Args:
        address: `HOST:PORT` as in `--web`; `:8080` is this machine alone.
        token: what looking from elsewhere and every change take; see `read_token`.
        names: other names under which the page is reached, as through a proxy.

    Attributes:
        url: the page, as a browser on this machine finds it.

    Raises:
        InputError: no address, one that is taken, or one that others reach and no token.
        MissingExtraError: aiohttp or OpenCV is not installed.
    """

    name = "--web"

    def __init__(self, address: str, token: str | None = None, names: Sequence[str] = ()) -> None:
        host, port = parse_address(address, "--web")
        guard = Guard(host, token, names)
        import_cv2("--web")
        self._board = Board()
        self._server = Server(self._board, guard, host, port)
        self._painter = Painter(self._board)
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.url = f"http://{format_address(shown, self._server.address[1])}/"

    @property
    def wants(self) -> Wants:  # type: ignore[override]
        """Maps of all frames only while somebody looks: they have to be brought from the engine."""
        return "pictures" if self._board.watched else "frames"

    @property
    def trouble(self) -> str | None:  # type: ignore[override]
        """What went wrong with the page in the last minute; the page and the stream go on."""
        failures = [part.failure for part in (self._server, self._painter) if part.failure is not None]
        recent = [failure for failure in failures if time.monotonic() - failure.at < RECENT_S]
        return f"the live page failed: {recent[0].text}" if recent else None

    def attach(self, control: Control) -> None:
        """Be given the running stream: its counts are shown, its threshold can be set."""
        self._server.attach(control)

    def write(self, judgement: Judgement) -> None:
        """Take one verdict."""
        self._board.add(judgement)

    def event(self, event: Event) -> None:
        """Show an event."""
        self._board.add_event(event)

    def close(self) -> None:
        """End the page; its threads and its port are free then."""
        self._server.close()
        self._painter.close()

    def describe(self) -> str:
        """How many looked."""
        most = self._server.most_viewers
        return f"at most {most} looked at {self.url} at once" if most else ""
