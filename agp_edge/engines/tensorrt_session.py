"""An engine of TensorRT or TensorRT-RTX at work: frames to the GPU, scores and maps back.

One stream, and buffers that are allocated once. The calls are checked by type against TensorRT 10.3 and 11, and tried on modules
that stand in for TensorRT and the driver; the project has run none of this on a GPU yet.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.cuda import Device, DeviceMemory, PinnedMemory, Resource, Stream, load_driver, open_device
from agp_edge.engines.base import Inference, Session
from agp_edge.engines.gpu import Gpu
from agp_edge.engines.sidecar import Sidecar
from agp_edge.engines.tensorrt_callbacks import ErrorLog
from agp_edge.engines.tensorrt_network import Tensor, check_tensors
from agp_edge.errors import ArtefactError, MissingExtraError, WorkStoppedError

if TYPE_CHECKING:
    import tensorrt as trt

BUILD_AGAIN = "build it again on this machine: agp-edge build-engine BUNDLE"
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


class TensorRTSession(Session):
    """A plan on the first GPU that is here.

    Args:
        title: the library's name, for people.
        module: `tensorrt` or `tensorrt_rtx`.
        plan: the file, already verified.
        sidecar: what is known of it.
        data: the bytes that were verified: then the file is not read again.

    Raises:
        MissingExtraError: no binding of CUDA is installed.
        ArtefactError: no GPU, too little memory on it, or a plan that TensorRT does not take or that is none of ours.
        DeviceLostError: the GPU failed.
    """

    def __init__(
        self, title: str, module: ModuleType, plan: Path, sidecar: Sidecar, data: bytes | None = None
    ) -> None:
        self.frame = sidecar.frame
        self.precision = sidecar.precision
        self._library = f"{title} {module.__version__}"
        core = _dla_core(plan, sidecar.device)
        with contextlib.ExitStack() as held:
            # Before any object of TensorRT is made: without a driver that can end the process.
            self._device = held.enter_context(open_device())
            self._stream = held.enter_context(Stream(self._device))
            # What is entered last is closed first: the engine, and then the buffers that it has the addresses of.
            buffers = held.enter_context(contextlib.ExitStack())
            self._plan = held.enter_context(
                _Plan(module, self._library, plan, plan.read_bytes() if data is None else data, core)
            )
            self._frames, self._outputs = self._allocate(module, plan, buffers)
            self._held = held.pop_all()

    def _allocate(
        self, module: ModuleType, plan: Path, held: contextlib.ExitStack
    ) -> tuple[_Buffer, dict[str, _Buffer]]:
        """Hold the plan's tensors against our interface and the sidecar's frame, and give each its memory."""
        inputs, outputs = self._plan.tensors()
        check_tensors(module, inputs, outputs, f"engine {plan}", BUILD_AGAIN)
        expected = [self.frame.batch, *self.frame.shape]
        if inputs[0][2] != expected:
            raise ArtefactError(
                f"engine {plan} takes frames of {inputs[0][2]}, its sidecar says {expected}", BUILD_AGAIN
            )
        buffers = {}
        for name, kind, shape in (*inputs, *outputs):
            buffers[name] = _Buffer(self._device, held, TYPES[kind], shape)
            self._plan.bind(name, buffers[name].there.address)
        return buffers.pop(inputs[0][0]), buffers

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        self._frames.array[:] = frames
        with self._stream.awaited():
            # First of all: it makes the device's context that of this thread, which TensorRT goes by.
            self._stream.copy_in(self._frames.here, self._frames.there)
            self._plan.execute(self._stream.handle)
            for output in self._outputs.values():
                self._stream.copy_out(output.there, output.here)
        # Copies: the next frame's come to the same place.
        return Inference(self._outputs["score"].array.copy(), self._outputs["anomaly_map"].array.copy())

    @property
    def runtime(self) -> dict[str, Any]:
        """See `Session.runtime`: every frame goes to the GPU's memory, and its map comes back."""
        return {
            "library": self._library,
            "device": self._device.name,
            "transfers": True,
            "cuda_graphs": False,
            "spin_wait": not self._device.sleeps,
        }

    def close(self) -> None:
        """Free the engine, then its memory, and let go of the GPU."""
        self._held.close()


class _Buffer:
    """A tensor's memory, on the device and page-locked beside it.

    Args:
        device: whose.
        held: what closes it.
        kind: of an element.
        shape: of the tensor.

    Attributes:
        there: on the device.
        here: on the host.
    """

    def __init__(
        self, device: Device, held: contextlib.ExitStack, kind: np.dtype[Any], shape: list[int]
    ) -> None:
        size = math.prod(shape) * kind.itemsize
        self.there = held.enter_context(DeviceMemory(device, size))
        self.here = held.enter_context(PinnedMemory(device, size))
        self._kind = kind
        self._shape = shape

    @property
    def array(self) -> NDArray[Any]:
        """The host's side as what it holds; a view."""
        return self.here.array.view(self._kind).reshape(self._shape)


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
    _context: trt.IExecutionContext

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
                raise ArtefactError(
                    f"engine {self._path} is for DLA core {core}, this device has {cores}", BUILD_AGAIN
                )
            self._runtime.DLA_core = core
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise self._refused("does not take")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._refused("has no room for")

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

    def bind(self, name: str, address: int) -> None:
        """Say where a tensor lies on the device.

        Raises:
            ArtefactError: TensorRT does not take that address.
        """
        if not self._context.set_tensor_address(name, address):
            raise self._refused(f"takes no memory for {name} of")

    def execute(self, stream: int) -> None:
        """Queue a run over what lies in the tensors' memory.

        Raises:
            WorkStoppedError: TensorRT does not.
        """
        self._check_open()
        self._log.errors.clear()
        if not self._context.execute_async_v3(stream):
            raise WorkStoppedError(
                f"{self._library} does not run engine {self._path}: {self._log.first('no reason given')}",
                f"start the command again; if it comes back, {BUILD_AGAIN}",
            )

    def _refused(self, what: str) -> ArtefactError:
        return ArtefactError(
            f"{self._library} {what} engine {self._path}: {self._log.first('no reason given')}", BUILD_AGAIN
        )

    def _free(self) -> None:
        for name in ("_context", "_engine", "_runtime"):
            self.__dict__.pop(name, None)


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
