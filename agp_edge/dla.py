"""Which TensorRT drives a Deep Learning Accelerator (DLA).

Its names are in the Python bindings of every version, so here the version is what tells. From NVIDIA's "Working with
DLA", https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/inference-library/work-with-dla.html: 10.7 was the last 10.x
that supported it, 11.0 to 11.3 did not, 11.4.0 did on Windows on ARM only, and 11.4.1 does on Jetson AGX Orin with
JetPack 7.2.2 or later.
"""

from __future__ import annotations

import re

_GONE = (10, 8, 0)
_BACK = (11, 4, 1)


def why_no_dla(tensorrt: str | None) -> str | None:
    """Why a TensorRT drives no DLA of a Jetson, whichever it is; None for one that may, and for an unknown one.

    Args:
        tensorrt: its version, as in `10.16.2` or `10.16.2.10`.
    """
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", tensorrt or "")
    if found is None or not _GONE <= tuple(int(part or 0) for part in found.groups()) < _BACK:
        return None
    return (
        f"TensorRT {tensorrt} drives no DLA of a Jetson: 10.7 was the last before it that did, "
        "11.4.1 is the next (AGX Orin with JetPack 7.2.2)"
    )
