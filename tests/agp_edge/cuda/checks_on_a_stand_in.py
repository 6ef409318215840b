"""Checks on a driver that stands in for one; run by test_cuda.py in processes that find it, for each binding."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

from agp_edge.cuda import (
    BINDING_VARIABLE,
    CaptureError,
    DeviceMemory,
    Event,
    Graph,
    PinnedMemory,
    Stream,
    load_driver,
    open_device,
)
from agp_edge.errors import AgpEdgeError, ArtefactError, DeviceLostError
from tests.stand_ins.cuda_driver import StandIn

Work = Callable[[int], object]
OUT_OF_MEMORY, INVALID_VALUE, NO_DEVICE, ILLEGAL_ADDRESS, LAUNCH_FAILED = 2, 1, 100, 700, 719

# --- what differs between the bindings ---------------------------------------------------------------

BINDING = os.environ[BINDING_VARIABLE]

HAS_GRAPHS = BINDING == "cuda-python"

OPENING, CLOSING = {
    "cuda-python": (
        (
            "cuDevicePrimaryCtxGetState",
            "cuDevicePrimaryCtxSetFlags",
            "cuDevicePrimaryCtxRetain",
            "cuCtxSetCurrent",
        ),
        ("cuCtxSetCurrent", "cuDevicePrimaryCtxRelease"),
    ),
    # It lets go of a context only where it is current.
    "pycuda": (
        ("cuDevicePrimaryCtxRetain", "cuCtxPushCurrent"),
        ("cuCtxPopCurrent", "cuCtxPushCurrent", "cuDevicePrimaryCtxRelease"),
    ),
}[BINDING]
"""The calls that make a context current, and those that let go of it."""

PRINTED: frozenset[str] = {
    "cuda-python": frozenset[str](),
    "pycuda": frozenset(
        ("cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuEventDestroy", "cuDevicePrimaryCtxRelease")
    ),
}[BINDING]
"""Calls whose errors are printed and not raised."""

TRIED: dict[str, int] = {"cuda-python": {}, "pycuda": {"cuMemAlloc": 2}}[BINDING]
"""Calls that are made again where memory is short -> how often they are made."""


OF_A_GRAPH: dict[str, type[AgpEdgeError]] = dict.fromkeys(
    ("cuStreamEndCapture", "cuGraphInstantiate"), CaptureError
)
"""Calls after whose errors the work can still be queued without a graph."""


def only(binding: str) -> Callable[[Callable[..., None]], Callable[..., None] | None]:
    """A check of what one binding alone does: for another there is none."""
    return lambda check: check if binding == BINDING else None


@contextlib.contextmanager
def tells(
    capfd: pytest.CaptureFixture[str], kind: type[AgpEdgeError], call: str, name: str, meaning: str
) -> Iterator[None]:
    """That an error of the driver in a call is raised, of that kind, with no other behind it; or that it is printed."""
    if call in PRINTED:
        yield
        assert f"{call} failed: {meaning}" in capfd.readouterr().err
    else:
        with pytest.raises(kind) as info:
            yield
        assert info.value.what == f"{call}: {name} ({meaning})"
        assert type(info.value) is kind
        assert info.value.__context__ is None


# --- memory, streams ---------------------------------------------------------------------------------


@pytest.fixture
def driver() -> Iterator[StandIn]:
    stand_in = StandIn()
    yield stand_in
    stand_in.check()


def round_trip(number: int) -> int:
    """Send 1000 bytes to the device and back; gives the last of them."""
    with open_device() as device, Stream(device) as stream:
        assert device.memory == (3 << 20, 8 << 20)
        with (
            PinnedMemory(device, 1000) as source,
            DeviceMemory(device, 1000) as there,
            PinnedMemory(device, 1000) as back,
        ):
            source.array[:] = np.arange(1000) % 251 + number
            with stream.awaited():
                stream.copy_in(source, there)
                stream.copy_out(there, back)
            np.testing.assert_array_equal(back.array, source.array)
            return int(back.array[-1])


def test_bytes_go_there_and_come_back(driver: StandIn) -> None:
    assert round_trip(3) == 999 % 251 + 3
    driver.check()


def test_who_does_not_wait_has_nothing_yet(driver: StandIn) -> None:
    """Guards the test above: copies are done when a stream is waited for."""
    with (
        open_device() as device,
        Stream(device) as stream,
        PinnedMemory(device, 4) as source,
        DeviceMemory(device, 4) as there,
        PinnedMemory(device, 4) as back,
    ):
        source.array[:] = 7
        stream.copy_in(source, there)
        stream.copy_out(there, back)
        assert back.array.tolist() == [0, 0, 0, 0]
        stream.synchronize()
        assert back.array.tolist() == [7, 7, 7, 7]


def test_what_a_device_says_of_itself(driver: StandIn) -> None:
    with open_device() as device:
        assert (device.name, device.compute_capability) == ("stand-in", "8.7")
        assert not device.integrated
        assert device.sleeps == (BINDING == "cuda-python")


def test_an_integrated_gpu() -> None:
    driver = StandIn(integrated=True)
    with open_device() as device:
        assert device.integrated
    driver.check()


def test_a_context_that_another_made_may_spin() -> None:
    driver = StandIn(active=True)
    with open_device() as device:
        assert not device.sleeps
    driver.check()


def test_things_are_freed_once_and_in_the_opposite_order(driver: StandIn) -> None:
    device = open_device()
    stream = Stream(device)
    memory, pinned = DeviceMemory(device, 8), PinnedMemory(device, 8)
    before = len(driver.calls())
    for _ in range(2):
        for resource in (pinned, memory, stream, device):
            resource.close()
    assert driver.calls()[before:] == ["cuMemFreeHost", "cuMemFree", "cuStreamDestroy", *CLOSING]


def test_a_free_that_failed_is_not_tried_again(driver: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
    with open_device() as device:
        memory = DeviceMemory(device, 8)
        driver.fail(1, INVALID_VALUE)
        with tells(capfd, AgpEdgeError, "cuMemFree", "CUDA_ERROR_INVALID_VALUE", "invalid argument"):
            memory.close()
        memory.close()
        assert driver.calls().count("cuMemFree") == 1


def test_what_is_closed_cannot_be_used(driver: StandIn) -> None:
    with open_device() as device, Stream(device) as stream:
        memory, pinned = DeviceMemory(device, 8), PinnedMemory(device, 8)
        memory.close()
        with pytest.raises(ValueError, match="DeviceMemory is closed"):
            stream.copy_in(pinned, memory)
        pinned.close()
        with pytest.raises(ValueError, match="PinnedMemory is closed"):
            _ = pinned.array
    with pytest.raises(ValueError, match="Stream is closed"):
        _ = stream.handle
    with pytest.raises(ValueError, match="Device is closed"):
        DeviceMemory(device, 8)


def test_a_copy_into_less_memory_is_never_begun(driver: StandIn) -> None:
    with (
        open_device() as device,
        Stream(device) as stream,
        PinnedMemory(device, 9) as pinned,
        DeviceMemory(device, 8) as memory,
    ):
        with pytest.raises(ValueError, match="a copy of 9 bytes into 8"):
            stream.copy_in(pinned, memory)
        with pytest.raises(ValueError, match="a copy of 8 bytes into 9"):
            stream.copy_out(memory, pinned)


def test_another_thread_may_use_it_and_close_it(driver: StandIn) -> None:
    device = open_device()
    stream = Stream(device)
    memory = DeviceMemory(device, 8)
    failed: list[BaseException] = []

    def use() -> None:
        try:
            with PinnedMemory(device, 8) as pinned:
                stream.copy_out(memory, pinned)
                stream.synchronize()
            memory.close()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert failed == []
    stream.close()
    device.close()


def test_a_thread_that_used_a_device_uses_the_next(driver: StandIn) -> None:
    """The first is closed meanwhile, by another thread."""
    failed: list[BaseException] = []
    used, closed = threading.Event(), threading.Event()
    first = open_device()

    def use() -> None:
        try:
            DeviceMemory(first, 8).close()
            used.set()
            assert closed.wait(60)
            with open_device() as second:
                DeviceMemory(second, 8).close()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    assert used.wait(60)
    first.close()
    closed.set()
    thread.join()
    assert failed == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_of_one_gpu(driver: StandIn, order: tuple[int, int]) -> None:
    """As while one engine is changed for another."""
    devices = [open_device(), open_device()]
    streams = [Stream(device) for device in devices]
    for place in order:
        streams[place].synchronize()
        streams[place].close()
        devices[place].close()


def test_a_process_that_ends_with_everything_open() -> None:
    code = """
import threading
from agp_edge.cuda import DeviceMemory, Event, PinnedMemory, Stream, open_device
device = open_device()
held = [Stream(device), DeviceMemory(device, 8), PinnedMemory(device, 8), Event(device)]
thread = threading.Thread(target=lambda: held.append(Stream(device)))
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_was_queued_is_done_where_something_else_fails(driver: StandIn) -> None:
    """Freeing its buffers at once would pull them from under the copy, and the stand-in counts that as wrong."""
    with open_device() as device, Stream(device) as stream, DeviceMemory(device, 8) as memory:
        pinned = PinnedMemory(device, 8)

        def work() -> None:
            with stream.awaited():
                stream.copy_in(pinned, memory)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work()
        pinned.close()


# --- events and graphs -----------------------------------------------------------------------------


def relay(number: int) -> list[int]:
    """Send 8 bytes there in one stream, and back by another that waits for them; gives the last of two rounds.

    The way back is a graph, where the binding has graphs.
    """
    with (
        open_device() as device,
        Stream(device) as inward,
        Stream(device) as outward,
        Event(device) as arrived,
        Event(device) as done,
        PinnedMemory(device, 8) as source,
        DeviceMemory(device, 8) as there,
        PinnedMemory(device, 8) as back,
        contextlib.ExitStack() as held,
    ):
        fetch: Callable[[], None] = partial(outward.copy_out, there, back)
        if HAS_GRAPHS:
            fetch = partial(held.enter_context(Graph(device, outward, fetch)).launch, outward)
        for round_ in range(2):
            source.array[:] = np.arange(8) + number + round_
            with inward.awaited(), outward.awaited():
                inward.copy_in(source, there)
                arrived.record(inward)
                arrived.hold(outward)
                fetch()
                done.record(outward)
                done.synchronize()
        given: list[int] = back.array.tolist()
        return given


def test_a_stream_waits_for_another(driver: StandIn) -> None:
    assert relay(5) == list(range(6, 14))


def test_without_the_wait_it_would_read_what_was_there_before(driver: StandIn) -> None:
    """Guards the test above: streams that do not wait for each other are not in order, here as on a GPU."""
    with (
        open_device() as device,
        Stream(device) as inward,
        Stream(device) as outward,
        PinnedMemory(device, 4) as source,
        DeviceMemory(device, 4) as there,
        PinnedMemory(device, 4) as back,
    ):
        source.array[:] = 7
        inward.copy_in(source, there)
        outward.copy_out(there, back)
        outward.synchronize()
        assert back.array.tolist() == [0, 0, 0, 0]
        inward.synchronize()


@only("cuda-python")
def test_what_is_captured_is_not_done_and_needs_no_call_of_its_own_later(driver: StandIn) -> None:
    with (
        open_device() as device,
        Stream(device) as stream,
        DeviceMemory(device, 4) as there,
        PinnedMemory(device, 4) as pinned,
    ):
        pinned.array[:] = 3
        with Graph(device, stream, lambda: stream.copy_in(pinned, there)) as graph:
            stream.copy_out(there, pinned)
            stream.synchronize()
            assert pinned.array.tolist() == [0, 0, 0, 0]
            before = len(driver.calls())
            with stream.awaited():
                graph.launch(stream)
            assert driver.calls()[before:] == ["cuGraphLaunch", "cuStreamSynchronize"]
        with pytest.raises(ValueError, match="Graph is closed"):
            graph.launch(stream)


@only("cuda-python")
def test_work_that_no_graph_can_hold(driver: StandIn) -> None:
    driver.refuse_graphs()
    with (
        open_device() as device,
        Stream(device) as stream,
        DeviceMemory(device, 4) as there,
        PinnedMemory(device, 4) as pinned,
    ):
        with pytest.raises(CaptureError) as info:
            Graph(device, stream, lambda: stream.copy_in(pinned, there))
        assert info.value.what == (
            "cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED "
            "(operation failed due to a previous error during capture)"
        )
        pinned.array[:] = 4
        stream.copy_in(pinned, there)
        stream.synchronize()


@only("cuda-python")
def test_a_capture_that_breaks_off_leaves_a_stream_that_works(driver: StandIn) -> None:
    with (
        open_device() as device,
        Stream(device) as stream,
        DeviceMemory(device, 4) as there,
        PinnedMemory(device, 4) as pinned,
    ):

        def work() -> None:
            stream.copy_in(pinned, there)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Graph(device, stream, work)
        assert driver.calls()[-2:] == ["cuStreamEndCapture", "cuGraphDestroy"]
        stream.copy_in(pinned, there)
        stream.synchronize()


@only("pycuda")
def test_without_graphs_none_is_begun(driver: StandIn) -> None:
    assert not load_driver().captures_graphs
    with open_device() as device, Stream(device) as stream:
        with pytest.raises(CaptureError) as info:
            Graph(device, stream, lambda: None)
        assert info.value.hint == "pip install 'agp-edge[cuda]' brings one"
        with pytest.raises(CaptureError):
            device.driver.begin_capture(stream.handle)
    assert not [call for call in driver.calls() if "Capture" in call or "Graph" in call]


def test_an_event_that_was_never_recorded_is_reached(driver: StandIn) -> None:
    with open_device() as device, Event(device) as event:
        event.synchronize()


def test_the_time_between_two_events(driver: StandIn) -> None:
    """The stand-in counts steps for milliseconds: a copy, and the second mark."""
    with (
        open_device() as device,
        Stream(device) as stream,
        DeviceMemory(device, 4) as there,
        PinnedMemory(device, 4) as pinned,
        Event(device, timing=True) as begin,
        Event(device, timing=True) as end,
    ):
        begin.record(stream)
        stream.copy_in(pinned, there)
        end.record(stream)
        end.synchronize()
        assert end.elapsed_ms(begin) == 2


def test_the_device_finds_mapped_memory_where_it_lies(driver: StandIn) -> None:
    with open_device() as device, PinnedMemory(device, 4) as pinned:
        assert device.maps_host_memory
        assert pinned.mapped_address == pinned.address


# --- errors ----------------------------------------------------------------------------------------


OPENED = (
    "cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", *["cuDeviceGetAttribute"] * 4, *OPENING
)  # fmt: skip

CALLS = (
    *OPENED, "cuStreamCreate", "cuMemGetInfo", "cuMemHostAlloc", "cuMemAlloc", "cuMemHostAlloc", "cuMemcpyHtoDAsync",
    "cuMemcpyDtoHAsync", "cuStreamSynchronize", "cuMemFreeHost", "cuMemFree", "cuMemFreeHost", "cuStreamDestroy", *CLOSING,
)  # fmt: skip

CAPTURED = (
    "cuStreamBeginCapture", "cuMemcpyDtoHAsync", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy",
)  # fmt: skip
RELAYED = (
    *OPENED, "cuStreamCreate", "cuStreamCreate", "cuEventCreate", "cuEventCreate", "cuMemHostAlloc", "cuMemAlloc",
    "cuMemHostAlloc", *(CAPTURED if HAS_GRAPHS else ()),
    *[
        "cuMemcpyHtoDAsync", "cuEventRecord", "cuStreamWaitEvent", "cuGraphLaunch" if HAS_GRAPHS else "cuMemcpyDtoHAsync",
        "cuEventRecord", "cuEventSynchronize", "cuStreamSynchronize", "cuStreamSynchronize",
    ] * 2,
    *(["cuGraphExecDestroy"] if HAS_GRAPHS else []), "cuMemFreeHost", "cuMemFree", "cuMemFreeHost", "cuEventDestroy",
    "cuEventDestroy", "cuStreamDestroy", "cuStreamDestroy", *CLOSING,
)  # fmt: skip


def test_the_calls_of_a_round_trip(driver: StandIn) -> None:
    """Guards the tests below, which have each of them fail."""
    round_trip(0)
    assert driver.calls() == list(CALLS)


def test_the_calls_of_a_relay(driver: StandIn) -> None:
    """Guards the tests below, which have each of them fail."""
    relay(0)
    assert driver.calls() == list(RELAYED)


NUMBERED = [
    pytest.param(work, number, call, id=f"{work.__name__}-{number}-{call}")
    for work, calls in ((round_trip, CALLS), (relay, RELAYED))
    for number, call in enumerate(calls, 1)
]


@pytest.mark.parametrize(("work", "number", "call"), NUMBERED)
def test_out_of_memory_in_any_call(
    driver: StandIn, capfd: pytest.CaptureFixture[str], work: Work, number: int, call: str
) -> None:
    driver.fail(number, OUT_OF_MEMORY, times=TRIED.get(call, 1))
    with tells(capfd, OF_A_GRAPH.get(call, ArtefactError), call, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"):
        work(0)


@only("pycuda")
def test_an_allocation_that_succeeds_at_the_second_try(driver: StandIn) -> None:
    with open_device() as device:
        driver.fail(1, OUT_OF_MEMORY)
        DeviceMemory(device, 8).close()
    assert driver.calls().count("cuMemAlloc") == 2


@pytest.mark.parametrize(("work", "number", "call"), NUMBERED)
def test_a_call_that_was_wrong_is_a_fault_of_ours(
    driver: StandIn, capfd: pytest.CaptureFixture[str], work: Work, number: int, call: str
) -> None:
    driver.fail(number, INVALID_VALUE)
    with tells(
        capfd, OF_A_GRAPH.get(call, AgpEdgeError), call, "CUDA_ERROR_INVALID_VALUE", "invalid argument"
    ):
        work(0)


@pytest.mark.parametrize(("work", "number", "call"), NUMBERED)
@pytest.mark.parametrize(
    ("code", "name", "meaning"),
    [
        (ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
        (LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"),
    ],
)
def test_a_device_that_is_lost_in_any_call_is_told_once(
    driver: StandIn,
    capfd: pytest.CaptureFixture[str],
    work: Work,
    number: int,
    call: str,
    code: int,
    name: str,
    meaning: str,
) -> None:
    """Every later call fails too, those that free among them; the first that is not printed is the one that is told."""
    driver.fail(number, code, sticky=True)
    calls = CALLS if work is round_trip else RELAYED
    first = next((later for later in calls[number - 1 :] if later not in PRINTED), call)
    with tells(capfd, DeviceLostError, first, name, meaning):
        work(0)


def test_the_exit_codes() -> None:
    assert (ArtefactError.exit_code, DeviceLostError.exit_code) == (4, 5)


def test_no_gpu() -> None:
    driver = StandIn(devices=0)
    with pytest.raises(ArtefactError) as info:
        open_device()
    assert info.value.what == "cuInit: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)"
    assert driver.calls() == ["cuInit"]


@pytest.mark.parametrize("ordinal", [-1, 2])
def test_no_such_gpu(ordinal: int) -> None:
    driver = StandIn(devices=2)
    with pytest.raises(ArtefactError, match=f"there is no GPU {ordinal}: the driver offers 2"):
        open_device(ordinal)
    with open_device(1) as device:
        assert device.name == "stand-in"
    driver.check()


# pycuda does not survive what these two are about, and no driver gives what it has no words for.


@only("cuda-python")
def test_a_code_without_words(driver: StandIn) -> None:
    driver.fail(1, 304)
    with pytest.raises(ArtefactError) as info:
        open_device()
    assert info.value.what == "cuInit: CUDA_ERROR_OPERATING_SYSTEM (the driver does not say what that means)"


@only("cuda-python")
def test_a_code_without_a_name(driver: StandIn) -> None:
    driver.fail(1, 7777)
    with pytest.raises(AgpEdgeError, match="cuInit: an error without a name"):
        open_device()
