"""Spoilt engines: what a bad disk, a broken copy or an attacker makes of a plan and its sidecar.

A case is drawn from a seed and a number, and is the same on every machine. A plan that was changed alone is caught by its
hash; so in most cases the sidecar is brought in line with it, and a loader has to face the plan itself.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.onnx_wire import Field, mutate_fields, parse_model, serialise


@dataclass(frozen=True)
class Case:
    """An engine to try.

    Attributes:
        kind: what was done to it, a key of `PLAN_MUTATIONS` or `SIDECAR_MUTATIONS`.
        plan: the bytes of the plan.
        sidecar: those of the sidecar; None where it is missing.
    """

    kind: str
    plan: bytes
    sidecar: bytes | None


@dataclass(frozen=True)
class Original:
    """The whole engine that cases are made of.

    Attributes:
        plan, sidecar: its bytes.
        foreign: name -> bytes of files that are no plan of this engine.
    """

    plan: bytes
    sidecar: bytes
    foreign: Mapping[str, bytes] = field(default_factory=dict)

    def model(self) -> list[Field]:
        """The plan as a tree of fields, new each time: yours to spoil."""
        return parse_model(self.plan)


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f6"
    "17385500000000 49454e44ae426082".replace(" ", "")
)
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00\x01\x00\x00\x00" + bytes(4000)
FOREIGN = {
    "nothing": b"",
    "one byte": b"\x00",
    "a PNG": PNG,
    "an ELF": ELF,
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "a ZIP": b"PK\x03\x04" + bytes(200),
    "a page": b"<!DOCTYPE html><title>404</title>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"0" * 64
    + b"\nsize 7\n",
    "a TensorRT plan's head": b"ftrt" + bytes(60),
}
"""Files that somebody may take for a plan."""


# --- bytes -----------------------------------------------------------------------------------------


def _flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _run(data: bytearray, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice((2, 4, 8, 64))
    data[at : at + length] = rng.choice((rng.randbytes(length), b"\xff" * length))
    return bytes(data)


def _zero(data: bytearray, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice((1, 8, 512, 4096))
    data[at : at + length] = bytes(len(data[at : at + length]))
    return bytes(data)


def _cut(data: bytearray, rng: random.Random) -> bytes:
    # Where a copy breaks off: anywhere, at a block, or one byte short.
    places = (rng.randrange(len(data)), rng.randrange(len(data)) // 512 * 512, len(data) - 1, 1)
    return bytes(data[: rng.choice(places)])


def _insert(data: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
    return bytes(data)


def _double(data: bytearray, rng: random.Random) -> bytes:
    if rng.random() < 0.2:
        return bytes(data + data)
    at = rng.randrange(len(data))
    part = data[at : at + rng.choice((1, 16, 256))]
    data[at:at] = part
    return bytes(data)


def _swap(data: bytearray, rng: random.Random) -> bytes:
    at = rng.choice((len(data) // 2, rng.randrange(len(data))))
    return bytes(data[at:] + data[:at])


BYTES: dict[str, Callable[[bytearray, random.Random], bytes]] = {
    "bits flipped": _flip,
    "a run of bytes": _run,
    "zeros inside": _zero,
    "cut off": _cut,
    "bytes inserted": _insert,
    "bytes doubled": _double,
    "halves swapped": _swap,
}


def mutate_bytes(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One of `BYTES`, and what it made; of nothing, nothing."""
    name = rng.choice(sorted(BYTES))
    return name, BYTES[name](bytearray(data), rng) if data else data


# --- JSON ------------------------------------------------------------------------------------------

TEXTS: Sequence[str] = (
    "", " ", "x", "int8", "tensorrt", "tensorrt-rtx", "onnxruntime", "vax", "x" * 100_000, "\x00", "\x1b[2J\x07", "a\nb", "a\r\u2028b",
    "\u202eesrever", "\ufeff", "é" * 300, "\U0001f600", "../../../../etc/passwd", "/dev/zero", "file:///etc/passwd", "%s%n{0}", "NaN",
    "0" * 64, "f" * 64, "9" * 400, "null",
)  # fmt: skip
VALUES: Sequence[Any] = (
    None, True, False, 0, -1, 1, 2, 3, 1 << 16, (1 << 16) + 1, -(1 << 31), (1 << 63) - 1, 10**18, 1e308, -1e308, 5e-324, 0.5, -0.0,
    [], {}, [None], [[]], [{}], {"": ""}, [0] * 5000, [-1.5], ["8.6"], ["8.6", 8.6], {"machine": "vax"}, {"a": {"b": []}},
)  # fmt: skip
RAW: Sequence[bytes] = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b"1." + b"0" * 5000, b"-", b"01", b"0x10", b"'x'", b'"\\ud800"',
    b'"\\u0000"', b'"\xff"', b'"a\nb"', b"[" * 100_000, b'{"a":' * 2000, b"[" * 70 + b"]" * 70, b"tru", b"// x", b"1,,2", b"",
)  # fmt: skip
"""What no writer of JSON gives, put in place of a value as it is."""
MARK = "\u0001mark\u0001"


def _places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value; of a long list the first two."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:2]))
    return [p for key, item in items for p in ((*above, key), *_places(item, (*above, key)))]


def _parent(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        value = value[key]
    return value


def _another(rng: random.Random) -> Any:
    return rng.choice(TEXTS) if rng.random() < 0.5 else rng.choice(VALUES)


def _edit_value(value: Any, place: tuple[Any, ...], rng: random.Random) -> bytes:
    _parent(value, place)[place[-1]] = _another(rng)
    return _json(value)


def _edit_away(value: Any, place: tuple[Any, ...], rng: random.Random) -> bytes:
    del _parent(value, place)[place[-1]]
    return _json(value)


def _edit_name(value: Any, place: tuple[Any, ...], rng: random.Random) -> bytes:
    parent = _parent(value, place)
    if isinstance(parent, dict):
        parent[rng.choice(TEXTS)] = parent.pop(place[-1])
    return _json(value)


def _edit_more(value: Any, place: tuple[Any, ...], rng: random.Random) -> bytes:
    parent = _parent(value, place)
    for _ in range(rng.choice((1, 1, 500))):
        if isinstance(parent, dict):
            parent[rng.choice(TEXTS) + str(rng.randrange(1000))] = _another(rng)
        else:
            parent.append(_another(rng))
    return _json(value)


def _edit_raw(value: Any, place: tuple[Any, ...], rng: random.Random) -> bytes:
    _parent(value, place)[place[-1]] = MARK
    return _json(value).replace(json.dumps(MARK).encode(), rng.choice(RAW))


def _edit_twice(value: Any, place: tuple[Any, ...], rng: random.Random) -> bytes:
    parent = _parent(value, place)
    if isinstance(parent, dict):
        parent[MARK] = _another(rng)
        return _json(value).replace(json.dumps(MARK).encode(), json.dumps(place[-1]).encode())
    return _json(value)


JSON: dict[str, Callable[[Any, tuple[Any, ...], random.Random], bytes]] = {
    "a value changed": _edit_value,
    "a field dropped": _edit_away,
    "a field renamed": _edit_name,
    "fields added": _edit_more,
    "a value that is no JSON": _edit_raw,
    "a field twice": _edit_twice,
}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def mutate_json(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One of `JSON` at some place of a JSON object, and what it made."""
    name = rng.choice(sorted(JSON))
    value = json.loads(data)
    return name, JSON[name](value, rng.choice(_places(value)), rng)


# --- cases -----------------------------------------------------------------------------------------


def make_case(original: Original, seed: int, number: int) -> Case:
    """Spoil an engine.

    Args:
        original: the whole engine.
        seed, number: the same two give the same case.
    """
    rng = random.Random(f"{seed} {number}")
    plan, sidecar = original.plan, original.sidecar
    which = rng.random()
    if which < 0.30:
        name, sidecar = mutate_json(sidecar, rng)
        return Case(f"sidecar: {name}", plan, sidecar)
    if which < 0.36:
        name, sidecar = mutate_bytes(sidecar, rng)
        return Case(f"sidecar: {name}", plan, sidecar)
    if which < 0.37:
        return Case(*rng.choice((("sidecar: missing", plan, None), ("sidecar: the plan", plan, plan))))
    if which < 0.40:
        files = {**FOREIGN, **original.foreign, "its sidecar": sidecar}
        name = rng.choice(sorted(files))
        return _with_plan(f"plan: {name}", files[name], sidecar, rng)
    if which < 0.60:
        name, plan = mutate_bytes(plan, rng)
        return _with_plan(f"plan: {name}", plan, sidecar, rng)
    fields = original.model()
    if not fields:
        name, plan = mutate_bytes(plan, rng)
        return _with_plan(f"plan: {name}", plan, sidecar, rng)
    name = mutate_fields(fields, rng)
    return _with_plan(f"graph: {name}", serialise(fields), sidecar, rng)


def _with_plan(kind: str, plan: bytes, sidecar: bytes, rng: random.Random) -> Case:
    """Another plan: nine of ten with a sidecar that names it."""
    if rng.random() < 0.1:
        return Case(f"{kind}, hash left", plan, sidecar)
    return Case(kind, plan, name_plan(plan, sidecar))


def name_plan(plan: bytes, sidecar: bytes) -> bytes:
    """A sidecar brought in line with a plan, as a forger would."""
    return _json({**json.loads(sidecar), "plan_sha256": hashlib.sha256(plan).hexdigest()})
