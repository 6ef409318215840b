"""The Modbus sink with pymodbus as the controller, and with a socket for what no client would send."""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.sinks import modbus, modbus_server
from agp_edge.sinks.modbus import BLOCK_BITS, BLOCK_REGISTERS, ModbusSink
from agp_edge.sinks.modbus_server import answer
from tests.agp_edge.sinks.streams import SOURCE, WALL_S, PlainControl, make_judgement, make_source

client_module = pytest.importorskip("pymodbus.client")


@pytest.fixture
def sink() -> Iterator[ModbusSink]:
    made = ModbusSink(":0")
    yield made
    made.close()
    made.close()
    assert not [t for t in threading.enumerate() if t.name == "modbus"]


@pytest.fixture
def client(sink: ModbusSink) -> Iterator[Any]:
    made = client_module.ModbusTcpClient(sink.address[0], port=sink.address[1], timeout=30, retries=0)
    assert made.connect()
    yield made
    made.close()


def registers(client: Any, address: int, count: int) -> list[int]:
    read = client.read_holding_registers(address, count=count)
    assert not read.isError(), read
    again = client.read_input_registers(address, count=count)
    assert again.registers == read.registers
    return list(read.registers)


def as_u32(words: list[int]) -> int:
    return words[0] << 16 | words[1]


def as_f32(words: list[int]) -> float:
    value: float = struct.unpack(">f", struct.pack(">HH", *words))[0]
    return value


def test_a_verdict_is_read(sink: ModbusSink, client: Any) -> None:
    sink.attach(PlainControl(make_source(), make_source(roi="left", captured=70_000, connected=False)))
    sink.write(make_judgement(1))
    sink.write(make_judgement(70_001, "NG", roi="left", score=0.75, part="Ä-4711"))
    first = registers(client, BLOCK_REGISTERS, 62)
    second = registers(client, 2 * BLOCK_REGISTERS, 62)
    assert [first[0], first[1], as_u32(first[2:]), as_u32(first[4:])] == [1, 1, 1, 0]
    assert [second[0], second[1], as_u32(second[2:]), as_u32(second[4:])] == [0, 2, 1, 1]
    assert [as_f32(second[at : at + 2]) for at in (6, 8, 14)] == [0.75, 0.5, 1.5]
    assert as_f32(second[10:12]) == pytest.approx(0.01)
    assert as_u32(second[12:]) == 70_001
    assert as_u32(second[16:]) + second[18] / 1000 == pytest.approx(WALL_S + 70_001, abs=0.0011)
    assert [as_u32(second[at:]) for at in (20, 22, 24, 26, 28)] == [70_000, 8, 1, 1, 3]
    part = struct.pack(">32H", *second[30:62]).rstrip(b"\0").decode()
    assert part == "Ä-4711"
    assert not any(first[30:62])


def test_the_bits_say_what_the_last_verdict_was(sink: ModbusSink, client: Any) -> None:
    sink.attach(PlainControl())

    def bits() -> list[bool]:
        coils = client.read_coils(BLOCK_BITS, count=4)
        inputs = client.read_discrete_inputs(BLOCK_BITS, count=4)
        assert coils.bits == inputs.bits
        return list(coils.bits[:4])

    assert bits() == [False, False, True, False]
    sink.write(make_judgement(1))
    assert bits() == [True, False, True, True]
    sink.write(make_judgement(2))
    assert bits() == [True, False, True, False]
    sink.write(make_judgement(3, "NG"))
    assert bits() == [False, True, True, True]


def test_the_streams_own_block(sink: ModbusSink, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modbus, "STATUS_INTERVAL_S", 0.0)
    control = PlainControl()
    sink.attach(control)
    for frame in range(3):
        sink.write(make_judgement(frame, "NG" if frame else "OK"))
    sink.event(Event("frozen", "x"))
    block = registers(client, 0, 17)
    assert [block[0], block[1], as_u32(block[2:]), block[4]] == [modbus.MAP_VERSION, 1, 12, 1]
    assert [as_u32(block[5:]), as_u32(block[7:]), as_f32(block[9:11]), as_u32(block[11:])] == [3, 2, 0.5, 1]
    assert as_u32(block[13:]) == 100
    assert abs(as_u32(block[15:]) - time.time()) < 60
    assert client.read_coils(0, count=1).bits[0] is True
    control.now["healthy"], control.now["since_verdict_s"] = False, None
    assert client.read_coils(0, count=1).bits[0] is False
    assert as_u32(registers(client, 13, 2)) == modbus.NEVER_MS


def test_the_stream_is_asked_once_a_second_however_many_ask(sink: ModbusSink, client: Any) -> None:
    control = PlainControl()
    sink.attach(control)
    began = time.monotonic()
    for _ in range(50):
        registers(client, 0, 10)
    assert control.asked <= 2 + (time.monotonic() - began) / modbus.STATUS_INTERVAL_S


def test_nothing_is_written(sink: ModbusSink, client: Any) -> None:
    sink.attach(PlainControl())
    before = registers(client, BLOCK_REGISTERS, 20)
    for refused in (
        client.write_coil(BLOCK_BITS, True),
        client.write_coils(BLOCK_BITS, [True, True]),
        client.write_register(BLOCK_REGISTERS, 7),
        client.write_registers(BLOCK_REGISTERS, [7, 8]),
    ):
        assert refused.isError()
        assert refused.exception_code == modbus_server.ILLEGAL_FUNCTION
    assert registers(client, BLOCK_REGISTERS, 20) == before


def test_an_address_beyond_the_map_is_refused(sink: ModbusSink, client: Any) -> None:
    sink.attach(PlainControl())
    assert not client.read_holding_registers(2 * BLOCK_REGISTERS - 1, count=1).isError()
    for refused in (
        client.read_holding_registers(2 * BLOCK_REGISTERS - 1, count=2),
        client.read_holding_registers(65_535, count=1),
        client.read_coils(2 * BLOCK_BITS, count=1),
    ):
        assert refused.exception_code == modbus_server.ILLEGAL_ADDRESS


def ask(transaction: int, pdu: bytes, *, protocol: int = 0, unit: int = 1) -> bytes:
    return struct.pack(">HHHB", transaction, protocol, len(pdu) + 1, unit) + pdu


def read_to_end(sock: socket.socket) -> bytes:
    sock.settimeout(60)
    data = b""
    try:
        while chunk := sock.recv(4096):
            data += chunk
    except ConnectionError:
        pass
    return data


def test_requests_that_come_together_are_all_answered_in_their_order(sink: ModbusSink) -> None:
    """A controller may have several under way; `ask` in pieces is what TCP makes of them."""
    data = b"".join(ask(n, struct.pack(">BHH", 3, 0, 1), unit=n % 256) for n in range(1000, 1100))
    with socket.create_connection(sink.address, 60) as sock:
        sock.sendall(data[:7])
        time.sleep(0.05)
        sock.sendall(data[7:])
        sock.shutdown(socket.SHUT_WR)
        said = read_to_end(sock)
    assert len(said) == 100 * 11
    heads = [struct.unpack(">HHHB", said[at : at + 7]) for at in range(0, len(said), 11)]
    assert heads == [(n, 0, 5, n % 256) for n in range(1000, 1100)]


@pytest.mark.parametrize(
    "data",
    [ask(1, b"\x03\0\0\0\1", protocol=1), struct.pack(">HHHB", 1, 0, 1, 1), struct.pack(">HHHB", 1, 0, 300, 1), b"GET / HTTP/1.0\r\n\r\n"],
)  # fmt: skip
def test_what_is_no_modbus_ends_the_connection(sink: ModbusSink, client: Any, data: bytes) -> None:
    with socket.create_connection(sink.address, 60) as sock:
        sock.sendall(data)
        assert read_to_end(sock) == b""
    assert registers(client, 0, 1) == [modbus.MAP_VERSION]


@pytest.mark.parametrize(
    ("pdu", "said"),
    [
        (b"\x03\0\0\0\0", b"\x83\3"),
        (b"\x03\0\0\0\x7e", b"\x83\3"),
        (b"\x01\0\0\x07\xd1", b"\x81\3"),
        (b"\x04\0\0\0", b"\x84\3"),
        (b"\x02\0\0\0\1\0", b"\x82\3"),
        (b"\x2b\x0e\1\0", b"\xab\1"),
        (b"\x03\xff\xff\0\1", b"\x83\2"),
        (b"\x03\0\0\0\2", b"\3\4\0\1\0\2"),
        (b"\x01\0\0\0\x0a", b"\1\2\1\2"),
    ],
)
def test_each_request_has_the_answer_of_the_specification(pdu: bytes, said: bytes) -> None:
    def read(table: str, address: int, count: int) -> list[int] | None:
        values = [1, 2, 3] if table == "registers" else [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        return values[address : address + count] if address + count <= len(values) else None

    assert answer(pdu, read) == said


def test_too_many_connections_are_refused_and_silent_ones_closed(
    sink: ModbusSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modbus_server, "LONGEST_SILENCE_S", 0.3)
    silent = [socket.create_connection(sink.address, 60) for _ in range(modbus_server.MOST_CONNECTIONS + 1)]
    for sock in silent:
        assert read_to_end(sock) == b""
        sock.close()
    with socket.create_connection(sink.address, 60) as sock:
        sock.sendall(ask(1, b"\x03\0\0\0\1"))
        sock.settimeout(60)
        assert len(sock.recv(100)) == 11


def test_what_one_request_reads_is_of_one_verdict(sink: ModbusSink, client: Any) -> None:
    """While verdicts come as fast as they can, the counter, the frame's number and the score that are read belong together."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            sink.write(make_judgement(number, score=float(number)))

    writer = threading.Thread(target=write)
    sink.write(make_judgement(0, score=0.0))
    writer.start()
    try:
        for _ in range(200):
            block = client.read_holding_registers(BLOCK_REGISTERS, count=20).registers
            assert as_u32(block[2:]) == as_u32(block[12:]) + 1 == as_f32(block[6:8]) + 1
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("value", [0.0, -1.5, 1e39, -1e39, math.inf, math.nan])
def test_numbers_that_are_too_large_for_single_precision(value: float) -> None:
    read = as_f32(list(modbus.f32(value)))
    expected = math.copysign(math.inf, value) if abs(value) > 1e38 else value
    assert read == expected or (math.isnan(read) and math.isnan(expected))


def test_counts_begin_again_and_a_long_part_is_cut_off_at_a_character() -> None:
    assert as_u32(list(modbus.u32((1 << 32) + 5))) == 5
    words = modbus.text("x" * 63 + "ü")
    assert struct.pack(">32H", *words) == b"x" * 63 + b"\0"


def test_what_cannot_be_served_is_refused(sink: ModbusSink) -> None:
    with pytest.raises(InputError, match=f"--modbus 127.0.0.1:{sink.address[1]} cannot be listened at"):
        ModbusSink(f":{sink.address[1]}")
    with pytest.raises(InputError, match="--modbus"):
        ModbusSink("nowhere")
    with pytest.raises(InputError, match="blocks for 64 sources"):
        sink.attach(PlainControl(*(make_source(f"{SOURCE}{i}") for i in range(65))))
    assert sink.describe() == f"Modbus served at 127.0.0.1:{sink.address[1]}"
