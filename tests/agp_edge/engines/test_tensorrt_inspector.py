"""What an engine inspector's report comes to; the form is that of TensorRT's developer guide."""

from __future__ import annotations

import json

import pytest

from agp_edge.engines.tensorrt_inspector import SOURCE, read_report

REPORT = {
    "Layers": [
        {
            "Name": "node_of_gpu_0/conv1_1 + node_of_gpu_0/res_conv1_bn_2",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Dimensions": [16, 3, 224, 224], "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [
                {
                    "Name": "y",
                    "Dimensions": [16, 64, 112, 112],
                    "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format",
                }
            ],
        },
        {"Name": "gemm", "LayerType": "gemm", "Outputs": [{"Name": "z", "Format/Datatype": "Row major linear FP16 format"}]},
        {"Name": "gemm 2", "LayerType": "gemm", "Outputs": [{"Name": "z", "Datatype": "Half", "Format": "N/A due to FP32"}]},
        {"Name": "mean", "LayerType": "Reduce", "Outputs": [{"Name": "m", "Format/Datatype": "Row major linear BF16"}]},
        {"Name": "last", "LayerType": "Reformat", "Outputs": []},
    ],
    "Bindings": ["frames", "score"],
}  # fmt: skip


def test_layers_and_the_types_of_what_they_give() -> None:
    found = read_report(json.dumps(REPORT))
    assert found is not None
    assert found.source == SOURCE
    assert found.counts == {
        ("CaskConvolution", "int8"): 1,
        ("gemm", "fp16"): 2,
        ("Reduce", "bf16"): 1,
        ("Reformat", "unknown"): 1,
    }
    assert found.describe() == "2 fp16, 1 bf16, 1 int8, 1 unknown (said by the engine inspector)"


def test_without_detailed_profiling_there_are_names_alone() -> None:
    found = read_report(json.dumps({"Layers": ["a", "b"], "Bindings": []}))
    assert found is not None
    assert found.counts == {("unknown", "unknown"): 2}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"Layers": []}', '{"Layers": 3}', "null"])
def test_what_is_no_report(text: str) -> None:
    assert read_report(text) is None
