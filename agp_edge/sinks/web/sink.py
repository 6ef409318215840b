"""The live page as a sink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agp_edge.address import format_address, parse_address
from agp_edge.control import Control
from agp_edge.errors import WorkStoppedError, quote
from agp_edge.events import Event
from agp_edge.extras import import_cv2
from agp_edge.sinks.base import Judgement, Sink
from agp_edge.sinks.web.board import Board
from agp_edge.sinks.web.guard import Guard
from agp_edge.sinks.web.painter import Painter
from agp_edge.sinks.web.server import Server


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
    wants = "pictures"

    def __init__(self, address: str, token: str | None = None, names: Sequence[str] = ()) -> None:
        host, port = parse_address(address, "--web")
        guard = Guard(host, token, names)
        import_cv2("--web")
        self._board = Board()
        self._server = Server(self._board, guard, host, port)
        self._painter = Painter(self._board)
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.url = f"http://{format_address(shown, self._server.address[1])}/"

    def attach(self, control: Control) -> None:
        """Be given the running stream: its counts are shown, its threshold can be set."""
        self._server.attach(control)

    def write(self, judgement: Judgement) -> None:
        """Take one verdict.

        Raises:
            WorkStoppedError: something went wrong with the page since the last one; it goes on nevertheless.
        """
        if judgement.anomaly_map is not None:
            # It is drawn later, and is the engine's own memory; pixels are nobody's who would write into them.
            judgement = replace(judgement, anomaly_map=judgement.anomaly_map.copy())
        self._board.add(judgement)
        for part in (self._server, self._painter):
            failure, part.failure = part.failure, None
            if failure is not None:
                raise WorkStoppedError(
                    f"the live page failed: {type(failure).__name__}: {quote(failure)}", "the stream goes on"
                ) from failure

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
