from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agp_edge.engines import open_engine
from agp_edge.engines.sidecar import (
    Layers,
    Rebuilt,
    Sidecar,
    cast_precision,
    is_engine,
    read_sidecar,
    sidecar_path,
)
from agp_edge.errors import AgpEdgeError, ArtefactError, InputError
from agp_edge.files import write_json
from agp_edge.frame import FrameSpec
from agp_edge.scene import SceneReference


def change(engine: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = sidecar_path(engine)
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    sidecar = Sidecar(
        name="bottle",
        precision="int8",
        backend="tensorrt-rtx",
        backend_version="1.7",
        frame=FrameSpec(1920, 1080, 3, 2),
        plan_sha256="a" * 64,
        bundle_sha256="b" * 64,
        device={"machine": "x86_64", "compute_capabilities": ["8.6", "12.0"]},
        build_seconds=1.5,
        normal_scores=[0.25, 0.5],
        gate={"verdict": "PASS"},
        accepted="a trial on the bench",
        layers=Layers("the runtime", {("FullyConnected", "i8"): 9, ("MVN", "f32"): 5}),
        rebuilt=Rebuilt("c" * 64, "tensorrt-rtx 1.6", 0.25, 0.1, ["good/1.png"]),
        self_test=[0.5, 1.5],
        scene=SceneReference(40, *[(1.0, 1.5, 2.0, 2.5, 3.0)] * 3),
    )
    write_json(tmp_path / "s.json", sidecar.to_dict())
    assert Sidecar.from_dict(json.loads((tmp_path / "s.json").read_text()), "s.json") == sidecar


def test_a_sidecar_of_an_earlier_version_is_read_and_written_as_it_was(tiny_engine: Path) -> None:
    change(tiny_engine, lambda v: v.pop("self_test"))
    sidecar = read_sidecar(tiny_engine)
    assert sidecar.self_test is None
    # To the letter: a seal is over it.
    assert sidecar.to_dict() == json.loads(sidecar_path(tiny_engine).read_text())


def test_the_sidecar_of_an_engine(tiny_engine: Path) -> None:
    sidecar = read_sidecar(tiny_engine)
    assert sidecar.frame == FrameSpec(64, 48, 3)
    assert sidecar_path(tiny_engine).name == tiny_engine.name + ".json"
    assert is_engine(tiny_engine)
    assert not is_engine(tiny_engine.parent)


def test_no_engine_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no engine at") as info:
        read_sidecar(tmp_path / "x.fp32.onnxruntime.engine")
    assert info.value.exit_code == 2


def test_no_sidecar_is_a_broken_artefact(tiny_engine: Path) -> None:
    sidecar_path(tiny_engine).unlink()
    with pytest.raises(ArtefactError, match="is missing") as info:
        read_sidecar(tiny_engine)
    assert info.value.exit_code == 4


def test_a_changed_byte_of_the_plan(tiny_engine: Path) -> None:
    data = bytearray(tiny_engine.read_bytes())
    data[len(data) // 2] ^= 1
    tiny_engine.write_bytes(data)
    with pytest.raises(ArtefactError, match="was changed") as info:
        open_engine(tiny_engine)
    assert info.value.exit_code == 4


SCENE = SceneReference(40, *[(1.0, 1.5, 2.0, 2.5, 3.0)] * 3).to_dict()
REBUILT = {"previous": "a" * 64, "previous_version": "1", "drift_max": 0.1, "noise": 0.01, "flips": []}


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda v: v.update(colour="red"), "colour"),
        (lambda v: v.pop("device"), "device"),
        (lambda v: v.update(backend=7), "backend"),
        (lambda v: v.update(precision="fp7"), "fp7"),
        (lambda v: v.update(version=99), "no sidecar of version"),
        (lambda v: v.update(format="agp-edge-bundle"), "no sidecar of version"),
        (lambda v: v.update(normal_scores=["low"]), "normal score"),
        (lambda v: v.update(normal_scores=[0.1, float("nan")]), "NaN is no JSON"),
        (lambda v: v.update(normal_scores=[float("inf")]), "Infinity is no JSON"),
        (lambda v: v.pop("rebuilt"), "rebuilt"),
        (lambda v: v.update(rebuilt={"previous": "a"}), "of the engine before it cannot be read"),
        (
            lambda v: v.update(rebuilt={**REBUILT, "drift_max": True}),
            "of the engine before it cannot be read",
        ),
        (lambda v: v.update(rebuilt={**REBUILT, "flips": [7]}), "of the engine before it cannot be read"),
        (lambda v: v.update(rebuilt={**REBUILT, "colour": "red"}), "of the engine before it cannot be read"),
        (lambda v: v.update(self_test=None), "self_test"),
        (lambda v: v.update(self_test=[]), "its self-test is none"),
        (lambda v: v.update(self_test=[True]), "its self-test is none"),
        (lambda v: v.update(scene=None), "scene"),
        (lambda v: v.update(scene={}), "of good frames cannot be read"),
        (lambda v: v.update(scene={**SCENE, "colour": [1, 2, 3, 4, 5]}), "of good frames cannot be read"),
        (lambda v: v.update(scene={**SCENE, "frames": 0}), "of good frames cannot be read"),
        (lambda v: v.update(scene={**SCENE, "frames": True}), "of good frames cannot be read"),
        (lambda v: v.update(scene={**SCENE, "contrast": [1, 2, 3, 4]}), "of good frames cannot be read"),
        (lambda v: v.update(scene={**SCENE, "contrast": [5, 4, 3, 2, 1]}), "of good frames cannot be read"),
        (lambda v: v.update(scene={**SCENE, "contrast": [1, 2, "3", 4, 5]}), "of good frames cannot be read"),
        (lambda v: v["frame"].update(width=0), "no frame size"),
        (lambda v: v["frame"].pop("height"), "height"),
    ],
)
def test_a_wrong_field_is_named(
    tiny_engine: Path, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    change(tiny_engine, edit)
    with pytest.raises(ArtefactError, match=says):
        read_sidecar(tiny_engine)


def test_a_backend_that_there_is_not(tiny_engine: Path) -> None:
    change(tiny_engine, lambda v: v.update(backend="abacus"))
    with pytest.raises(ArtefactError, match="is for backend 'abacus', which this version does not have"):
        open_engine(tiny_engine)


def test_precisions_by_name() -> None:
    assert cast_precision("int8") == "int8"
    with pytest.raises(InputError, match="int7"):
        cast_precision("int7")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, insert or double a few bytes."""
    work = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(work)) if work else 0
        match rng.randrange(4):
            case 0 if work:
                work[at] = rng.randrange(256)
            case 1:
                del work[at : at + rng.randint(1, 40)]
            case 2:
                work[at:at] = rng.choice(
                    [b"null", b"-1", b"1e999", b'"', b"[", b"{", b"\xff\x00", b"9" * 5000]
                )
            case _:
                work[at:at] = work[at : at + 30]
    return bytes(work)


def test_no_mutated_sidecar_brings_it_down(tiny_engine: Path) -> None:
    path = sidecar_path(tiny_engine)
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        path.write_bytes(mutate(whole, rng))
        try:
            read_sidecar(tiny_engine)
        except AgpEdgeError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    "key",
    [
        "frame",
        "device",
        "normal_scores",
        "gate",
        "precision",
        "build_seconds",
        "rebuilt",
        "self_test",
        "scene",
    ],
)
@pytest.mark.parametrize("value", [None, True, -1, 1e308, "", "x", [], [None], [[]], {}, {"a": {}}])
def test_no_field_of_another_type_brings_it_down(tiny_engine: Path, key: str, value: Any) -> None:
    change(tiny_engine, lambda v: v.update({key: value}))
    try:
        session, _ = open_engine(tiny_engine)
    except AgpEdgeError:
        return
    session.close()


def test_no_mutated_plan_reaches_a_runtime(tiny_engine: Path) -> None:
    whole = tiny_engine.read_bytes()
    rng = random.Random(1)
    for _ in range(200):
        changed = mutate(whole, rng)
        if changed == whole:
            continue
        tiny_engine.write_bytes(changed)
        with pytest.raises(ArtefactError, match="was changed"):
            open_engine(tiny_engine)
