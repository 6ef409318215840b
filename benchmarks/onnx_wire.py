"""ONNX graphs as trees of protocol-buffer fields: taken apart, spoilt in one place, and put together again.

Written together, every length is right: what reads it sees a graph that is well formed and says something absurd.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 8: "OperatorSet"},
    "Graph": {1: "Node", 5: "Tensor", 11: "ValueInfo", 12: "ValueInfo", 13: "ValueInfo"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph"},
    "ValueInfo": {2: "Type"},
    "Type": {1: "TypeOfTensor"},
    "TypeOfTensor": {2: "Shape"},
    "Shape": {1: "Dimension"},
    "Dimension": {},
    "Tensor": {},
    "OperatorSet": {},
}
"""Message -> field -> the message it holds, as far as a mutation goes into it (onnx.proto)."""

NODE_INPUT, NODE_OUTPUT, NODE_OPERATOR = 1, 2, 4

OPERATORS = (
    "Abs", "Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Conv",
    "ConvTranspose", "CumSum", "DepthToSpace", "DequantizeLinear", "Det", "Div", "Einsum", "Equal", "Erf", "Exp", "Expand", "EyeLike",
    "Flatten", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GridSample", "Identity", "If", "LRN",
    "LayerNormalization", "Log", "Loop", "LpPool", "MatMul", "MatMulInteger", "Max", "MaxPool", "MaxUnpool", "Mean", "Mod", "Mul",
    "NonMaxSuppression", "NonZero", "OneHot", "Pad", "Pow", "QLinearConv", "QuantizeLinear", "Range", "ReduceMax", "ReduceMean",
    "Relu", "Reshape", "Resize", "ReverseSequence", "RoiAlign", "Scan", "ScatterElements", "ScatterND", "Shape", "Sign", "Size",
    "Slice", "Softmax", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "TopK", "Transpose", "Trilu", "Unique",
    "Unsqueeze", "Upsample", "Where", "FusedConv", "FusedMatMul", "FusedGemm", "NoSuchOperator", "",
)  # fmt: skip
"""What a node may be turned into: most of ONNX, some of ONNX Runtime's own, and two that nobody has."""

NUMBERS = (0, 1, 2, 3, 5, 7, 8, 127, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63,
           (1 << 64) - 2, (1 << 64) - 1)  # fmt: skip
"""Varints that sit at an edge; the last two are -2 and -1."""


@dataclass
class Field:
    """A field.

    Attributes:
        number: its tag.
        wire: its wire type.
        value: a number of a varint; bytes; or fields, of a message that `MESSAGES` names.
        message: the name of that, or "".
    """

    number: int
    wire: int
    value: Value
    message: str = ""


Value: TypeAlias = "int | bytes | list[Field]"


def parse_model(data: bytes) -> list[Field]:
    """A model's fields, to the depth of `MESSAGES`; none if the bytes are no protocol buffer."""
    try:
        return _parse(data, "Model")
    except (ValueError, IndexError):
        return []


def _parse(data: bytes, message: str) -> list[Field]:
    fields = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            fields.append(Field(number, wire, value))
            continue
        if wire == BYTES:
            length, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("cut off")
        part = data[at : at + length]
        at += length
        inner = MESSAGES[message].get(number, "") if wire == BYTES else ""
        fields.append(Field(number, wire, _parse(part, inner) if inner else part, inner))
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def serialise(fields: list[Field]) -> bytes:
    """The bytes of fields, with the lengths that they have now."""
    out = bytearray()
    for item in fields:
        out += _encode(item.number << 3 | item.wire)
        if isinstance(item.value, int):
            out += _encode(item.value)
            continue
        part = serialise(item.value) if isinstance(item.value, list) else item.value
        if item.wire == BYTES:
            out += _encode(len(part))
        out += part
    return bytes(out)


def _encode(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def walk(fields: list[Field], message: str = "Model") -> Iterator[tuple[list[Field], int, str]]:
    """Every field below: the list it is in, its place there, and the message that it is a field of."""
    for at, item in enumerate(fields):
        yield fields, at, message
        if isinstance(item.value, list):
            yield from walk(item.value, item.message)


Place: TypeAlias = tuple[list[Field], int, str]


def _number(place: Place, rng: random.Random) -> None:
    fields, at, _ = place
    old = fields[at].value
    assert isinstance(old, int)
    near = (old + rng.choice((-1, 1))) % (1 << 64)
    fields[at].value = rng.choice((near, rng.choice(NUMBERS), rng.choice(NUMBERS)))


def _text(place: Place, rng: random.Random) -> None:
    fields, at, _ = place
    old = fields[at].value
    assert isinstance(old, bytes)
    work = bytearray(old)
    choice = rng.randrange(6)
    if choice == 0 or not work:
        fields[at].value = rng.choice((b"", b"x", b"\xff\xfe", b"a\nb\x1b[2J", b"x" * 10_000, bytes(8)))
    elif choice == 1:
        fields[at].value = old[: rng.randrange(len(old))]
    elif choice == 2:
        fields[at].value = old + old
    elif choice == 3:
        fields[at].value = bytes(len(old))
    elif choice == 4:
        # The little-endian words of a tensor of integers: axes, shapes, pads, scales.
        width = rng.choice((4, 8))
        begin = rng.randrange(max(1, len(old) // width)) * width
        work[begin : begin + width] = (rng.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")
        fields[at].value = bytes(work)
    else:
        work[rng.randrange(len(work))] ^= 1 << rng.randrange(8)
        fields[at].value = bytes(work)


def _drop(place: Place, rng: random.Random) -> None:
    fields, at, _ = place
    del fields[at]


def _double(place: Place, rng: random.Random) -> None:
    fields, at, _ = place
    fields[at:at] = [fields[at]] * rng.choice((1, 1, 3, 200))


def _swap(place: Place, rng: random.Random) -> None:
    fields, at, _ = place
    other = rng.randrange(len(fields))
    fields[at], fields[other] = fields[other], fields[at]


def _tag(place: Place, rng: random.Random) -> None:
    fields, at, _ = place
    fields[at] = Field(rng.choice((1, 2, 3, 4, 5, 7, 9, 13, 14, 20, 500)), fields[at].wire, fields[at].value)


def _operator(place: Place, rng: random.Random) -> None:
    fields, at, _ = place
    fields[at].value = rng.choice(OPERATORS).encode()


def _anything(place: Place) -> bool:
    return True


def _is_number(place: Place) -> bool:
    return isinstance(place[0][place[1]].value, int)


def _is_bytes(place: Place) -> bool:
    return isinstance(place[0][place[1]].value, bytes)


def _is_operator(place: Place) -> bool:
    return place[2] == "Node" and place[0][place[1]].number == NODE_OPERATOR


FIELD_MUTATIONS: dict[str, tuple[Callable[[Place], bool], Callable[[Place, random.Random], None], int]] = {
    "a number changed": (_is_number, _number, 6),
    "a text or a tensor changed": (_is_bytes, _text, 6),
    "a field dropped": (_anything, _drop, 2),
    "a field doubled": (_anything, _double, 2),
    "fields swapped": (_anything, _swap, 1),
    "a field's tag changed": (_anything, _tag, 1),
    "another operator": (_is_operator, _operator, 5),
    "an edge moved": (lambda place: False, _drop, 4),
}
"""Name -> where it can be done, how, and how often it is drawn."""


def mutate_fields(fields: list[Field], rng: random.Random) -> str:
    """Spoil a model in one place, sometimes in two, and say how.

    Args:
        fields: of a model, changed in place.
        rng: draws the mutation and its place.
    """
    names = sorted(FIELD_MUTATIONS)
    weights = [FIELD_MUTATIONS[name][2] for name in names]
    name = ""
    for _ in range(rng.choice((1, 1, 1, 2))):
        (name,) = rng.choices(names, weights)
        if name == "an edge moved":
            _move_edge(fields, rng)
            continue
        fits, spoil, _weight = FIELD_MUTATIONS[name]
        places = [place for place in walk(fields) if fits(place)]
        if places:
            spoil(_choose(places, rng), rng)
    return name


def _choose(places: list[Place], rng: random.Random) -> Place:
    """A place, each kind of message as likely as another: a graph has many nodes and one shape of its input."""
    kind = rng.choice(sorted({place[2] for place in places}))
    return rng.choice([place for place in places if place[2] == kind])


def _move_edge(fields: list[Field], rng: random.Random) -> None:
    """Let a node read, or write, what another one does: types that do not fit, cycles, names written twice."""
    ends = [
        fields[at]
        for fields, at, message in walk(fields)
        if message == "Node" and fields[at].number in (NODE_INPUT, NODE_OUTPUT)
    ]
    if ends:
        rng.choice(ends).value = rng.choice(ends).value
