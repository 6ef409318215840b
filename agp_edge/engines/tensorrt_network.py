"""A network that TensorRT parsed, looked at before it is built: a plan cannot be asked any more where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from agp_edge.dla import why_no_dla
from agp_edge.engines.sidecar import Layers
from agp_edge.errors import ArtefactError, quote
from agp_edge.frame import FrameSpec, Precision

if TYPE_CHECKING:
    import tensorrt as trt

Tensor = tuple[str, str, list[int]]
"""Name, TensorRT's name of its type, and shape."""

EXPORT_AGAIN = "export the run again with this version of agp-edge, or take --backend onnxruntime"
SOURCE = "the network before the build"
PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}
"""TensorRT's name of a type -> ours. Layers of other types count shapes and indices, which TensorRT folds away."""


def raise_parser_error(parser: trt.OnnxParser, what: str) -> NoReturn:
    """Say why a parser refused a graph: the operator, the node and the reason of the first error.

    Args:
        parser: after it refused.
        what: who does not take which graph.

    Raises:
        ArtefactError: always.
    """
    told: Any = parser  # The bindings give no types of an error.
    errors = [told.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        raise ArtefactError(f"{what}: it is no ONNX graph", EXPORT_AGAIN)
    first = errors[0]
    reason = first.code().name.lower().replace("_", " ")
    description = next(iter(first.desc().splitlines()), "").strip()
    # The parser's checkers put the condition that failed here, and often that is the word `false`.
    if description and description != "false":
        reason += f" ({description})"
    where = ""
    if first.node_operator():
        node = first.node_name() or f"number {first.node()}"
        where = f"operator {first.node_operator()} of node {node}: "
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    raise ArtefactError(f"{what}: {where}{reason}{more}", EXPORT_AGAIN)


def check_interface(
    module: ModuleType, network: trt.INetworkDefinition, model: Path, frame: FrameSpec | None
) -> None:
    """Hold a parsed network against our interface; without a GPU its plan could not be asked any more.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        network: an `INetworkDefinition`.
        model: the graph it came from, for the error.
        frame: what its bundle says that it takes; None for any.

    Raises:
        ArtefactError: as `check_tensors`, or it takes another frame.
    """

    def describe(tensor: trt.ITensor) -> Tensor:
        return tensor.name, tensor.dtype.name, list(tensor.shape[:])

    inputs = [describe(network.get_input(i)) for i in range(network.num_inputs)]
    outputs = [describe(network.get_output(i)) for i in range(network.num_outputs)]
    check_tensors(module, inputs, outputs, str(model), "export the run again")
    expected = [frame.batch, *frame.shape] if frame is not None else inputs[0][2]
    if inputs[0][2] != expected:
        raise ArtefactError(
            f"{model} takes frames of {inputs[0][2]}, its bundle says {expected}", "export the run again"
        )


def check_tensors(
    module: ModuleType, inputs: list[Tensor], outputs: list[Tensor], whose: str, remedy: str
) -> None:
    """Hold what a network or a plan takes and gives against our interface.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        inputs, outputs: its tensors.
        whose: they are, for the error.
        remedy: what to do about it.

    Raises:
        ArtefactError: it is not uint8 [N, H, W, C] in, float32 `score` [N] and `anomaly_map` [N, h, w] out, and no more.
    """
    if not TYPE_CHECKING:
        trt = module
    by_name = {name: (kind, shape) for name, kind, shape in outputs}
    uint8, float32 = trt.DataType.UINT8.name, trt.DataType.FLOAT.name
    good = len(inputs) == 1 and inputs[0][1] == uint8 and len(inputs[0][2]) == 4 and len(outputs) == 2
    if good:
        shape = inputs[0][2]
        kind, map_shape = by_name.get("anomaly_map", ("", []))
        good = (
            min(shape) > 0
            and shape[3] in (1, 3)
            and by_name.get("score") == (float32, shape[:1])
            and kind == float32
            and len(map_shape) == 3
            and map_shape[0] == shape[0]
            and min(map_shape) > 0
        )
    if not good:
        raise ArtefactError(
            f"{whose} is no graph of ours: it takes {quote(inputs)} and gives {quote(outputs)}",
            f"expected uint8 [N, H, W, C] in, float32 score [N] and anomaly_map [N, h, w] out: {remedy}",
        )


def layers_of(network: trt.INetworkDefinition) -> Iterator[trt.ILayer]:
    """The layers of a network, in its order."""
    return (network.get_layer(i) for i in range(network.num_layers))


def count_layers(network: trt.INetworkDefinition) -> Layers:
    """A network's layers by type and by the type of what they give, before TensorRT fuses any; constants are none."""
    counts: dict[tuple[str, str], int] = {}
    for layer in layers_of(network):
        given = PRECISIONS.get(layer.get_output(0).dtype.name)
        if given is not None and layer.type.name != "CONSTANT":
            key = layer.type.name, given
            counts[key] = counts.get(key, 0) + 1
    return Layers(SOURCE, counts)


def check_types(layers: Layers, precision: Precision, model: Path) -> None:
    """Hold the types of a network against the precision that was asked for: in a strongly typed one they are what is built.

    Args:
        layers: what `count_layers` gave.
        precision: fp32, fp16 or int8.
        model: the graph it came from, for the error.

    Raises:
        ArtefactError: no half-precision layer in an FP16 graph, none that quantises in an INT8 one, or either in an FP32 one.
    """
    types = {kind for kind, _ in layers.counts}
    found: set[Precision] = {"fp32"}
    if any(given == "fp16" for _, given in layers.counts):
        found.add("fp16")
    if {"QUANTIZE", "DEQUANTIZE"} <= types:
        found.add("int8")
    if precision not in found or (precision == "fp32" and len(found) > 1):
        raise ArtefactError(
            f"{model} is no {precision} graph: TensorRT reads {layers.describe()}",
            "export and calibrate the run again",
        )


def set_up_dla(
    module: ModuleType,
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    core: int,
    *,
    weak: bool,
) -> list[str]:
    """Let a network be built for a DLA core, and the GPU take what that cannot run.

    Args:
        module: `tensorrt`.
        builder, config, network: of the build.
        core: of the DLA, from 0.
        weak: the network is typed weakly, and half precision has to be allowed.

    Returns:
        The layers that fall back to the GPU, in the order of the network, as in `decoder.head (MATRIX_MULTIPLY)`.

    Raises:
        ArtefactError: this device has no such core, this TensorRT drives none, or none of the layers can run on it.
    """
    if not TYPE_CHECKING:
        trt = module
    cores = builder.num_DLA_cores
    no_dla = None if cores else why_no_dla(trt.__version__)
    if no_dla:
        raise ArtefactError(
            f"there is no DLA core {core}: {no_dla}", "leave --dla out: the GPU runs all of it"
        )
    if not 0 <= core < cores:
        has = f"{cores} DLA core{'' if cores == 1 else 's'}"
        raise ArtefactError(
            f"this device has {has}, and no core {core}",
            f"give --dla 0 to {cores - 1}" if cores else "leave --dla out: the GPU runs all of it",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if weak:
        flags: Any = trt.BuilderFlag  # Which has no such flag where typing is strong always.
        config.set_flag(flags.FP16)
    layers = list(layers_of(network))
    fallback = [f"{layer.name} ({layer.type.name})" for layer in layers if not config.can_run_on_DLA(layer)]
    if len(fallback) == len(layers):
        raise ArtefactError(
            f"none of the {len(layers)} layers can run on the DLA", "leave --dla out: the GPU runs all of it"
        )
    return fallback
