"""What a trigger says: nothing, a part's id as it stands, or a JSON object."""

from __future__ import annotations

import json
from dataclasses import dataclass

from agp_edge.errors import InputError, quote
from agp_edge.triggers.base import Fire

LARGEST_MESSAGE = 4096
KEYS = ("part", "source", "id")
_HINT = 'send nothing, a part\'s id as text, or JSON: {"part": "…", "source": "…", "id": "…"}, each of them optional'


@dataclass(frozen=True)
class Message:
    """One trigger.

    Attributes:
        part: the part's id.
        source: the source's name; None for all.
        id: of the trigger itself: two with the same are one that came twice.
    """

    part: str | None = None
    source: str | None = None
    id: str | None = None

    def fire(self, fire: Fire, at_ns: int) -> int:
        """Trigger; how many sources will have a frame judged.

        Raises:
            InputError: there is no such source, or the part's id is none.
        """
        return fire(self.part, self.source, at_ns=at_ns)


def read_message(data: bytes) -> Message:
    """Read what a trigger says.

    Raises:
        InputError: it is no text, too long, or JSON that means something else.
    """
    if len(data) > LARGEST_MESSAGE:
        raise InputError(f"a trigger of {len(data)} bytes is too long", f"send {LARGEST_MESSAGE} at most")
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise InputError("a trigger that is no UTF-8 came", _HINT) from None
    if not text.startswith("{"):
        return Message(part=text or None)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"a trigger that is no JSON came: {quote(text)}", _HINT) from None
    strange = sorted(set(value) - set(KEYS))
    if strange:
        raise InputError(f"a trigger has no {quote(strange[0])!r}", _HINT)
    for key, said in value.items():
        if said is not None and not isinstance(said, str):
            raise InputError(f"a trigger's {key!r} is no text: {quote(said)}", _HINT)
    return Message(**{key: value.get(key) or None for key in KEYS})
