"""The driver through `pycuda`.

What differs from the driver's own calls, and is made up for here: pycuda's objects stand for handles and are freed when the last
reference goes; contexts are kept on a stack of each thread, and a thread that ends with one on it ends the process; an
error carries its text and not its code. What cannot be made up for: pycuda has no CUDA graphs, no say in how a context
waits, and an error of a call that frees is printed on stderr and not raised.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import itertools
import threading
from collections.abc import Callable
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from agp_edge.cuda.base import CaptureError, Driver, cuda_error
from agp_edge.errors import AgpEdgeError, ArtefactError, MissingExtraError, quote
from agp_edge.extras import import_extra

P = ParamSpec("P")
T = TypeVar("T")

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING of cuda.h."""

_LAST_CODE = 999
"""CUDA_ERROR_UNKNOWN of cuda.h, the greatest of its codes."""


def _translated(
    call: Callable[Concatenate[_PyCuda, P], T],
) -> Callable[Concatenate[_PyCuda, P], T]:
    """Have it raise errors of ours.

    A traceback keeps the locals of every function in it: there must be no object of pycuda among them, or it is freed late.
    """

    @functools.wraps(call)
    def translate(self: _PyCuda, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(self, *args, **kwargs)
        except self.pycuda.Error as error:
            told = str(error)
        raise _error(told)

    return translate


class _PyCuda:
    """A `Driver`, which says what each call does; one for the whole process, as pycuda's stacks are.

    Args:
        pycuda: the module `pycuda.driver`.

    Attributes:
        pycuda: the module.
    """

    captures_graphs = False

    def __init__(self, pycuda: Any) -> None:
        self.pycuda = pycuda
        self._devices: dict[int, Any] = {}
        self._contexts: dict[int, _Context] = {}
        self._changing = threading.Lock()
        self._here = threading.local()
        self._memory: dict[int, Any] = {}
        self._host_memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        atexit.register(self._end)

    @_translated
    def count_devices(self) -> int:
        self.pycuda.init()
        return int(self.pycuda.Device.count())

    @_translated
    def device(self, ordinal: int) -> int:
        self._devices[ordinal] = self.pycuda.Device(ordinal)
        return ordinal

    @_translated
    def device_name(self, device: int) -> str:
        return str(self._devices[device].name())

    @_translated
    def device_attribute(self, device: int, attribute: int) -> int:
        return int(self._devices[device].get_attribute(self.pycuda.device_attribute(attribute)))

    def set_blocking(self, device: int) -> bool:
        return False

    @_translated
    def retain_context(self, device: int) -> int:
        with self._changing:
            if device not in self._contexts:
                # One of pycuda's for all that hold it: an object is freed only where its very context is current.
                self._contexts[device] = _Context(self.pycuda, self._devices[device])
            context = self._contexts[device]
            context.holders += 1
        return context.handle

    @_translated
    def release_context(self, device: int) -> None:
        with self._changing:
            context = self._contexts[device]
            context.holders -= 1
            if context.holders:
                return
            del self._contexts[device]
        context.end()

    @_translated
    def set_context(self, context: int) -> None:
        with self._changing:
            held = {held.handle: held for held in self._contexts.values()}
        wanted = held[context] if context else None
        current: _Current | None = self._here.__dict__.get("current")
        if current is None or current.context is not wanted:
            self._leave()
            if wanted is not None:
                self._here.current = _Current(wanted)

    def _leave(self) -> None:
        current: _Current | None = self._here.__dict__.pop("current", None)
        if current is not None:
            current.end()

    def _end(self) -> None:
        """The end of the process: no stack may keep a context, and what pycuda frees from now on it must not free by calls."""
        with contextlib.suppress(self.pycuda.Error):
            self._leave()
        for context in self._contexts.values():
            with contextlib.suppress(self.pycuda.Error):
                context.end()

    @_translated
    def memory_info(self) -> tuple[int, int]:
        free, total = self.pycuda.mem_get_info()
        return int(free), int(total)

    @_translated
    def allocate(self, size: int) -> int:
        memory = self.pycuda.mem_alloc(size)
        self._memory[int(memory)] = memory
        return int(memory)

    @_translated
    def free(self, address: int) -> None:
        self._memory.pop(address).free()

    @_translated
    def allocate_host(self, size: int) -> int:
        array = self.pycuda.pagelocked_empty(size, "u1", mem_flags=self.pycuda.host_alloc_flags.DEVICEMAP)
        address = int(array.ctypes.data)
        self._host_memory[address] = array.base
        return address

    @_translated
    def mapped_address(self, address: int) -> int:
        return int(self._host_memory[address].get_device_pointer())

    @_translated
    def free_host(self, address: int) -> None:
        self._host_memory.pop(address).free()

    @_translated
    def create_stream(self) -> int:
        stream = self.pycuda.Stream(_NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    @_translated
    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]

    @_translated
    def copy_in(self, target: int, source: int, size: int, stream: int) -> None:
        self.pycuda.memcpy_htod_async(target, _bytes_at(source, size), self._streams[stream])

    @_translated
    def copy_out(self, target: int, source: int, size: int, stream: int) -> None:
        self.pycuda.memcpy_dtoh_async(_bytes_at(target, size), source, self._streams[stream])

    @_translated
    def synchronize(self, stream: int) -> None:
        self._streams[stream].synchronize()

    @_translated
    def create_event(self, *, timing: bool, sleeps: bool) -> int:
        flags = self.pycuda.event_flags
        wanted = int(flags.BLOCKING_SYNC) if sleeps else int(flags.DEFAULT)
        if not timing:
            wanted |= int(flags.DISABLE_TIMING)
        # pycuda keeps an event's own handle to itself.
        number = next(self._numbers)
        self._events[number] = self.pycuda.Event(wanted)
        return number

    @_translated
    def destroy_event(self, event: int) -> None:
        del self._events[event]

    @_translated
    def record_event(self, event: int, stream: int) -> None:
        self._events[event].record(self._streams[stream])

    @_translated
    def wait_event(self, stream: int, event: int) -> None:
        self._streams[stream].wait_for_event(self._events[event])

    @_translated
    def synchronize_event(self, event: int) -> None:
        self._events[event].synchronize()

    @_translated
    def elapsed_ms(self, begin: int, end: int) -> float:
        return float(self._events[end].time_since(self._events[begin]))

    def prepare(self, call: str, *arguments: int) -> Callable[[], None]:
        # By numbers: it may outlive pycuda's objects, and must not keep them.
        return functools.partial(getattr(self, call), *arguments)

    def begin_capture(self, stream: int) -> None:
        _refuse_graphs()

    def end_capture(self, stream: int) -> int:
        _refuse_graphs()

    def destroy_capture(self, capture: int) -> None:
        _refuse_graphs()

    def instantiate_graph(self, capture: int) -> int:
        _refuse_graphs()

    def launch_graph(self, graph: int, stream: int) -> None:
        _refuse_graphs()

    def destroy_graph(self, graph: int) -> None:
        _refuse_graphs()


class _Context:
    """A device's primary context, which pycuda lets go of once.

    Args:
        pycuda: the module.
        device: pycuda's object.

    Attributes:
        handle: of the driver.
        holders: how many hold it.
    """

    def __init__(self, pycuda: Any, device: Any) -> None:
        self.pycuda = pycuda
        self._context = device.retain_primary_context()
        self._ended = False
        self._failure = ""
        self.handle = int(self._context.handle)
        self.holders = 0

    def push(self) -> None:
        """Put it on this thread's stack."""
        if self._failure:
            raise self.pycuda.Error(self._failure)
        self._context.push()

    def pop(self) -> None:
        """Take it from this thread's stack, where it is the last that was put."""
        try:
            self.pycuda.Context.pop()
        except self.pycuda.Error as error:
            # Of one that another thread has ended this is to be expected.
            alive = not self._ended
            if alive:
                self._failure = str(error)
            # The stack must not keep it. It drops what has ended without asking the driver.
            self._detach()
            self.pycuda.Context.get_current()
            if alive:
                raise

    def end(self) -> None:
        """Let go of it, current or not; safe to call twice."""
        if self._ended:
            return
        failed: list[BaseException] = []

        def end() -> None:
            try:
                self.push()
                self._detach()
            except BaseException as error:
                failed.append(error)

        # pycuda needs it current for this and leaves it current, so in a thread that ends with it.
        thread = threading.Thread(target=end)
        try:
            thread.start()
        except RuntimeError:
            end()  # The interpreter ends, and takes no new thread.
        else:
            thread.join()
        self._detach()
        if failed:
            raise failed[0]

    def _detach(self) -> None:
        # Always by this call: left to its destructor, pycuda asks the driver for something that primary contexts do not know.
        if not self._ended:
            self._ended = True
            self._context.detach()


class _Current:
    """A context on a thread's stack until the thread ends.

    Args:
        context: is put there.

    Attributes:
        context: what is there; None once it is not.
    """

    def __init__(self, context: _Context) -> None:
        self.context: _Context | None = None
        context.push()
        self.context = context

    def end(self) -> None:
        """Take it off; safe to call twice."""
        context, self.context = self.context, None
        if context is not None:
            context.pop()

    def __del__(self) -> None:
        # The end of its thread: nobody is there to be told.
        with contextlib.suppress(Exception):
            self.end()


def _bytes_at(address: int, size: int) -> ctypes.Array[ctypes.c_uint8]:
    return (ctypes.c_uint8 * size).from_address(address)


def _refuse_graphs() -> NoReturn:
    raise CaptureError("pycuda has no CUDA graphs", "pip install 'agp-edge[cuda]' brings them")


def _error(told: str) -> AgpEdgeError:
    """What pycuda says, as in `cuMemAlloc failed: out of memory`, as an error of ours."""
    call, _, meaning = told.partition(" failed: ")
    names = _names()
    name = names.get(meaning) or names.get(meaning.partition(" - ")[0])
    return cuda_error(call, name or "an error without a name", meaning)


@functools.cache
def _names() -> dict[str, str]:
    """The driver's words for each of its errors -> its name."""
    driver = ctypes.CDLL("libcuda.so.1")
    names: dict[str, str] = {}
    for code in range(1, _LAST_CODE + 1):
        name, text = ctypes.c_char_p(), ctypes.c_char_p()
        driver.cuGetErrorName(code, ctypes.byref(name))
        driver.cuGetErrorString(code, ctypes.byref(text))
        if name.value and text.value:
            names.setdefault(text.value.decode(errors="replace"), name.value.decode(errors="replace"))
    return names


@functools.cache
def load_driver(extra: str) -> Driver:
    """The driver through pycuda.

    Raises:
        MissingExtraError: it is not installed.
        ArtefactError: it does not load: it needs the driver's library for that.
    """
    try:
        return _PyCuda(import_extra("pycuda.driver", extra, "running engines on a GPU"))
    except MissingExtraError:
        raise
    except ImportError as error:
        raise ArtefactError(
            f"pycuda does not load: {quote(error)}",
            "see whether there is an NVIDIA driver: agp-edge doctor; if there is, install pycuda anew",
        ) from error
