"""What TensorRT calls back while it builds: its log, its progress, and how an interrupt stops it.

TensorRT prints and then forgets whatever a callback raises, Ctrl-C too. So nothing here raises: an
exception is kept, the build is cancelled, and the caller raises it once TensorRT has returned.

The classes to derive from belong to a module found at run time, hence `type(...)` for a class statement. `trt` is
that module; for the type checker it is `tensorrt`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from agp_edge.progress import Progress

if TYPE_CHECKING:
    import tensorrt as trt

PERCENT = 100


_REGISTERED: dict[Any, Any] = {}
"""A module's class of loggers -> the first that was made. TensorRT registers the first it is given for the whole process, and
holds no reference to it: freed with its build, it would be a pointer to nothing."""


class ErrorLog:
    """Keeps the errors that TensorRT logs; the rest of its log is about TensorRT itself.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.

    Attributes:
        errors: one text an error, oldest first.
        logger: what TensorRT takes as its logger.
    """

    def __init__(self, module: ModuleType) -> None:
        if not TYPE_CHECKING:
            trt = module
        self.errors: list[str] = []
        serious = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

        def log(_: Any, severity: trt.ILogger.Severity, message: str) -> None:
            if severity in serious:
                self.errors.append(message)

        self.logger: Any = type("Logger", (trt.ILogger,), {"log": log})()
        _REGISTERED.setdefault(trt.ILogger, self.logger)

    def first(self, otherwise: str) -> str:
        """The first line of the first error, or `otherwise` where nothing was logged."""
        lines = [line for error in self.errors for line in error.splitlines() if line.strip()]
        return lines[0] if lines else otherwise


class BuildMonitor:
    """Turns TensorRT's nested phases into one percentage, and cancels the build when asked to.

    A phase has steps, and a step may hold further phases: the share done of a phase is the share done of
    the step of its parent. It never goes back, where a step holds several phases one after the other.

    Args:
        listener: is told percent, 100 and the name of the phase.

    Attributes:
        cancelled: set to end the build at its next step.
        error: what the listener raised, for the caller to raise.
    """

    def __init__(self, listener: Progress) -> None:
        self.cancelled = threading.Event()
        self.error: BaseException | None = None
        self._listener = listener
        self._phases: dict[str, _Phase] = {}
        self._percent = 0

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins; the outermost has no parent."""
        self._phases[name] = _Phase(parent, steps)
        self._tell(name)

    def step_complete(self, name: str, step: int) -> bool:
        """A step, counted from 0, is done; says whether to go on."""
        phase = self._phases.get(name)
        if phase:
            phase.done = step + 1
            self._tell(name)
        return not self.cancelled.is_set()

    def phase_finish(self, name: str) -> None:
        """A phase ends, with all its steps or without."""
        self._phases.pop(name, None)

    def attach(self, module: ModuleType) -> Any:
        """What TensorRT takes as its progress monitor.

        Args:
            module: `tensorrt` or `tensorrt_rtx`.
        """
        if not TYPE_CHECKING:
            trt = module
        calls = {
            "phase_start": lambda _, name, parent, steps: self.phase_start(name, parent, steps),
            "step_complete": lambda _, name, step: self.step_complete(name, step),
            "phase_finish": lambda _, name: self.phase_finish(name),
        }
        return type("Monitor", (trt.IProgressMonitor,), calls)()

    def _tell(self, name: str) -> None:
        if self.cancelled.is_set():
            return
        share, inner = 0.0, self._phases.get(name)
        while inner:
            share = min(1.0, (inner.done + share) / max(1, inner.steps))
            inner = self._phases.get(inner.parent or "")
        self._percent = max(self._percent, int(share * PERCENT))
        try:
            self._listener(self._percent, PERCENT, name)
        except BaseException as error:
            self.error = error
            self.cancelled.set()


class _Phase:
    def __init__(self, parent: str | None, steps: int) -> None:
        self.parent = parent
        self.steps = steps
        self.done = 0


@contextlib.contextmanager
def deferred_signals(cancelled: threading.Event) -> Iterator[None]:
    """Note SIGINT and SIGTERM in `cancelled` while TensorRT runs, and deliver them when the block ends.

    Python raises for a signal as soon as its code runs again: inside a callback, where TensorRT would
    forget it. Off the main thread, where no signal is delivered, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        cancelled.set()

    # None is a handler that was not set from Python and could not be set again.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: h for number, h in handlers.items() if h not in (None, signal.SIG_IGN)}
    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
