"""Which NVIDIA GPUs are here, asked of the driver library itself.

It needs neither CUDA nor TensorRT, and where there is no driver it says so. A TensorRT object does not:
made without a driver it raises nonsense or ends the process, so this is asked before any is made.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

DRIVER = "libcuda.so.1"

# CUdevice_attribute of cuda.h
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver offers to this process.

    Attributes:
        index: CUDA's ordinal, after `CUDA_VISIBLE_DEVICES`.
        name: as the driver says it.
        compute_capability: as in `8.7`.
    """

    index: int
    name: str
    compute_capability: str


def probe_gpus(library: str = DRIVER) -> tuple[list[Gpu], str]:
    """Ask the driver for its GPUs; never raises.

    Args:
        library: the driver library, by name or path.

    Returns:
        The GPUs and "", or no GPU and the reason in a few words.
    """
    try:
        driver = ctypes.CDLL(library)
        _check(driver, driver.cuInit(0), "cuInit")
        count = ctypes.c_int()
        _check(driver, driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
        gpus = [_describe(driver, index) for index in range(count.value)]
    except OSError as error:
        return [], f"no NVIDIA driver ({error})"
    except AttributeError as error:
        return [], f"{library} is no NVIDIA driver ({error})"
    except _DriverError as error:
        return [], f"the NVIDIA driver gives no GPU ({error})"
    return gpus, "" if gpus else "the NVIDIA driver sees no GPU"


def driver_cuda_version(library: str = DRIVER) -> tuple[int, int] | None:
    """The newest CUDA that the driver takes, as in (12, 6); None without a driver. It needs no GPU; never raises.

    Args:
        library: the driver library, by name or path.
    """
    version = ctypes.c_int()
    try:
        code = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    # 1000 times the major plus 10 times the minor version, as cuda.h counts.
    return (version.value // 1000, version.value % 1000 // 10) if code == 0 and version.value else None


class _DriverError(Exception):
    """A call of the driver failed."""


def _describe(driver: ctypes.CDLL, index: int) -> Gpu:
    device = ctypes.c_int()
    _check(driver, driver.cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
    name = ctypes.create_string_buffer(256)
    _check(driver, driver.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        code = driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        _check(driver, code, "cuDeviceGetAttribute")
        capability.append(str(value.value))
    return Gpu(index, name.value.decode(errors="replace"), ".".join(capability))


def _check(driver: ctypes.CDLL, code: int, call: str) -> None:
    if code == 0:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    raise _DriverError(f"{call}: error {code}, {(text.value or b'unknown').decode(errors='replace')}")
