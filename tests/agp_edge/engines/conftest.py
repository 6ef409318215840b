"""TensorRT-RTX as it is installed, TensorRT-RTX in place of full TensorRT, the GPUs that a builder finds; a spoilt graph."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from agp_edge.engines import get_backend
from agp_edge.engines import tensorrt as builder
from agp_edge.engines.base import Backend
from agp_edge.engines.gpu import Gpu
from agp_edge.frame import Precision


@pytest.fixture
def rtx() -> Backend:
    """TensorRT-RTX, which builds without a GPU; skips where it is not installed."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install 'agp-edge[tensorrt-rtx]'")
    return get_backend("tensorrt-rtx")


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where timing caches go that nobody named: not into the home of whoever runs the tests."""
    home = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home


@pytest.fixture
def full(rtx: Backend, monkeypatch: pytest.MonkeyPatch, cache_home: Path) -> types.ModuleType:
    """TensorRT-RTX in the clothes of full TensorRT: the same module without targets to choose from."""
    import tensorrt_rtx

    module = types.ModuleType("tensorrt")
    for key, value in vars(tensorrt_rtx).items():
        if key != "ComputeCapability":
            setattr(module, key, value)
    vars(module)["__version__"] = "10.13.0"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def give_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`give_gpus("8.9", "8.6")`: the builder finds GPUs of these compute capabilities; without any, none."""

    def give(*capabilities: str) -> None:
        gpus = [Gpu(i, "a GPU", capability) for i, capability in enumerate(capabilities)]
        monkeypatch.setattr(builder, "probe_gpus", lambda: (gpus, "" if gpus else "no NVIDIA driver (here)"))

    return give


@pytest.fixture
def no_cuda_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """No binding of CUDA is installed."""
    # None in sys.modules is Python's own way to say that a module is not there.
    for name in ("cuda", "cuda.bindings", "cuda.bindings.driver", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def answer_otherwise() -> Callable[..., None]:
    """`answer_otherwise(bundle, precision="int8")`: let a graph answer its score with the frame's mean colour."""

    def spoil(bundle: Path, precision: Precision = "int8") -> None:
        path = bundle / f"model.{precision}.onnx"
        model = onnx.load(path)
        (producer,) = (n for n in model.graph.node if "score" in n.output)
        producer.output[list(producer.output).index("score")] = "score_before"
        first = next(n.output[0] for n in model.graph.node if n.op_type == "Cast")
        axes = onnx.helper.make_tensor("mean_axes", onnx.TensorProto.INT64, [3], [1, 2, 3])
        model.graph.initializer.append(axes)
        node = onnx.helper.make_node("ReduceMean", [first, "mean_axes"], ["score"], keepdims=0)
        model.graph.node.append(node)
        onnx.save(model, path)

    return spoil
