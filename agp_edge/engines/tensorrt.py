"""TensorRT and TensorRT-RTX: one builder over two modules with the same interface.

The precision is in the graph (half tensors, Q/DQ) and the network strongly typed, so that one path serves
TensorRT 10.3 and later, 11, and RTX. Where the two differ, the module itself is asked: `Capabilities`.

The engine is the plain plan. It needs the GPU that it was built for; `tensorrt_session` runs it.
"""

from __future__ import annotations

import contextlib
import importlib
import platform
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agp_edge.engines.base import Backend, BuildOptions, BuildResult, Session, refuse_precision
from agp_edge.engines.gpu import probe_gpus
from agp_edge.engines.run_options import RUN_AS_USUAL, RunOptions
from agp_edge.engines.sidecar import Layers, Sidecar
from agp_edge.engines.tensorrt_callbacks import PERCENT, BuildMonitor, ErrorLog, deferred_signals
from agp_edge.engines.tensorrt_capabilities import VARIANTS, Capabilities, choose_targets
from agp_edge.engines.tensorrt_inspector import inspect_engine
from agp_edge.engines.tensorrt_network import (
    EXPORT_AGAIN,
    check_interface,
    check_types,
    count_layers,
    raise_parser_error,
    set_up_dla,
)
from agp_edge.engines.tensorrt_opening import check_suits
from agp_edge.engines.tensorrt_session import TensorRTSession, why_not_run
from agp_edge.engines.timing_cache import (
    CacheKey,
    default_file,
    load_default,
    load_timing_cache,
    locked,
    save_timing_cache,
)
from agp_edge.errors import (
    AgpEdgeError,
    ArtefactError,
    InputError,
    MissingExtraError,
    is_no_memory,
    no_memory,
    quote,
)
from agp_edge.extras import check_room, check_room_of
from agp_edge.frame import GRAPHS, FrameSpec, Precision
from agp_edge.machine import l4t_version
from agp_edge.progress import Progress, silent

if TYPE_CHECKING:
    # The module is found at run time and handed to each function, which calls it `trt` too. Its calls are
    # so checked against the interfaces of TensorRT 10.3 and 11 (`make types-tensorrt`).
    import tensorrt as trt


BUILD_MIB = 512
"""Address space that a build of a small graph takes. With less TensorRT-RTX 1.7 may wait for ever for a thread that it
could not start, and then no signal reaches it."""


class _TensorRT:
    def __init__(self, name: str) -> None:
        self.name = name
        self._variant = VARIANTS[name]

    def unavailable(self) -> str | None:
        try:
            capabilities = Capabilities.probe(self._load())
            self._network_flags(capabilities)
            if not capabilities.targets:
                choose_targets(self._variant.title, {}, (), *probe_gpus())
        except AgpEdgeError as error:
            return error.what
        return None

    def cannot_run(self) -> str | None:
        gpus, no_gpu = probe_gpus()
        return why_not_run(gpus, no_gpu, [gpu.compute_capability for gpu in gpus[:1]])

    def refuses(self, precision: Precision) -> str | None:
        return None if precision in GRAPHS else f"{self._variant.title} does not build {precision}"

    def build(
        self, model: Path, plan: Path, options: BuildOptions, progress: Progress = silent
    ) -> BuildResult:
        title = self._variant.title
        refuse_precision(self, options.precision)
        module = self._load()
        capabilities = Capabilities.probe(module)
        strong = self._network_flags(capabilities)
        capabilities.check(title, options, on_jetson=l4t_version() is not None)
        check_room(BUILD_MIB, f"build with {title}")
        gpus, no_gpu = probe_gpus()
        targets = choose_targets(title, capabilities.targets, options.compute_capabilities, gpus, no_gpu)
        if not TYPE_CHECKING:
            trt = module
        key = CacheKey.of(gpus[0], trt.__version__) if capabilities.timing_cache else None
        weak = options.dla is not None and capabilities.dla == "weak"
        with _Build(title, module, progress) as build:
            build.parse(model, 0 if weak else strong, options.frame)
            if not weak:
                check_types(build.layers, options.precision, model)
            build.configure(options, [capabilities.targets[t] for t in targets if capabilities.targets])
            if options.dla is not None:
                build.fallback = set_up_dla(
                    module, build.builder, build.config, build.network, options.dla, weak=weak
                )
            serialized = build.run(model, options.timing_cache, key)
            plan.write_bytes(serialized)
            layers = build.layers
            if gpus and capabilities.inspector and not capabilities.targets:
                layers = inspect_engine(module, build.log.logger, serialized) or layers
        progress(PERCENT, PERCENT)
        device: dict[str, Any] = {"machine": platform.machine(), "compute_capabilities": targets}
        if options.version_compatible:
            device["version_compatible"] = True
        if options.hardware_compatible:
            device["hardware_compatible"] = True
        if options.dla is not None:
            device["dla"] = {"core": options.dla, "gpu_fallback": build.fallback}
        not_run = why_not_run(gpus, no_gpu, targets)
        notes = [*build.describe(options), *([f"not run here: {not_run}"] if not_run else [])]
        return BuildResult(
            trt.__version__, device, runs_here=not_run is None, layers=layers, notes=tuple(notes)
        )

    def open(
        self, plan: Path, sidecar: Sidecar, data: bytes | None = None, options: RunOptions = RUN_AS_USUAL
    ) -> Session:
        module = check_suits(plan, sidecar, self._variant, probe_gpus, lambda: self._load("running"))
        return TensorRTSession(self._variant.title, module, plan, sidecar, data, options)

    def _load(self, doing: str = "building") -> ModuleType:
        variant = self._variant
        check_room_of(variant.module)
        try:
            return importlib.import_module(variant.module)
        except ImportError as error:
            purpose = f"{doing} {variant.title} engines"
            if isinstance(error, ModuleNotFoundError) and error.name == variant.module:
                if variant.extra:
                    raise MissingExtraError(variant.module, variant.extra, purpose) from error
                raise InputError(
                    f"{purpose} needs {variant.module}, which is not installed",
                    "JetPack 6.1 and later bring it: make the environment with --system-site-packages; "
                    "elsewhere: pip install tensorrt",
                ) from error
            raise ArtefactError(
                f"{variant.title} is installed but does not load: {quote(error) or type(error).__name__}",
                "install it again, for this Python and this CUDA",
            ) from error

    def _network_flags(self, capabilities: Capabilities) -> int:
        if capabilities.network_flags is None:
            raise ArtefactError(
                f"this {self._variant.title} is too old: its networks cannot be strongly typed",
                "TensorRT 10.3 or later is needed; JetPack 6.1 and later have it",
            )
        return capabilities.network_flags


class _Build:
    """One build, from a graph to a plan: what TensorRT needs for it, held until it is done.

    Args:
        title: the builder's name, for people.
        module: `tensorrt` or `tensorrt_rtx`; the device was probed before.
        progress: told how far it is.

    Attributes:
        log: what TensorRT says.
        builder, network, config: TensorRT's own.
        layers: of the network, before the build.
        fallback: layers that a DLA leaves to the GPU.
        notes: what the user should know.

    Raises:
        ArtefactError: TensorRT does not start.
    """

    network: trt.INetworkDefinition

    def __init__(self, title: str, module: ModuleType, progress: Progress) -> None:
        if not TYPE_CHECKING:
            trt = module
        self._title = f"{title} {trt.__version__}"
        self._module = module
        self._progress = progress
        self.log = ErrorLog(module)
        self.layers = Layers("nobody", {})
        self.fallback: list[str] = []
        self.notes: list[str] = []
        try:
            self.builder = trt.Builder(self.log.logger)
        except TypeError as error:
            # pybind11's way to say that the library gave it a null pointer.
            raise ArtefactError(
                f"{self._title} does not start: {self.log.first('no reason given')}",
                "see what the machine offers: agp-edge doctor",
            ) from error
        self.config = self.builder.create_builder_config()

    def __enter__(self) -> _Build:
        return self

    def __exit__(self, *_: object) -> None:
        # The network first: what the parser made of a graph is as large as the graph.
        self.__dict__.pop("network", None)

    def parse(self, model: Path, flags: int, frame: FrameSpec | None) -> None:
        """Read a graph into a network, and hold that against our interface.

        Raises:
            ArtefactError: naming the operator and the node that it does not take.
        """
        if not TYPE_CHECKING:
            trt = self._module
        self._progress(0, PERCENT, "Reading the graph")
        self.network = self.builder.create_network(flags)
        parser = trt.OnnxParser(self.network, self.log.logger)
        # By path, not by bytes: the messages then name the file.
        if not parser.parse_from_file(str(model)):
            raise_parser_error(parser, f"{self._title} does not take {model}")
        check_interface(self._module, self.network, model, frame)
        self.layers = count_layers(self.network)

    def configure(self, options: BuildOptions, targets: list[str]) -> None:
        """Set what was asked for; `Capabilities.check` has refused what is not there.

        Args:
            options: of the build.
            targets: TensorRT-RTX's names of GPUs to build for; none for the GPU that is here.
        """
        if not TYPE_CHECKING:
            trt = self._module
        config = self.config
        if targets:
            _set_targets(self._module, config, targets)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            # Without it the plan would hold a runtime: code that nobody signed.
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS

    def run(self, model: Path, cache: Path | None, key: CacheKey | None) -> trt.IHostMemory:
        """Build the plan.

        Args:
            model: where the network came from, for errors.
            cache: the timing cache that was asked for.
            key: what measurements would be of; None for a builder that measures nothing.

        Raises:
            ArtefactError: TensorRT does not build it, or does not take the timing cache.
        """
        if key is None:
            return self._run(model)
        file = cache or default_file(key)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(file, self._progress))
            except AgpEdgeError as error:
                if cache is not None:
                    raise
                self.notes.append(f"no timing cache: {error.what}")
                return self._run(model)
            if cache is not None:
                load_timing_cache(self.config, cache, key)
            elif note := load_default(self.config, file, key):
                self.notes.append(note)
            serialized = self._run(model)
            save_timing_cache(self.config, file, key)
        return serialized

    def _run(self, model: Path) -> trt.IHostMemory:
        monitor = BuildMonitor(self._progress)
        if hasattr(self._module, "IProgressMonitor"):
            self.config.progress_monitor = monitor.attach(self._module)
        with deferred_signals(monitor.cancelled):
            serialized = self.builder.build_serialized_network(self.network, self.config)
        if monitor.error:
            raise monitor.error
        if serialized is None:
            if any(map(is_no_memory, self.log.errors)):
                raise no_memory(f"build {model} with {self._title}")
            raise ArtefactError(
                f"{self._title} does not build {model}: {self.log.first('no reason given')}", EXPORT_AGAIN
            )
        return serialized

    def describe(self, options: BuildOptions) -> list[str]:
        """What the user should know of the build, a line each; of a DLA every layer that it leaves to the GPU."""
        lines = list(self.notes)
        if options.dla is not None:
            total = sum(self.layers.counts.values())
            lines.append(
                f"DLA core {options.dla}: {total - len(self.fallback)} of {total} layers; the GPU takes {len(self.fallback)}"
                + (":" if self.fallback else "")
            )
            lines += [f"  {layer}" for layer in self.fallback]
        return lines


def _set_targets(module: ModuleType, config: Any, names: list[str]) -> None:
    # Of TensorRT-RTX alone, and so in no stub of TensorRT: unchecked by type, checked by every build.
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(module.ComputeCapability.__members__[name], index)


def get_backend(name: str) -> Backend:
    """The backend `tensorrt` or `tensorrt-rtx`."""
    return _TensorRT(name)
