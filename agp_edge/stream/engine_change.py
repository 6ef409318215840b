"""Another engine while the stream runs: opened, verified and tested beside the one that judges."""

from __future__ import annotations

import threading
from collections.abc import Callable

from agp_edge.engines.self_test import check_engine_self_test
from agp_edge.errors import AgpEdgeError, ArtefactError
from agp_edge.judging import JudgingEngine


class EngineChange:
    """One attempt, in a thread of its own: the stream judges on meanwhile, and both engines are in memory.

    Args:
        open_engine: opens and verifies the new one.
        current: the one that judges.

    Attributes:
        engine: the new one, once `ready`; None if it was refused.
        error: why it was refused.
    """

    def __init__(self, open_engine: Callable[[], JudgingEngine], current: JudgingEngine) -> None:
        self.engine: JudgingEngine | None = None
        self.error: AgpEdgeError | None = None
        self._open = open_engine
        self._frame = current.session.frame
        self._thread = threading.Thread(target=self._run, name="open the next engine", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether it is known how it went."""
        return not self._thread.is_alive()

    def close(self, timeout_s: float) -> None:
        """Wait for the end, and close an engine that nobody took."""
        self._thread.join(timeout_s)
        if self.ready and self.engine is not None:
            self.engine.close()

    def _run(self) -> None:
        engine = None
        try:
            engine = self._open()
            frame = engine.session.frame
            if frame != self._frame:
                raise ArtefactError(
                    f"engine {engine.path} takes {frame} in batches of {frame.batch}, "
                    f"the stream gives {self._frame} in batches of {self._frame.batch}",
                    "start the stream again with it",
                )
            assert engine.sidecar is not None, "an engine that was opened has a sidecar"
            check_engine_self_test(engine.session, engine.sidecar)
        except Exception as error:
            if engine is not None:
                engine.close()
            self.error = error if isinstance(error, AgpEdgeError) else as_ours(error)
            return
        self.engine = engine


def as_ours(error: Exception) -> AgpEdgeError:
    """Whatever a library raised, as an error of ours."""
    return ArtefactError(f"unexpected {type(error).__name__}: {error}", "see the log of the runtime")
