"""What our runtime costs on the NVIDIA GPU that is here: against a bare loop over the same engine, and against torch.

    python -m benchmarks.gpu part.bundle part-batch-8.bundle --json gpu.json --run runs/part
    python -m benchmarks.gpu --engines part.fp16.tensorrt.engine --json gpu.json --quick

A bundle is exported for one batch, so for batches of 8 give a second one: `agp-edge export RUN --batch 8`, and calibrate it.
Its graphs are built here with every backend that runs on this GPU; what cannot be built or run is in the result with its
reason. The result is written anew after each engine, so that a fault of one takes nothing of the others.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from agp_edge import __version__
from agp_edge.bundle import Bundle
from agp_edge.cli.console import check_json_target, run_command, write_json_result
from agp_edge.cuda import open_device
from agp_edge.engines.gpu import driver_cuda_version, probe_gpus
from agp_edge.errors import ArtefactError, InputError
from agp_edge.machine import describe_machine, load_average
from benchmarks.gpu_adapters import binding_in_use, check_bindings
from benchmarks.gpu_contest import measure_engine
from benchmarks.gpu_engines import BACKENDS, Candidate, build_engines, given_engine
from benchmarks.gpu_reasons import reason_of, without_folders
from benchmarks.gpu_report import describe_for_terminal
from benchmarks.gpu_torch import TorchNets, torch_version

SECONDS, QUICK_SECONDS = 20.0, 1.0
SMI_FIELDS = (
    "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem", "power.draw", "power.limit", "temperature.gpu",
    "persistence_mode", "pcie.link.gen.current", "pcie.link.width.current",
)  # fmt: skip
"""What `nvidia-smi` is asked, of a GPU that is not inside a Jetson: a time without clocks is of no use to others."""


def check_gpu() -> None:
    """Refuse to begin without a GPU.

    Raises:
        ArtefactError: there is none, naming what is missing.
        MissingExtraError: there is no binding of CUDA.
    """
    gpus, reason = probe_gpus()
    if not gpus:
        raise ArtefactError(
            f"this measures an NVIDIA GPU, and there is none: {reason}",
            "see what this machine has: agp-edge doctor",
        )
    open_device().close()


def measure(
    candidates: Sequence[Candidate],
    *,
    seconds: float = SECONDS,
    run: Path | None = None,
    seed: int = 0,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Check the bindings of CUDA, then measure every engine.

    Args:
        candidates: the engines, and those that there are not.
        seconds: of the largest comparison of each engine; about twice that is taken in all.
        run: of the same network, for torch.
        seed: of frames, orders and bootstrap samples.
        save: is given the report after each engine.
        tell: is told what is measured.

    Raises:
        ArtefactError: there is no GPU.
    """
    rng, nets = np.random.default_rng(seed), TorchNets(run)
    report: dict[str, Any] = {
        "benchmark": "gpu",
        "complete": False,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "quick": seconds < SECONDS,
        "seed": seed,
        "gpu": describe_gpu(),
        "machine": describe_machine(),
        "clocks": {"before": ask_smi()},
        "versions": {
            "agp_edge": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": None if run is None else torch_version(),
        },
        "bindings": check_bindings(),
        "binding": binding_in_use(),
        "engines": [],
    }
    for number, candidate in enumerate(candidates):
        tell(
            f"{number + 1}/{len(candidates)} {candidate.backend} {candidate.precision}, batch {candidate.batch}"
        )
        entry = candidate.to_dict()
        if candidate.path is None:
            entry["not_measured"] = {"build": candidate.reason}
        else:
            try:
                entry = measure_engine(candidate.path, seconds, rng, nets)
            except Exception as error:  # Whatever a library does on a machine that it was not tried on.
                entry["not_measured"] = {"engine": reason_of(error)}
        report["engines"].append(entry)
        save(report)
    report["complete"] = True
    report["clocks"]["after"] = ask_smi()
    report["load_average_after"] = load_average()
    return report


def describe_gpu() -> dict[str, Any]:
    """The GPU that CUDA runs on: its name, what it is, and the versions of the driver."""
    cuda = driver_cuda_version()
    with open_device() as device:
        return {
            "name": device.name,
            "compute_capability": device.compute_capability,
            "integrated": device.integrated,
            "maps_host_memory": device.maps_host_memory,
            "memory_bytes": device.memory[1],
            "sleeps": device.sleeps,
            "driver": describe_machine()["nvidia_driver"],
            "cuda": None if cuda is None else ".".join(map(str, cuda)),
        }


def ask_smi() -> dict[str, str] | None:
    """Clocks, power and bus of the first GPU as `nvidia-smi` says them; None where it is not there, as on a Jetson."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(SMI_FIELDS, values, strict=False)) if len(values) == len(SMI_FIELDS) else None


def check_backends(names: Sequence[str]) -> list[str]:
    """Backends to build with.

    Raises:
        InputError: one of them does not run on an NVIDIA GPU.
    """
    for name in names:
        if name not in BACKENDS:
            raise InputError(f"{name!r} is no backend for an NVIDIA GPU", f"take of: {', '.join(BACKENDS)}")
    return list(dict.fromkeys(names))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit codes are agp-edge's."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundles", type=Path, nargs="*", metavar="BUNDLE", help="calibrated, of one batch each"
    )
    parser.add_argument("--engines", type=Path, nargs="+", default=[], metavar="ENGINE", help="built before")
    parser.add_argument("--json", metavar="FILE", required=True, help="write the result here; - for stdout")
    parser.add_argument(
        "--backends", nargs="+", default=list(BACKENDS), help=f"to build with: {', '.join(BACKENDS)}"
    )
    parser.add_argument("--run", type=Path, help="the run that was exported, to time torch beside it")
    parser.add_argument(
        "--quick", action="store_true", help="a second in the place of twenty: to see that it works"
    )
    parser.add_argument("--seed", type=int, default=0, help="of frames, orders and the bootstrap")
    chosen = parser.parse_args(arguments)

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def work(**_: object) -> None:
        check_gpu()
        check_json_target(chosen.json)
        backends = check_backends(chosen.backends)
        if not chosen.bundles and not chosen.engines:
            raise InputError("there is nothing to measure", "give a BUNDLE, or --engines ENGINE")
        bundles = [Bundle(path) for path in chosen.bundles]
        candidates = [given_engine(path) for path in chosen.engines]
        with tempfile.TemporaryDirectory(prefix="agp-edge-gpu-") as scratch:
            for number, bundle in enumerate(bundles):
                folder = Path(scratch) / str(number)
                candidates += build_engines(bundle, backends, folder, lambda done, total, note="": tell(note))
            folders = [
                Path(scratch),
                *(path.parent for path in [*chosen.bundles, *chosen.engines]),
                Path.cwd(),
                Path.home(),
            ]

            def save(report: dict[str, Any]) -> None:
                if chosen.json != "-":
                    write_json_result(chosen.json, without_folders(report, folders))

            report = measure(
                candidates,
                seconds=QUICK_SECONDS if chosen.quick else SECONDS,
                run=chosen.run,
                seed=chosen.seed,
                save=save,
                tell=tell,
            )
        report = without_folders(report, folders)
        write_json_result(chosen.json, report)
        print(describe_for_terminal(report), file=sys.stderr if chosen.json == "-" else sys.stdout)

    return run_command(work)


if __name__ == "__main__":
    sys.exit(main())
