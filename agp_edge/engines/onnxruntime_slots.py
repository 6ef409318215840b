"""How frames come to ONNX Runtime and verdicts from it: in memory that it is told of, so that it allocates and copies nothing.

On a CPU a frame is read where the camera left it. On a GPU the slots are those of `gpu_slots`, and a graph's run is queued in
their stream.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.cuda import Resource
from agp_edge.engines.gpu_slots import Shapes
from agp_edge.engines.slots import Batch, Frames, Slot
from agp_edge.frame import FrameSpec

CACHE_LINE = 64

Translated = Callable[[], contextlib.AbstractContextManager[None]]
"""Makes the block in which an error of ONNX Runtime's becomes one of ours."""


class CpuSlot(Slot):
    """A slot of a graph on the CPU; it computes while it is waited for.

    Args:
        frame: what the graph takes.
        session: ONNX Runtime's.
        entry: name of the graph's input.
        outputs: `score` and `anomaly_map` as a first run gave them, for their shapes.
        translated: see `Translated`.
    """

    def __init__(
        self,
        frame: FrameSpec,
        session: Any,
        entry: str,
        outputs: Mapping[str, NDArray[np.float32]],
        translated: Translated,
    ) -> None:
        super().__init__(frame)
        self._session = session
        self._entry = entry
        self._translated = translated
        self._batch = Batch(frame)
        places = {name: _aligned(array.shape) for name, array in outputs.items()}
        self._score, self._map = places["score"], places["anomaly_map"]
        self._binding = session.io_binding()
        for name, array in places.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._computed = True

    def _submit(self, frames: Frames, count: int) -> None:
        self._batch.take(frames)
        self._computed = False

    def _wait(self) -> NDArray[np.float32]:
        if not self._computed:
            with self._translated():
                # Bound, not copied: it reads the frames where they are.
                self._binding.bind_cpu_input(self._entry, self._batch.frames)
                self._session.run_with_iobinding(self._binding)
            self._computed = True
        return self._score

    def _anomaly_map(self) -> NDArray[np.float32]:
        self._wait()
        return self._map


def _aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Memory that begins with a cache line, as the runtime's own does: elsewhere its kernels write more slowly."""
    size = 4 * math.prod(shape)
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    begin = -memory.ctypes.data % CACHE_LINE
    return memory[begin : begin + size].view(np.float32).reshape(shape)


class GpuRun(Resource):
    """A graph's run in one slot of a GPU: a `Run` of `gpu_slots`.

    Args:
        session: ONNX Runtime's, made to queue in the stream that is given to `queue`.
        run_options: ONNX Runtime's, new.
        place: its name of the device that the tensors are on, as in `cuda`.
        shapes: of the tensors.
        entry: name of the graph's input.
        graph_ids: of the CUDA graphs that it makes of its runs; None where it makes none.
        translated: see `Translated`.
    """

    captures_itself = True

    def __init__(
        self,
        session: Any,
        run_options: Any,
        place: str,
        shapes: Shapes,
        entry: str,
        graph_ids: Iterator[int] | None,
        translated: Translated,
    ) -> None:
        self._session = session
        self._options = run_options
        self._place = place
        self._shapes = shapes
        self._entry = entry
        self._graph_ids = graph_ids
        self._translated = translated
        self._binding = session.io_binding()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, addresses: Mapping[str, int]) -> None:
        """See `Run.bind`."""
        self._check_open()
        with self._translated():
            for name, (kind, shape) in self._shapes.items():
                bind = self._binding.bind_input if name == self._entry else self._binding.bind_output
                bind(name, self._place, 0, kind, list(shape), addresses[name])
            if self._graph_ids is not None:
                # A graph is of the addresses that it was made with: other addresses, another graph.
                self._options.add_run_config_entry("gpu_graph_id", str(next(self._graph_ids)))

    def queue(self, stream: int) -> None:
        """See `Run.queue`."""
        self._check_open()
        with self._translated():
            self._session.run_with_iobinding(self._binding, self._options)

    def _free(self) -> None:
        # Its last owners: what ONNX Runtime holds of the device goes with them.
        self._session = self._binding = None
