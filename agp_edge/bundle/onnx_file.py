"""A look into an ONNX file before a runtime sees it, without the onnx package, which a device does not have.

A graph may name other files for its weights (`external_data`), and a runtime then opens them: outside the folder, or
at an address in memory. A bundle's graphs hold all of their data. This walks through the file by its field tags (protocol
buffers, onnx.proto) from message to message down to every tensor, and refuses

- what is cut off, garbled, or no ONNX graph;
- a tensor whose data lies elsewhere;
- a version of operators, a stride, or a node without an input that no graph has: runtimes loop, divide by zero or crash over them;
- a floating-point tensor with an infinity or a NaN, as a scale of INT8 would be that went wrong.

Bounded: a depth, a number of fields, and nothing but positions is kept. What no tensor can hide in is skipped.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agp_edge.errors import ArtefactError

Data = mmap.mmap | bytes

TENSOR = "TensorProto"
INSIDE: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: TENSOR, 6: "GraphProto", 10: TENSOR, 11: "GraphProto", 22: "SparseTensorProto", 23: "SparseTensorProto",
    },
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "SparseTensorProto": {1: TENSOR, 2: TENSOR},
}  # fmt: skip
"""Message -> field -> the message it holds, for all of onnx.proto that a tensor can be inside."""

GRAPH_FIELD = 7
DATA_TYPE, FLOAT_DATA, INT32_DATA, RAW_DATA, DOUBLE_DATA, EXTERNAL_DATA, DATA_LOCATION = (
    2,
    4,
    5,
    9,
    10,
    13,
    14,
)
EXPONENTS = {
    1: ("<u4", 0x7F800000),
    10: ("<u2", 0x7C00),
    11: ("<u8", 0x7FF0000000000000),
    16: ("<u2", 0x7F80),
}
"""TensorProto.data_type of FLOAT, FLOAT16, DOUBLE and BFLOAT16 -> its words, and the exponent that is all ones in an
infinity and a NaN alone."""

MAX_DEPTH = 32
MAX_FIELDS = 500_000
"""A large vision transformer has some ten thousand. The limit bounds the time that a file can take: a second."""
MAX_OPSET = 999
"""ONNX is at 26. OpenVINO 2026.4 looks for an operator in every version below the one named, for ever if that is large."""
MAX_STEP = 1 << 16
"""Of a window, in pixels: the largest frame. OpenVINO 2026.4 divides by zero over a stride of 2^62."""
WINDOW = (b"strides", b"dilations", b"kernel_shape")
LEAST_INPUTS = {b"Pad": 2}
"""Operator -> the inputs that it has since opset 11. OpenVINO 2026.4 reads the second of a Pad unasked, and the process ends."""
OPSETS = {"ModelProto": 8, "FunctionProto": 9}
"""Message -> its field of `OperatorSetIdProto`."""
NODE_INPUT, NODE_OPERATOR, ATTRIBUTE_NAME, ATTRIBUTE_INTS, OPSET_VERSION = 1, 4, 1, 8, 2
CHUNK_BYTES = 4 << 20
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _MalformedError(ValueError):
    """The bytes are no protocol buffer, or none of ours."""


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file that a runtime must not see; see the head of this module.

    Raises:
        ArtefactError: it cannot be read, is no whole ONNX graph, refers to other files, or has a number that is not finite.
    """
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                check_onnx_bytes(b"", str(path))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                check_onnx_bytes(data, str(path))
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror or error}", "fetch it again") from error


def check_onnx_bytes(data: Data, where: str) -> None:
    """As `check_onnx`, of a file's bytes.

    Args:
        data: the bytes, or the file mapped to memory; pieces of it are copied.
        where: the file, for the error.

    Raises:
        ArtefactError: as `check_onnx`.
    """
    try:
        _Walk(data).model()
    except _MalformedError as error:
        raise ArtefactError(f"{where} is no ONNX graph of ours: {error}", "export the run again") from error


class _Walk:
    """One walk through one file."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.left = MAX_FIELDS

    def model(self) -> None:
        """Walk through the whole file."""
        if not self.message("ModelProto", 0, len(self.data), 0):
            raise _MalformedError("it holds no graph")

    def message(self, kind: str, start: int, end: int, depth: int) -> bool:
        """Walk through a message; whether it has the field of a model's graph."""
        if depth > MAX_DEPTH:
            raise _MalformedError(f"it is nested deeper than {MAX_DEPTH}")
        if kind == TENSOR:
            self.tensor(start, end)
            return False
        if kind == "AttributeProto":
            self.window(start, end)
        if kind == "NodeProto":
            self.node(start, end)
        inside = INSIDE[kind]
        found = False
        for number, wire, first, last in self.fields(start, end):
            if number in inside and wire == BYTES:
                found = found or number == GRAPH_FIELD
                self.message(inside[number], first, last, depth + 1)
            elif number == OPSETS.get(kind) and wire == BYTES:
                self.opset(first, last)
        return found

    def opset(self, start: int, end: int) -> None:
        """Refuse a version that operators never had."""
        for number, wire, first, _ in self.fields(start, end):
            if number == OPSET_VERSION and not (wire == VARINT and 1 <= first <= MAX_OPSET):
                raise _MalformedError("it asks for a version of operators that there is not")

    def node(self, start: int, end: int) -> None:
        """Refuse a node that lacks an input without which a runtime crashes."""
        inputs, operator = 0, b""
        for number, wire, first, last in self.fields(start, end):
            inputs += number == NODE_INPUT
            if number == NODE_OPERATOR and wire == BYTES:
                operator = bytes(self.data[first:last])
        if inputs < LEAST_INPUTS.get(operator, 0):
            raise _MalformedError(f"a {operator.decode()} of it lacks an input")

    def window(self, start: int, end: int) -> None:
        """Refuse a window, or its steps, of no size or beyond any frame."""
        name = b""
        values: list[int] = []
        for number, wire, first, last in self.fields(start, end):
            if number == ATTRIBUTE_NAME and wire == BYTES:
                name = bytes(self.data[first:last])
            elif number == ATTRIBUTE_INTS and wire in (VARINT, BYTES):
                # One a field, or packed.
                values += [first] if wire == VARINT else self.varints(first, last)
        if name in WINDOW and not all(1 <= value <= MAX_STEP for value in values):
            raise _MalformedError(f"{name.decode()} of a node in it are none")

    def tensor(self, start: int, end: int) -> None:
        """Refuse a tensor whose data is elsewhere, or not finite."""
        data_type = 0
        places: list[tuple[int, int, int, int]] = []
        for number, wire, first, last in self.fields(start, end):
            if number == EXTERNAL_DATA or (number == DATA_LOCATION and wire == VARINT and first):
                raise _MalformedError("it takes weights from another file (external data)")
            if number == DATA_TYPE and wire == VARINT:
                data_type = first & 0xFFFFFFFF
            elif number in (FLOAT_DATA, INT32_DATA, RAW_DATA, DOUBLE_DATA):
                places.append((number, wire, first, last))
        if data_type in EXPONENTS:
            word, exponent = EXPONENTS[data_type]
            for number, wire, first, last in places:
                self.finite(number, wire, first, last, word, exponent)

    def finite(self, number: int, wire: int, first: int, last: int, word: str, exponent: int) -> None:
        """Refuse an infinity or a NaN among the numbers of a floating-point tensor."""
        refusal = _MalformedError("a tensor of it has a number that is not finite")
        if number == INT32_DATA:
            # Half precision in single integers: packed, or one a field.
            for value in self.varints(first, last) if wire == BYTES else (first,):
                if value & exponent == exponent:
                    raise refusal
            return
        if wire == VARINT or (last - first) % int(word[-1]):
            raise _MalformedError("a tensor of it has a length that does not fit its type")
        for begin in range(first, last, CHUNK_BYTES):
            bits = np.frombuffer(self.data[begin : min(begin + CHUNK_BYTES, last)], word)
            if ((bits & exponent) == exponent).any():
                raise refusal

    def varints(self, at: int, end: int) -> Iterator[int]:
        while at < end:
            value, at = self.varint(at, end)
            yield value

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(number, wire type, first byte, byte after the last) of each field; of a varint its value in the third place."""
        while at < end:
            self.left -= 1
            if self.left < 0:
                raise _MalformedError(f"it has more than {MAX_FIELDS:,} fields")
            key, at = self.varint(at, end)
            # There is no field 0; and a reader that keeps 32 bits of a longer key would see another field than this one.
            if key >> 32 or not key >> 3:
                raise _MalformedError(f"byte {at - 1} begins no field")
            number, wire = key >> 3, key & 7
            if wire == VARINT:
                value, at = self.varint(at, end)
                yield number, wire, value, at
                continue
            if wire == BYTES:
                length, at = self.varint(at, end)
            elif wire in (FIXED32, FIXED64):
                length = 4 if wire == FIXED32 else 8
            else:
                raise _MalformedError(f"byte {at - 1} begins no field")
            if length > end - at:
                raise _MalformedError(f"it is cut off or garbled at byte {at}")
            yield number, wire, at, at + length
            at += length

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """A number of at most 64 bits, and where it ends."""
        value = 0
        for i in range(10):
            if at + i >= end:
                raise _MalformedError(f"it is cut off at byte {at + i}")
            byte = self.data[at + i]
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                return value, at + i + 1
        raise _MalformedError(f"byte {at} begins a number without an end")
