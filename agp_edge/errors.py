"""The tree of errors. Each class carries the exit code that the command line ends with.

    AgpEdgeError               1  unexpected fault
    ├── InputError             2  usage or bad input
    │   └── MissingExtraError  2  an optional dependency is not installed
    ├── GateError              3  a gate refused, or was inconclusive
    ├── ArtefactError          4  corrupt, or not for this machine
    ├── WorkStoppedError       5  the work could not go on
    │   ├── SourceLostError    5  a camera or file that ended for good
    │   ├── DiskFullError      5  no space left where results are written
    │   ├── DeviceLostError    5  a GPU that failed for good, for this process
    │   └── DivergedError      5  a training that no longer learns
    └── ObjectiveMissedError   6  a latency objective missed

An interrupt (Ctrl-C, SIGTERM) ends with 130 and is no error of this tree.
"""

from __future__ import annotations

from typing import ClassVar

INTERRUPTED = 130
LONGEST_QUOTE = 120


def quote(text: object, limit: int = LONGEST_QUOTE) -> str:
    """What a library or a file says, as a message can carry it: its first line, and of a long one the beginning."""
    line = next(iter(str(text).strip().splitlines()), "")
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _one_line(text: str) -> str:
    """Text on one line, with whatever could steer a terminal written out: texts in an artefact are whoever's."""
    if text.isprintable():
        return text
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class AgpEdgeError(Exception):
    """An error with one line that says what is wrong and one that says what to do.

    Args:
        what: what is wrong, with the value that is wrong; made one line.
        hint: what to do next, if possible as a command; made one line.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, hint: str) -> None:
        self.what = _one_line(what)
        self.hint = _one_line(hint)
        super().__init__(f"{self.what}\n{self.hint}")

    def __reduce__(self) -> tuple[type[AgpEdgeError], tuple[str, str]]:
        return type(self), (self.what, self.hint)


class InputError(AgpEdgeError):
    """The command line, a path or the data it names is wrong."""

    exit_code = 2


class MissingExtraError(InputError):
    """A dependency that this work needs is not installed.

    Args:
        package: the import name, as in `cv2`.
        extra: the extra of agp-edge that brings it, as in `camera`.
        purpose: what needs it, as in `reading images`.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed",
            f"install it: pip install 'agp-edge[{extra}]'",
        )
        self._args = (package, extra, purpose)

    def __reduce__(self) -> tuple[type[AgpEdgeError], tuple[str, ...]]:  # type: ignore[override]
        return type(self), self._args


class GateError(AgpEdgeError):
    """A gate refused an artefact, or had too few frames to say anything."""

    exit_code = 3


class ArtefactError(AgpEdgeError):
    """A bundle or an engine is corrupt, or is not for this machine."""

    exit_code = 4


def no_memory(work: str) -> ArtefactError:
    """The error of a machine, or of a limit, that has too little memory for some work, as in `load x.engine`."""
    return ArtefactError(
        f"there is too little memory here to {work}",
        "end what else runs here, or raise the limit of memory (ulimit -v)",
    )


NO_MEMORY = (
    "bad_alloc", "bad allocation", "Failed to allocate memory", "Cannot allocate memory", "Resource temporarily unavailable",
    "failed to map segment from shared object",
)  # fmt: skip
"""How native libraries, and the system below them, say that memory is at its end: of arrays, of threads, of code."""


def is_no_memory(error: object) -> bool:
    """Whether an exception, or what a library logged, says that there is too little memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


class WorkStoppedError(AgpEdgeError):
    """The work began and could not go on."""

    exit_code = 5


class SourceLostError(WorkStoppedError):
    """A source gave no more frames, and nothing more is expected of it."""


class DiskFullError(WorkStoppedError):
    """There is no space left where something had to be written."""


class DeviceLostError(WorkStoppedError):
    """A GPU failed, and this process gets no more work done on it."""


class DivergedError(WorkStoppedError):
    """A training no longer learns: its loss is not finite."""


class ObjectiveMissedError(AgpEdgeError):
    """A latency objective was measured and missed."""

    exit_code = 6
