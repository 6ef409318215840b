"""An engine of TensorRT or TensorRT-RTX at work: a plan, and as many contexts of it as batches may be under way.

How frames come and verdicts go is in `gpu_slots`. The calls are checked by type against TensorRT 10.3 and 11, and tried on modules
that stand in for TensorRT and the driver; the project has run none of this on a GPU yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from agp_edge.cuda import Device, DeviceMemory, Resource, load_driver
from agp_edge.dla import why_no_dla
from agp_edge.engines.gpu import Gpu
from agp_edge.engines.gpu_session import GpuSession, Loaded
from agp_edge.engines.gpu_slots import Shapes, Streams
from agp_edge.engines.run_options import RUN_AS_USUAL, RunOptions
from agp_edge.engines.sidecar import Sidecar
from agp_edge.engines.tensorrt_callbacks import ErrorLog
from agp_edge.engines.tensorrt_network import Tensor, check_tensors
from agp_edge.errors import ArtefactError, MissingExtraError, WorkStoppedError

if TYPE_CHECKING:
    import tensorrt as trt

BUILD_AGAIN = "build it again on this machine: agp-edge build-engine BUNDLE"
DLA_GRAPHS = "a plan for the DLA is not captured"
"""Why: users report that it fails or stalls (NVIDIA/TensorRT issue 3524)."""
TYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FLOAT": np.dtype(np.float32)}
"""TensorRT's name of a type -> numpy's, of the tensors of our interface."""


def why_not_run(gpus: list[Gpu], no_gpu: str, targets: list[str]) -> str | None:
    """Why a plan cannot be run here once it is built; None if it can.

    Args:
        gpus, no_gpu: what `probe_gpus` found; the first is the one that would run it.
        targets: the compute capabilities that the plan is for.
    """
    if not gpus:
        return no_gpu
    here = gpus[0]
    if here.compute_capability not in targets:
        return (
            f"it is for compute capability {', '.join(targets)}, "
            f"the GPU here is {here.name} ({here.compute_capability})"
        )
    try:
        load_driver()
    except MissingExtraError as error:
        return f"{error.what}; {error.hint}"
    return None


class TensorRTSession(GpuSession):
    """A plan on the first GPU that is here.

    Args:
        title: the library's name, for people.
        module: `tensorrt` or `tensorrt_rtx`.
        plan: the file, already verified.
        sidecar: what is known of it.
        data: the bytes that were verified: then the file is not read again.
        options: how to run.

    Raises:
        InputError, MissingExtraError, ArtefactError, DeviceLostError: as `GpuSession`.
    """

    def __init__(
        self,
        title: str,
        module: ModuleType,
        plan: Path,
        sidecar: Sidecar,
        data: bytes | None = None,
        options: RunOptions = RUN_AS_USUAL,
    ) -> None:
        self._module = module
        self._file = plan
        self._data = plan.read_bytes() if data is None else data
        self._core = _dla_core(plan, sidecar.device)
        super().__init__(sidecar.frame, sidecar.precision, f"{title} {module.__version__}", options)

    def _load(
        self, device: Device, streams: Streams, options: RunOptions, held: contextlib.ExitStack
    ) -> Loaded:
        # Memory that TensorRT computes in is used by what it makes, so it goes after that.
        scratch = held.enter_context(contextlib.ExitStack())
        plan = held.enter_context(_Plan(self._module, self._library, self._file, self._data, self._core))
        # It is as large as the engine, and TensorRT has it now.
        self._data = b""
        shapes = self._shapes(plan)
        size = plan.scratch_bytes
        # They compute one after the other, and so in the same memory.
        address = scratch.enter_context(DeviceMemory(device, size)).address if size else 0
        runs = [held.enter_context(_PlanRun(plan, address)) for _ in range(options.slots)]
        return Loaded(shapes, runs, DLA_GRAPHS if self._core is not None else None)

    def _shapes(self, plan: _Plan) -> Shapes:
        """The plan's tensors, held against our interface and the sidecar's frame."""
        inputs, outputs = plan.tensors()
        check_tensors(self._module, inputs, outputs, f"engine {self._file}", BUILD_AGAIN)
        expected = [self.frame.batch, *self.frame.shape]
        if inputs[0][2] != expected:
            raise ArtefactError(
                f"engine {self._file} takes frames of {inputs[0][2]}, its sidecar says {expected}",
                BUILD_AGAIN,
            )
        return {name: (TYPES[kind], tuple(shape)) for name, kind, shape in (*inputs, *outputs)}


class _Plan(Resource):
    """What TensorRT makes of a plan. Its objects are nobody else's, so that they go when this is closed, and in order.

    Nothing here keeps one of them in a local variable: an error's traceback would hold it beyond the memory that it uses.

    Args:
        module: `tensorrt` or `tensorrt_rtx`; a device is current.
        library: with its version, for errors.
        plan: the file, for errors.
        data: its bytes.
        core: of a DLA, or None.

    Raises:
        ArtefactError: TensorRT does not start, does not take the plan, or would run host code of it.
    """

    _runtime: trt.Runtime
    _engine: trt.ICudaEngine

    def __init__(self, module: ModuleType, library: str, plan: Path, data: bytes, core: int | None) -> None:
        self._module = module
        self._library = library
        self._path = plan
        self._log = ErrorLog(module)
        try:
            self._start(data, core)
        except BaseException:
            self.close()
            raise

    def _start(self, data: bytes, core: int | None) -> None:
        if not TYPE_CHECKING:
            trt = self._module
        try:
            self._runtime = trt.Runtime(self._log.logger)
        except TypeError as error:
            # pybind11's way to say that the library gave it a null pointer.
            raise ArtefactError(
                f"{self._library} does not start: {self._log.first('no reason given')}",
                "see what the machine offers: agp-edge doctor",
            ) from error
        if self._runtime.engine_host_code_allowed:
            raise ArtefactError(
                f"{self._library} would run host code of engine {self._path}, which nobody signed",
                "see what in this process allows it: that is off unless it is set",
            )
        if core is not None:
            cores = self._runtime.num_DLA_cores
            if core >= cores:
                has = f"this device has {cores}"
                if not cores:
                    has = why_no_dla(trt.__version__) or has
                raise ArtefactError(f"engine {self._path} is for DLA core {core}, {has}", BUILD_AGAIN)
            self._runtime.DLA_core = core
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise self.refused("does not take")

    def tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        """What goes in and what comes out.

        Raises:
            ArtefactError: one of them is not plain memory of the device.
        """
        if not TYPE_CHECKING:
            trt = self._module
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            if (
                self._engine.get_tensor_location(name) != trt.TensorLocation.DEVICE
                or self._engine.get_tensor_format(name) != trt.TensorFormat.LINEAR
            ):
                raise ArtefactError(
                    f"engine {self._path} does not have {name} in plain memory of the device", BUILD_AGAIN
                )
            kind, shape = (
                self._engine.get_tensor_dtype(name).name,
                list(self._engine.get_tensor_shape(name)[:]),
            )
            given = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if given else outputs).append((name, kind, shape))
        return inputs, outputs

    @property
    def scratch_bytes(self) -> int:
        """Memory of the device that a run computes in."""
        return int(self._engine.device_memory_size_v2)

    def make_context(self) -> trt.IExecutionContext:
        """A context that needs to be told where it computes.

        Raises:
            ArtefactError: TensorRT has no room for it.
        """
        self.begin()
        if not TYPE_CHECKING:
            trt = self._module
        made = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if made is None:
            raise self.refused("has no room for")
        return made

    def check_ran(self, queued: bool) -> None:
        """Raise what TensorRT said where it did not queue a run.

        Raises:
            WorkStoppedError: it did not.
        """
        if not queued:
            raise WorkStoppedError(
                f"{self._library} does not run engine {self._path}: {self._log.first('no reason given')}",
                f"start the command again; if it comes back, {BUILD_AGAIN}",
            )

    def begin(self) -> None:
        """What TensorRT says from now on is of what is asked of it next.

        Raises:
            ValueError: the plan is closed.
        """
        self._check_open()
        self._log.errors.clear()

    def refused(self, what: str) -> ArtefactError:
        """The error for what TensorRT does not do with the plan."""
        return ArtefactError(
            f"{self._library} {what} engine {self._path}: {self._log.first('no reason given')}", BUILD_AGAIN
        )

    def _free(self) -> None:
        for name in ("_engine", "_runtime"):
            self.__dict__.pop(name, None)


class _PlanRun(Resource):
    """An execution context of TensorRT, for one slot: a `Run`. It has memory of its own for little.

    Args:
        plan: must outlive this.
        scratch: where it computes; contexts that compute one after the other may share it.

    Raises:
        ArtefactError: there is no room for a context.
    """

    captures_itself = False

    def __init__(self, plan: _Plan, scratch: int) -> None:
        self._plan = plan
        self._context = plan.make_context()
        size = plan.scratch_bytes
        if size:
            self._context.set_device_memory(scratch, size)

    def bind(self, addresses: Mapping[str, int]) -> None:
        """See `Run.bind`."""
        self._check_open()
        self._plan.begin()
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._plan.refused(f"takes no memory for {name} of")

    def queue(self, stream: int) -> None:
        """See `Run.queue`."""
        self._check_open()
        self._plan.begin()
        self._plan.check_ran(self._context.execute_async_v3(stream))

    def _free(self) -> None:
        del self._context


def _dla_core(plan: Path, device: Mapping[str, Any]) -> int | None:
    """The DLA core that a sidecar names; None for a plan of the GPU alone.

    Raises:
        ArtefactError: it names none, although it speaks of a DLA.
    """
    dla = device.get("dla")
    if dla is None:
        return None
    core = dla.get("core") if isinstance(dla, dict) else None
    if type(core) is not int or core < 0:
        raise ArtefactError(f"sidecar of engine {plan} names no core of the DLA", BUILD_AGAIN)
    return core
