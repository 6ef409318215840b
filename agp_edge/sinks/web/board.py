"""What a live page shows, in bounded memory: the newest of everything, each with the number of the change that it came with.

A viewer says which change it saw last and gets what is newer, and of each thing only the newest: whoever is slow gets
fewer changes and never a queue.
"""

from __future__ import annotations

import json
import math
import secrets
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agp_edge.clock import rfc3339_ms
from agp_edge.control import StreamStatus
from agp_edge.errors import quote
from agp_edge.events import Event
from agp_edge.sinks.base import Judgement
from agp_edge.sinks.web.pictures import Picture

WINDOW_S = 600.0
BUCKET_S = 2.0
BUCKETS = int(WINDOW_S / BUCKET_S)
"""Of the last ten minutes each two seconds keep their lowest and highest score: no peak is lost, whatever the frame rate."""

KEPT_REJECTS = 16
"""Rejects of each source: about 2 MB."""

KEPT_EVENTS = 50
WAITING_REJECTS = 4
"""Rejects of each source whose pictures are not coded yet, at most: each holds a whole frame."""

REJECT_INTERVAL_S = 0.25
"""Rejects of one source that get a picture are at least so far apart: where every part is NG the last ones say it all."""

HELD_S = 1.0
"""As long as the page shows a reject's verdict."""

WATCHED_S = 3.0
"""So long after the last request a page still counts as looked at."""


@dataclass
class Bucket:
    """The scores of `BUCKET_S` seconds.

    Attributes:
        index: monotonic time over `BUCKET_S`, whole.
        low, high: lowest and highest score that is a number; None where there was none.
        threshold: the last one.
        n, ng: verdicts, and rejects among them.
        change: of the board, when it changed last.
    """

    index: int
    threshold: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    ng: int = 0
    change: int = 0

    def add(self, judgement: Judgement) -> None:
        """Count a verdict."""
        self.n += 1
        self.ng += judgement.verdict == "NG"
        self.threshold = judgement.threshold
        if math.isfinite(judgement.score):
            self.low = judgement.score if self.low is None else min(self.low, judgement.score)
            self.high = judgement.score if self.high is None else max(self.high, judgement.score)


@dataclass
class Reject:
    """A rejected frame.

    Attributes:
        number: its number on this board.
        said: the verdict's JSON object.
        judgement: the frame, until its picture is coded; None also where too many came at once.
        picture, thumb: what was coded of it.
        change: of the board, when it was added or its picture came.
    """

    number: int
    said: Mapping[str, Any]
    judgement: Judgement | None
    change: int
    picture: Picture | None = None
    thumb: bytes = b""


@dataclass
class Tile:
    """One source, or one region of interest of it.

    Attributes:
        number: in the order of their first verdict or status.
        change: of the board, when it changed last.
        latest: the newest judgement.
        to_paint: the same, until its picture is coded.
        picture: the newest picture that was coded, and `painted` what it is of, without the pixels.
        picture_change: of the board, when it came.
        painted_at: monotonic seconds.
        reject_kept_at: monotonic seconds, of the last reject that gets a picture.
        held_until: monotonic seconds, up to which a reject is shown though good frames follow.
    """

    number: int
    source: str
    roi: str | None
    change: int
    latest: Judgement | None = None
    to_paint: Judgement | None = None
    painted: Judgement | None = None
    painted_at: float = -math.inf
    reject_kept_at: float = -math.inf
    held_until: float = -math.inf
    picture: Picture | None = None
    picture_change: int = 0
    buckets: deque[Bucket] = field(default_factory=lambda: deque(maxlen=BUCKETS))
    rejects: deque[Reject] = field(default_factory=lambda: deque(maxlen=KEPT_REJECTS))


@dataclass(frozen=True)
class Failure:
    """What went wrong with a part of the page: a fault of ours.

    Attributes:
        text: of the exception.
        at: monotonic seconds.
    """

    text: str
    at: float

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """An exception that was just caught."""
        return cls(f"{type(error).__name__}: {quote(error)}", time.monotonic())


class Board:
    """The state of a page. Every method is safe from any thread; none waits for anything but the lock.

    Attributes:
        changed: notified of what there is to paint.
        epoch: tells this board from one of another process: a page that comes back starts anew.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.epoch = secrets.token_hex(4)
        self.tiles: dict[tuple[str, str | None], Tile] = {}
        self._change = 1
        self._status: StreamStatus | None = None
        self._status_change = 0
        self._events: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT_EVENTS)
        self._lost_since_s: dict[str, float] = {}
        self._rejects = 0
        self._watched_until = -math.inf

    @property
    def change(self) -> int:
        """The number of the last change."""
        return self._change

    @property
    def watched(self) -> bool:
        """Whether somebody looks."""
        return time.monotonic() < self._watched_until

    def watch(self) -> None:
        """Somebody looks."""
        with self.changed:
            before, self._watched_until = self._watched_until, time.monotonic() + WATCHED_S
            if before < time.monotonic():
                self.changed.notify_all()

    def add(self, judgement: Judgement) -> None:
        """Take a verdict."""
        with self.changed:
            self._change += 1
            tile = self._tile(judgement.source, judgement.roi[0] if judgement.roi else None)
            tile.change = self._change
            now = time.monotonic()
            tile.latest = judgement.without_pixels()
            # The page shows a reject's verdict for a moment: meanwhile its picture, and no good one under it.
            if judgement.verdict == "NG" or now >= tile.held_until:
                tile.to_paint = judgement
            if judgement.verdict == "NG":
                tile.held_until = now + HELD_S
            index = int(time.monotonic() / BUCKET_S)
            if not tile.buckets or tile.buckets[-1].index != index:
                tile.buckets.append(Bucket(index, judgement.threshold))
            tile.buckets[-1].add(judgement)
            tile.buckets[-1].change = self._change
            if judgement.verdict == "NG":
                self._rejects += 1
                waiting = sum(reject.judgement is not None for reject in tile.rejects)
                keep = (
                    judgement.pixels is not None
                    and waiting < WAITING_REJECTS
                    and now - tile.reject_kept_at >= REJECT_INTERVAL_S
                )
                if keep:
                    tile.reject_kept_at = now
                tile.rejects.append(
                    Reject(self._rejects, judgement.to_dict(), judgement if keep else None, self._change)
                )
            if judgement.verdict == "NG" or self.watched:
                self.changed.notify_all()

    def add_event(self, event: Event) -> None:
        """Take an event."""
        with self.changed:
            self._change += 1
            self._events.append((self._change, event.to_dict()))
            if event.source is None or event.kind not in ("source-lost", "source-back"):
                return
            if event.kind == "source-back":
                self._lost_since_s.pop(event.source, None)
            else:
                # It is told again while it lasts; the first one says since when.
                self._lost_since_s.setdefault(event.source, event.wall_s)
            for tile in self.tiles.values():
                if tile.source == event.source:
                    tile.change = self._change

    def set_status(self, status: StreamStatus) -> None:
        """Take the counts of the stream; sources without a verdict so far get their tiles here."""
        with self.changed:
            self._change += 1
            self._status, self._status_change = status, self._change
            for source in status["sources"]:
                self._tile(source["source"], source["roi"])

    def set_picture(self, tile: Tile, of: Judgement, picture: Picture | None) -> None:
        """Take the picture that was coded of a tile's judgement; None where it has no pixels."""
        with self.changed:
            tile.painted_at = time.monotonic()
            if tile.to_paint is of:
                tile.to_paint = None
            if picture is not None:
                self._change += 1
                tile.painted = of.without_pixels()
                tile.picture, tile.picture_change = picture, self._change

    def set_reject_picture(self, reject: Reject, picture: Picture | None, thumb: bytes) -> None:
        """Take the pictures of a reject; the frame is let go."""
        with self.changed:
            self._change += 1
            reject.judgement, reject.change = None, self._change
            reject.picture, reject.thumb = picture, thumb

    def reject(self, number: int) -> bytes | None:
        """One reject with its large picture, packed as `since` packs; None where it is not kept any more."""
        with self.changed:
            found = next(
                (r for tile in self.tiles.values() for r in tile.rejects if r.number == number), None
            )
            if found is None:
                return None
            picture = found.picture
            header = {"reject": found.number, "said": found.said, "picture": _describe(picture)}
        return pack(header, [picture.jpeg, picture.heat] if picture else [])

    def since(self, seen: str, more: Mapping[str, Any]) -> bytes:
        """All that is newer than what a viewer saw.

        Args:
            seen: what the viewer was told as `seen` the last time; anything else begins anew.
            more: what else goes into the header.

        Returns:
            As `pack` makes it. The header lists `tiles` (each with the `buckets` that changed), `rejects`, `events` and
            `pictures`, oldest first; the blobs are the JPEG and the heat of each picture, then the thumb of each reject.
        """
        after = self.seen_change(seen)
        blobs: list[bytes] = []
        with self.changed:
            tiles = list(self.tiles.values())
            pictures = []
            for tile in tiles:
                if tile.picture is not None and tile.painted is not None and tile.picture_change > after:
                    pictures.append(
                        {"tile": tile.number, **(_describe(tile.picture) or {}), **_name(tile.painted)}
                    )
                    blobs += [tile.picture.jpeg, tile.picture.heat]
            rejects = []
            for tile in tiles:
                for reject in tile.rejects:
                    if reject.change > after:
                        waits = reject.judgement is not None
                        rejects.append(
                            {"tile": tile.number, "reject": reject.number, "said": reject.said}
                            | {
                                "thumb": len(reject.thumb),
                                "waits": waits,
                                "large": reject.picture is not None,
                            }
                        )
                        blobs.append(reject.thumb)
            header = {
                "seen": f"{self.epoch}.{self._change}",
                "epoch": self.epoch,
                "bucket": time.monotonic() / BUCKET_S,
                "bucket_s": BUCKET_S,
                "buckets": BUCKETS,
                "kept_rejects": KEPT_REJECTS,
                "tiles": [self._describe_tile(tile, after) for tile in tiles if tile.change > after],
                "pictures": pictures,
                "rejects": rejects,
                "events": [{"number": change, **said} for change, said in self._events if change > after],
                "status": self._status if self._status_change > after else None,
                **more,
            }
        return pack(header, blobs)

    def seen_change(self, seen: str) -> int:
        """The number of the change that a viewer saw last; 0 for one who saw nothing of this board."""
        epoch, _, number = seen.partition(".")
        # isdecimal() takes digits of any script.
        if epoch != self.epoch or not (number.isascii() and number.isdecimal() and len(number) < 20):
            return 0
        return min(int(number), self._change)

    def _tile(self, source: str, roi: str | None) -> Tile:
        found = self.tiles.get((source, roi))
        if found is None:
            found = self.tiles[source, roi] = Tile(len(self.tiles), source, roi, self._change)
        return found

    def _describe_tile(self, tile: Tile, after: int) -> dict[str, Any]:
        lost_since_s = self._lost_since_s.get(tile.source)
        return {
            "tile": tile.number,
            "source": tile.source,
            "roi": tile.roi,
            "lost_since": None if lost_since_s is None else rfc3339_ms(lost_since_s),
            "last": tile.latest and tile.latest.to_dict(),
            "buckets": [
                [b.index, _number(b.low), _number(b.high), _number(b.threshold), b.n, b.ng]
                for b in tile.buckets
                if b.change > after
            ],
        }


def pack(header: Mapping[str, Any], blobs: list[bytes]) -> bytes:
    """JSON and pictures in one piece: the length of the JSON as 4 bytes, big-endian, the JSON, the blobs one after another."""
    text = to_json(header)
    return b"".join([struct.pack(">I", len(text)), text, *blobs])


def to_json(value: object) -> bytes:
    """JSON as browsers read it: a number that is not finite becomes null."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":")).encode()


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _describe(picture: Picture | None) -> dict[str, Any] | None:
    if picture is None:
        return None
    return {
        "jpeg": len(picture.jpeg),
        "heat": len(picture.heat),
        "size": picture.size_wh,
        "boxes": picture.boxes,
    }


def _name(judgement: Judgement) -> dict[str, Any]:
    return {
        "frame": judgement.frame,
        "time": rfc3339_ms(judgement.wall_s),
        "verdict": judgement.verdict,
        "score": _number(judgement.score),
    }


def _number(value: float | None) -> float | None:
    """JSON has no number that is not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), 6)
