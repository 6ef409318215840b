"""Graphs to quantise: a small transformer and a small CNN, and a network of which one layer cannot bear it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from agp_edge.frame import FrameSpec

VIT: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 64,
}  # fmt: skip
RESNET: dict[str, Any] = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "embedding_size": 8,
    "layer_type": "basic",
}


@dataclass(frozen=True)
class Graph:
    """A graph to quantise.

    Attributes:
        path: the file.
        frame: what it takes.
        frames: [N, H, W, C] uint8 to measure ranges on.
    """

    path: Path
    frame: FrameSpec
    frames: NDArray[np.uint8]


@dataclass(frozen=True)
class Graphs:
    """A network in two precisions.

    Attributes:
        fp32, fp16: the files.
        frame: what they take.
        frames: [N, H, W, C] uint8 good frames of two surfaces.
    """

    fp32: Path
    fp16: Path
    frame: FrameSpec
    frames: NDArray[np.uint8]


def textured(n: int, frame: FrameSpec) -> NDArray[np.uint8]:
    """Frames of coarse random cells."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, frame.height // 8, frame.width // 8, frame.channels))
    return np.ascontiguousarray(coarse.repeat(8, axis=1).repeat(8, axis=2), dtype=np.uint8)


@pytest.fixture(scope="session")
def small_graph(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Graph]:
    """`small_graph("vit")` or `("cnn")`: FP16, batch 2, 64x64, random weights. Do not write."""
    import torch
    import transformers

    from agpnet.backbones import ConvolutionalBackbone, TransformerBackbone
    from agpnet.network import AGPNet
    from export.onnx_export import export_network

    root = tmp_path_factory.mktemp("graphs")
    made: dict[str, Graph] = {}

    def make(name: str) -> Graph:
        if name in made:
            return made[name]
        torch.set_num_threads(1)
        torch.manual_seed(0)
        backbone: TransformerBackbone | ConvolutionalBackbone
        if name == "vit":
            model = transformers.ViTModel._from_config(  # type: ignore[no-untyped-call]
                transformers.ViTConfig(**VIT), attn_implementation="eager"
            )
            backbone = TransformerBackbone(model.eval(), (1, 2), 64)
        else:
            config = transformers.ResNetConfig(**RESNET)
            model = transformers.ResNetModel._from_config(config)  # type: ignore[no-untyped-call]
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = None
                    torch.nn.init.ones_(module.weight)
            with torch.no_grad():
                model.train()(torch.randn(4, 3, 64, 64))
            backbone = ConvolutionalBackbone(model.eval(), (), 64)
        network = AGPNet(backbone, decoder_width=24, decoder_heads=3, decoder_blocks=1).eval()
        frame = FrameSpec(64, 64, 3, batch=2)
        file = root / f"{name}.onnx"
        export_network(network, frame, file, half=True)
        made[name] = Graph(file, frame, textured(9, frame))
        return made[name]

    return make


@pytest.fixture(scope="session")
def fragile_graphs(
    exported_bundle: Path, sample_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Graphs:
    """A trained network that answers as before, but what goes into `decoder.head` has one huge channel. Do not write.

    Its 127 steps are laid over that channel, and all others fall into the step of 0.
    """
    from agp_edge.datasets.images import read_image

    root = tmp_path_factory.mktemp("fragile")
    fp32, fp16 = (
        make_fragile(exported_bundle / name, root / name) for name in ("model.fp32.onnx", "model.fp16.onnx")
    )
    frames = np.stack([read_image(file) for file in sorted(sample_data.glob("*/train/good/*.png"))])
    return Graphs(fp32, fp16, FrameSpec(256, 256, 3), frames)


def make_fragile(source: Path, target: Path, channel: int = 5) -> Path:
    """Let the last normalisation add 5000 to a channel, and its linear layer take nothing from that channel."""
    model = onnx.load(source)
    (head,) = (n for n in model.graph.node if n.name.startswith("network.decoder.head/"))
    (norm,) = (n for n in model.graph.node if head.input[0] in n.output)
    for node, i, index, value in ((norm, 2, channel, 5e3), (head, 1, (channel, slice(None)), 0)):
        (before,) = (t for t in model.graph.initializer if t.name == node.input[i])
        values = onnx.numpy_helper.to_array(before).copy()
        values[index] = value
        node.input[i] = f"fragile_{i}"
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"fragile_{i}"))
    onnx.save(model, str(target))
    return target
