"""What the sessions on a GPU have in common: the device, the streams, the slots, and who frees what and when."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agp_edge.cuda import Device, open_device
from agp_edge.engines.base import Inference, Session, infer_in
from agp_edge.engines.gpu_slots import GpuSlots, Run, Shapes, Streams
from agp_edge.engines.run_options import RunOptions
from agp_edge.engines.slots import Slot
from agp_edge.frame import FrameSpec, Precision


class Loaded(NamedTuple):
    """An engine that a library has loaded.

    Attributes:
        shapes: of its tensors.
        runs: one for each slot.
        graphs_refused: why there can be no CUDA graphs, where that is known.
    """

    shapes: Shapes
    runs: Sequence[Run]
    graphs_refused: str | None = None


class GpuSession(Session):
    """An engine on the first GPU that is here.

    Args:
        frame: what it takes.
        precision: what it counts in.
        library: what runs it, with its version.
        options: how to run.

    Raises:
        InputError: mapped memory was asked for and the GPU maps none.
        MissingExtraError: no binding of CUDA is installed.
        ArtefactError: no GPU, too little memory on it, or an engine that the library does not take or that is none of ours.
        DeviceLostError: the GPU failed.
    """

    def __init__(self, frame: FrameSpec, precision: Precision, library: str, options: RunOptions) -> None:
        self.frame = frame
        self.precision = precision
        self._library = library
        with contextlib.ExitStack() as held:
            # Before any object of the library is made: without a driver that can end the process.
            self._device = held.enter_context(open_device())
            self._device.keep()
            free, _ = self._device.memory
            # What is entered last is closed first: slots, then what the library has, then the streams that it was in.
            streams = held.enter_context(Streams(self._device))
            loaded = self._load(self._device, streams, options, held)
            self._gpu_slots = held.enter_context(
                GpuSlots(
                    self._device, streams, frame, loaded.shapes, loaded.runs, options, loaded.graphs_refused
                )
            )
            self._device_memory_bytes = max(0, free - self._device.memory[0])
            self._held = held.pop_all()

    @abstractmethod
    def _load(
        self, device: Device, streams: Streams, options: RunOptions, held: contextlib.ExitStack
    ) -> Loaded:
        """Have the library load the engine; what it gives is closed by `held`."""

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """See `Session.slots`."""
        return self._gpu_slots.slots

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        return infer_in(self.slots[0], frames)

    @property
    def runtime(self) -> dict[str, Any]:
        """See `Session.runtime`."""
        return {
            "library": self._library,
            "device": self._device.name,
            **self._gpu_slots.runtime,
            "device_memory_bytes": self._device_memory_bytes,
        }

    def close(self) -> None:
        """Free the engine, then its memory, and let go of the GPU."""
        self._held.close()
