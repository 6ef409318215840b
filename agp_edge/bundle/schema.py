"""The published JSON Schema of `manifest.json`, and the reader that holds a manifest against it.

The schema is the one definition of what a manifest may say; it travels in the wheel. A device has no validator
installed, so this module knows the keywords of draft 2020-12 that our schema uses, and refuses to work with any other.
A test holds it against the `jsonschema` package.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "title", "description"})
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "integer": lambda value: (type(value) is int) or (isinstance(value, float) and value.is_integer()),
}


@functools.cache
def bundle_schema() -> dict[str, Any]:
    """The schema of `manifest.json`, as the wheel carries it."""
    text = resources.files("agp_edge").joinpath("schemas/bundle.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def find_fault(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str = "") -> str | None:
    """The first thing about a JSON value that a schema does not allow.

    Args:
        value: what `json.loads` gives.
        schema: the schema, or a part of it.
        root: the whole schema, in which `$ref` points to `#/$defs/NAME`.
        where: what `value` is, as in `frames[3].score`; empty for the whole.

    Returns:
        A few words with the place and the value, as in `frames[3].score is "1.5", no number`; None if all is well.

    Raises:
        NotImplementedError: the schema has a keyword that this reader does not know.
    """
    # Types before what depends on them; the order of the schema's own text says nothing.
    for keyword in sorted(schema, key=lambda k: k != "type"):
        if keyword in ANNOTATIONS:
            continue
        check = CHECKS.get(keyword)
        if check is None:
            raise NotImplementedError(f"this reader knows no {keyword!r} in a schema")
        fault = check(value, schema, root, where)
        if fault is not None:
            return fault
    return None


def _said(where: str, value: Any, rest: str) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return f"{where or 'it'} is {text if len(text) <= 60 else text[:59] + '…'}, {rest}"


def _inside(where: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{where}[{key}]"
    # A key is whatever somebody wrote: in a message it is short, and on one line.
    shown = key if re.fullmatch(r"[\w.-]{1,60}", key, re.ASCII) else json.dumps(key[:60])
    return f"{where}.{shown}" if where else shown


def _type(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    return None if TYPES[schema["type"]](value) else _said(where, value, f"no {schema['type']}")


def _reference(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    name = schema["$ref"].removeprefix("#/$defs/")
    return find_fault(value, root["$defs"][name], root, where)


def _any_of(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    fault = None
    for option in schema["anyOf"]:
        fault = find_fault(value, option, root, where)
        if fault is None:
            return None
    return fault


def _enum(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    if any(_equal(value, item) for item in schema["enum"]):
        return None
    return _said(where, value, f"none of {', '.join(json.dumps(item) for item in schema['enum'])}")


def _const(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    wanted = schema["const"]
    return None if _equal(value, wanted) else _said(where, value, f"not {json.dumps(wanted)}")


def _equal(a: Any, b: Any) -> bool:
    """As JSON has it: true is no 1. The schema compares with plain values and {} alone."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _properties(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return None
    for key, part in schema["properties"].items():
        if key in value and (fault := find_fault(value[key], part, root, _inside(where, key))):
            return fault
    return None


def _additional(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return None
    part = schema["additionalProperties"]
    for key in sorted(set(value) - set(schema.get("properties", ()))):
        if part is False:
            return f"{_inside(where, key)} is no field of it"
        if fault := find_fault(value[key], part, root, _inside(where, key)):
            return fault
    return None


def _property_names(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return None
    faults = (find_fault(key, schema["propertyNames"], root, f"a name in {where}") for key in sorted(value))
    return next((fault for fault in faults if fault), None)


def _required(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return None
    return next((f"{_inside(where, key)} is missing" for key in schema["required"] if key not in value), None)


def _items(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    if not isinstance(value, list):
        return None
    faults = (find_fault(item, schema["items"], root, _inside(where, i)) for i, item in enumerate(value))
    return next((fault for fault in faults if fault), None)


def _unique(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    """Of texts, which is where the schema asks for it; `items` has said already what else is there."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return None
    return None if len(set(value)) == len(value) else f"{where} has an entry twice"


def _pattern(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
    if not isinstance(value, str) or re.search(schema["pattern"], value):
        return None
    return _said(where, value, f"which does not match {schema['pattern']}")


def _limit(keyword: str, words: str, fits: Callable[[Any, Any], bool | None]) -> Callable[..., str | None]:
    def check(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], where: str) -> str | None:
        limit = schema[keyword]
        return _said(where, value, f"{words} {limit}") if fits(value, limit) is False else None

    return check


CHECKS: dict[str, Callable[..., str | None]] = {
    "type": _type,
    "$ref": _reference,
    "anyOf": _any_of,
    "const": _const,
    "enum": _enum,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "propertyNames": _property_names,
    "items": _items,
    "uniqueItems": _unique,
    "pattern": _pattern,
    "minimum": _limit("minimum", "less than", lambda v, n: v >= n if TYPES["number"](v) else None),
    "maximum": _limit("maximum", "more than", lambda v, n: v <= n if TYPES["number"](v) else None),
    "maxLength": _limit("maxLength", "longer than", lambda v, n: len(v) <= n if isinstance(v, str) else None),
}  # fmt: skip
"""Keyword -> (value, schema, whole schema, place) -> what is wrong, or None."""
