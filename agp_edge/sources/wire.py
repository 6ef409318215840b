"""What passes between a stream and the process of one camera: messages over a socket, pixels through shared memory.

The stream asks for one frame at a time and the camera's process gives the newest, so nothing queues on the way.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge import errors
from agp_edge.errors import AgpEdgeError, SourceLostError, quote
from agp_edge.sources.uri import hide_password, redact

LARGEST_MESSAGE = 1 << 16
"""Bytes of one message: a URI, options, a frame's header, an error; never pixels."""

LARGEST_FRAME = 1 << 30
"""Bytes of one frame: more is a mistake of whoever says it."""

_ERRORS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, AgpEdgeError)
}


def send(link: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send one message, and descriptors with it.

    Args:
        link: a socket that keeps messages apart (`SOCK_SEQPACKET`).

    Raises:
        OSError: the other end is gone, or the message is too long.
    """
    data = json.dumps(message).encode()
    if fds:
        socket.send_fds(link, [data], list(fds))
    else:
        link.send(data)


def receive(link: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message and the descriptors that came with it, now the caller's to close; None when the other end is gone."""
    try:
        data, fds, _, _ = socket.recv_fds(link, LARGEST_MESSAGE, 1)
    except ConnectionError:
        return None
    if not data:
        return None
    message: dict[str, Any] = json.loads(data)
    return message, fds


def pack_error(error: BaseException, uri: str) -> dict[str, Any]:
    """An error as a message. Ours cross as themselves; any other is that of a library, and the source is lost.

    Args:
        uri: the source's, whose password is taken out of what a library says.
    """
    if not isinstance(error, AgpEdgeError) or type(error).__name__ not in _ERRORS:
        error = SourceLostError(
            f"{redact(uri)} broke off: {type(error).__name__}: {quote(hide_password(str(error), uri))}",
            "see that it is on and reachable",
        )
    kind, arguments = error.__reduce__()
    return {"error": kind.__name__, "arguments": list(arguments)}


def unpack_error(message: dict[str, Any]) -> AgpEdgeError:
    """Read what `pack_error` made."""
    return _ERRORS[message["error"]](*message["arguments"])


class SharedPixels:
    """Memory that two processes see, for one frame at a time.

    Args:
        fd: its descriptor, which stays the caller's.
        size: bytes.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._map = mmap.mmap(fd, size)
        self.size = size

    @classmethod
    def make(cls, size: int) -> tuple[SharedPixels, int]:
        """New memory of `size` bytes without a name, and its descriptor: for the other process, and then to be closed."""
        fd = os.memfd_create("agp-edge-frame", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            return cls(fd, size), fd
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def take(cls, fd: int) -> SharedPixels:
        """Memory that another process made; closes its descriptor."""
        try:
            return cls(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def put(self, pixels: NDArray[np.uint8]) -> None:
        """Copy a frame in."""
        np.frombuffer(self._map, np.uint8, pixels.size)[:] = pixels.reshape(-1)

    def get(self, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """A copy of the frame in it.

        Args:
            shape: (H, W, C).

        Raises:
            ValueError: so much is not in it.
        """
        count = shape[0] * shape[1] * shape[2]
        pixels: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8, count).reshape(shape).copy()
        return pixels

    def close(self) -> None:
        """Let go; safe to call twice."""
        self._map.close()
