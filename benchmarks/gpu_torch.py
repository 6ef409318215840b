"""The same network in torch, in half precision as the FP16 graph has it: eager, and compiled.

From a frame in the host's memory to its score in the host's memory, as an engine is timed. Needs the host's packages and a
torch with CUDA; without them an engine is measured all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.frame import FrameSpec
from benchmarks.gpu_reasons import reason_of

EAGER, COMPILED = "torch_eager", "torch_compile"
COMPILE_MODE = "reduce-overhead"
"""torch's own CUDA graphs: the mode for small batches."""
WARM_UP_RUNS = 5

Judge = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class TorchNets:
    """What torch makes of a run, for every frame that is asked for; made once, since compiling takes minutes.

    Args:
        run: the folder that training left; None for none.
        device: torch's name of where it computes.
    """

    def __init__(self, run: Path | None, device: str = "cuda") -> None:
        self._run = run
        self._device = device
        self._made: dict[FrameSpec, tuple[dict[str, Judge], dict[str, str]]] = {}

    def of(self, frame: FrameSpec) -> tuple[dict[str, Judge], dict[str, str]]:
        """Name -> what judges a batch; and for those that there are not, why."""
        if frame not in self._made:
            self._made[frame] = self._make(frame)
        return self._made[frame]

    def _make(self, frame: FrameSpec) -> tuple[dict[str, Judge], dict[str, str]]:
        if self._run is None:
            reason = "no run was given: --run RUN"
            return {}, {EAGER: reason, COMPILED: reason}
        made: dict[str, Judge] = {}
        missing: dict[str, str] = {}
        for name, compiled in ((EAGER, False), (COMPILED, True)):
            try:
                judge = _open(self._run, frame, self._device, compiled=compiled)
                for _ in range(WARM_UP_RUNS):
                    judge(np.zeros((frame.batch, *frame.shape), np.uint8))
                made[name] = judge
            except Exception as error:  # torch's errors share no base; the engine is measured without it.
                missing[name] = reason_of(error)
        return made, missing


def _open(run: Path, frame: FrameSpec, device: str, *, compiled: bool) -> Judge:
    import torch

    from agpnet.run import load_run
    from export.graph import FrameNet

    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} sees no GPU here")
    network, _ = load_run(run)
    module: Any = FrameNet(network, frame, half=True).eval().to(device)
    if compiled:
        module = torch.compile(module, mode=COMPILE_MODE)
    here = torch.empty((frame.batch, *frame.shape), dtype=torch.uint8, pin_memory=on_gpu)
    there = torch.empty_like(here, device=device)

    @torch.inference_mode()
    def judge(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        here.copy_(torch.from_numpy(frames))
        there.copy_(here, non_blocking=True)
        score, _ = module(there)
        said: NDArray[np.float32] = score.cpu().numpy()
        return said

    return judge


def torch_version() -> str | None:
    """Of torch, where it is installed."""
    try:
        import torch
    except ImportError:
        return None
    return str(torch.__version__)
