"""Do the bindings of CUDA do here what our code asks of them? Bytes there and back, mapped memory, events, a graph.

Each check is one idea and is judged by the bytes that come back. What a stand-in for a driver cannot show, a GPU has to.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agp_edge.cuda import BINDINGS, Device, DeviceMemory, Event, Graph, PinnedMemory, Stream, load_driver
from agp_edge.errors import AgpEdgeError, DeviceLostError, MissingExtraError
from benchmarks.gpu_reasons import reason_of

WORKS = "works"
SIZES = (1, 1_000_003)
"""Bytes: the least, and some that fill no page."""
PACKAGES = {"cuda-python": "cuda-bindings", "pycuda": "pycuda"}
"""Binding -> the package that it is of."""


class NotOfferedError(Exception):
    """What this device or binding does not offer, so that there is nothing to check."""


def check_bindings() -> dict[str, Any]:
    """Every binding of the table, by name: `installed`, `version`, `works`, and of each check whether it works or why not."""
    return {name: _check(name) for name in BINDINGS}


def binding_in_use() -> str:
    """The one that sessions and bare loops here go through.

    Raises:
        MissingExtraError: there is none.
    """
    module = type(load_driver()).__module__
    return next((name for name, binding in BINDINGS.items() if binding.module == module), module)


def _check(name: str) -> dict[str, Any]:
    binding = BINDINGS[name]
    told: dict[str, Any] = {"installed": True, "version": _version(name), "works": False, "checks": {}}
    try:
        driver = importlib.import_module(binding.module).load_driver(binding.extra)
    except MissingExtraError as error:
        return {"installed": False, "works": False, "reason": error.what}
    except (
        Exception
    ) as error:  # Whatever a library does when it loads: it is told, and the next one is tried.
        return {**told, "reason": reason_of(error)}
    told["captures_graphs"] = bool(driver.captures_graphs)
    try:
        with Device(driver) as device:
            told["sleeps"] = device.sleeps
            for title, check in CHECKS.items():
                told["checks"][title] = _run(check, device)
    except Exception as error:  # As above.
        return {**told, "reason": reason_of(error)}
    told["works"] = all(said == WORKS or said.startswith("not offered") for said in told["checks"].values())
    return told


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(PACKAGES.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return None


def _run(check: Callable[[Device, ExitStack], None], device: Device) -> str:
    try:
        with ExitStack() as held:
            check(device, held)
    except NotOfferedError as reason:
        return f"not offered: {reason}"
    except DeviceLostError:
        raise
    except Exception as error:  # As above.
        return reason_of(error)
    return WORKS


def _bytes(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


def _hold_same(expected: NDArray[np.uint8], got: NDArray[np.uint8]) -> None:
    wrong = int(np.count_nonzero(expected != got))
    if wrong:
        raise AgpEdgeError(f"{wrong} of {expected.size} bytes came back wrong", "report this with this file")


def _round_trip(device: Device, held: ExitStack) -> None:
    """Host to device to host."""
    stream = held.enter_context(Stream(device))
    for size in SIZES:
        with (
            PinnedMemory(device, size) as source,
            DeviceMemory(device, size) as there,
            PinnedMemory(device, size) as back,
        ):
            source.array[:] = _bytes(size)
            with stream.awaited():
                stream.copy_in(source, there)
                stream.copy_out(there, back)
            _hold_same(source.array, back.array)


def _mapped(device: Device, held: ExitStack) -> None:
    """The device reads and writes the host's memory by the device's own address of it."""
    if not device.maps_host_memory:
        raise NotOfferedError("this GPU maps no memory of the host")
    size = SIZES[-1]
    stream = held.enter_context(Stream(device))
    mapped, source, back = (held.enter_context(PinnedMemory(device, size)) for _ in range(3))
    driver, seen = device.driver, mapped.mapped_address
    mapped.array[:] = _bytes(size)
    with stream.awaited():
        device.ask(driver.copy_out, back.address, seen, size, stream.handle)
    _hold_same(mapped.array, back.array)
    source.array[:] = _bytes(size)[::-1]
    with stream.awaited():
        device.ask(driver.copy_in, seen, source.address, size, stream.handle)
    _hold_same(source.array, mapped.array)


def _events(device: Device, held: ExitStack) -> None:
    """One stream waits for another by a mark, the host for both, and marks that keep the time give some."""
    size = SIZES[-1]
    inward, outward = (held.enter_context(Stream(device)) for _ in range(2))
    held.callback(inward.settle)
    held.callback(outward.settle)
    source, back = (held.enter_context(PinnedMemory(device, size)) for _ in range(2))
    there = held.enter_context(DeviceMemory(device, size))
    source.array[:] = _bytes(size)
    begin, arrived = (held.enter_context(Event(device, timing=True)) for _ in range(2))
    for sleeps in (True, False):
        done = held.enter_context(Event(device, sleeps=sleeps))
        back.array[:] = 0
        begin.record(inward)
        inward.copy_in(source, there)
        arrived.record(inward)
        arrived.hold(outward)
        outward.copy_out(there, back)
        done.record(outward)
        done.synchronize()
        _hold_same(source.array, back.array)
        took = arrived.elapsed_ms(begin)
        if not 0 < took < 60_000:
            raise AgpEdgeError(
                f"a copy of {size} bytes took {took} ms by its marks", "report this with this file"
            )


def _graph(device: Device, held: ExitStack) -> None:
    """A captured copy there and back, launched twice over other bytes."""
    if not device.driver.captures_graphs:
        raise NotOfferedError("this binding has no graphs")
    size = SIZES[-1]
    stream = held.enter_context(Stream(device))
    source, back = (held.enter_context(PinnedMemory(device, size)) for _ in range(2))
    there = held.enter_context(DeviceMemory(device, size))

    def work() -> None:
        stream.copy_in(source, there)
        stream.copy_out(there, back)

    with stream.awaited():
        work()
    graph = held.enter_context(Graph(device, stream, work))
    for step in (1, 2):
        source.array[:] = np.roll(_bytes(size), step)
        with stream.awaited():
            graph.launch(stream)
        _hold_same(source.array, back.array)


CHECKS: dict[str, Callable[[Device, ExitStack], None]] = {
    "round trip": _round_trip,
    "mapped memory": _mapped,
    "events": _events,
    "graph": _graph,
}
"""By title, in order; a lost device ends them."""
