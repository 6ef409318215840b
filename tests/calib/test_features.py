"""What a frame does to the ranges of a graph, against activations worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from agp_edge.errors import ArtefactError
from agp_edge.frame import FrameSpec
from calib.features import measure_features


def write_graph(path: Path, batch: int, scale: float = 1.0) -> FrameSpec:
    """Frames of 2x2, flattened and multiplied: x W1, its negative, times W2."""
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["x"]),
        helper.make_node("MatMul", ["x", "w1"], ["y"], name="first"),
        helper.make_node("Neg", ["y"], ["z"]),
        helper.make_node("MatMul", ["z", "w2"], ["last"], name="second"),
    ]
    weights = {
        "scale": np.array(scale, np.float32),
        "shape": np.array([batch, 4]),
        "w1": np.eye(4, 3, dtype=np.float32),
        "w2": np.ones((3, 2), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, [batch, 2, 2, 1])],
        [helper.make_tensor_value_info("last", TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return FrameSpec(2, 2, 1, batch)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_largest_magnitude_and_spread_of_what_goes_into_each_operator(batch: int, tmp_path: Path) -> None:
    frame = write_graph(tmp_path / "g.onnx", batch)
    frames: list[NDArray[np.uint8]] = [
        np.array(values, np.uint8).reshape(2, 2, 1) for values in ([0, 3, 4, 9], [1, 1, 1, 1], [0, 0, 2, 0])
    ]
    told: list[tuple[int, int]] = []
    features = measure_features(
        tmp_path / "g.onnx", frame, iter(frames), 3, lambda done, total, note="": told.append((done, total))
    )
    # Of x, all four; of z, the first three with their sign changed.
    by_hand = [[9, np.sqrt(106 / 4), 4, np.sqrt(25 / 3)], [1, 1, 1, 1], [2, 1, 2, np.sqrt(4 / 3)]]
    assert np.allclose(features, by_hand)
    assert told[-1] == (3, 3)
    assert measure_features(tmp_path / "g.onnx", frame, [], 0).shape == (0, 4)


def test_an_activation_that_is_no_number_is_found(tmp_path: Path) -> None:
    frame = write_graph(tmp_path / "g.onnx", 1, scale=float("inf"))
    with pytest.raises(ArtefactError, match="no finite numbers"):
        measure_features(tmp_path / "g.onnx", frame, [np.ones((2, 2, 1), np.uint8)], 1)
