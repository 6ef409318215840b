"""What an engine of TensorRT was made of in the end: after fusion, in the types that kernels really have.

The form of the report is that of TensorRT's developer guide, "Engine Inspector". Names of formats differ between versions, so a
type is looked for in the words that describe a layer's first output.
"""

from __future__ import annotations

import json
import re
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agp_edge.engines.sidecar import Layers

if TYPE_CHECKING:
    import tensorrt as trt

SOURCE = "the engine inspector"
UNKNOWN = "unknown"
TYPES = {
    "fp32": "fp32", "float": "fp32", "fp16": "fp16", "half": "fp16", "bf16": "bf16", "int8": "int8", "fp8": "fp8",
    "int32": "int32", "int64": "int64", "uint8": "uint8", "bool": "bool",
}  # fmt: skip
"""A word of the report -> our name of the type."""


def inspect_engine(module: ModuleType, logger: Any, plan: trt.IHostMemory) -> Layers | None:
    """Ask an engine that was built for the GPU that is here.

    Args:
        module: `tensorrt`; a GPU and its driver are there.
        logger: TensorRT's.
        plan: what the builder gave.

    Returns:
        Its layers; None where TensorRT does not read its own plan, or says nothing.
    """
    if not TYPE_CHECKING:
        trt = module
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    return read_report(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def read_report(text: str) -> Layers | None:
    """The layers of an inspector's report; None for what is no report."""
    try:
        report = json.loads(text)
    except ValueError:
        return None
    layers = report.get("Layers") if isinstance(report, dict) else None
    if not isinstance(layers, list) or not layers:
        return None
    counts: dict[tuple[str, str], int] = {}
    for layer in layers:
        # Without detailed profiling a layer is its name alone.
        known = layer if isinstance(layer, dict) else {}
        key = str(known.get("LayerType", UNKNOWN)), _type_of(known.get("Outputs"))
        counts[key] = counts.get(key, 0) + 1
    return Layers(SOURCE, counts)


def _type_of(outputs: Any) -> str:
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    if not isinstance(first, dict):
        return UNKNOWN
    words = " ".join(str(value) for key, value in first.items() if key.lower().endswith("datatype"))
    found = re.search(rf"(?<![a-z0-9])({'|'.join(TYPES)})(?![a-z0-9])", words.lower())
    return TYPES[found[1]] if found else UNKNOWN
