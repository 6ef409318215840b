"""The thread that codes pictures, so that neither the stream nor the server waits for one."""

from __future__ import annotations

import threading
import time

from agp_edge.sinks.base import Judgement
from agp_edge.sinks.web.board import Board, Failure, Reject, Tile
from agp_edge.sinks.web.pictures import paint_picture, paint_thumb

INTERVAL_S = 0.1
"""Pictures of one source are at least so far apart: nobody judges by eye what a line does thirty times a second."""


class Painter:
    """Codes the newest picture of each source while somebody looks, and every reject once.

    It rests as long as it worked: it takes half a core at most, however many sources there are.

    Args:
        board: has what is to be painted, and takes the pictures.

    Attributes:
        failure: what went wrong last.
        painted: how many pictures it coded.
    """

    def __init__(self, board: Board) -> None:
        self.failure: Failure | None = None
        self.painted = 0
        self._board = board
        self._stop = threading.Event()
        self._turn = 0
        self._rejects_first = False
        self._thread = threading.Thread(target=self._run, name="web pictures", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; safe to call twice."""
        with self._board.changed:
            self._stop.set()
            self._board.changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._board.changed:
                if self._stop.is_set():
                    return
                job = self._next_job()
                if job is None:
                    self._board.changed.wait(INTERVAL_S if self._board.watched else None)
                    continue
            begin = time.monotonic()
            self._paint(*job)
            self._stop.wait(min(time.monotonic() - begin, INTERVAL_S))

    def _next_job(self) -> tuple[Reject | Tile, Judgement] | None:
        """Rejects and sources in turns: where every part is rejected the picture moves on all the same."""
        self._rejects_first = not self._rejects_first
        if self._rejects_first:
            return self._next_reject() or self._next_tile()
        return self._next_tile() or self._next_reject()

    def _next_reject(self) -> tuple[Reject, Judgement] | None:
        for tile in self._board.tiles.values():
            for reject in tile.rejects:
                if reject.judgement is not None:
                    return reject, reject.judgement
        return None

    def _next_tile(self) -> tuple[Tile, Judgement] | None:
        """The source whose picture is behind, each in its turn."""
        tiles = list(self._board.tiles.values())
        if not self._board.watched:
            return None
        due = time.monotonic() - INTERVAL_S
        for i in range(len(tiles)):
            tile = tiles[(self._turn + i) % len(tiles)]
            if tile.to_paint is not None and tile.painted_at <= due:
                self._turn += i + 1
                return tile, tile.to_paint
        return None

    def _paint(self, place: Reject | Tile, judgement: Judgement) -> None:
        picture, thumb = None, b""
        try:
            if judgement.pixels is not None:
                picture = paint_picture(judgement)
                if isinstance(place, Reject):
                    thumb = paint_thumb(judgement)
                self.painted += 1
        except Exception as error:
            self.failure = Failure.of(error)
        if isinstance(place, Reject):
            self._board.set_reject_picture(place, picture, thumb)
        else:
            self._board.set_picture(place, judgement, picture)
