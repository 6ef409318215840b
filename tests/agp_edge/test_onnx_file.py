"""What a runtime must not see is found in the file itself: weights elsewhere, numbers that are none, and garbage."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from agp_edge.bundle import check_onnx
from agp_edge.bundle.onnx_file import EXPONENTS, INSIDE, MAX_FIELDS, TENSOR, check_onnx_bytes
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import ArtefactError
from agp_edge.frame import FrameSpec

Command = Callable[..., tuple[int, str, str]]
SPEC = FrameSpec(64, 48, 3)


def elsewhere(location: str = "../weights.bin") -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph_with(tensor: onnx.TensorProto) -> onnx.GraphProto:
    return helper.make_graph([], "g", [], [], [tensor])


def model_with(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return helper.make_model(graph_with(tensor))


def node_with(**attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"], **attributes)
    return helper.make_model(helper.make_graph([node], "g", [], []))


def in_a_function() -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"], value=elsewhere())
    function = helper.make_function("own", "f", [], ["y"], [node], [helper.make_opsetid("", 19)])
    return helper.make_model(helper.make_graph([], "g", [], []), functions=[function])


def in_training() -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.training_info.add().algorithm.CopyFrom(graph_with(elsewhere()))
    return model


def sparse() -> onnx.ModelProto:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.graph.sparse_initializer.add().values.CopyFrom(elsewhere())
    return model


def without_a_location() -> onnx.TensorProto:
    """Only marked as external; a reader may then look anywhere."""
    return TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)


def with_a_location_alone() -> onnx.TensorProto:
    tensor = elsewhere()
    tensor.ClearField("data_location")
    return tensor


ELSEWHERE: dict[str, Callable[[], onnx.ModelProto]] = {
    "an initialiser": lambda: model_with(elsewhere()),
    "an absolute path": lambda: model_with(elsewhere("/etc/passwd")),
    "inside the folder": lambda: model_with(elsewhere("weights.bin")),
    "an address in memory": lambda: model_with(elsewhere("*/_ORT_MEM_ADDR_/*")),
    "marked alone": lambda: model_with(without_a_location()),
    "a location alone": lambda: model_with(with_a_location_alone()),
    "a constant": lambda: node_with(value=elsewhere()),
    "a list of tensors": lambda: node_with(value=[elsewhere(), elsewhere()]),
    "a graph in a node": lambda: node_with(value=graph_with(elsewhere())),
    "graphs in a node": lambda: node_with(value=[graph_with(elsewhere())]),
    "a sparse initialiser": sparse,
    "a function": in_a_function,
    "training": in_training,
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_weights_that_lie_elsewhere_are_refused_wherever_they_are_named(name: str) -> None:
    with pytest.raises(ArtefactError, match="external data"):
        check_onnx_bytes(ELSEWHERE[name]().SerializeToString(), "it")


def test_no_runtime_sees_such_a_graph(tmp_path: Path, tiny_model: Path) -> None:
    model = onnx.load(tiny_model)
    model.graph.initializer.append(elsewhere(str(tmp_path / "weights.bin")))
    np.ones(1, np.float32).tofile(tmp_path / "weights.bin")
    path = tmp_path / "spoiled.onnx"
    path.write_bytes(model.SerializeToString())
    for data in (None, path.read_bytes()):
        with pytest.raises(ArtefactError, match="external data"):
            OnnxRuntimeSession(path, SPEC, data=data)


def typed(kind: int, value: float, *, raw: bool) -> onnx.TensorProto:
    tensor = helper.make_tensor(
        "w", kind, [3], [1.0, value, 65504.0 if kind == TensorProto.FLOAT16 else 3e38]
    )
    if raw and not tensor.raw_data:
        array = numpy_helper.to_array(tensor)
        tensor = TensorProto(name="w", data_type=kind, dims=[3], raw_data=array.tobytes())
    return tensor


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("kind", EXPONENTS)
def test_a_number_that_is_not_finite_is_refused(kind: int, raw: bool) -> None:
    check_onnx_bytes(model_with(typed(kind, -1e-6, raw=raw)).SerializeToString(), "it")
    for value in (float("inf"), -float("inf"), float("nan")):
        data = model_with(typed(kind, value, raw=raw)).SerializeToString()
        with pytest.raises(ArtefactError, match="not finite"):
            check_onnx_bytes(data, "it")


def test_integers_may_be_any(tiny_model: Path) -> None:
    ones = np.full(4, -1, np.int64)  # In a floating-point tensor these bytes were a NaN.
    check_onnx_bytes(model_with(numpy_helper.from_array(ones)).SerializeToString(), "it")
    check_onnx(tiny_model)


def test_the_walk_knows_every_place_that_a_tensor_can_be_in() -> None:
    """The table against onnx's own definition: a field it lacked would be a hole."""
    every: dict[str, Any] = {}

    def collect(message: Any) -> None:
        if message.name not in every:
            every[message.name] = message
            for field in message.fields:
                if field.message_type is not None:
                    collect(field.message_type)

    collect(onnx.ModelProto.DESCRIPTOR)
    holds = {TENSOR}
    while True:
        more = {
            name
            for name, message in every.items()
            if any(f.message_type is not None and f.message_type.name in holds for f in message.fields)
        } - holds
        if not more:
            break
        holds |= more
    expected = {
        name: {
            f.number: f.message_type.name
            for f in every[name].fields
            if f.message_type is not None and f.message_type.name in holds
        }
        for name in holds - {TENSOR}
    }
    assert expected == INSIDE
    fields = {field.name: field.number for field in every[TENSOR].fields}
    numbers = (
        "data_type",
        "float_data",
        "int32_data",
        "raw_data",
        "double_data",
        "external_data",
        "data_location",
    )
    assert [fields[name] for name in numbers] == [2, 4, 5, 9, 10, 13, 14]


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append((value & 0x7F) | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def length_delimited(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def nested(levels: int) -> bytes:
    """Graphs in attributes of nodes of graphs."""
    graph = b""
    for _ in range(levels):
        graph = length_delimited(1, length_delimited(5, length_delimited(6, graph)))
    return length_delimited(7, graph)


GARBAGE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no graph"),
    "zeros": (bytes(1000), "begins no field"),
    "text": (b"hello, this is a model\n" * 10, "garbled|begins no field|cut off"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "begins no field"),
    "a number without end": (b"\x3a" + b"\xff" * 20, "without an end"),
    "a length beyond the end": (b"\x3a\xff\xff\xff\xff\x0f", "cut off"),
    "a length beyond 64 bits": (b"\x3a" + b"\xff" * 9 + b"\x7f", "cut off"),
    "a group": (b"\x3b\x3c", "begins no field"),
    "a key beyond 32 bits": (varint((1 << 32 | 7) << 3 | 2) + b"\x00", "begins no field"),
    "no graph": (length_delimited(2, b"pytorch"), "no graph"),
    "a depth without end": (nested(5000), "nested deeper than"),
    "fields without end": (b"\x3a\x00" * (MAX_FIELDS + 1), "more than"),
    "half a float": (length_delimited(7, length_delimited(5, b"\x10\x01" + length_delimited(9, b"abc"))), "length"),
}  # fmt: skip


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused_with_the_place(name: str, tmp_path: Path) -> None:
    data, message = GARBAGE[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match=f"model.onnx is no ONNX graph of ours: .*({message})"):
        check_onnx(path)


def test_a_file_that_is_cut_off_anywhere_is_refused_or_ends_between_two_fields(tiny_model: Path) -> None:
    """Protocol buffers have no end mark: what ends between two fields is a shorter model, which a hash tells apart."""
    data = tiny_model.read_bytes()
    whole = [n for n in range(len(data)) if not refused(data[:n])]
    model = onnx.load(tiny_model)
    assert len(whole) <= len(model.opset_import) + len(model.ListFields())
    assert len(whole) < 10 < len(data)


def refused(data: bytes) -> bool:
    try:
        check_onnx_bytes(data, "it")
    except ArtefactError:
        return True
    return False


@given(st.binary(max_size=64), st.integers(0, 200))
def test_nothing_but_our_error_comes_out(noise: bytes, at: int) -> None:
    data = model_with(numpy_helper.from_array(np.ones(4, np.float32))).SerializeToString()
    refused(noise)
    refused(data[:at] + noise + data[at:])
    refused(data[:at] + noise + data[at + len(noise) :])


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda data: b"\x00garbage" * 100,
    "cut off": lambda data: data[: len(data) // 2],
    "weights elsewhere": lambda data: with_initialiser(data, elsewhere("../../../etc/passwd")),
    "a scale that is NaN": lambda data: with_initialiser(
        data, TensorProto(name="scale", data_type=1, dims=[1], raw_data=struct.pack("<f", float("nan")))
    ),
}


def with_initialiser(data: bytes, tensor: onnx.TensorProto) -> bytes:
    model = onnx.load_from_string(data)
    model.graph.initializer.append(tensor)
    out: bytes = model.SerializeToString()
    return out


@pytest.mark.parametrize("name", SPOILED)
def test_a_bundle_whose_graph_is_spoiled_ends_in_four_although_every_hash_fits(
    name: str, tiny_model: Path, tmp_path: Path, reseal: Callable[[Path], None], command: Command
) -> None:
    from agp_edge.bundle import Manifest, write_bundle

    manifest = Manifest("part", SPEC, {}, {}, [], [])
    bundle = write_bundle(tmp_path / "part.bundle", manifest, {"model.fp32.onnx": tiny_model}).path
    model = bundle / "model.fp32.onnx"
    model.write_bytes(SPOILED[name](model.read_bytes()))
    reseal(bundle)
    assert json.loads((bundle / "manifest.json").read_text())["files"]["model.fp32.onnx"]["size_bytes"] > 0
    for arguments in (("verify", bundle), ("inspect", bundle), ("build-engine", bundle)):
        code, out, err = command(*arguments)
        assert (code, out, len(err.splitlines())) == (4, "", 2), err
        assert "is no ONNX graph of ours" in err


# --- what runtimes were seen to hang or to die over ----------------------------------------------------


def change_opset(version: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def change_pool(name: str, value: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        pool = next(node for node in model.graph.node if node.op_type == "AveragePool")
        next(a for a in pool.attribute if a.name == name).ints[1] = value

    return change


def turn_into_a_pad(model: onnx.ModelProto) -> None:
    node = model.graph.node[3]
    node.op_type = "Pad"
    del node.attribute[:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_opset(1 << 62), "version of operators"),
        (change_opset(-1), "version of operators"),
        (change_opset(0), "version of operators"),
        (change_pool("strides", 1 << 62), "strides of a node"),
        (change_pool("strides", 0), "strides of a node"),
        (change_pool("kernel_shape", -1), "kernel_shape of a node"),
        (turn_into_a_pad, "a Pad of it lacks an input"),
    ],
)
def test_no_runtime_sees_what_it_would_hang_or_die_over(
    tiny_model: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = onnx.load(str(tiny_model))
    check_onnx(tiny_model)
    change(model)
    onnx.save(model, str(tiny_model))
    with pytest.raises(ArtefactError, match=message):
        check_onnx(tiny_model)


def test_strides_are_read_one_a_field_and_packed(tiny_model: Path) -> None:
    """onnx writes one a field; a reader of protocol buffers takes both."""
    attribute = b"\x0a\x07strides" + b"\x42\x0a" + b"\x08" + b"\xff" * 8 + b"\x7f"
    node = b"\x2a" + bytes([len(attribute)]) + attribute
    graph = b"\x0a" + bytes([len(node)]) + node
    with pytest.raises(ArtefactError, match="strides of a node"):
        check_onnx_bytes(b"\x3a" + bytes([len(graph)]) + graph, "it")
