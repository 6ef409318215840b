"""Verdicts and counts as Modbus bits and registers, for a controller that polls.

The map is in docs/sinks.md. Its first block is the stream's, then each source (and region of interest) has one, in the order in
which they were given. Coils and discrete inputs are the same bits, holding and input registers the same words.
"""

from __future__ import annotations

import struct
import threading
import time

from agp_edge.address import format_address, parse_address
from agp_edge.control import Control, SourceStatus, StreamStatus
from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.sinks.base import Judgement, Sink
from agp_edge.sinks.modbus_server import ModbusServer, Table

MAP_VERSION = 1
BLOCK_REGISTERS, BLOCK_BITS = 100, 16
MOST_SOURCES = 64
PART_BYTES = 64
STATUS_INTERVAL_S = 1.0
NEVER_MS = 0xFFFFFFFF
VERDICTS = {"OK": 1, "NG": 2}
"""Value of a source's verdict register; 0 before the first one."""


class ModbusSink(Sink):
    """A Modbus TCP server that is read and never written.

    What one request reads is of one moment: a score never comes with another part's verdict.

    Args:
        address: `HOST:PORT`; `:502` is this machine alone.

    Raises:
        InputError: it is no address, or taken.
    """

    name = "--modbus"

    def __init__(self, address: str) -> None:
        host, port = parse_address(address, self.name)
        self._lock = threading.Lock()
        self._registers = [0] * BLOCK_REGISTERS
        self._bits = [0] * BLOCK_BITS
        self._blocks: dict[tuple[str, str | None], int] = {}
        self._shown: dict[int, tuple[int, int]] = {}
        self._events = 0
        self._control: Control | None = None
        self._asked_at = 0.0
        self._registers[0] = MAP_VERSION
        self._server = ModbusServer(host, port, self._read, flag=self.name)
        self.address = self._server.address

    def attach(self, control: Control) -> None:
        """Be given the stream: its sources get their blocks.

        Raises:
            InputError: it has more than the map has blocks for.
        """
        status = control.status()
        if len(status["sources"]) > MOST_SOURCES:
            raise InputError(
                f"--modbus has blocks for {MOST_SOURCES} sources, and there are {len(status['sources'])}",
                "share them out over two streams",
            )
        with self._lock:
            self._take_over(status)
            self._control = control

    def write(self, judgement: Judgement) -> None:
        """Show one verdict."""
        with self._lock:
            block = self._block(judgement.source, judgement.roi[0] if judgement.roi else None)
            verdicts, rejects = self._shown.get(block, (0, 0))
            self._shown[block] = (verdicts, rejects) = (verdicts + 1, rejects + (judgement.verdict == "NG"))
            base = block * BLOCK_REGISTERS
            seconds, milliseconds = divmod(int(judgement.wall_s * 1000), 1000)
            self._registers[base + 1 : base + 19] = [
                VERDICTS[judgement.verdict],
                *u32(verdicts),
                *u32(rejects),
                *f32(judgement.score),
                *f32(judgement.threshold),
                *f32(judgement.p_value),
                *u32(judgement.frame),
                *f32(judgement.latency_ms.get("total", float("nan"))),
                *u32(seconds),
                milliseconds,
            ]
            self._registers[base + 30 : base + 30 + PART_BYTES // 2] = text(judgement.part or "")
            ng = judgement.verdict == "NG"
            bits = block * BLOCK_BITS
            self._bits[bits : bits + 2] = [not ng, ng]
            self._bits[bits + 3] ^= 1
            self._registers[5:9] = [
                *u32(sum(v for v, _ in self._shown.values())),
                *u32(sum(n for _, n in self._shown.values())),
            ]

    def event(self, event: Event) -> None:
        """Count it."""
        with self._lock:
            self._events += 1
            self._registers[11:13] = u32(self._events)

    def close(self) -> None:
        """Close the port and all connections."""
        self._server.close()

    def describe(self) -> str:
        """Where it was served."""
        return f"Modbus served at {format_address(*self.address)}"

    def _read(self, table: Table, address: int, count: int) -> list[int] | None:
        with self._lock:
            # Counts are brought when they are read, and at most once a second: nobody may be asking.
            now = time.monotonic()
            if self._control is not None and now - self._asked_at >= STATUS_INTERVAL_S:
                self._asked_at = now
                self._take_over(self._control.status())
                self._bits[1] ^= 1
            self._registers[15:17] = u32(int(time.time()))
            values = self._bits if table == "bits" else self._registers
            return values[address : address + count] if address + count <= len(values) else None

    def _take_over(self, status: StreamStatus) -> None:
        self._bits[0] = self._registers[1] = int(status["healthy"])
        self._registers[2:4] = u32(int(status["uptime_s"]))
        since_s = status["since_verdict_s"]
        self._registers[9:11] = f32(status["threshold"])
        self._registers[13:15] = u32(NEVER_MS if since_s is None else min(int(since_s * 1000), NEVER_MS - 1))
        for source in status["sources"]:
            self._take_over_source(source)

    def _take_over_source(self, source: SourceStatus) -> None:
        block = self._block(source["source"], source["roi"])
        base = block * BLOCK_REGISTERS
        self._bits[block * BLOCK_BITS + 2] = self._registers[base] = int(source["connected"])
        self._registers[base + 20 : base + 30] = [
            *u32(source["captured"]),
            *u32(source["judged"]),
            *u32(source["dropped"]),
            *u32(source["failed"]),
            *u32(source["reconnects"]),
        ]

    def _block(self, source: str, roi: str | None) -> int:
        """The number of a source's block, from 1; a new one is added."""
        key = (source, roi)
        if key not in self._blocks:
            self._blocks[key] = len(self._blocks) + 1
            self._registers += [0] * BLOCK_REGISTERS
            self._bits += [0] * BLOCK_BITS
            self._registers[4] = len(self._blocks)
        return self._blocks[key]


def u32(value: int) -> tuple[int, int]:
    """A count as two registers, the upper half first; it begins at 0 again after 4,294,967,295."""
    return value >> 16 & 0xFFFF, value & 0xFFFF


def f32(value: float) -> tuple[int, int]:
    """A number in single precision as two registers, the upper half first."""
    try:
        data = struct.pack(">f", value)
    except OverflowError:
        data = struct.pack(">f", float("inf") if value > 0 else float("-inf"))
    high, low = struct.unpack(">HH", data)
    return high, low


def text(value: str) -> list[int]:
    """UTF-8, two bytes a register, the first one in the upper half, filled up with zeros; what is too long is cut off at a character."""
    data = value.encode()[:PART_BYTES].decode(errors="ignore").encode().ljust(PART_BYTES, b"\0")
    return list(struct.unpack(f">{PART_BYTES // 2}H", data))
