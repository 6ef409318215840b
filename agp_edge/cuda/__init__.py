"""A GPU as objects with one owner each: a device, memory on it, page-locked memory beside it, streams, events and graphs.

Everything has a `close()` and a `with`, is freed once, and nothing is freed by the garbage collector. Bindings of the
driver are found by name in one table.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass

from agp_edge.cuda.base import CaptureError, Driver, Resource
from agp_edge.cuda.device import Device
from agp_edge.cuda.event import Event
from agp_edge.cuda.graph import Graph
from agp_edge.cuda.memory import DeviceMemory, PinnedMemory
from agp_edge.cuda.stream import Stream
from agp_edge.errors import InputError, MissingExtraError

__all__ = [
    "BINDINGS",
    "BINDING_VARIABLE",
    "CaptureError",
    "Device",
    "DeviceMemory",
    "Driver",
    "Event",
    "Graph",
    "PinnedMemory",
    "Resource",
    "Stream",
    "load_driver",
    "open_device",
]


@dataclass(frozen=True)
class Binding:
    """A way to call the driver from Python.

    Attributes:
        module: ours, whose `load_driver()` gives a `Driver`.
        extra: the extra of agp-edge that brings what it needs.
    """

    module: str
    extra: str


BINDINGS = {
    "cuda-python": Binding("agp_edge.cuda.cuda_python", "cuda"),
    "pycuda": Binding("agp_edge.cuda.pycuda", "pycuda"),
}
"""Bindings by name; the first that is installed is taken."""

BINDING_VARIABLE = "AGP_EDGE_CUDA"
"""Environment variable that names the binding to take, whichever are installed."""


def load_driver() -> Driver:
    """The driver, through the binding that the environment names or else the first that is installed; it is not called yet.

    Raises:
        InputError: the environment names a binding that there is not.
        MissingExtraError: none is installed; names the extra of the one to prefer, or of the one that was named.
        ArtefactError: the binding does not load, as pycuda where there is no driver.
    """
    named = os.environ.get(BINDING_VARIABLE)
    if named and named not in BINDINGS:
        raise InputError(
            f"{BINDING_VARIABLE}={named}: there is no such binding of CUDA",
            f"choose one of {', '.join(BINDINGS)}, or leave it unset for the first that is installed",
        )
    missing: list[MissingExtraError] = []
    for binding in [BINDINGS[named]] if named else BINDINGS.values():
        try:
            driver: Driver = importlib.import_module(binding.module).load_driver(binding.extra)
        except MissingExtraError as error:
            missing.append(error)
        else:
            return driver
    raise missing[0]


def open_device(ordinal: int = 0) -> Device:
    """A GPU, current in the calling thread.

    Args:
        ordinal: CUDA's number of it, after `CUDA_VISIBLE_DEVICES`.

    Raises:
        MissingExtraError: no binding of the driver is installed.
        ArtefactError: there is no driver, or no such GPU.
    """
    return Device(load_driver(), ordinal)
