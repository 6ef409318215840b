"""Small graphs of our interface, for builders that have to compile them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_graph(
    path: Path, nodes: list[Any], initializers: list[Any], shape: list[Any], cells: list[Any]
) -> Path:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, shape[:1]),
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, cells),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def write_conv_model(path: Path, precision: str) -> Path:
    """A convolution over the frame, in FP32, in half, or between Q and DQ as an INT8 export has it."""
    from onnx import TensorProto, helper, numpy_helper

    core = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
    kind = np.float16 if precision == "fp16" else np.float32
    weight = np.random.default_rng(0).normal(size=(8, 3, 4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["frames"], ["cast"], to=core),
        helper.make_node("Transpose", ["cast"], ["x"], perm=[0, 3, 1, 2]),
    ]
    initializers = [
        numpy_helper.from_array(np.array([1], np.int64), "channel"),
        numpy_helper.from_array(np.array([1, 2], np.int64), "cells"),
    ]
    if precision == "int8":
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        integers = np.round(weight / scale[:, None, None, None]).astype(np.int8)
        initializers += [
            numpy_helper.from_array(np.array(2, np.float32), "x_scale"),
            numpy_helper.from_array(np.array(0, np.int8), "x_zero"),
            numpy_helper.from_array(integers, "w_int8"),
            numpy_helper.from_array(scale.astype(np.float32), "w_scale"),
            numpy_helper.from_array(np.zeros(8, np.int8), "w_zero"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_int8"]),
            helper.make_node("DequantizeLinear", ["x_int8", "x_scale", "x_zero"], ["x_in"]),
            helper.make_node("DequantizeLinear", ["w_int8", "w_scale", "w_zero"], ["w"], axis=0),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["x"], ["x_in"]))
        initializers.append(numpy_helper.from_array(weight.astype(kind), "w"))
    nodes += [
        helper.make_node("Conv", ["x_in", "w"], ["conv"], strides=[4, 4], kernel_shape=[4, 4]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("ReduceMean", ["relu", "channel"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["anomaly_map"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["anomaly_map", "cells"], ["score"], keepdims=0),
    ]
    return write_graph(path, nodes, initializers, [1, 48, 64, 3], [1, 12, 16])


def write_foreign_model(path: Path, operator: str) -> Path:
    """A graph of our interface with an operator that TensorRT does not have."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["float"], ["foreign"], name=f"/core/{operator}"),
        helper.make_node("Reshape", ["foreign", "shape"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map", "cells"], ["score"], keepdims=0),
    ]
    initializers = [
        numpy_helper.from_array(np.array([1, 3, 1], np.int64), "shape"),
        numpy_helper.from_array(np.array([1, 2], np.int64), "cells"),
    ]
    return write_graph(path, nodes, initializers, [1, 3, 3, 3], [1, 3, 1])
