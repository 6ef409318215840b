"""A camera in a process of its own: time-outs hold when a library blocks for ever, and its leaks end with the process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from agp_edge.errors import SourceLostError
from agp_edge.sources import wire
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.options import SourceOptions
from agp_edge.sources.uri import holds_password

START_S = 60.0
"""How long an interpreter and the camera's library may take to load; on a busy board that is seconds, not a fault."""

OPEN_GRACE_S = 1.0
"""A library that keeps its own time-out says more than we can: it may speak first."""

GOODBYE_S = 0.5
"""How long the process may take to say goodbye to its camera."""

REAP_S = 2.0
"""How long a killed process may take to be gone; one that waits for a device inside the kernel takes longer."""


class IsolatedSource(Source):
    """Runs another live source in a child process, one for each time it is opened.

    The child gets URI and options through a socket: neither its command line nor its environment has a password in it.
    Frames come through shared memory, and are copied out of it; the child keeps the newest and drops what is older.

    The thread that opens it must live until it is closed: the child is killed with that thread, so that it ends however
    this process ends.

    Args:
        inner: the source, never opened here.
        uri: what it was made of.
        options: what it was made with; `timeout_s` is kept to whatever happens in the child.
    """

    live = True

    def __init__(self, inner: Source, uri: str, options: SourceOptions) -> None:
        self.name = inner.name
        self.fps: float | None = None
        self._task = {
            "module": type(inner).__module__,
            "class": type(inner).__qualname__,
            "name": inner.name,
            "uri": uri,
            "options": options.to_dict(),
        }
        self._uri = uri
        self._timeout_s = options.timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._lock = threading.Lock()
        self._interrupted = False
        self._shared: wire.SharedPixels | None = None
        self._next_number = self._first_number = 0

    def open(self) -> None:
        """Start a process, and have it connect. Sequence numbers go on where they were."""
        self.close()
        if self._process is not None:
            raise SourceLostError(
                f"the process that read {self.name} (pid {self._process.pid}) was killed and does not end",
                "its driver holds it, see dmesg: unplug the camera, or restart the machine",
            )
        self._first_number = self._next_number
        try:
            self._start()
            self._receive(START_S)
            self.fps = self._receive(self._timeout_s + OPEN_GRACE_S)["fps"]
        except BaseException:
            self.close()
            raise

    def read(self) -> Frame:
        """The newest frame.

        Raises:
            InputError: this one frame cannot be read.
            SourceLostError: none came within `timeout_s`, or the source or its process ended.
        """
        if self._link is None:
            raise SourceLostError(f"{self.name} is not open", "open it first")
        # The other end may be gone, which is seen when nothing comes back.
        with contextlib.suppress(OSError):
            wire.send(self._link, {"want": 1})
        header = self._receive(self._timeout_s)
        assert self._shared is not None
        number = self._first_number + header["number"]
        self._next_number = number + 1
        height, width, channels = header["shape"]
        return Frame(
            pixels=self._shared.get((height, width, channels)),
            number=number,
            captured_ns=header["captured_ns"],
            wall_s=header["wall_s"],
            clock=header["clock"],
            source=self.name,
            lost=header["lost"],
        )

    def interrupt(self) -> None:
        """End a blocked `open` or `read`, and every later one; from any thread."""
        with self._lock:
            self._interrupted = True
            if self._link is not None:
                with contextlib.suppress(OSError):
                    self._link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the process say goodbye to its camera, then end it; safe to call twice."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        self._end(GOODBYE_S)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            with self._lock:
                self._link = ours
                if self._interrupted:
                    raise self._stopped()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agp_edge.sources.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Python looks for modules in the working directory first, and there may be an `agp_edge` of anyone's.
                cwd="/",
                env=self._environment(),
            )
        with contextlib.suppress(OSError):
            wire.send(ours, self._task)

    def _environment(self) -> dict[str, str]:
        """Ours, with the way to our modules, and without variables that hold the camera's password."""
        kept = {name: value for name, value in os.environ.items() if not holds_password(value, self._uri)}
        return kept | {"PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)}

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        """The next message of the process.

        Raises:
            AgpEdgeError: what it says is an error.
            SourceLostError: it says nothing in time, or is gone.
        """
        assert self._link is not None
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            # It does not listen: a goodbye would be for nobody.
            self._end(0)
            raise SourceLostError(
                f"{self.name} gives nothing for {timeout_s:g} s",
                "see that it is on and reachable, or wait longer for it: --timeout",
            )
        received = wire.receive(self._link)
        if received is None:
            raise self._stopped() if self._interrupted else self._died()
        message, fds = received
        for fd in fds:
            if self._shared is not None:
                self._shared.close()
            self._shared = wire.SharedPixels.take(fd)
        if "error" in message:
            raise wire.unpack_error(message)
        return message

    def _stopped(self) -> SourceLostError:
        return SourceLostError(f"{self.name} was told to stop", "make a new source")

    def _died(self) -> SourceLostError:
        code = self._end(GOODBYE_S)
        how = signal.Signals(-code).name if code and code < 0 else f"code {code}"
        return SourceLostError(
            f"the process that reads {self.name} ended by itself ({how})",
            "its library crashed, or memory ran out: see dmesg",
        )

    def _end(self, goodbye_s: float) -> int | None:
        """Reap the process; one that is still there after so many seconds is killed. Its code, None if it is there still."""
        for timeout_s in (goodbye_s, REAP_S):
            if self._process is None:
                break
            try:
                code = self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
            else:
                self._process = None
                return code
        return None
