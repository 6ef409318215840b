"""One engine: our sessions and bare loops over it, in turns within one run, in an order drawn anew for every round.

A ratio is that of median times to a bare loop's, with a bootstrap 95 % interval over the rounds, so that a GPU that slows down
slows both. What is opened at the same time shares the GPU; only one works at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agp_edge.benchmark import noise_frames
from agp_edge.cuda import open_device
from agp_edge.engines import RunOptions, Session, open_engine
from agp_edge.engines.sidecar import Sidecar, read_engine
from agp_edge.engines.slots import Slot
from agp_edge.engines.timing import time_in_turns
from agp_edge.frame import FrameSpec
from agp_edge.latency import percentiles_ms
from benchmarks.gpu_floor import Floor, How
from benchmarks.gpu_reasons import reason_of
from benchmarks.gpu_stages import time_post, time_stages
from benchmarks.gpu_torch import TorchNets
from benchmarks.session_overhead import ratio_of_medians

Judge = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A batch of frames, [N, H, W, C] uint8, to its scores, [N] float32."""
T = TypeVar("T")

TARGET = 1.03
"""What a session may take of the floor's time, by the median."""

BARE = {
    "bare_graph": How(),
    "bare_queued": How(graph=False),
    "bare_mapped": How(mapped=True),
    "bare_map": How(anomaly_map=True),
    "bare_spin": How(spins=True),
}
"""Bare loops by name."""
FLOORS = ("bare_graph", "bare_queued", "bare_mapped")
"""Those that do what a session does for a frame that is OK; the fastest of them is the floor."""
VARIANTS = {
    "ours_queued": RunOptions(cuda_graphs=False),
    "ours_mapped": RunOptions(memory="mapped"),
    "ours_spin": RunOptions(spin_wait=True),
}
"""Our sessions with other options; each is held against the bare loop of that name."""
SLOTS = (1, 2, 3)
BATCHES = 48
"""That go through the slots for one time of it: a whole number of turns of any of SLOTS."""
QUERIES = 8


def measure_engine(path: Path, seconds: float, rng: np.random.Generator, nets: TorchNets) -> dict[str, Any]:
    """Everything about one engine; what cannot be measured is under `not_measured`, with the reason.

    Args:
        path: the engine.
        seconds: for the comparison of all; the others take a part of that each.
        rng: draws frames, orders and bootstrap samples.
        nets: the same network in torch.

    Raises:
        InputError, ArtefactError: there is no engine, or there is no GPU for anything.
    """
    sidecar, plan = read_engine(path)
    return Contest(path, sidecar, plan, seconds, rng, nets).run()


class Contest:
    """The measurement of one engine; see `measure_engine`."""

    def __init__(
        self,
        path: Path,
        sidecar: Sidecar,
        plan: bytes,
        seconds: float,
        rng: np.random.Generator,
        nets: TorchNets,
    ) -> None:
        self._path = path
        self._sidecar = sidecar
        self._plan = plan
        self._seconds = seconds
        self._rng = rng
        self._nets = nets
        self._queries = noise_queries(sidecar.frame, rng)
        self._missing: dict[str, str] = {}
        self._figures: dict[str, Any] = {}
        self._reference: NDArray[np.float32] | None = None

    def run(self) -> dict[str, Any]:
        """Measure it."""
        facts: dict[str, Any] = {}
        with ExitStack() as held:
            # First, so that it says how a thread waits, before torch or ONNX Runtime do.
            device = held.enter_context(open_device())
            floor = self._try("bare", lambda: Floor(device, self._sidecar, self._plan))
            bare: dict[str, Judge] = {}
            if floor is not None:
                held.enter_context(floor)
                for name, how in BARE.items():
                    loop = self._try(name, partial(floor.loop, how))
                    if loop is not None:
                        bare[name] = held.enter_context(loop)
            facts["runtime"] = self._compare_all(bare)
            for name, options in VARIANTS.items():
                self._compare_variant(name, options, bare)
            if floor is not None:
                facts["stages"] = self._try(
                    "stages", lambda: time_stages(floor, self._queries, self._seconds / 5)
                )
        sidecar = self._sidecar
        return {
            "backend": sidecar.backend,
            "precision": sidecar.precision,
            "batch": sidecar.frame.batch,
            "frame": sidecar.frame.to_dict(),
            "file": self._path.name,
            "sha256": sidecar.plan_sha256,
            "built_with": sidecar.backend_version,
            "gate": None if sidecar.gate is None else sidecar.gate.get("outcome"),
            "seconds": self._seconds,
            "figures": self._figures,
            "not_measured": self._missing,
            "target": self._target(),
            **facts,
            "post": facts["runtime"].pop("post", None),
            "throughput": facts["runtime"].pop("throughput", None),
        }

    def _compare_all(self, bare: Mapping[str, Judge]) -> dict[str, Any]:
        """Our session as it is usually opened, every bare loop, and torch, in turns."""
        facts: dict[str, Any] = {}
        with ExitStack() as held:
            calls: dict[str, Judge] = {}
            session = self._try("ours", lambda: open_engine(self._path)[0])
            if session is not None:
                held.enter_context(session)
                calls = {"ours": _score(session.slots[0]), "ours_map": _score_and_map(session.slots[0])}
            torch_calls, torch_missing = self._nets.of(self._sidecar.frame)
            self._missing |= torch_missing
            times = self._time({**bare, **calls, **torch_calls}, self._seconds)
            floor = min(
                (name for name in FLOORS if name in times), key=lambda n: np.median(times[n]), default=None
            )
            for name in times:
                self._keep(name, times, "bare_map" if name == "ours_map" else floor)
            if session is not None:
                facts = {**session.runtime}
                facts["throughput"] = self._try("throughput", lambda: self._throughput(session))
                facts["post"] = self._try("post", lambda: self._post(session))
        return facts

    def _compare_variant(self, name: str, options: RunOptions, bare: Mapping[str, Judge]) -> None:
        """Our session with other options and the bare loop that goes the same way, in turns."""
        session = self._try(name, lambda: open_engine(self._path, options)[0])
        if session is None:
            return
        with session:
            other = name.replace("ours", "bare")
            calls: dict[str, Judge] = {name: _score(session.slots[0])}
            if other in bare:
                calls[other] = bare[other]
            times = self._time(calls, self._seconds / 3)
            if name in times:
                self._keep(name, times, other if other in times else None)
                self._figures[name]["cuda_graphs"] = session.runtime.get("cuda_graphs")

    def _try(self, name: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception as error:  # Whatever a library does on a machine that it was not tried on.
            self._missing[name] = reason_of(error)
            return None

    def _time(self, calls: Mapping[str, Judge], seconds: float) -> dict[str, NDArray[np.float64]]:
        """Name -> [rounds] milliseconds; what does not run is left out, with its reason."""
        running = {}
        for name, call in calls.items():
            said = self._try(name, partial(self._first, call))
            if said is None:
                continue
            running[name] = call
            if self._reference is None:
                self._reference = said
            difference = float(
                np.max(np.abs(said - self._reference)) / max(float(np.max(np.abs(self._reference))), 1e-12)
            )
            self._figures.setdefault(name, {"score_difference": difference})
        if not running:
            return {}
        # A GPU that idles is slow at first.
        time_in_turns(list(running.values()), self._queries, self._rng, seconds=min(1.0, seconds / 4))
        times = time_in_turns(list(running.values()), self._queries, self._rng, seconds=seconds)
        return {name: times[:, column] for column, name in enumerate(running)}

    def _first(self, call: Judge) -> NDArray[np.float32]:
        said: NDArray[np.float32] = call(self._queries[0]).copy()
        return said

    def _keep(self, name: str, times: Mapping[str, NDArray[np.float64]], other: str | None) -> None:
        """Keep a call's figures, and its ratio to another of the same run."""
        self._figures[name]["ms"] = percentiles_ms(times[name].tolist())
        if other is not None and other in times and other != name:
            both = np.column_stack([times[name], times[other]])
            self._figures[name] |= {"floor": other, "over_floor": ratio_of_medians(both, self._rng)}

    def _target(self) -> dict[str, Any]:
        """Whether a session is within TARGET of the floor; `holds` is None where the interval does not say."""
        ratio = self._figures.get("ours", {}).get("over_floor")
        return {"at_most": TARGET, "holds": None if ratio is None else holds(ratio)}

    def _throughput(self, session: Session) -> dict[str, Any]:
        """Slots that are under way at once -> batches in turns, and how many times as many frames a second as with one."""
        slots, queries = session.slots, self._queries
        counts = [count for count in SLOTS if count <= len(slots)]
        calls = [_stream(slots[:count], queries) for count in counts]
        time_in_turns(calls, queries, self._rng, seconds=min(1.0, self._seconds / 8))
        times = time_in_turns(calls, queries, self._rng, seconds=self._seconds / 3)
        frames = BATCHES * session.frame.batch
        return {
            str(count): {
                "frames_a_second": frames * 1e3 / float(np.median(times[:, column])),
                # Time of one over time of several: how many times as many frames.
                "over_one": ratio_of_medians(np.column_stack([times[:, 0], times[:, column]]), self._rng),
            }
            for column, count in enumerate(counts)
        }

    def _post(self, session: Session) -> dict[str, Any]:
        slot = session.slots[0]
        slot.submit(self._queries[0])
        return time_post(self._sidecar, self._sidecar.frame, slot.wait().copy(), slot.anomaly_map()[0].copy())


def holds(ratio: Mapping[str, float]) -> bool | None:
    """Whether a ratio is within TARGET: by its interval, which may not say."""
    if ratio["high_95"] <= TARGET:
        return True
    return False if ratio["low_95"] > TARGET else None


def noise_queries(frame: FrameSpec, rng: np.random.Generator) -> list[NDArray[np.uint8]]:
    """Full batches of drawn frames."""
    pictures = noise_frames(frame, int(rng.integers(1 << 31))).frames
    return [
        np.ascontiguousarray(np.take(pictures, range(n, n + frame.batch), axis=0, mode="wrap"))
        for n in range(QUERIES)
    ]


def _score(slot: Slot) -> Judge:
    def judge(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        slot.submit(frames)
        return slot.wait()

    return judge


def _score_and_map(slot: Slot) -> Judge:
    def judge(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        slot.submit(frames)
        score = slot.wait()
        slot.anomaly_map()
        return score

    return judge


def _stream(
    slots: Sequence[Slot], queries: Sequence[NDArray[np.uint8]]
) -> Callable[[NDArray[np.uint8]], object]:
    """BATCHES through slots in turn, as many under way as there are slots."""

    def run(_: NDArray[np.uint8]) -> None:
        for number in range(BATCHES + len(slots)):
            slot = slots[number % len(slots)]
            if number >= len(slots):
                slot.wait()
            if number < BATCHES:
                slot.submit(queries[number % len(queries)])

    return run
