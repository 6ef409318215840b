"""What everything that triggers has in common."""

from __future__ import annotations

from typing import Protocol

from agp_edge.events import OnEvent, nobody


class Fire(Protocol):
    """Told of each trigger; safe from any thread, and returns at once."""

    def __call__(
        self, part: str | None = None, source: str | None = None, *, at_ns: int | None = None
    ) -> int:
        """A part lies before the camera.

        Args:
            part: its id, where the trigger has one.
            source: the source's name; None for all.
            at_ns: when it was triggered, on the monotonic clock: no frame from before is taken. None is now.

        Returns:
            How many sources will have a frame judged.

        Raises:
            InputError: there is no such source, or the id is no id.
        """


class Trigger(Protocol):
    """Something that says that a part lies before the camera.

    Attributes:
        name: its URL without any password.
    """

    name: str

    def start(self, fire: Fire, on_event: OnEvent = nobody) -> None:
        """Begin; what cannot be reached at first is tried again in its own thread.

        Args:
            fire: told of each trigger.
            on_event: told when no triggers can come (`trigger-lost`), when they can again, and of those that make no sense.

        Raises:
            InputError: it can never work: a port that is taken, a line that is not there.
        """

    def close(self) -> None:
        """End; safe to call twice."""
