"""A CUDA driver without a GPU, for checks of what our code asks of a driver; `cuda_driver.c` is the driver.

A driver is found when a process starts, so the checks on it are a pytest of their own: `run_checks`. Inside it,
`StandIn` turns the driver's screws. It shows that calls are in order, that every error is heard and that nothing leaks; of a
GPU it shows nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from agp_edge.cuda import BINDING_VARIABLE, load_driver
from agp_edge.cuda.device import _kept
from agp_edge.errors import AgpEdgeError
from tests.stand_ins import pycuda_build

SOURCE = Path(__file__).with_name("cuda_driver.c")
ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "libcuda.so.1"
NOTHING_MORE: Mapping[str, str] = {}
FIXTURES = "tests.stand_ins.plans"
IN_USE = "AGP_EDGE_STAND_IN_DRIVER"
PYCUDA = ROOT / "build" / "pycuda"
NOT_SUPPORTED = 801
"""CUDA_ERROR_NOT_SUPPORTED of cuda.h."""


def run_checks(
    checks: Path, folder: Path, environment: Mapping[str, str] = NOTHING_MORE, binding: str = "cuda-python"
) -> None:
    """Compile the driver into `folder` and have pytest run `checks` on it; skips without a C compiler or the binding.

    Args:
        checks: a file of tests.
        folder: for the driver.
        environment: what else they find in it.
        binding: by its name in `agp_edge.cuda.BINDINGS`.
    """
    found = environment_of(binding)
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a driver with")
    more = folder / "more.c"
    more.write_text(write_more(binding))
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-pthread",
        "-std=gnu11",
        "-Wall",
        "-Werror",
        f"-Wl,-soname,{LIBRARY}",
    ]
    subprocess.run([*command, "-o", str(folder / LIBRARY), str(SOURCE), str(more)], check=True)
    found |= {**environment, "LD_LIBRARY_PATH": join_paths(folder, "LD_LIBRARY_PATH"), IN_USE: "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", FIXTURES, str(checks)],
        env=found,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed in ", done.stdout, re.MULTILINE), "every one is to run"


def environment_of(binding: str) -> dict[str, str]:
    """What a process needs to take that binding; skips where it is not to be had, and says what is missing."""
    chosen = {**os.environ, BINDING_VARIABLE: binding}
    if binding == "pycuda":
        return {**chosen, "PYTHONPATH": join_paths(build_pycuda(), "PYTHONPATH")}
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings: pip install 'agp-edge[cuda]'")
    return chosen


def build_pycuda() -> Path:
    """Where it is; built if need be."""
    try:
        return pycuda_build.prepare(PYCUDA)
    except pycuda_build.UnavailableError as error:
        pytest.skip(f"pycuda {pycuda_build.VERSION} cannot be built: {error}")


def join_paths(first: Path, variable: str) -> str:
    """A folder, and what the environment has under that name."""
    return os.pathsep.join(filter(None, [str(first), os.environ.get(variable, "")]))


def write_more(binding: str) -> str:
    """C for functions that a binding must find to load, and that nobody is to call; the driver's own go before them."""
    functions = (build_pycuda() / "functions.txt").read_text().split() if binding == "pycuda" else []
    lines = (
        f"__attribute__((weak)) int {name}(void) {{ stand_in_misuse(); return {NOT_SUPPORTED}; }}\n"
        for name in functions
    )
    return f"void stand_in_misuse(void);\n{''.join(lines)}"


class StandIn:
    """The driver that this process found, and what tests may ask of it.

    Args:
        devices: how many GPUs it offers.
        integrated: whether they are.
        active: whether their primary context was made by another.
        maps: whether they use the host's memory where it lies.
    """

    def __init__(
        self, devices: int = 1, *, integrated: bool = False, active: bool = False, maps: bool = True
    ) -> None:
        assert os.environ.get(IN_USE), "these checks are run by `run_checks`"
        self._library = ctypes.CDLL(LIBRARY)
        self._library.stand_in_log.restype = ctypes.c_char_p
        self._library.stand_in_enqueue.argtypes = [ctypes.c_ulonglong, ctypes.c_void_p]
        self._kept: list[object] = []
        self.restart(devices, integrated=integrated, active=active, maps=maps)

    def restart(
        self, devices: int = 1, *, integrated: bool = False, active: bool = False, maps: bool = True
    ) -> None:
        """Begin anew, as another driver."""
        self._library.stand_in_recover()
        while _kept:
            # What is kept for a process is let go of here, so that each check begins as a process does.
            with contextlib.suppress(AgpEdgeError):
                load_driver().release_context(_kept.pop())
        self._library.stand_in_reset(devices, integrated, active, maps)

    def fail(self, number: int, code: int, *, times: int = 1, sticky: bool = False) -> None:
        """Have the call of that number from now on, counted from 1, give a code.

        Args:
            number: of the call.
            code: that it gives.
            times: as many calls from that one on.
            sticky: the device is lost with it: every later call gives the code.
        """
        self._library.stand_in_fail(number, times, code, sticky)

    def refuse_graphs(self) -> None:
        """Have every capture from now on turn out not to fit in a graph."""
        self._library.stand_in_refuse_graphs()

    def calls(self) -> list[str]:
        """What was called and noted since it was made, in order."""
        log: bytes = self._library.stand_in_log()
        return log.decode().split()

    def forget_calls(self) -> None:
        """Begin the list of calls anew; what no longer fits into it is not noted."""
        self._library.stand_in_forget_log()

    def note(self, what: str) -> None:
        """Put a word among the calls."""
        self._library.stand_in_note(what.encode())

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Queue work in a stream."""
        function = ctypes.CFUNCTYPE(None)(work)
        self._kept.append(function)
        self._library.stand_in_enqueue(stream, ctypes.cast(function, ctypes.c_void_p))

    def misuse(self) -> None:
        """Count one more thing that was done wrong."""
        self._library.stand_in_misuse()

    def check(self) -> None:
        """Nothing is left but contexts that are kept, and nothing was done wrong: freed twice, used without context or while freed."""
        # Of a lost device pycuda lets go of what is kept, too.
        assert self._library.stand_in_live() <= len(_kept), self.calls()
        assert self._library.stand_in_wrong() == 0, self.calls()
