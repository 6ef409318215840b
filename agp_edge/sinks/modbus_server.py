"""Modbus TCP, the reading half: coils, discrete inputs and registers of a table that the caller keeps.

After MODBUS Application Protocol V1.1b3 (functions 1 to 4) and MODBUS Messaging on TCP/IP V1.0b. What writes is answered with
exception 1. Requests that come together are answered in their order, each.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Literal

from agp_edge.address import format_address
from agp_edge.errors import InputError
from agp_edge.sinks.loop_thread import LoopThread

Table = Literal["bits", "registers"]
Read = Callable[[Table, int, int], "list[int] | None"]
"""(table, address, count) -> the values at one moment; None where the table has no such address."""

MOST_CONNECTIONS = 16
LONGEST_SILENCE_S = 300.0
"""A connection without a request for longer is closed: a controller that was switched off says nothing either."""
OPEN_S, CLOSE_S = 30.0, 2.0

_HEADER = struct.Struct(">HHHB")
"""Transaction, protocol (0), bytes that follow with the unit, unit."""
_REQUEST = struct.Struct(">BHH")
LONGEST_PDU = 253
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
MOST_BITS, MOST_REGISTERS = 2000, 125


def answer(pdu: bytes, read: Read) -> bytes:
    """The answer to one request, both without the header.

    Args:
        pdu: function, address, count.
        read: the table.
    """
    function = pdu[0]
    if function not in (1, 2, 3, 4):
        return bytes((function | 0x80, ILLEGAL_FUNCTION))
    table: Table = "bits" if function in (1, 2) else "registers"
    if len(pdu) != _REQUEST.size:
        return bytes((function | 0x80, ILLEGAL_VALUE))
    _, address, count = _REQUEST.unpack(pdu)
    if not 1 <= count <= (MOST_BITS if table == "bits" else MOST_REGISTERS):
        return bytes((function | 0x80, ILLEGAL_VALUE))
    values = read(table, address, count)
    if values is None:
        return bytes((function | 0x80, ILLEGAL_ADDRESS))
    data = _pack_bits(values) if table == "bits" else struct.pack(f">{count}H", *values)
    return bytes((function, len(data))) + data


def _pack_bits(values: list[int]) -> bytes:
    """Eight a byte, the first one lowest."""
    data = bytearray((len(values) + 7) // 8)
    for i, value in enumerate(values):
        data[i // 8] |= bool(value) << i % 8
    return bytes(data)


class ModbusServer:
    """Answers in a thread of its own from when it is made.

    Args:
        host, port: where; port 0 is any that is free.
        read: called in that thread; must not wait.
        flag: what was given the address, for errors.

    Attributes:
        address: (host, port) that it listens at.

    Raises:
        InputError: the address is taken, or is none of this machine's.
    """

    def __init__(self, host: str, port: int, read: Read, *, flag: str) -> None:
        self._read = read
        self._connected: set[asyncio.StreamWriter] = set()
        self._loop = LoopThread("modbus")
        try:
            self._server = self._loop.run(asyncio.start_server(self._serve, host, port), OPEN_S)
        except OSError as error:
            self._loop.close()
            raise InputError(
                f"{flag} {format_address(host, port)} cannot be listened at: {error.strerror or error}",
                "take a port that is free (ss -ltn shows those that are not; below 1024 they are root's) and an address of this machine",
            ) from None
        except BaseException:
            self._loop.close()
            raise
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        """Close the port and all connections; safe to call twice."""
        if self._server.is_serving():
            with contextlib.suppress(Exception):
                self._loop.run(self._close(), CLOSE_S)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._connected):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connected) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        self._connected.add(writer)
        try:
            _keep_alive(writer)
            while await asyncio.wait_for(self._serve_one(reader, writer), LONGEST_SILENCE_S):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            pass  # It went away.
        finally:
            self._connected.discard(writer)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False where it is none of Modbus, and nobody knows where the next one begins."""
        transaction, protocol, length, unit = _HEADER.unpack(await reader.readexactly(_HEADER.size))
        if protocol != 0 or not 2 <= length <= LONGEST_PDU + 1:
            return False
        pdu = await reader.readexactly(length - 1)
        said = answer(pdu, self._read)
        writer.write(_HEADER.pack(transaction, 0, len(said) + 1, unit) + said)
        await writer.drain()
        return True


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
