"""A TCP relay on loopback whose connections can be torn: `python -m tests.servers.relay PORT`, then `cut` on stdin.

Prints its own port. The server behind it stays as it is.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading


class Relay:
    """The relay in a process of its own.

    Args:
        port: of the server behind it.
    """

    def __init__(self, port: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.relay", port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().strip()

    def pids(self) -> set[int]:
        """Its process."""
        return {self._process.pid}

    def cut(self) -> None:
        """End all connections of now."""
        assert self._process.stdin is not None
        self._process.stdin.write("cut\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the relay; safe to call twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def serve(to: int) -> None:
    """Relay until stdin ends."""
    alive: set[socket.socket] = set()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for end in (source, sink):
            alive.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept(listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", to))
            except OSError:
                client.close()
                continue
            alive.update((client, server))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=pump, args=ends, daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    for _ in sys.stdin:
        for end in list(alive):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
