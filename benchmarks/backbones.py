"""What each backbone costs: tokens, parameters, GFLOPs, and the time of a frame on a CPU, in torch and in ONNX Runtime.

    python -m benchmarks.backbones benchmarks/results/backbones.json

Networks are built from the configurations that were published with the weights, and filled with random numbers:
neither work nor time depends on values. Everything is measured on what runs on the line, backbone and decoder as
`agp-edge train` builds them by default, one frame at a time. Parameters and FLOPs (two for each multiplication with its
addition; matrix products and convolutions) are those of the graph without what nothing is taken from, as in a bundle;
torch's time is that of the network as it is, with a CNN's unused last stage. Each backbone's frames take turns with those of
`dino-vits16`, so that a busy machine slows down both, and the ratio is the median over these pairs.

The rows named by `--only` are measured anew and put into the file; the others stay as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import InputError
from agp_edge.files import write_json
from agp_edge.frame import FrameSpec
from agp_edge.latency import percentiles_ms
from agp_edge.machine import describe_machine
from agpnet.backbones import Backbone, ConvolutionalBackbone, TransformerBackbone, make_backbone
from agpnet.config import make_config
from agpnet.network import AGPNet
from agpnet.run import versions
from export.onnx_export import export_network

REFERENCE = "dino-vits16"
WARM_UP = 2


@dataclass(frozen=True)
class Architecture:
    """A published model.

    Attributes:
        source: its id, as `--backbone` takes it.
        kind: its class in `transformers` without `Model` or `Config`; empty for the fixed filters.
        settings: what its `config.json` has beside the class's own defaults.
        licence: of the published weights, as their card or repository says.
    """

    source: str
    kind: str
    settings: dict[str, Any]
    licence: str


VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
ARCHITECTURES = {
    "filterbank": Architecture("filterbank", "", {}, "Apache-2.0, with this project"),
    REFERENCE: Architecture("facebook/dino-vits16", "ViT", {**VIT_S, "intermediate_size": 1536}, "Apache-2.0"),
    "dinov2-small": Architecture(
        "facebook/dinov2-small", "Dinov2", {**VIT_S, "patch_size": 14, "image_size": 518}, "Apache-2.0"
    ),
    "clip-vit-base-patch16": Architecture(
        "openai/clip-vit-base-patch16", "CLIPVision", {"patch_size": 16}, "MIT (its repository)"
    ),
    "resnet-18": Architecture(
        "microsoft/resnet-18",
        "ResNet",
        {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
        "Apache-2.0",
    ),
    "resnet-50": Architecture("microsoft/resnet-50", "ResNet", {}, "Apache-2.0"),
    "efficientnet-b4": Architecture(
        "google/efficientnet-b4",
        "EfficientNet",
        {"width_coefficient": 1.4, "depth_coefficient": 1.8, "hidden_dim": 1792, "image_size": 380, "depthwise_padding": [6]},
        "Apache-2.0",
    ),
}  # fmt: skip


def make_network(architecture: Architecture) -> AGPNet:
    """A network over it with random weights, as `agp-edge train` builds it without further settings."""
    torch.manual_seed(0)
    config = make_config(backbone=architecture.source)
    if architecture.kind:
        import transformers

        values = getattr(transformers, f"{architecture.kind}Config")(**architecture.settings)
        patches = hasattr(values, "patch_size")
        arguments = {"attn_implementation": "eager"} if patches else {}
        model = getattr(transformers, f"{architecture.kind}Model")._from_config(values, **arguments).eval()
        kind = TransformerBackbone if patches else ConvolutionalBackbone
        backbone: Backbone = kind(model, source=architecture.source)
    else:
        backbone = make_backbone(architecture.source)
    return AGPNet(
        backbone,
        decoder_width=config.decoder_width,
        decoder_heads=config.decoder_heads,
        decoder_blocks=config.decoder_blocks,
        blur_sigma=config.blur_sigma,
    ).eval()


class _Target(nn.Module):
    """The way from images to the target."""

    def __init__(self, network: AGPNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.target(images)[0]


def count_work(module: nn.Module, sample: Tensor) -> tuple[int, int]:
    """Parameters, and FLOPs of one call, of what a module's output depends on.

    Args:
        module: it takes one tensor and gives one.
        sample: what it takes.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of torch's exporter, about itself.
        exported = torch.export.export(module, (sample,), strict=False)
        # Functional operators alone: one that may change its input in place would never count as unused.
        program = cast(Any, exported.run_decompositions({}).module(check_guards=False))
        program.graph.eliminate_dead_code()
        program.recompile()
        used = {node.target for node in program.graph.nodes if node.op == "get_attr"}
        parameters = sum(value.numel() for name, value in program.named_parameters() if name in used)
        with FlopCounterMode(display=False) as counter:
            program(sample)
    return parameters, counter.get_total_flops()


class Runner:
    """One network, ready to be timed in torch and in ONNX Runtime on as many threads.

    Args:
        network: in evaluation mode.
        threads: of both.
        folder: where its graph may lie.
    """

    def __init__(self, network: AGPNet, threads: int, folder: Path) -> None:
        size = network.backbone.input_size
        frame = FrameSpec(size, size, 3)
        path = folder / "model.onnx"
        export_network(network, frame, path)
        self._session = OnnxRuntimeSession(path, frame, threads=threads)
        self._network = network
        self._images = torch.rand(1, 3, size, size)
        self._frames = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8).numpy()

    def calls(self) -> dict[str, Callable[[], object]]:
        """What is timed, by name: a frame in torch, a frame in ONNX Runtime."""
        return {
            "torch": lambda: self._network(self._images),
            "onnxruntime": lambda: self._session.infer(self._frames),
        }


def time_in_turns(
    ours: Callable[[], object], reference: Callable[[], object], pairs: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of both calls, one after the other, `pairs` times; the first ones are not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(WARM_UP + pairs):
        for which, call in enumerate((ours, reference)):
            begin = time.perf_counter()
            call()
            if pair >= WARM_UP:
                times[which].append((time.perf_counter() - begin) * 1e3)
    return times


def measure(name: str, reference: Runner, *, frames: int, threads: int, folder: Path) -> dict[str, Any]:
    """One row of the table.

    Args:
        name: of `ARCHITECTURES`.
        reference: `dino-vits16`, timed in turns with it.
        frames: that are timed.
        threads: of torch and ONNX Runtime.
        folder: an empty one, for its graph.
    """
    architecture = ARCHITECTURES[name]
    network = make_network(architecture)
    backbone = network.backbone
    size = backbone.input_size
    tokens = backbone.grid[0] * backbone.grid[1]
    seen = count_work(_Target(network), torch.rand(1, 3, size, size))
    rebuilt = count_work(network.decoder, torch.rand(1, tokens, backbone.width))
    row: dict[str, Any] = {
        "name": name,
        "source": architecture.source,
        "input_size": size,
        "layers": list(getattr(backbone, "layers", ())),
        "tokens": tokens,
        "target_width": backbone.width,
        "decoder_width": network.decoder.norm.normalized_shape[0],
        "backbone_parameters": seen[0],
        "decoder_parameters": rebuilt[0],
        "backbone_flops": seen[1],
        "decoder_flops": rebuilt[1],
        "licence": architecture.licence,
        "frames": frames,
        "threads": threads,
        "machine": describe_machine(),
        "versions": versions(),
    }
    runner = reference if name == REFERENCE else Runner(network, threads, folder)
    with torch.inference_mode():
        for way, call in runner.calls().items():
            ours, theirs = time_in_turns(call, reference.calls()[way], frames)
            row[f"{way}_ms"] = percentiles_ms(ours)
            row[f"{way}_ratio"] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    if name == REFERENCE:
        # Against itself: what is left is the machine's unrest, and belongs to no ratio.
        row.update({"torch_ratio": 1.0, "onnxruntime_ratio": 1.0})
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown: backbone + decoder where there are two numbers; p50, and the ratio to the reference."""
    lines = [
        "| backbone | input | tokens | target | decoder | parameters, M | GFLOPs | torch, ms | ONNX Runtime, ms | weights |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        millions = [row[f"{part}_parameters"] / 1e6 for part in ("backbone", "decoder")]
        giga = [row[f"{part}_flops"] / 1e9 for part in ("backbone", "decoder")]
        ways = [f"{row[f'{w}_ms']['p50']:.0f} ({row[f'{w}_ratio']:.2f})" for w in ("torch", "onnxruntime")]
        cells = [
            f"`{row['source']}`",
            str(row["input_size"]),
            str(row["tokens"]),
            str(row["target_width"]),
            str(row["decoder_width"]),
            f"{millions[0]:.1f} + {millions[1]:.1f}",
            f"{giga[0]:.2f} + {giga[1]:.2f}",
            *ways,
            row["licence"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def merge(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of before with those that were measured anew in their place, in the table's order."""
    rows = {row["name"]: row for row in (*old, *new)}
    return [rows[name] for name in ARCHITECTURES if name in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the file, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backbones", description=__doc__)
    parser.add_argument("out", type=Path, help="JSON file; its other rows are kept")
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--frames", type=int, default=10, help="timed frames a backbone (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and ONNX Runtime (%(default)s)")
    given = parser.parse_args(arguments)
    if given.frames < 1 or given.threads < 1:
        raise InputError("--frames and --threads start at 1", "give at least 1")
    torch.set_num_threads(given.threads)
    old = json.loads(given.out.read_text())["rows"] if given.out.is_file() else []
    new = []
    with tempfile.TemporaryDirectory(prefix="agp-edge-backbones-") as scratch:
        reference = Runner(make_network(ARCHITECTURES[REFERENCE]), given.threads, Path(scratch))
        for name in given.only:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                new.append(
                    measure(name, reference, frames=given.frames, threads=given.threads, folder=Path(folder))
                )
            rows = merge(old, new)
            write_json(given.out, {"benchmark": "backbones", "reference": REFERENCE, "rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
