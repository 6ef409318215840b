"""A module in the place of `tensorrt`, to try what our session asks of one; it proves nothing of TensorRT.

Its plans are JSON: the tensors, and what is to go wrong. An engine calls bright places anomalous, as the tests' graph does: its
map is the mean brightness of 8x8 cells, its score the largest of them. It reads and writes the memory of the driver that
stands in, as work queued in a stream, so that frames do go there and back. When an object is let go, the driver's log says so.
"""

from __future__ import annotations

import ctypes
import json
import math
import types
import weakref
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.stand_ins.cuda_driver import StandIn

CELL = 8
VERSION = "10.99.0"


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5


class TensorIOMode(IntEnum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(IntEnum):
    DEVICE = 0
    HOST = 1


class TensorFormat(IntEnum):
    LINEAR = 0
    CHW4 = 3


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    USER_MANAGED = 2


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity


def write_plan(
    frame: tuple[int, int, int, int],
    fault: str = "",
    scratch: int = 512,
    change: Callable[[dict[str, dict[str, Any]]], object] = lambda tensors: None,
) -> bytes:
    """A plan.

    Args:
        frame: (N, H, W, C).
        fault: the call that fails; `execute-4` is every context's fourth run, `capture-3` that of the third. `idle` runs and does nothing.
        scratch: bytes of the device that it computes in.
        change: is given the tensors by name, to spoil them.
    """
    batch, height, width, _ = frame
    tensors = {
        "frames": {"mode": "INPUT", "type": "UINT8", "shape": list(frame)},
        "score": {"mode": "OUTPUT", "type": "FLOAT", "shape": [batch]},
        "anomaly_map": {"mode": "OUTPUT", "type": "FLOAT", "shape": [batch, height // CELL, width // CELL]},
    }
    change(tensors)
    return json.dumps({"tensors": tensors, "fault": fault, "scratch": scratch}).encode()


def make_module(driver: StandIn, **attributes: Any) -> types.ModuleType:
    """The module.

    Args:
        driver: that its engines run on.
        attributes: of each `Runtime` that it makes; with `allows_static` a context may have its own memory to compute in.
    """

    def gone(at: dict[str, int]) -> None:
        driver.misuse()

    class Part:
        """What TensorRT gives: it keeps what it was made of, and uses the device until it is let go."""

        name = ""

        def __init__(self, parent: Any) -> None:
            self.parent = parent
            driver.note(f"+{self.name}")

        def __del__(self) -> None:
            driver.note(f"-{self.name}")

    class Runtime(Part):
        name = "runtime"
        engine_host_code_allowed = False
        num_DLA_cores = 0  # noqa: N815 (TensorRT's own name)
        DLA_core = -1
        allows_static = False

        def __init__(self, logger: Any) -> None:
            super().__init__(None)
            self.logger = logger
            vars(self).update(attributes)

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            self.logger.log(Severity.WARNING, "this is no error")
            driver.note(f"core{self.DLA_core}")
            plan = json.loads(data)
            if plan["fault"] == "deserialize":
                self.logger.log(Severity.ERROR, "magic tag does not match\nand more of it")
                return None
            return Engine(self, plan)

    class Engine(Part):
        name = "engine"

        def __init__(self, parent: Runtime, plan: Any) -> None:
            super().__init__(parent)
            self.plan = plan
            self.contexts = 0
            self.tensors: dict[str, Any] = plan["tensors"]
            self.num_io_tensors = len(self.tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self.tensors)[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode[self.tensors[name]["mode"]]

        def get_tensor_dtype(self, name: str) -> DataType:
            return DataType[self.tensors[name]["type"]]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(self.tensors[name]["shape"])

        def get_tensor_location(self, name: str) -> TensorLocation:
            return TensorLocation[self.tensors[name].get("location", "DEVICE")]

        def get_tensor_format(self, name: str) -> TensorFormat:
            return TensorFormat[self.tensors[name].get("format", "LINEAR")]

        @property
        def device_memory_size_v2(self) -> int:
            return int(self.plan["scratch"])

        def create_execution_context(
            self,
            strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
        ) -> Context | None:
            static = strategy == ExecutionContextAllocationStrategy.STATIC
            if static and not self.parent.allows_static:
                driver.misuse()
            if self.plan["fault"] == "context":
                self.parent.logger.log(Severity.ERROR, "out of memory")
                return None
            return Context(self, static)

    class Context(Part):
        name = "context"

        def __init__(self, parent: Engine, static: bool) -> None:
            super().__init__(parent)
            self.static = static
            self.at: dict[str, int] = {}
            self.scratch = (0, 0)
            self.runs = 0
            parent.contexts += 1
            self.number = parent.contexts

        def set_device_memory(self, memory: int, size: int) -> None:
            self.scratch = (memory, size)

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self.at[name] = memory
            driver.note(f"bind-{name}")
            return bool(self.parent.plan["fault"] != "address")

        def execute_async_v3(self, stream_handle: int) -> bool:
            driver.note("execute")
            self.runs += 1
            faults = [
                "execute",
                f"execute-{self.runs}",
                f"capture-{self.number}" if self.runs == 4 else "execute",
            ]
            if self.parent.plan["fault"] in faults:
                self.parent.parent.logger.log(Severity.ERROR, f"run {self.runs}: the shapes are not set")
                return False
            # Queued work does not keep its context: that is the session's to do. But the addresses are those of now.
            run, at = weakref.WeakMethod(self.run), dict(self.at)
            driver.enqueue(stream_handle, lambda: (run() or gone)(at))
            return True

        def run(self, at: dict[str, int]) -> None:
            if self.parent.plan["fault"] == "idle":
                return
            memory, size = self.scratch
            if not self.static and size != self.parent.device_memory_size_v2:
                driver.misuse()
            ctypes.memset(memory, 1, size)
            frames = self.memory("frames", at)
            batch, height, width, channels = frames.shape
            cells = frames.reshape(batch, height // CELL, CELL, width // CELL, CELL * channels)
            self.memory("anomaly_map", at)[:] = cells.mean((2, 4)) / 255
            self.memory("score", at)[:] = self.memory("anomaly_map", at).max((1, 2))

        def memory(self, name: str, at: dict[str, int]) -> NDArray[Any]:
            tensor = self.parent.tensors[name]
            kind = np.dtype({"UINT8": np.uint8, "FLOAT": np.float32}[tensor["type"]])
            size = math.prod(tensor["shape"]) * kind.itemsize
            held = (ctypes.c_uint8 * size).from_address(at[name])
            array: NDArray[Any] = np.ctypeslib.as_array(held).view(kind).reshape(tensor["shape"])
            return array

    module = types.ModuleType("tensorrt")
    vars(module).update(
        __version__=VERSION, Runtime=Runtime, ILogger=ILogger, DataType=DataType, TensorIOMode=TensorIOMode,
        TensorLocation=TensorLocation, TensorFormat=TensorFormat,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
    )  # fmt: skip
    return module
