"""What runs inside the virtual machine: the checks, one after another, and their results as one file.

Run by `init.sh` with the Python that has the wheel; `run.py` says what for. A check gives facts, or raises.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Check = Callable[[], dict[str, Any]]


def write(results: Path, found: dict[str, Any]) -> None:
    """Replace the result by a newer one."""
    place = results / "result.json"
    place.with_suffix(".part").write_text(json.dumps(found))
    place.with_suffix(".part").replace(place)


def versions() -> dict[str, str]:
    import cv2
    import numpy
    import onnxruntime

    import agp_edge

    assert "device" in Path(agp_edge.__file__).parts, "this is not the wheel's agp_edge"
    return {
        "kernel": f"{platform.release()} {platform.version()}",
        "python": platform.python_version(),
        "agp_edge": agp_edge.__version__,
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def main() -> int:
    results, only = Path(sys.argv[1]), sys.argv[2:]
    # For the modules beside this one; behind everything else, so that agp_edge is the wheel's.
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.vm import gpio_checks, usb_checks, vivid_checks

    os.chdir("/vm-results")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    checks: dict[str, Check] = {}
    for module in (vivid_checks, usb_checks, gpio_checks):
        area = module.__name__.rpartition(".")[2].removesuffix("_checks")
        checks |= {f"{area}: {name}": check for name, check in module.CHECKS.items()}
    found: dict[str, Any] = {"guest": versions(), "checks": [], "complete": False}
    for name, check in checks.items():
        if only and not any(name.startswith(wanted.replace("_", " ")) for wanted in only):
            continue
        print(f"-- {name}", flush=True)
        begin = time.monotonic()
        entry: dict[str, Any] = {"name": name, "ok": True}
        try:
            entry["facts"] = check()
        except BaseException as error:
            traceback.print_exc()
            entry |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
        entry["seconds"] = round(time.monotonic() - begin, 1)
        print(f"   {json.dumps(entry)[:3000]}", flush=True)
        found["checks"].append(entry)
        write(results, found)
    found["complete"] = True
    write(results, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
