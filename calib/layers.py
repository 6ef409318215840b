"""The layers of a graph that INT8 can take: their names as a person knows them, and what each weighs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from agp_edge.errors import InputError

OPERATORS = ("Conv", "Gemm", "MatMul")
OF_THE_DISTANCE = "residual_weight"
"""In the name of the weights that foretell a channel's spread: what follows is an exponential, which forgives nothing."""


@dataclass(frozen=True)
class Layer:
    """An operator with trained weights.

    Attributes:
        node: its name in the graph.
        name: as a person knows it: `decoder.blocks.0.mlp.2`.
        operator: Conv, Gemm or MatMul.
        parameters: weights, without the bias, which stays as it is.
        macs: multiplications and additions for one frame.
        saved_bytes: by how much INT8 makes the file smaller.
    """

    node: str
    name: str
    operator: str
    parameters: int
    macs: int
    saved_bytes: int


def quantisable(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes with trained weights: MatMul and Gemm with a constant, Conv of a pretrained backbone."""
    weights = {tensor.name for tensor in model.graph.initializer}
    chosen = []
    for node in model.graph.node:
        if node.op_type not in OPERATORS or node.input[1] not in weights or OF_THE_DISTANCE in node.input[1]:
            continue
        # Fixed filters and the blur are convolutions too; a pretrained model's are below `model`.
        if node.op_type != "Conv" or ".model." in node.input[1]:
            chosen.append(node.name)
    return chosen


def channel_axis(node: onnx.NodeProto, dimensions: int) -> int:
    """Which axis of a node's weights counts its output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        return 0
    return dimensions - 1


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """The quantisable layers in the order of the graph.

    Args:
        model: the graph before it is quantised, with the shapes of its tensors inferred.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.output, *model.graph.input)
    }
    batch = shapes[model.graph.input[0].name][0]
    chosen = set(quantisable(model))
    uses = [name for node in model.graph.node for name in node.input]
    layers = []
    for node in model.graph.node:
        if node.name not in chosen:
            continue
        weight = weights[node.input[1]]
        shape = list(weight.dims)
        channels = shape[channel_axis(node, len(shape))]
        parameters = math.prod(shape)
        # An output channel of one position takes as many as the weights that it has.
        macs = math.prod(shapes[node.output[0]]) * (parameters // channels) // batch
        width = 2 if weight.data_type == onnx.TensorProto.FLOAT16 else 4
        # What two nodes share stays until both are in INT8.
        freed = width * parameters if uses.count(weight.name) == 1 else 0
        # A scale of four bytes and a zero point of one for each channel, and for the activation.
        saved = freed - parameters - 5 * (channels + 1)
        layers.append(Layer(node.name, layer_name(node.name), node.op_type, parameters, macs, saved))
    return layers


def layer_name(node: str) -> str:
    """A node's name as a person knows it: `network.backbone.model.layers.0.mlp.fc1/linear_4` is `backbone.layers.0.mlp.fc1`.

    The export names nodes by their module and, after a slash, by what they do in it.
    """
    module = node.partition("/")[0]
    return module.removeprefix("network.").replace("backbone.model.", "backbone.", 1)


def select_layers(layers: Sequence[Layer], asked: Iterable[str]) -> list[str]:
    """The nodes that names ask for.

    Args:
        layers: all there are.
        asked: names of layers or nodes, or what such a name begins with up to a dot, as in `decoder.blocks.0`.

    Returns:
        Names of nodes, in the order of the graph.

    Raises:
        InputError: a name that fits none.
    """
    chosen = set()
    for name in asked:
        fitting = {
            layer.node
            for layer in layers
            if name in (layer.node, layer.name) or layer.name.startswith(f"{name}.")
        }
        if not fitting:
            names = [layer.name for layer in layers]
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or names[:1]
            raise InputError(
                f"there is no layer {name!r} to keep", f"as in --keep {near[0]}" if near else "there is none"
            )
        chosen |= fitting
    return [layer.node for layer in layers if layer.node in chosen]
