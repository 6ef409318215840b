"""What every engine is to the code above it: frames in, a score and an anomaly map out."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agp_edge.engines.run_options import RUN_AS_USUAL, RunOptions
from agp_edge.engines.sidecar import Layers as Layers
from agp_edge.engines.sidecar import Sidecar
from agp_edge.engines.slots import CallSlot, Slot
from agp_edge.errors import InputError
from agp_edge.frame import PRECISIONS, FrameSpec, Precision
from agp_edge.progress import Progress, silent


@dataclass(frozen=True)
class Inference:
    """What a network says of N frames.

    Attributes:
        score: [N] float32, the maximum of each map.
        anomaly_map: [N, h, w] float32 at the network's own resolution.
    """

    score: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]


class Session(ABC):
    """An artefact that is loaded and can run: the one interface for engines, bundles and trained networks.

    A stream brings frames to its `slots`, everyone else calls `infer`; one thread at a time does either. `infer` checks and
    fills up the batch; a backend writes `_infer`, which gets exactly `frame.batch` frames.
    """

    frame: FrameSpec
    precision: Precision = "fp32"

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Where batches of frames go in and verdicts come out, without an allocation for each; see `slots`.

        Raises:
            InputError: this takes every image in its own size.
        """
        if self.frame.any_size:
            raise InputError(
                "a run that takes images of any size has no room that is made beforehand",
                "export it for one frame size: agp-edge export RUN --frame-size WxH",
            )
        return (CallSlot(self.frame, self._infer),)

    def infer(self, frames: NDArray[np.uint8]) -> Inference:
        """Score frames.

        Args:
            frames: [N, H, W, C] uint8, BGR or mono as `frame` says; any N >= 1.

        Raises:
            InputError: another size, number of channels or type.
        """
        self._check(frames)
        size = self.frame.batch
        if len(frames) == size:
            return self._infer(np.ascontiguousarray(frames))
        parts = []
        for start in range(0, len(frames), size):
            part = frames[start : start + size]
            missing = size - len(part)
            if missing:
                part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            result = self._infer(np.ascontiguousarray(part))
            keep = size - missing
            parts.append(Inference(result.score[:keep], result.anomaly_map[:keep]))
        return Inference(
            np.concatenate([p.score for p in parts]), np.concatenate([p.anomaly_map for p in parts])
        )

    def score(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The scores of frames, and no maps: what there are several slots for is done at once.

        Args:
            frames: as `infer` takes them.

        Returns:
            [N] float32.

        Raises:
            InputError: another size, number of channels or type.
        """
        self._check(frames)
        size = self.frame.batch
        scores = np.empty(len(frames), np.float32)
        starts = range(0, len(frames), size)
        under_way: deque[tuple[Slot, int]] = deque()
        for start, slot in zip(starts, itertools.cycle(self.slots), strict=False):
            if len(under_way) == len(self.slots):
                _collect(under_way, scores)
            slot.submit(frames[start : start + size])
            under_way.append((slot, start))
        while under_way:
            _collect(under_way, scores)
        return scores

    def _check(self, frames: NDArray[np.uint8]) -> None:
        frame = self.frame
        if frame.any_size and frames.ndim == 4:
            frame = frame.of_size(frames.shape[2], frames.shape[1])
        if not len(frames) or frames.ndim != 4 or frames.shape[1:] != frame.shape or frames.dtype != np.uint8:
            raise InputError(
                f"expected frames of [N, {', '.join(map(str, self.frame.shape))}] uint8, N from 1, "
                f"got {list(frames.shape)} {frames.dtype}",
                f"give frames of {self.frame}, or export again with --frame-size",
            )

    @property
    def runtime(self) -> dict[str, Any]:
        """What a time of this session includes, for result files; a fact that a backend does not tell is absent.

        `library` (with its version), `device`, `threads`, and whether there are `transfers`, `cuda_graphs`, `spin_wait`. Of a
        GPU also `memory` (`pinned` or `mapped`), `slots`, `buffer_bytes` and `device_memory_bytes`.
        """
        return {}

    @abstractmethod
    def _infer(self, frames: NDArray[np.uint8]) -> Inference:
        """Score exactly `frame.batch` contiguous frames."""

    @abstractmethod
    def close(self) -> None:
        """Free what the session holds; safe to call twice."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _collect(under_way: deque[tuple[Slot, int]], scores: NDArray[np.float32]) -> None:
    """Wait for the oldest batch that is under way, and put its scores where they belong."""
    slot, start = under_way.popleft()
    said = slot.wait()
    scores[start : start + len(said)] = said


def infer_in(slot: Slot, frames: NDArray[np.uint8]) -> Inference:
    """Send a batch through a slot; the result is the caller's to keep."""
    slot.submit(frames)
    # Copies: the next frames' come to the same place.
    return Inference(slot.wait().copy(), slot.anomaly_map().copy())


@dataclass(frozen=True)
class BuildOptions:
    """What a build may be told.

    Attributes:
        compute_capabilities: GPUs to build for, as in `8.6`; empty means the GPU that is here, or without one
            whatever an ahead-of-time builder offers.
        workspace_mib: limit of the builder's scratch memory, in MiB; None leaves it to the builder.
        timing_cache: file that keeps measured tactics between builds.
        precision: what the engine counts in; it says which graph of the bundle was given.
        frame: what the graph must take; None holds it against no frame.
        optimization_level: how long the builder searches, 0 to 5; None leaves it to the builder.
        dla: core of the Deep Learning Accelerator to build for; what it cannot run goes to the GPU.
        version_compatible: the plan is to load in later versions of the library.
        hardware_compatible: the plan is to run on GPUs of other generations.
    """

    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    timing_cache: Path | None = None
    precision: Precision = "fp32"
    frame: FrameSpec | None = None
    optimization_level: int | None = None
    dla: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False

    def refuse(self, title: str, reasons: Mapping[str, str]) -> None:
        """Refuse what was asked for and this builder does not do.

        Args:
            title: the builder's name.
            reasons: name of an attribute -> why it does not take that.

        Raises:
            InputError: one of them was set.
        """
        for name, reason in reasons.items():
            # By identity: a DLA core of 0 is something that was asked for.
            if not any(getattr(self, name) is nothing for nothing in (None, False, ())):
                flag = "--" + OPTION_FLAGS.get(name, name.replace("_", "-"))
                raise InputError(
                    f"{title} takes no {flag}: {reason}", "leave it out, or take another --backend"
                )


NOT_FOR_A_CPU = {
    "compute_capabilities": "it builds for this CPU",
    "workspace_mib": "it has no scratch memory to limit",
    "timing_cache": "it measures nothing while it builds",
    "optimization_level": "it has one way to build",
    "dla": "it builds for this CPU",
    "version_compatible": "its engine is an ONNX file, which later versions read anyway",
    "hardware_compatible": "it builds for this CPU",
}
"""Attribute of `BuildOptions` -> why a builder for the CPU does not take it."""


OPTION_FLAGS = {"compute_capabilities": "compute-capability", "workspace_mib": "workspace"}
"""Attribute of `BuildOptions` -> its flag, where they have different names."""


@dataclass(frozen=True)
class BuildResult:
    """What a build made.

    Attributes:
        backend_version: version of the library that built it.
        device: where the plan runs: `machine`, and `compute_capabilities` for a GPU.
        runs_here: whether this machine can run it: if so the gate runs next, if not nothing is known of its verdicts.
        layers: what it is made of, as far as the library says.
        notes: what the user should know, a line each.
    """

    backend_version: str
    device: dict[str, Any]
    runs_here: bool
    layers: Layers | None = None
    notes: tuple[str, ...] = ()


class Backend(Protocol):
    """One way to compile and run a bundle's graph."""

    name: str

    def unavailable(self) -> str | None:
        """Why it cannot build here, in a few words; None if it can."""

    def cannot_run(self) -> str | None:
        """Why its engines cannot be run here, in a few words; None if they can. What cannot be run is neither judged nor timed."""

    def refuses(self, precision: Precision) -> str | None:
        """Why it does not build a precision here, in a few words; None if it does. Asked only where it is available."""

    def build(
        self, model: Path, plan: Path, options: BuildOptions, progress: Progress = silent
    ) -> BuildResult:
        """Compile an ONNX graph into the file `plan`.

        Raises:
            MissingExtraError: its library is not installed.
            InputError: an option that it does not take.
            ArtefactError: the graph or the device does not suit it.
        """

    def open(
        self, plan: Path, sidecar: Sidecar, data: bytes | None = None, options: RunOptions = RUN_AS_USUAL
    ) -> Session:
        """Load a plan whose hash was verified.

        Args:
            plan: the file.
            sidecar: what is known of it.
            data: the bytes that were verified: then the file is not read again. None reads it.
            options: how it is run.

        Raises:
            InputError: an option that is not for the device that it runs on.
            ArtefactError: the plan is not for this machine.
        """


def refuse_precision(backend: Backend, precision: Precision) -> None:
    """Refuse a precision that a builder does not count in.

    Raises:
        InputError: it is none of those that it builds here.
    """
    reason = backend.refuses(precision)
    if reason is not None:
        taken = [other for other in PRECISIONS if backend.refuses(other) is None]
        raise InputError(reason, f"take one of: {', '.join(taken)}")
