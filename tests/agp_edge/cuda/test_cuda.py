"""The CUDA package: on a driver that stands in for one, and on a GPU where there is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agp_edge.cuda import (
    BINDING_VARIABLE,
    BINDINGS,
    DeviceMemory,
    PinnedMemory,
    Stream,
    load_driver,
    open_device,
)
from agp_edge.engines.gpu import probe_gpus
from agp_edge.errors import ArtefactError, InputError, MissingExtraError
from tests.stand_ins.cuda_driver import environment_of, run_checks


@pytest.mark.timeout(900)  # The first time pycuda is built.
@pytest.mark.parametrize("binding", list(BINDINGS))
def test_on_a_driver_that_stands_in(binding: str, tmp_path: Path) -> None:
    run_checks(Path(__file__).with_name("checks_on_a_stand_in.py"), tmp_path, binding=binding)


def test_without_a_binding_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is Python's own way to say that a module is not there.
    for name in ("cuda", "cuda.bindings", "cuda.bindings.driver", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agp-edge\[cuda\]'"):
        load_driver()


def test_the_environment_chooses_a_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINDING_VARIABLE, "pycuda")
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agp-edge\[pycuda\]'"):
        load_driver()


def test_a_binding_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINDING_VARIABLE, "cupy")
    with pytest.raises(InputError) as info:
        load_driver()
    assert info.value.what == "AGP_EDGE_CUDA=cupy: there is no such binding of CUDA"
    assert "choose one of cuda-python, pycuda" in info.value.hint


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("binding", "told"),
    [
        ("cuda-python", "cuInit: there is no NVIDIA driver that can be used ("),
        ("pycuda", "pycuda does not load: libcuda.so.1: "),
    ],
)
def test_without_a_driver(binding: str, told: str) -> None:
    """In a process of its own: the bindings remember for good whether they found one."""
    if not probe_gpus()[1].startswith("no NVIDIA driver"):
        pytest.skip("needs a machine without a driver")
    code = """
from agp_edge.cuda import open_device
from agp_edge.errors import ArtefactError
try:
    open_device()
except ArtefactError as error:
    print(error.what)
"""
    env = environment_of(binding)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(told), done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("binding", list(BINDINGS))
def test_on_the_gpu_of_this_machine(binding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINDING_VARIABLE, binding)
    try:
        load_driver()
    except (MissingExtraError, ArtefactError) as error:
        pytest.skip(f"{error.what}: {error.hint}")
    gpus, reason = probe_gpus()
    if not gpus:
        pytest.skip(f"needs a GPU: {reason}")
    sent = np.random.default_rng(1).integers(0, 256, 5 << 20, np.uint8)
    with open_device() as device, Stream(device) as stream:
        assert (device.name, device.compute_capability) == (gpus[0].name, gpus[0].compute_capability)
        free, total = device.memory
        assert 0 < free <= total
        with (
            PinnedMemory(device, sent.size) as source,
            DeviceMemory(device, sent.size) as there,
            PinnedMemory(device, sent.size) as back,
        ):
            source.array[:] = sent
            with stream.awaited():
                stream.copy_in(source, there)
                stream.copy_out(there, back)
            np.testing.assert_array_equal(back.array, sent)
        with pytest.raises(ArtefactError, match="cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY"):
            DeviceMemory(device, total * 2)
    with pytest.raises(ArtefactError, match=f"there is no GPU {len(gpus)}: the driver offers {len(gpus)}"):
        open_device(len(gpus))
