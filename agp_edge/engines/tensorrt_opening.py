"""Does a TensorRT plan suit this machine? Asked of its sidecar, of the driver and of the module, in this order.

A TensorRT object that is made without a driver can end the process, and one that is given a plan of another GPU or version
says little. So everything that can be known before is asked before, and nothing here makes such an object.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from agp_edge.engines.gpu import Gpu
from agp_edge.engines.sidecar import Sidecar
from agp_edge.engines.tensorrt_capabilities import Variant
from agp_edge.errors import ArtefactError, quote

AMPERE = (8, 0)
"""The oldest compute capability that a hardware-compatible plan (`AMPERE_PLUS`) runs on."""


def check_machine(engine: Path, sidecar: Sidecar) -> None:
    """Refuse a plan for another architecture: x86-64 plans hold host code, and a Jetson's plans its own.

    Raises:
        ArtefactError: naming both.
    """
    machine = sidecar.device.get("machine")
    if machine != platform.machine():
        raise ArtefactError(
            f"engine {engine} was built for {quote(machine, 40)}, this machine is {platform.machine()}",
            "build it here: agp-edge build-engine BUNDLE",
        )


def check_gpu(engine: Path, sidecar: Sidecar, variant: Variant, gpus: list[Gpu], no_gpu: str) -> None:
    """Refuse a plan for which there is no GPU, or another one.

    Args:
        engine: the plan, for the error.
        sidecar: says for which compute capabilities it was built.
        variant: its builder.
        gpus, no_gpu: what `probe_gpus` found; CUDA runs on the first.

    Raises:
        ArtefactError: no driver, no GPU, or one of another compute capability, naming both.
    """
    if not gpus:
        raise ArtefactError(
            f"engine {engine} needs an NVIDIA GPU: {no_gpu}",
            "see what this machine has: agp-edge doctor; without a GPU: agp-edge build-engine BUNDLE --backend onnxruntime",
        )
    built_for = sidecar.device.get("compute_capabilities")
    if not isinstance(built_for, list) or not built_for or not all(isinstance(c, str) for c in built_for):
        raise ArtefactError(
            f"sidecar of engine {engine} does not say for which GPUs it was built",
            "build it again: agp-edge build-engine BUNDLE",
        )
    here = gpus[0]
    if here.compute_capability in built_for:
        return
    if sidecar.device.get("hardware_compatible") is True and _number(here.compute_capability) >= AMPERE:
        return
    raise ArtefactError(
        f"engine {engine} was built for compute capability {quote(', '.join(built_for), 60)}, "
        f"the GPU here is {quote(here.name, 60)}, {here.compute_capability}",
        f"build it here: agp-edge build-engine BUNDLE --backend {_flag(variant)}",
    )


def check_version(engine: Path, sidecar: Sidecar, variant: Variant, module: ModuleType) -> None:
    """Refuse a plan of another version of its library.

    A plan is read by the very version that built it; a version-compatible one by that major version and later ones.

    Raises:
        ArtefactError: naming both versions.
    """
    built, here = sidecar.backend_version, str(module.__version__)
    if built == here:
        return
    compatible = sidecar.device.get("version_compatible") is True
    if compatible and _number(here)[:1] >= _number(built)[:1] > ():
        return
    raise ArtefactError(
        f"engine {engine} was built with {variant.title} {quote(built, 40)}, {here} is installed here"
        + (": it loads in that major version and later ones" if compatible else ""),
        f"build it here: agp-edge build-engine BUNDLE --backend {_flag(variant)}",
    )


def check_suits(
    engine: Path,
    sidecar: Sidecar,
    variant: Variant,
    probe: Callable[[], tuple[list[Gpu], str]],
    load: Callable[[], ModuleType],
) -> ModuleType:
    """All of the above, cheapest first; no TensorRT module is imported before the GPU is known to suit.

    Args:
        engine, sidecar, variant: as for the others.
        probe: asks the driver, as `probe_gpus`.
        load: imports the module.

    Returns:
        The module, which has the version that reads the plan.

    Raises:
        ArtefactError: the plan is not for this machine.
        MissingExtraError, InputError: the module is not installed.
    """
    check_machine(engine, sidecar)
    check_gpu(engine, sidecar, variant, *probe())
    module = load()
    check_version(engine, sidecar, variant, module)
    return module


def _number(version: str) -> tuple[int, ...]:
    """`10.13.0.35` as numbers that compare; what is no number ends it, so that nonsense is ()."""
    numbers = []
    for part in version.split("."):
        if not (part.isascii() and part.isdecimal() and len(part) < 10):
            break
        numbers.append(int(part))
    return tuple(numbers)


def _flag(variant: Variant) -> str:
    return variant.title.lower()
