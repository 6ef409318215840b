"""What a TensorRT module can do, and what it is to build for.

Everything is asked of the module itself and nothing of its version: what has a name there can be done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from agp_edge.engines.base import BuildOptions
from agp_edge.engines.gpu import Gpu
from agp_edge.errors import ArtefactError, InputError


@dataclass(frozen=True)
class Variant:
    """One of the two.

    Attributes:
        title: as its makers write it.
        module: the Python module.
        extra: the extra of agp-edge that brings it, or None.
    """

    title: str
    module: str
    extra: str | None


VARIANTS = {
    "tensorrt": Variant("TensorRT", "tensorrt", None),
    "tensorrt-rtx": Variant("TensorRT-RTX", "tensorrt_rtx", "tensorrt-rtx"),
}


@dataclass(frozen=True)
class Capabilities:
    """What a module can do, asked of the module and never of its version.

    Attributes:
        network_flags: what `create_network` takes for a strongly typed network, or None if it has none.
        targets: compute capability, as in `8.6`, -> the module's name for it; empty where it builds for
            the GPU that is here and no other.
        timing_cache: whether it measures kernels while it builds. A build ahead of time cannot.
        progress: whether it tells how far it is.
        optimization_level: whether it can be told how long to search.
        version_compatible: whether a plan can be made for later versions, without host code in it.
        hardware_compatible: whether a plan can be made for other generations of GPUs.
        dla: how a network for the DLA is typed: `strong` as any other, or `weak` with the FP16 flag, which is how
            TensorRT 10 takes it; None where it builds for no DLA. The names are there too in versions that drive none:
            whether there is a core is asked of the builder.
        inspector: whether an engine can be asked for its layers.
    """

    network_flags: int | None
    targets: dict[str, str]
    timing_cache: bool
    progress: bool
    optimization_level: bool
    version_compatible: bool
    hardware_compatible: bool
    dla: Literal["strong", "weak"] | None
    inspector: bool

    @classmethod
    def probe(cls, module: ModuleType) -> Capabilities:
        """Ask `tensorrt` or `tensorrt_rtx`; makes no TensorRT object."""

        def members(name: str) -> Mapping[str, object]:
            found: Mapping[str, object] = getattr(getattr(module, name, None), "__members__", {})
            return found

        flags = members("BuilderFlag")
        # The flags of weak typing: 8 and 10 have them, since 11 typing is strong always.
        weak = "FP16" in flags
        strongly_typed = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        always_strong = None if weak else 0
        found = {name: re.fullmatch(r"SM(\d+)(\d)", name) for name in members("ComputeCapability")}
        targets = {f"{match[1]}.{match[2]}": name for name, match in found.items() if match}
        # A builder ahead of time has names of its twin's that it does not honour.
        here = not targets
        config = getattr(module, "IBuilderConfig", None)
        return cls(
            network_flags=always_strong if strongly_typed is None else 1 << int(strongly_typed),
            targets=targets,
            timing_cache=here,
            progress=hasattr(module, "IProgressMonitor"),
            optimization_level=hasattr(config, "builder_optimization_level"),
            version_compatible=here and {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"} <= set(flags),
            hardware_compatible=here and "AMPERE_PLUS" in members("HardwareCompatibilityLevel"),
            dla=("weak" if weak else "strong") if here and "DLA" in members("DeviceType") else None,
            inspector=hasattr(module, "EngineInspector"),
        )

    def check(self, title: str, options: BuildOptions, *, on_jetson: bool) -> None:
        """Refuse what was asked for and this module, or this machine, does not do.

        Args:
            title: the module's name, for people.
            options: what was asked for.
            on_jetson: whether this is one.

        Raises:
            InputError: naming the flag, and why.
        """
        ahead = "it builds ahead of time"
        reasons = {
            "timing_cache": None if self.timing_cache else f"{ahead} and measures nothing",
            "optimization_level": None if self.optimization_level else "it cannot be told how long to search",
            "version_compatible": None if self.version_compatible else f"{ahead}, for its own version alone",
            "hardware_compatible": None if self.hardware_compatible else f"{ahead}: name the GPUs instead",
            "dla": None if self.dla else "it builds for no DLA",
        }
        if on_jetson and self.hardware_compatible:
            reasons["hardware_compatible"] = "on a Jetson plans are for its own GPU alone"
        options.refuse(title, {name: why for name, why in reasons.items() if why})
        level = options.optimization_level
        if level is not None and not 0 <= level <= MAX_LEVEL:
            raise InputError(
                f"there is no optimization level {level}", f"give --optimization-level 0 to {MAX_LEVEL}"
            )
        if options.workspace_mib is not None and options.workspace_mib < 1:
            raise InputError(
                f"a workspace of {options.workspace_mib} MiB is none", "give 1 or more to --workspace"
            )
        if options.dla is None:
            return
        if options.precision != "fp16":
            raise InputError(
                f"the DLA does not run {options.precision} graphs of ours", "give --precision fp16 with --dla"
            )
        if options.hardware_compatible or options.version_compatible:
            raise InputError(
                "a plan for the DLA is for this device and this version alone",
                "leave --hardware-compatible and --version-compatible out",
            )


MAX_LEVEL = 5
"""TensorRT's longest search; it takes more and does no more."""

UNUSUAL_TARGETS = ("7.5",)
"""Built for only when asked: for Turing, TensorRT-RTX 1.7 has no FP32 matrix product, and refuses FP32 and INT8 graphs."""


def choose_targets(
    title: str, offered: dict[str, str], asked: tuple[str, ...], gpus: list[Gpu], no_gpu: str
) -> list[str]:
    """The compute capabilities to build for.

    Those asked for; else the GPU that is here; else, ahead of time, everything that is offered but `UNUSUAL_TARGETS`.

    Args:
        title: the builder's name.
        offered: its `Capabilities.targets`.
        asked: `BuildOptions.compute_capabilities`.
        gpus, no_gpu: what `probe_gpus` found.

    Raises:
        InputError: one was asked for that it does not build for.
        ArtefactError: it needs a GPU and there is none, or the one here is not among its targets.
    """
    here = [gpu.compute_capability for gpu in gpus[:1]]
    if not offered:
        if not here:
            raise ArtefactError(
                f"{title} builds only on the GPU that will run the engine: {no_gpu}",
                "run build-engine on the device; without a GPU take --backend onnxruntime or tensorrt-rtx",
            )
        if set(asked) - set(here):
            raise InputError(
                f"{title} builds only for the GPU that is here ({here[0]}), not for {', '.join(asked)}",
                "leave --compute-capability out, and run build-engine on the device itself",
            )
        return here
    wrong = [capability for capability in asked if capability not in offered]
    if wrong:
        raise InputError(
            f"{title} does not build for compute capability {', '.join(wrong)}",
            f"take one or more of: {', '.join(offered)}",
        )
    if not asked and here and here[0] not in offered:
        raise ArtefactError(
            f"{title} does not build for the GPU that is here: {gpus[0].name}, compute capability {here[0]}",
            f"take --backend tensorrt, or give --compute-capability one of: {', '.join(offered)}",
        )
    # Twice the same would only make the plan longer.
    return (
        list(dict.fromkeys(asked)) or here or [target for target in offered if target not in UNUSUAL_TARGETS]
    )
