"""The published JSON Schema and the device's own reader of it take the same manifests and refuse the same."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agp_edge.bundle import FORMAT, VERSION, Manifest
from agp_edge.bundle.schema import ANNOTATIONS, CHECKS, bundle_schema, find_fault
from agp_edge.errors import ArtefactError

VALIDATOR = jsonschema.Draft202012Validator(bundle_schema())
A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)

GOOD: dict[str, Any] = {
    "format": "agp-edge-bundle",
    "version": 1,
    "name": "brick",
    "frame": {"width": 640, "height": 480, "channels": 3, "batch": 1},
    "network": {"backbone": {"kind": "filterbank", "layers": []}, "trained_frame": None},
    "producer": {"agp_edge": "1.0"},
    "trained": [A],
    "held_out": [B, C],
    "files": {
        "model.fp32.onnx": {"sha256": A, "size_bytes": 10},
        "model.int8.onnx": {"sha256": D, "size_bytes": 10},
        "frames/0-1_a.png": {"sha256": B, "size_bytes": 0},
    },
    "splits": {"ranges": [A], "search": [], "gate": [B], "threshold": [C]},
    "frames": [
        {"file": "frames/0-1_a.png", "name": "brück/0.png", "sha256": B, "part": "gate", "self_test": True, "score": 1.5},
        {"file": "frames/0-1_b.png", "name": "", "sha256": D, "part": "reference", "self_test": False, "score": -2},
    ],
    "artefacts": {
        "fp32": {"normal_scores": [0, 1.5]},
        "int8": {
            "normal_scores": [0.1],
            "gate": {"outcome": "refused", "n": 1, "flips": ["a"], "drift_max": 0.1},
            "accepted": "trial",
            "method": "max",
            "provisional": False,
        },
    },
    "calibration": {
        "model_sha256": A,
        "set_sha256": B,
        "frames": [{"name": "x.png", "sha256": A}],
        "choice": "k-centre",
        "seed": 0,
        "method": "entropy",
        "int8": {"quantised": ["n"], "kept": []},
    },
}  # fmt: skip


def both_say(value: Any) -> bool:
    """Whether a manifest is taken; fails if the schema's own validator and our reader do not agree."""
    ours = find_fault(value, bundle_schema(), bundle_schema())
    theirs = next(VALIDATOR.iter_errors(value), None)
    assert (ours is None) == (theirs is None), (ours, theirs)
    if isinstance(value, dict):
        try:
            Manifest.from_dict(value, "it")
        except ArtefactError:
            assert ours is not None
        else:
            assert ours is None
    return ours is None


def test_the_schema_is_one_and_the_good_manifest_fits() -> None:
    jsonschema.Draft202012Validator.check_schema(bundle_schema())
    assert bundle_schema()["$schema"].endswith("draft/2020-12/schema")
    properties = bundle_schema()["properties"]
    assert (properties["format"]["const"], properties["version"]["const"]) == (FORMAT, VERSION)
    assert both_say(GOOD)
    assert both_say({**GOOD, "calibration": {}})
    manifest = Manifest.from_dict(GOOD, "it")
    assert json.loads(json.dumps(manifest.to_dict())) == GOOD, "nothing is lost"
    assert both_say({**GOOD, "frame": {"width": 640.0, "height": 480, "channels": 3, "batch": 1}})


def put(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        inside: Any = manifest
        for key in keys[:-1]:
            inside = inside[key]
        inside[keys[-1]] = value

    return change


def drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        inside: Any = manifest
        for key in keys[:-1]:
            inside = inside[key]
        del inside[keys[-1]]

    return change


SPOILED = {
    "another format": (put("format", value="zip"), "no manifest of a bundle"),
    "a version to come": (put("version", value=2), "has version 2, this agp-edge reads 1"),
    "a version of truth": (put("version", value=True), "version"),
    "no version": (drop("version"), "version None"),
    "an unknown field": (put("more", value=1), "more is no field"),
    "no calibration": (drop("calibration"), "calibration is missing"),
    "a name with a path": (put("name", value="../x"), 'name is "../x"'),
    "a name with a newline": (put("name", value="x\n"), "does not match"),
    "a name of a letter that is none": (put("name", value="größe"), "does not match"),
    "an empty name": (put("name", value=""), "does not match"),
    "no width": (drop("frame", "width"), "frame.width is missing"),
    "a width of 0": (put("frame", "width", value=0), "frame.width is 0, less than 1"),
    "a width and a half": (put("frame", "width", value=1.5), "frame.width is 1.5, no integer"),
    "a width of truth": (put("frame", "width", value=True), "frame.width is true, no integer"),
    "a huge width": (put("frame", "width", value=65537), "more than 65536"),
    "two channels": (put("frame", "channels", value=2), "none of 1, 3"),
    "a frame size with more": (put("frame", "layout", value="NHWC"), "frame.layout is no field"),
    "a network that is a list": (put("network", value=[]), "network is [], no object"),
    "a version that is a number": (put("producer", "agp_edge", value=1), "producer.agp_edge is 1, no string"),
    "a short hash": (put("trained", 0, value="ab"), 'trained[0] is "ab"'),
    "a hash in capitals": (put("trained", 0, value="A" * 64), "does not match"),
    "a hash with a newline": (put("trained", 0, value="a" * 64 + "\n"), "does not match"),
    "a hash twice": (put("held_out", value=[B, B]), "held_out has an entry twice"),
    "no FP32 graph": (drop("files", "model.fp32.onnx"), "files.model.fp32.onnx is missing"),
    "a path upwards": (put("files", "../x", value=GOOD["files"]["model.fp32.onnx"]), "a name in files"),
    "a path from the root": (put("files", "/etc/passwd", value=GOOD["files"]["model.fp32.onnx"]), "a name in files"),
    "a path by a folder": (put("files", "frames/../x.png", value=GOOD["files"]["model.fp32.onnx"]), "a name in files"),
    "a hidden frame": (put("files", "frames/.x.png", value=GOOD["files"]["model.fp32.onnx"]), "a name in files"),
    "another kind of file": (put("files", "run.sh", value=GOOD["files"]["model.fp32.onnx"]), "a name in files"),
    "its own signature": (put("files", "model.sig", value=GOOD["files"]["model.fp32.onnx"]), "a name in files"),
    "a path with a newline": (put("files", "frames/x.png\n", value=GOOD["files"]["model.fp32.onnx"]), "a name in files"),
    "a file without a size": (drop("files", "model.int8.onnx", "size_bytes"), "size_bytes is missing"),
    "a file of less than nothing": (put("files", "model.int8.onnx", "size_bytes", value=-1), "less than 0"),
    "a part that is none": (put("splits", "best", value=[]), "splits.best is no field"),
    "frames that are an object": (put("frames", value={}), "frames is {}, no array"),
    "a frame's score that is text": (put("frames", 1, "score", value="1.5"), 'frames[1].score is "1.5", no number'),
    "a frame's score that is true": (put("frames", 1, "score", value=True), "no number"),
    "a frame of no part": (put("frames", 1, "part", value="best"), "frames[1].part"),
    "a frame without a file": (drop("frames", 0, "file"), "frames[0].file is missing"),
    "a frame with more": (put("frames", 0, "label", value="x"), "frames[0].label is no field"),
    "a precision that is none": (put("artefacts", "fp64", value={}), "artefacts.fp64 is no field"),
    "a gate that says nothing": (put("artefacts", "int8", "gate", value={}), "gate.outcome is missing"),
    "a gate that says too much": (put("artefacts", "int8", "gate", "outcome", value="fine"), "none of"),
    "a method that is none": (put("artefacts", "int8", "method", value="luck"), "none of"),
    "a reason without end": (put("artefacts", "int8", "accepted", value="x" * 5000), "longer than 4096"),
    "a calibration by halves": (drop("calibration", "seed"), "calibration.seed is missing"),
    "a calibration that is null": (put("calibration", value=None), "calibration is null"),
    "a choice that is none": (put("calibration", "choice", value="best"), "calibration.choice"),
    "a kept node that is a number": (put("calibration", "int8", "kept", value=[1]), "kept[0] is 1, no string"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_what_is_spoiled_is_refused_by_both_and_named(name: str) -> None:
    change, words = SPOILED[name]
    value = copy.deepcopy(GOOD)
    change(value)
    assert not both_say(value)
    with pytest.raises(ArtefactError) as caught:
        Manifest.from_dict(value, "manifest.json")
    assert words in caught.value.what
    assert len(caught.value.what) < 300


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] * bool(at) + [place for key, item in items for place in places(item, (*at, key))]


PLACES = places(GOOD)
OTHERS: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, 1.5, 3, 65536, 1e300, 10**18, "", "a", "a\n", A, A + "\n", "reference", "gate",
    "../x", "frames/x.png", "x" * 5000, [], [A], [A, A], [1, 1], [[]], {}, {"sha256": A}, {"": 1},
]  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.sampled_from(PLACES),
            st.sampled_from(["put", "drop", "add"]),
            st.sampled_from(OTHERS) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
            st.text(max_size=4),
        ),
        min_size=1,
        max_size=2,
    )
)
def test_the_two_never_disagree(changes: list[tuple[tuple[Any, ...], str, Any, str]]) -> None:
    value = copy.deepcopy(GOOD)
    for place, what, other, key in changes:
        try:
            inside: Any = value
            for step in place[:-1]:
                inside = inside[step]
            if what == "put":
                inside[place[-1]] = copy.deepcopy(other)
            elif what == "drop":
                del inside[place[-1]]
            elif isinstance(inside, dict):
                inside[key] = copy.deepcopy(other)
        except (KeyError, IndexError, TypeError):
            continue
    both_say(value)


def keywords(schema: Any) -> set[str]:
    """Every keyword of a schema; the names of properties and definitions are none."""
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema)
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            found |= set().union(*map(keywords, value.values()))
        elif key not in ("const", "enum", "required"):
            found |= keywords(value)
    return found


def test_the_reader_knows_every_keyword_and_refuses_what_it_does_not() -> None:
    known = set(CHECKS) | ANNOTATIONS
    assert keywords(bundle_schema()) <= known
    with pytest.raises(NotImplementedError, match="contains"):
        find_fault([], {"contains": {}}, {})
    assert set(CHECKS) <= keywords(bundle_schema()), "it knows no keyword for nothing"


def test_the_manifest_in_the_documentation_is_one() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "bundle.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    value = json.loads(example)
    assert both_say(value)
    assert Manifest.from_dict(value, "it").find_contradiction() is None
    for field in bundle_schema()["required"]:
        assert f"`{field}`" in text or field in ("format", "version")
