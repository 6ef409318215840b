"""The INT8 graph has the form that TensorRT takes, touches nothing else, and ONNX Runtime multiplies integers in it."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from agp_edge.engines import get_backend
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import ArtefactError, InputError
from agp_edge.frame import FrameSpec
from agp_edge.gate import map_correlations
from calib.layers import channel_axis, find_layers, select_layers
from calib.quantise import Quantiser, quantise

Make = Callable[[str], Any]


def check_form(before: Path, after: Path, quantised: list[str]) -> None:
    """Hold an INT8 graph against the form, and against the graph that it came from."""
    old, new = onnx.load(before), onnx.load(after)
    onnx.checker.check_model(new, full_check=True)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in new.graph.initializer}
    originals = {t.name: onnx.numpy_helper.to_array(t) for t in old.graph.initializer}
    producer = {name: node for node in new.graph.node for name in node.output}
    source = {node.name: node for node in old.graph.node}
    of_activations = set()
    for node in (n for n in new.graph.node if n.name in quantised):
        activation, weight = producer[node.input[0]], producer[node.input[1]]
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        of_activations.add(activation.output[0])
        # One scale for the activation, the same on its way in and out.
        into = producer[activation.input[0]]
        assert into.op_type == "QuantizeLinear"
        assert into.input[1:] == activation.input[1:]
        assert constants[into.input[1]].shape == ()
        # One for each output channel of the weights.
        steps, scale = constants[weight.input[0]], constants[weight.input[1]]
        axis = channel_axis(source[node.name], steps.ndim)
        assert [a.i for a in weight.attribute if a.name == "axis"] == [axis]
        assert steps.dtype == np.int8
        assert steps.min() >= -127
        assert scale.shape == (steps.shape[axis],)
        scales = scale.reshape([-1 if i == axis else 1 for i in range(steps.ndim)])
        off = np.abs(steps * scales - originals[source[node.name].input[1]].astype(np.float32))
        assert (off <= 0.501 * scales).all()
        # No quantised bias, and nothing quantised that comes out.
        assert all(constants[bias].dtype == np.float32 for bias in node.input[2:])
        if originals[source[node.name].input[1]].dtype == np.float16:
            (follower,) = (n for n in new.graph.node if node.output[0] in n.input)
            assert follower.op_type == "Cast"
            assert follower.output == source[node.name].output
    for node in new.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert constants[node.input[1]].dtype == np.float32
        elif node.name not in quantised:
            # Whatever else takes that activation takes it as it was.
            assert not of_activations & set(node.input)
    rest = [n for n in new.graph.node if n.name in source and n.name not in quantised]
    assert all(n == source[n.name] for n in rest)
    assert len(rest) + len(quantised) == len(old.graph.node)
    assert new.opset_import == old.opset_import
    assert new.graph.input == old.graph.input
    assert new.graph.output == old.graph.output


@pytest.mark.parametrize("name", ["vit", "cnn"])
def test_int8_has_the_form_and_says_nearly_the_same(name: str, small_graph: Make, tmp_path: Path) -> None:
    graph = small_graph(name)
    base = graph.path
    quantiser = Quantiser(base, graph.frames, batch=2)
    assert quantiser.rest == "fp16"
    out = tmp_path / "model.onnx"
    quantised = quantiser.write(out)
    assert quantised == quantiser.nodes
    check_form(base, out, quantised)
    operators = Counter(layer.operator for layer in quantiser.layers)
    # The patches, 2 x 6 of the backbone, 4 of the decoder and its end; or stem, two convolutions in each of three
    # stages and two shortcuts, and a linear layer on either side of the decoder's block.
    assert operators == ({"Conv": 1, "MatMul": 17} if name == "vit" else {"Conv": 9, "MatMul": 6})
    assert out.stat().st_size < base.stat().st_size
    with OnnxRuntimeSession(base, graph.frame) as session:
        expected = session.infer(graph.frames)
    with OnnxRuntimeSession(out, graph.frame) as session:
        got = session.infer(graph.frames)
    assert map_correlations(expected.anomaly_map, got.anomaly_map).mean() > 0.95
    assert np.abs(got.score / expected.score - 1).max() < 0.05
    assert (got.score != expected.score).any()


@pytest.mark.parametrize("rest", ["fp16", "fp32"])
def test_the_filterbank_keeps_its_filters_and_its_target(
    rest: str, exported_bundle: Path, tmp_path: Path
) -> None:
    base = exported_bundle / f"model.{rest}.onnx"
    frames = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    out = tmp_path / "model.onnx"
    quantiser = Quantiser(base, frames, batch=1)
    assert quantiser.rest == rest
    quantised = quantiser.write(out)
    check_form(base, out, quantised)
    assert {name.split("/")[0].rsplit(".", 1)[0] for name in quantised} == {
        "network.decoder", "network.decoder.blocks.0.attention", "network.decoder.blocks.1.attention",
        "network.decoder.blocks.0.mlp", "network.decoder.blocks.1.mlp",
    }  # fmt: skip


def test_kept_nodes_stay_as_they_were(small_graph: Make, tmp_path: Path) -> None:
    graph = small_graph("vit")
    quantiser = Quantiser(graph.path, graph.frames, batch=2)
    keep = select_layers(quantiser.layers, ["backbone.layers.0.attention", "decoder.head"])
    assert [name.split("/")[0] for name in keep] == [
        "network.backbone.model.layers.0.attention.q_proj", "network.backbone.model.layers.0.attention.k_proj",
        "network.backbone.model.layers.0.attention.v_proj", "network.backbone.model.layers.0.attention.o_proj",
        "network.decoder.head",
    ]  # fmt: skip
    out = tmp_path / "model.onnx"
    quantised = quantiser.write(out, keep)
    assert set(quantised) == set(quantiser.nodes) - set(keep)
    check_form(graph.path, out, quantised)
    assert quantise(graph.path, tmp_path / "again.onnx", graph.frames, batch=2, keep=keep) == 13
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()
    # Two of three that share an activation.
    shared = quantiser.write(out, keep[:1])
    check_form(graph.path, out, shared)
    with pytest.raises(InputError, match=r"no node 'decoder\.head' to keep"):
        quantiser.write(out, ["decoder.head"])
    with pytest.raises(InputError, match=r"no layer 'decoder\.hat' to keep") as caught:
        select_layers(quantiser.layers, ["decoder.hat"])
    assert caught.value.hint == "as in --keep decoder.head"
    with pytest.raises(ArtefactError, match="all 18 layers are kept"):
        quantiser.write(out, quantiser.nodes)


def test_onnx_runtime_multiplies_integers(small_graph: Make, tmp_path: Path) -> None:
    graph = small_graph("vit")
    quantise(graph.path, tmp_path / "model.onnx", graph.frames, batch=2)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert operators["MatMulIntegerToFloat"] >= 11, (
        "all but the three that share an activation, in each block"
    )


@pytest.mark.parametrize("name", ["vit", "cnn"])
def test_tensorrt_takes_it(name: str, small_graph: Make, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install 'agp-edge[tensorrt-rtx]'")
    graph = small_graph(name)
    quantise(graph.path, tmp_path / "model.onnx", graph.frames, batch=2)
    get_backend("tensorrt-rtx").build(tmp_path / "model.onnx", tmp_path / "plan", BuildOptions(("8.6",), precision="int8"))
    assert (tmp_path / "plan").stat().st_size > 10_000


def test_layers_say_what_they_weigh(small_graph: Make, exported_bundle: Path) -> None:
    graph = small_graph("vit")
    layers = {layer.name: layer for layer in Quantiser(graph.path, graph.frames, batch=2).layers}
    patches = layers["backbone.embeddings.patch_embeddings.projection"]
    assert (patches.operator, patches.parameters) == ("Conv", 24 * 3 * 16 * 16)
    assert patches.macs == 16 * patches.parameters, "16 patches of one frame"
    assert patches.saved_bytes == patches.parameters - 5 * 25, "a byte a weight, less scales and zero points"
    wide = layers["decoder.blocks.0.mlp.0"]
    assert (wide.operator, wide.parameters, wide.macs) == ("MatMul", 24 * 96, 16 * 24 * 96)
    single = onnx.shape_inference.infer_shapes(onnx.load(exported_bundle / "model.fp32.onnx"))
    (wide,) = (layer for layer in find_layers(single) if layer.name == "decoder.blocks.0.mlp.0")
    assert wide.saved_bytes == 3 * 24 * 96 - 5 * 97


def linear_model(path: Path, weights: np.ndarray[Any, np.dtype[np.float32]], scale: float) -> Path:
    """One quantisable layer over brightness: frames -> score and map."""
    h = onnx.helper
    nodes = [
        h.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        h.make_node("Mul", ["float", "scale"], ["x"]),
        h.make_node("MatMul", ["x", "weights"], ["y"], "head/linear"),
        h.make_node("ReduceMax", ["y", "axes"], ["score"], keepdims=0),
        h.make_node("ReduceMax", ["y", "last"], ["anomaly_map"], keepdims=0),
    ]
    constants = {
        "weights": weights, "scale": np.array(scale, np.float32), "axes": np.array([1, 2, 3]), "last": np.array([3]),
    }  # fmt: skip
    graph = h.make_graph(
        nodes, "linear", [h.make_tensor_value_info("frames", TensorProto.UINT8, [1, 8, 8, 3])],
        [h.make_tensor_value_info("score", TensorProto.FLOAT, [1]),
         h.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [1, 8, 8])],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()],
    )  # fmt: skip
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 20)], ir_version=9), str(path))
    return path


def test_by_hand(tmp_path: Path) -> None:
    weights = np.array([[1, 0], [0.5, 0], [-0.25, 0]], np.float32)
    model = linear_model(tmp_path / "model.onnx", weights, 1.0)
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[1, 0, 0] = 127, 64, 10
    assert quantise(model, tmp_path / "int8.onnx", frames, batch=1) == 1
    constants = {
        t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "int8.onnx").graph.initializer
    }
    assert constants["x_scale"] == 1.0
    np.testing.assert_array_equal(constants["weights_int8"], [[127, 0], [64, 0], [-32, 0]])
    np.testing.assert_allclose(constants["weights_scale"], np.array([1, 1]) / 127, rtol=1e-6)
    with OnnxRuntimeSession(tmp_path / "int8.onnx", FrameSpec(8, 8, 3)) as session:
        score = session.infer(frames).score
    np.testing.assert_allclose(score, [0, 127 + (64 * 64 - 32 * 10) / 127], rtol=1e-6)


def test_what_has_no_range_is_left_alone_and_what_has_no_end_is_refused(tmp_path: Path) -> None:
    model = linear_model(tmp_path / "model.onnx", np.ones((3, 2), np.float32), 1.0)
    with pytest.raises(ArtefactError, match="no operator with trained weights to quantise"):
        Quantiser(model, np.zeros((2, 8, 8, 3), np.uint8), batch=1)
    bright = np.full((2, 8, 8, 3), 200, np.uint8)
    linear_model(model, np.ones((3, 2), np.float32), float("inf"))
    with pytest.raises(ArtefactError, match="activation x is no finite number"):
        Quantiser(model, bright, batch=1)
    linear_model(model, np.array([[1, np.nan], [0, 0], [0, 0]], np.float32), 1.0)
    with pytest.raises(ArtefactError, match="weights weights are no finite numbers"):
        quantise(model, tmp_path / "int8.onnx", bright, batch=1)
    assert not (tmp_path / "int8.onnx").exists()
