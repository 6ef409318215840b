"""The process of one camera: `python -m agp_edge.sources.worker`, started by `IsolatedSource` and by nobody else.

It reads as fast as the camera gives, so that nothing queues in the network or in a library, and keeps the newest frame until
the stream asks for one. It ends when the stream closes the socket or is no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
import threading
from typing import Any

from agp_edge.errors import InputError, MissingExtraError, SourceLostError
from agp_edge.sources import library_log, wire
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.options import SourceOptions

LONGEST_GOODBYE_S = 0.3
"""How long a read may take to come back, so that the camera is told goodbye; some keep a session for each that was not."""

_PR_SET_PDEATHSIG = 1


class Newest:
    """The newest frame of a source on its way to the stream: sent when asked for, replaced when a newer one comes.

    Args:
        link: to the stream.
        uri: the source's, with its password.
    """

    def __init__(self, link: socket.socket, uri: str) -> None:
        self._link = link
        self._uri = uri
        self._lock = threading.Lock()
        self._wanted = False
        self._newest: Frame | InputError | None = None
        self._end: dict[str, Any] | None = None
        self._lost = 0
        self._shared: wire.SharedPixels | None = None

    def want(self) -> None:
        """The stream asks for one frame."""
        with self._lock:
            self._wanted = True
            self._send_if_wanted()

    def put(self, item: Frame | InputError) -> None:
        """A frame came, or one that cannot be read; one that nobody has asked for by now is lost, and counted."""
        with self._lock:
            self._lost += (self._newest is not None) + (item.lost if isinstance(item, Frame) else 0)
            self._newest = item
            self._send_if_wanted()

    def end(self, message: dict[str, Any]) -> None:
        """No more frames come, and why; said when the last one is sent."""
        with self._lock:
            self._end = message
            self._send_if_wanted()

    def _send_if_wanted(self) -> None:
        if not self._wanted:
            return
        if self._newest is not None:
            item, self._newest = self._newest, None
            self._wanted = False
            if isinstance(item, Frame):
                self._send_frame(item)
            else:
                wire.send(self._link, wire.pack_error(item, self._uri))
        elif self._end is not None:
            self._wanted = False
            wire.send(self._link, self._end)

    def _send_frame(self, frame: Frame) -> None:
        header = {
            "shape": frame.pixels.shape,
            "number": frame.number,
            "captured_ns": frame.captured_ns,
            "wall_s": frame.wall_s,
            "clock": frame.clock,
            "lost": self._lost,
        }
        self._lost = 0
        new: tuple[int, ...] = ()
        if self._shared is None or self._shared.size < frame.pixels.nbytes:
            if self._shared is not None:
                self._shared.close()
            self._shared, fd = wire.SharedPixels.make(frame.pixels.nbytes)
            new = (fd,)
        try:
            # The stream has copied the frame before, or it would not have asked.
            self._shared.put(frame.pixels)
            wire.send(self._link, header, new)
        finally:
            for fd in new:
                os.close(fd)


class Worker:
    """Reads one source for a stream.

    Args:
        link: to the stream.
        source: as the stream described it.
        uri: what it was made of.
    """

    def __init__(self, link: socket.socket, source: Source, uri: str) -> None:
        self._link = link
        self._source = source
        self._uri = uri
        self._newest = Newest(link, uri)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)

    def serve(self) -> None:
        """Give frames until the stream goes away."""
        self._thread.start()
        with contextlib.suppress(OSError):
            while wire.receive(self._link) is not None:
                self._newest.want()
        self._stop.set()
        # A camera that waits for a trigger gives nothing that would end the read.
        self._source.interrupt()
        self._thread.join(LONGEST_GOODBYE_S)

    def _run(self) -> None:
        # The stream may go away at any time; the other thread sees that and ends the process.
        with contextlib.suppress(OSError):
            try:
                self._source.open()
            except BaseException as error:
                wire.send(self._link, wire.pack_error(error, self._uri))
                return
            wire.send(self._link, {"fps": self._source.fps})
            try:
                self._read_all()
            except BaseException as error:
                self._newest.end(wire.pack_error(error, self._uri))
            finally:
                self._source.close()

    def _read_all(self) -> None:
        while not self._stop.is_set():
            library_log.bound()
            try:
                frame = self._source.read()
            except MissingExtraError:
                raise
            except InputError as error:
                self._newest.put(error)
                continue
            if frame is None:
                raise SourceLostError(f"{self._source.name} ended", "see that it is on")
            self._newest.put(frame)


def _die_with_the_stream() -> None:
    """Even while a library holds every thread of this process: the kernel sends a kill when the stream's thread is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    """Serve the stream at the other end of the socket whose descriptor is the only argument."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the stream says when it is over.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _die_with_the_stream()
    # A dump of this process would have the password in it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library_log.catch()
    with socket.socket(fileno=int(sys.argv[1])) as link:
        received = wire.receive(link)
        if received is not None:
            serve(link, received[0])
    # Threads of libraries are not waited for, nor their destructors.
    os._exit(0)


def serve(link: socket.socket, task: dict[str, Any]) -> None:
    """Make the source that the stream describes, and give its frames."""
    try:
        kind = getattr(importlib.import_module(task["module"]), task["class"])
        source: Source = kind(task["uri"], SourceOptions.from_dict(task["options"]))
        source.load()
    except BaseException as error:
        wire.send(link, wire.pack_error(error, task["uri"]))
        return
    wire.send(link, {"loaded": True})
    Worker(link, source, task["uri"]).serve()


if __name__ == "__main__":
    main()
