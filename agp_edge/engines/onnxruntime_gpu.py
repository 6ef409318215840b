"""A graph in ONNX Runtime on a GPU: its CUDA provider, in our stream, over our memory.

It makes its own CUDA graphs, of graphs that are on the GPU as a whole, for each thread that runs them; while it does, no other
thread may allocate on the GPU. Versions before pull request 28686 of onnxruntime wait for a replayed graph inside the call, so
that neighbouring frames overlap less than they could. The project has not run this on a GPU; that tensors go in and out by
their addresses is tried on the CPU provider.
"""

from __future__ import annotations

import contextlib
import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.cuda import open_device
from agp_edge.engines.base import Inference, Session, infer_in
from agp_edge.engines.gpu_slots import GpuSlots, Streams
from agp_edge.engines.onnxruntime import CUDA, import_onnxruntime, load_graph
from agp_edge.engines.onnxruntime_slots import GpuRun
from agp_edge.engines.run_options import RUN_AS_USUAL, RunOptions
from agp_edge.engines.slots import Slot
from agp_edge.errors import ArtefactError
from agp_edge.frame import FrameSpec, Precision


class OnnxRuntimeGpuSession(Session):
    """A graph in ONNX Runtime on the first GPU that is here.

    Args:
        model: an ONNX file, already verified.
        frame: the frame it takes.
        precision: what its graph is, for reports.
        data: the bytes that were verified: then the file is not read again.
        options: how to run.
        provider, place: ONNX Runtime's names of what runs the graph, and of where its tensors are.

    Raises:
        InputError: mapped memory was asked for and the GPU maps none.
        MissingExtraError: no binding of CUDA is installed.
        ArtefactError: no GPU, too little memory on it, or a graph that ONNX Runtime does not take or that is none of ours.
        DeviceLostError: the GPU failed.
    """

    def __init__(
        self,
        model: Path,
        frame: FrameSpec,
        precision: Precision = "fp32",
        *,
        data: bytes | None = None,
        options: RunOptions = RUN_AS_USUAL,
        provider: str = CUDA,
        place: str = "cuda",
    ) -> None:
        self.frame = frame
        self.precision = precision
        with contextlib.ExitStack() as held:
            self._device = held.enter_context(open_device())
            self._device.keep()
            free, _ = self._device.memory
            streams = held.enter_context(Streams(self._device))
            settings = {"user_compute_stream": str(streams.compute.handle)}
            refused: str | None = None
            if options.cuda_graphs:
                try:
                    loaded = load_graph(
                        model, data, frame, None, provider, {**settings, "enable_cuda_graph": "1"}
                    )
                except ArtefactError as error:
                    refused = error.what
            if refused is not None or not options.cuda_graphs:
                loaded = load_graph(model, data, frame, None, provider, settings)
            ids = itertools.count(1) if refused is None and options.cuda_graphs else None
            ort = import_onnxruntime()
            runs = [
                held.enter_context(
                    GpuRun(
                        loaded.session,
                        ort.RunOptions(),
                        place,
                        loaded.shapes,
                        loaded.entry,
                        ids,
                        loaded.translated,
                    )
                )
                for _ in range(options.slots)
            ]
            shapes = loaded.shapes
            # Its owners are the runs now: it goes with them, before the stream that it computes in.
            del loaded
            self._gpu_slots = held.enter_context(
                GpuSlots(self._device, streams, frame, shapes, runs, options, refused)
            )
            self._device_memory_bytes = max(0, free - self._device.memory[0])
            self._held = held.pop_all()

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """See `Session.slots`."""
        return self._gpu_slots.slots

    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        return infer_in(self.slots[0], frames)

    @property
    def runtime(self) -> dict[str, Any]:
        """See `Session.runtime`: a time of `infer` includes the map's way back."""
        return {
            "library": f"onnxruntime {import_onnxruntime().__version__}",
            "device": self._device.name,
            **self._gpu_slots.runtime,
            "device_memory_bytes": self._device_memory_bytes,
        }

    def close(self) -> None:
        """Free the session, then its memory, and let go of the GPU."""
        self._held.close()
