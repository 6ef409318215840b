"""Slots on a GPU: a frame into page-locked memory, from there to the engine, the score back, and the map if somebody asks.

Everything is allocated when the engine is opened. Three streams bring frames, compute, and fetch maps, so that the copies of
one batch go on while its neighbour computes; computing is in the order of `submit`. Where it can be, a slot's run and the
copy of its scores are one CUDA graph. Addresses are fixed inside a graph, so each slot has its own memory and graph.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agp_edge.cuda import CaptureError, Device, DeviceMemory, Event, Graph, PinnedMemory, Resource, Stream
from agp_edge.engines.run_options import RunOptions
from agp_edge.engines.slots import Frames, Slot
from agp_edge.errors import DeviceLostError, InputError, WorkStoppedError
from agp_edge.frame import FrameSpec

SCORE, MAP = "score", "anomaly_map"
WARM_UP_RUNS, TIMED_RUNS = 3, 15
"""Before a slot is used, and of each kind of memory where the faster one is looked for."""


class Run(Protocol):
    """What a library runs for one slot, as an execution context of TensorRT."""

    captures_itself: bool
    """It is a CUDA graph already, or makes itself one."""

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Say where the tensors lie on the device, by name.

        Raises:
            ArtefactError: the library does not take that.
        """

    def queue(self, stream: int) -> None:
        """Queue one run over what lies there.

        Raises:
            WorkStoppedError: the library does not.
        """


Calls = tuple[Callable[[], None], ...]
"""What is asked of the driver in turn, prepared beforehand."""


class Tensor:
    """A tensor's memory: where the device finds it, and where the host does.

    Args:
        device: whose.
        held: what closes it.
        kind: of an element.
        shape: of the tensor.
        mapped: the device uses the host's memory; else it has its own, and there are copies.

    Attributes:
        address: in the device's addresses.
        array: the host's side, as `kind` and `shape` say.
        size: bytes of both sides.
    """

    def __init__(
        self,
        device: Device,
        held: contextlib.ExitStack,
        kind: np.dtype[Any],
        shape: tuple[int, ...],
        *,
        mapped: bool,
    ) -> None:
        size = math.prod(shape) * kind.itemsize
        self._here = held.enter_context(PinnedMemory(device, size))
        self._there = None if mapped else held.enter_context(DeviceMemory(device, size))
        self.address = self._here.mapped_address if self._there is None else self._there.address
        self.array: NDArray[Any] = self._here.array.view(kind).reshape(shape)
        self.size = size if mapped else 2 * size

    def copies_in(self, stream: Stream) -> Calls:
        """What copies it to the device: nothing, where that is not needed."""
        return () if self._there is None else (stream.prepare_copy_in(self._here, self._there),)

    def copies_out(self, stream: Stream) -> Calls:
        """What copies it to the host: nothing, where that is not needed."""
        return () if self._there is None else (stream.prepare_copy_out(self._there, self._here),)


Shapes = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Name of a tensor -> type of an element and shape; one of them takes the frames, the others are `score` and `anomaly_map`."""


class GpuSlots(Resource):
    """The slots of one engine on one device, and what they share.

    Args:
        device: must outlive this, as the next three.
        streams: of the engine.
        frame: what the engine takes.
        shapes: of its tensors.
        runs: one for each slot.
        options: how to run.
        graphs_refused: why there can be no CUDA graphs, where that is known.

    Attributes:
        slots: as many as there are runs.

    Raises:
        InputError: mapped memory was asked for and the device does not map any.
        ArtefactError: too little memory, or the library does not take it.
        WorkStoppedError: the first run failed.
    """

    def __init__(
        self,
        device: Device,
        streams: Streams,
        frame: FrameSpec,
        shapes: Shapes,
        runs: Sequence[Run],
        options: RunOptions,
        graphs_refused: str | None = None,
    ) -> None:
        self._streams = streams
        self._options = options
        self._trial_ms: dict[str, float] = {}
        self._graphs_refused = graphs_refused if options.cuda_graphs else "they were not wanted"
        with contextlib.ExitStack() as held:
            self._mapped = self._choose_memory(device, frame, shapes, runs, options)
            sleeps = not options.spin_wait
            self.slots = tuple(
                GpuSlot(device, streams, frame, shapes, run, held, mapped=self._mapped, sleeps=sleeps)
                for run in runs
            )
            self._graphs_refused = self._get_ready(self.slots, held)
            self._held = held.pop_all()

    @property
    def runtime(self) -> dict[str, Any]:
        """What of `Session.runtime` is known here; `no_cuda_graphs` says why there are none, `memory_trial_ms` what was tried."""
        facts: dict[str, Any] = {
            "memory": "mapped" if self._mapped else "pinned",
            "transfers": not self._mapped,
            "cuda_graphs": self._graphs_refused is None,
            "spin_wait": self._options.spin_wait,
            "slots": len(self.slots),
            "buffer_bytes": sum(slot.buffer_bytes for slot in self.slots),
        }
        if self._graphs_refused is not None:
            facts["no_cuda_graphs"] = self._graphs_refused
        if self._trial_ms:
            facts["memory_trial_ms"] = self._trial_ms
        return facts

    def _choose_memory(
        self, device: Device, frame: FrameSpec, shapes: Shapes, runs: Sequence[Run], options: RunOptions
    ) -> bool:
        """Whether the device is to use the host's memory."""
        if options.memory == "mapped" and not device.maps_host_memory:
            raise InputError(
                f"{device.name} maps no memory of the host", "leave --memory out, or take pinned"
            )
        if options.memory != "auto" or not (device.integrated and device.maps_host_memory):
            return options.memory == "mapped"
        if len(runs) < 2:
            return True
        self._trial_ms = self._try_both(device, frame, shapes, runs)
        return self._trial_ms["mapped"] < self._trial_ms["pinned"]

    def _try_both(
        self, device: Device, frame: FrameSpec, shapes: Shapes, runs: Sequence[Run]
    ) -> dict[str, float]:
        """Milliseconds that a batch takes from the host's memory to its scores, by the median, in the form that it will run in.

        They take turns, so that a clock that is still rising is none's advantage; each has a run of its own, since a graph is of the
        addresses that its run had.
        """
        black = np.zeros((frame.batch, *frame.shape), np.uint8)
        times: dict[str, list[float]] = {"pinned": [], "mapped": []}
        with contextlib.ExitStack() as held:
            slots = [
                GpuSlot(
                    device, self._streams, frame, shapes, run, held, mapped=name == "mapped", sleeps=False
                )
                for name, run in zip(times, runs, strict=False)
            ]
            self._get_ready(slots, held)
            for _ in range(TIMED_RUNS):
                for slot, taken in zip(slots, times.values(), strict=True):
                    begin = time.perf_counter()
                    slot.submit(black)
                    slot.wait()
                    taken.append((time.perf_counter() - begin) * 1e3)
        return {name: statistics.median(taken) for name, taken in times.items()}

    def _get_ready(self, slots: Sequence[GpuSlot], held: contextlib.ExitStack) -> str | None:
        """Warm slots up, and make graphs of their runs; why there are none, where there are none."""
        graphs = held.enter_context(contextlib.ExitStack())
        # Last in, so first out: nothing runs any more when it is freed.
        held.callback(self._streams.settle)
        for slot in slots:
            slot.warm_up()
        return _capture(slots, graphs) if self._graphs_refused is None else self._graphs_refused

    def _free(self) -> None:
        for slot in self.slots:
            slot.retire()
        self._held.close()


def _capture(slots: Sequence[GpuSlot], graphs: contextlib.ExitStack) -> str | None:
    """Make each slot's run a graph, or that of none.

    Args:
        slots: warmed up.
        graphs: what closes the graphs.

    Returns:
        Why there are none; None where there are, or where the library makes its own.
    """
    for slot in slots:
        refused = None if slot.captures_itself else slot.capture(graphs)
        if refused is not None:
            for other in slots:
                other.forget_graph()
            graphs.close()
            # That they can still be queued is seen now, and not at the first frame.
            for other in slots:
                other.warm_up()
            return refused
    return None


class Streams(Resource):
    """The three streams of an engine.

    Args:
        device: must outlive this.

    Attributes:
        inward: brings frames.
        compute: runs the engine, and brings scores.
        outward: brings maps.
    """

    def __init__(self, device: Device) -> None:
        with contextlib.ExitStack() as held:
            self.inward, self.compute, self.outward = (held.enter_context(Stream(device)) for _ in range(3))
            self._held = held.pop_all()

    def settle(self) -> None:
        """Wait until nothing that was queued is at a buffer any more, whether it went well or not."""
        for stream in (self.inward, self.compute, self.outward):
            stream.settle()

    def _free(self) -> None:
        self._held.close()


class GpuSlot(Slot):
    """One batch on a GPU.

    Args:
        device: whose.
        streams: of the engine.
        frame: what the engine takes.
        shapes: of its tensors.
        run: of this slot alone; it is bound to this slot's memory.
        held: what closes it all.
        mapped: see `Tensor`.
        sleeps: whether a thread that waits for it sleeps.

    Attributes:
        buffer_bytes: of its tensors, on both sides.
        captures_itself: as the run says.
    """

    def __init__(
        self,
        device: Device,
        streams: Streams,
        frame: FrameSpec,
        shapes: Shapes,
        run: Run,
        held: contextlib.ExitStack,
        *,
        mapped: bool,
        sleeps: bool,
    ) -> None:
        super().__init__(frame)
        self._device = device
        self._streams = streams
        self._run = run
        self._compute_stream = streams.compute.handle
        tensors = {
            name: Tensor(device, held, kind, shape, mapped=mapped) for name, (kind, shape) in shapes.items()
        }
        run.bind({name: tensor.address for name, tensor in tensors.items()})
        self.buffer_bytes = sum(tensor.size for tensor in tensors.values())
        self.captures_itself = run.captures_itself
        score, anomaly_map = tensors.pop(SCORE), tensors.pop(MAP)
        (entry,) = tensors.values()
        self._places = tuple(entry.array)
        self._score, self._map = score.array, anomaly_map.array
        arrived = held.enter_context(Event(device, sleeps=sleeps))
        done = held.enter_context(Event(device, sleeps=sleeps))
        self._bring = entry.copies_in(streams.inward)
        if self._bring:
            self._bring += (arrived.prepare_record(streams.inward), arrived.prepare_hold(streams.compute))
        self._compute: Calls = (self._queue_run, *score.copies_out(streams.compute))
        self._end = (done.prepare_record(streams.compute),)
        self.forget_graph()
        self._wait_for_it = done.prepare_synchronize()
        self._fetch_map = anomaly_map.copies_out(streams.outward)
        if self._fetch_map:
            fetched = held.enter_context(Event(device, sleeps=sleeps))
            self._fetch_map += (fetched.prepare_record(streams.outward), fetched.prepare_synchronize())
        self._under_way = self._map_is_here = self._retired = False

    def retire(self) -> None:
        """Its memory goes: nothing is submitted any more, and nothing is looked at."""
        self._retired = True

    def _check_not_retired(self) -> None:
        if self._retired:
            raise ValueError("the session of this slot is closed")

    def warm_up(self) -> None:
        """Run over whatever lies there: in their first runs libraries load, allocate, and make graphs.

        Raises:
            WorkStoppedError: it fails.
        """
        for _ in range(WARM_UP_RUNS):
            self._queue_compute()
        self._streams.compute.synchronize()

    def capture(self, held: contextlib.ExitStack) -> str | None:
        """Make the run and the copy of its scores one CUDA graph; why it cannot be, where it cannot."""
        compute = self._streams.compute
        try:
            graph = held.enter_context(Graph(self._device, compute, self._queue_compute))
        except DeviceLostError:
            raise
        except (CaptureError, WorkStoppedError) as error:
            return error.what
        launch = graph.prepare_launch(compute)
        # What it takes to bring it to the GPU is paid now, and not by the first frame.
        launch()
        compute.synchronize()
        self._for_a_frame = (*self._bring, launch, *self._end)
        return None

    def forget_graph(self) -> None:
        """Queue the run call by call again."""
        self._for_a_frame = (*self._bring, *self._compute, *self._end)

    def _queue_compute(self) -> None:
        for call in self._compute:
            call()

    def _queue_run(self) -> None:
        self._device.use()
        self._run.queue(self._compute_stream)

    def _submit(self, frames: Frames, count: int) -> None:
        self._check_not_retired()
        if self._under_way:
            # The copy of the frames before would read these.
            self._wait()
        for place, frame in zip(self._places, frames, strict=False):
            np.copyto(place, frame)
        self._map_is_here = False
        try:
            for call in self._for_a_frame:
                call()
        except DeviceLostError:
            raise  # Nothing runs on it any more.
        except BaseException:
            self._streams.settle()
            raise
        self._under_way = True

    def _wait(self) -> NDArray[np.float32]:
        self._check_not_retired()
        if self._under_way:
            self._wait_for_it()
            self._under_way = False
        return self._score

    def _anomaly_map(self) -> NDArray[np.float32]:
        self._wait()
        if not self._map_is_here:
            for call in self._fetch_map:
                call()
            self._map_is_here = True
        return self._map
