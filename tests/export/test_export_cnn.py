"""Export over pretrained networks of every kind: the graph says what torch says, at sizes that were not trained for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.frame import FrameSpec
from agpnet.backbones import ConvolutionalBackbone, PretrainedBackbone, TransformerBackbone
from agpnet.network import AGPNet
from agpnet.run import TorchSession
from export.contract import MAX_DIFFERENCE, check_parity
from export.graph import settle_batch_norms
from export.onnx_export import export_network
from export.reference import score_reference_frames

transformers = pytest.importorskip("transformers")

MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int]] = {
    "resnet": (
        "ResNet",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embedding_size": 8},
        (),
        64,
    ),
    # The last layer's maps are coarser than the grid.
    "efficientnet": (
        "EfficientNet",
        {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
        (3, 6),
        64,
    ),
    # Its positions were learned for another size.
    "vit": (
        "ViT",
        {
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": 64,
        },
        (1, 2),
        96,
    ),
}
"""Name -> (class in `transformers`, its configuration, layers, input size)."""


def make_network(name: str) -> AGPNet:
    kind, settings, layers, size = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    arguments = {"attn_implementation": "eager"} if name == "vit" else {}
    model = getattr(transformers, f"{kind}Model")._from_config(config, **arguments)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        # The mean over batches: after one of them activations have the spread that a trained network's have.
        norm.momentum = None
        torch.nn.init.ones_(norm.weight)
    if norms:
        with torch.no_grad():
            model.train()(torch.randn(4, 3, size, size))
    kind_of = TransformerBackbone if name == "vit" else ConvolutionalBackbone
    backbone: PretrainedBackbone = kind_of(model.eval(), layers, size)
    return AGPNet(backbone, decoder_width=24, decoder_heads=3, decoder_blocks=1).eval()


def textured_frames(spec: FrameSpec) -> NDArray[np.uint8]:
    """Four frames, coarse and fine."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, spec.height // 8, spec.width // 8, spec.channels))
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "half"),
    [("resnet", False), ("resnet", True), ("vit", False), ("vit", True), ("efficientnet", True)],
)
def test_the_graph_scores_as_torch_does(name: str, half: bool, tmp_path: Path) -> None:
    network = make_network(name)
    size = network.backbone.input_size
    spec = FrameSpec(128, 96, 3)
    path = tmp_path / "model.onnx"
    export_network(network, spec, path, half=half)
    frames = textured_frames(spec)
    with OnnxRuntimeSession(path, spec) as session, TorchSession(network, spec) as reference:
        got, expected = session.infer(frames), reference.infer(frames)
        drawn = score_reference_frames(reference)
    check_parity(path, "fp16" if half else "fp32", spec, drawn)
    assert got.anomaly_map.shape == (4, size, size)
    near = MAX_DIFFERENCE["fp16" if half else "fp32"]
    np.testing.assert_allclose(got.score, expected.score, rtol=near)
    np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, rtol=near)
    assert np.ptp(expected.score) > 1e-3 * expected.score.mean(), "frames that differ score differently"
    graph = onnx.load(path).graph
    modes = {a.s for n in graph.node if n.op_type == "Resize" for a in n.attribute if a.name == "mode"}
    assert modes == {b"linear"}, "learned positions are brought to their size once, not for every frame"
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kernels = [n.input[1] for n in graph.node if n.op_type == "Conv" and "backbone" in n.input[1]]
    assert {types[kernel] for kernel in kernels} == {
        onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    }
    norms = [n for n in graph.node if n.op_type == "LayerNormalization"]
    counted = {a.i for n in norms for a in n.attribute if a.name == "stash_type"}
    assert norms
    assert counted <= {onnx.TensorProto.FLOAT}, "LayerNorm counts in single precision, which is its default"
    if name == "resnet":
        model = network.backbone.model  # type: ignore[attr-defined]
        used = [module for stage in model.encoder.stages[:3] for module in stage.modules()]
        expected_kernels = 1 + sum(isinstance(module, torch.nn.Conv2d) for module in used)
        assert len(kernels) == expected_kernels, (
            "the stem and three stages: what nothing is taken from is cut"
        )


def test_a_batch_norm_beyond_half_precision_stays_what_it_is() -> None:
    """A running variance of 1e6 is an infinity in half, and one of 1e-9 is nothing: what they make of an image is not."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(4).eval()
    norm.running_mean.copy_(torch.tensor([1e3, -1.0, 0.0, 1e-3]))  # type: ignore[union-attr]
    norm.running_var.copy_(torch.tensor([1e6, 1.0, 100.0, 1e-9]))  # type: ignore[union-attr]
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    plain = torch.nn.BatchNorm2d(4, affine=False).eval()
    plain.running_var.fill_(9.0)  # type: ignore[union-attr]
    module = torch.nn.Sequential(norm, plain)
    images = torch.randn(2, 4, 3, 3) * torch.tensor([1e3, 1.0, 10.0, 1e-2])[:, None, None]
    with torch.no_grad():
        expected = module(images)
        settle_batch_norms(module)
        torch.testing.assert_close(module(images), expected)
        half = module.half()(images.half()).float()
    assert half.isfinite().all()
    torch.testing.assert_close(half, expected, rtol=5e-3, atol=5e-3)
