"""A graph in ONNX Runtime on a GPU: its CUDA provider, in our stream, over our memory.

It makes its own CUDA graphs, of graphs that are on the GPU as a whole, for each thread that runs them; while it does, no other
thread may allocate on the GPU. Versions before pull request 28686 of onnxruntime wait for a replayed graph inside the call, so
that neighbouring frames overlap less than they could. The project has not run this on a GPU; that tensors go in and out by
their addresses is tried on the CPU provider.
"""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

from agp_edge.cuda import Device
from agp_edge.engines.gpu_session import GpuSession, Loaded
from agp_edge.engines.gpu_slots import Streams
from agp_edge.engines.onnxruntime import CUDA, import_onnxruntime, load_graph
from agp_edge.engines.onnxruntime_slots import GpuRun
from agp_edge.engines.run_options import RUN_AS_USUAL, RunOptions
from agp_edge.errors import ArtefactError
from agp_edge.frame import FrameSpec, Precision


class OnnxRuntimeGpuSession(GpuSession):
    """A graph in ONNX Runtime on the first GPU that is here.

    Args:
        model: an ONNX file, already verified.
        frame: the frame it takes.
        precision: what its graph is, for reports.
        data: the bytes that were verified: then the file is not read again.
        options: how to run.
        provider, place: ONNX Runtime's names of what runs the graph, and of where its tensors are.

    Raises:
        InputError, MissingExtraError, ArtefactError, DeviceLostError: as `GpuSession`.
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
        self._model = model
        self._data = data
        self._provider = provider
        self._place = place
        super().__init__(frame, precision, f"onnxruntime {import_onnxruntime().__version__}", options)

    def _load(
        self, device: Device, streams: Streams, options: RunOptions, held: contextlib.ExitStack
    ) -> Loaded:
        settings = {"user_compute_stream": str(streams.compute.handle)}
        refused = None
        try:
            if options.cuda_graphs:
                try:
                    return self._load_with({**settings, "enable_cuda_graph": "1"}, True, options.slots, held)
                except ArtefactError as error:
                    refused = error.what
            return self._load_with(settings, False, options.slots, held)._replace(graphs_refused=refused)
        finally:
            # As large as the graph, and ONNX Runtime has it now.
            self._data = None

    def _load_with(
        self, settings: dict[str, str], graphs: bool, slots: int, held: contextlib.ExitStack
    ) -> Loaded:
        """Load the graph; its only owners are the runs, and so it goes with them, before the stream that it computes in."""
        loaded = load_graph(self._model, self._data, self.frame, None, self._provider, settings)
        ids = itertools.count(1) if graphs else None
        runs = [
            held.enter_context(
                GpuRun(
                    loaded.session,
                    import_onnxruntime().RunOptions(),
                    self._place,
                    loaded.shapes,
                    loaded.entry,
                    ids,
                    loaded.translated,
                )
            )
            for _ in range(slots)
        ]
        return Loaded(loaded.shapes, runs)
