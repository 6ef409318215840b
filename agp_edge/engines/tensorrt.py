"""TensorRT and TensorRT-RTX: one builder over two modules with the same interface.

The precision is in the graph (half tensors, Q/DQ) and the network strongly typed, so that one path serves
TensorRT 10.3 and later, 11, and RTX. Where the two differ, the module itself is asked: `Capabilities`.

The engine is the plain plan. It needs the GPU that it was built for, and this module builds only.
"""

from __future__ import annotations

import importlib
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from agp_edge.engines.base import Backend, BuildOptions, BuildResult, Session, refuse_precision
from agp_edge.engines.gpu import Gpu, probe_gpus
from agp_edge.engines.sidecar import Sidecar
from agp_edge.engines.tensorrt_callbacks import PERCENT, BuildMonitor, ErrorLog, deferred_signals
from agp_edge.errors import AgpEdgeError, ArtefactError, InputError, MissingExtraError
from agp_edge.files import write_bytes
from agp_edge.frame import GRAPHS, Precision
from agp_edge.progress import Progress, silent

if TYPE_CHECKING:
    # The module is found at run time and handed to each function, which calls it `trt` too. Its calls are
    # so checked against the stubs of TensorRT where those are installed (`make types-tensorrt`).
    import tensorrt as trt

EXPORT_AGAIN = "export the run again with this version of agp-edge, or take --backend onnxruntime"


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
    """

    network_flags: int | None
    targets: dict[str, str]
    timing_cache: bool
    progress: bool

    @classmethod
    def probe(cls, module: ModuleType) -> Capabilities:
        """Ask `tensorrt` or `tensorrt_rtx`; makes no TensorRT object."""
        strongly_typed = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        if strongly_typed is not None:
            network_flags: int | None = 1 << int(strongly_typed)
        else:
            # No such flag: weak typing was all there was, or it is gone and typing is strong always.
            network_flags = None if hasattr(module.BuilderFlag, "FP16") else 0
        names = getattr(getattr(module, "ComputeCapability", None), "__members__", {})
        found = {name: re.fullmatch(r"SM(\d+)(\d)", name) for name in names}
        targets = {f"{match[1]}.{match[2]}": name for name, match in found.items() if match}
        return cls(network_flags, targets, not targets, hasattr(module, "IProgressMonitor"))


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
        return (
            f"this version of agp-edge builds {self._variant.title} engines, but has no runtime for them yet"
        )

    def refuses(self, precision: Precision) -> str | None:
        return None if precision in GRAPHS else f"{self._variant.title} does not build {precision}"

    def build(
        self, model: Path, plan: Path, options: BuildOptions, progress: Progress = silent
    ) -> BuildResult:
        title = self._variant.title
        refuse_precision(self, options.precision)
        module = self._load()
        capabilities = Capabilities.probe(module)
        flags = self._network_flags(capabilities)
        if options.timing_cache and not capabilities.timing_cache:
            raise InputError(
                f"{title} builds ahead of time and measures nothing: it takes no --timing-cache",
                "leave it out",
            )
        if options.workspace_mib is not None and options.workspace_mib < 1:
            raise InputError(
                f"a workspace of {options.workspace_mib} MiB is none", "give 1 or more to --workspace"
            )
        gpus, no_gpu = probe_gpus()
        targets = choose_targets(title, capabilities.targets, options.compute_capabilities, gpus, no_gpu)

        if not TYPE_CHECKING:
            trt = module
        log = ErrorLog(module)
        try:
            builder = trt.Builder(log.logger)
        except TypeError as error:
            # pybind11's way to say that the library gave it a null pointer.
            raise ArtefactError(
                f"{title} {trt.__version__} does not start: {log.first('no reason given')}",
                "see what the machine offers: agp-edge doctor",
            ) from error
        progress(0, PERCENT, "Reading the graph")
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, log.logger)
        # By path, not by bytes: weights may lie in a file beside the graph.
        if not parser.parse_from_file(str(model)):
            _raise_parser_error(parser, f"{title} {trt.__version__} does not take {model}")
        check_interface(module, network, model)

        config = builder.create_builder_config()
        if capabilities.targets:
            _set_targets(module, config, [capabilities.targets[target] for target in targets])
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.timing_cache:
            load_timing_cache(config, options.timing_cache)
        monitor = BuildMonitor(progress)
        if capabilities.progress:
            config.progress_monitor = monitor.attach(module)
        with deferred_signals(monitor.cancelled):
            serialized = builder.build_serialized_network(network, config)
        if monitor.error:
            raise monitor.error
        if serialized is None:
            raise ArtefactError(
                f"{title} {trt.__version__} does not build {model}: {log.first('no reason given')}",
                EXPORT_AGAIN,
            )
        plan.write_bytes(serialized)
        if options.timing_cache:
            save_timing_cache(config, options.timing_cache)
        progress(PERCENT, PERCENT)
        device = {"machine": platform.machine(), "compute_capabilities": targets}
        return BuildResult(trt.__version__, device, runs_here=False)

    def open(self, plan: Path, sidecar: Sidecar, data: bytes | None = None) -> Session:
        raise ArtefactError(
            f"engine {plan} cannot be run: {self.cannot_run()}",
            "build one that runs here: agp-edge build-engine BUNDLE --backend onnxruntime",
        )

    def _load(self) -> ModuleType:
        variant = self._variant
        try:
            return importlib.import_module(variant.module)
        except ImportError as error:
            purpose = f"building {variant.title} engines"
            if isinstance(error, ModuleNotFoundError) and error.name == variant.module:
                if variant.extra:
                    raise MissingExtraError(variant.module, variant.extra, purpose) from error
                raise InputError(
                    f"{purpose} needs {variant.module}, which is not installed",
                    "JetPack 6.1 and later bring it: make the environment with --system-site-packages; "
                    "elsewhere: pip install tensorrt",
                ) from error
            raise ArtefactError(
                f"{variant.title} is installed but does not load: {str(error).splitlines()[0]}",
                "install it again, for this Python and this CUDA",
            ) from error

    def _network_flags(self, capabilities: Capabilities) -> int:
        if capabilities.network_flags is None:
            raise ArtefactError(
                f"this {self._variant.title} is too old: its networks cannot be strongly typed",
                "TensorRT 10.3 or later is needed; JetPack 6.1 and later have it",
            )
        return capabilities.network_flags


def check_interface(module: ModuleType, network: trt.INetworkDefinition, model: Path) -> None:
    """Hold a parsed network against our interface; without a GPU its plan could not be asked any more.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        network: an `INetworkDefinition`.
        model: the graph it came from, for the error.

    Raises:
        ArtefactError: it is not uint8 [N, H, W, C] in, float32 `score` [N] and `anomaly_map` [N, h, w] out.
    """
    if not TYPE_CHECKING:
        trt = module

    def describe(tensor: trt.ITensor) -> tuple[str, str, list[int]]:
        return tensor.name, tensor.dtype.name, list(tensor.shape[:])

    inputs = [describe(network.get_input(i)) for i in range(network.num_inputs)]
    outputs = [describe(network.get_output(i)) for i in range(network.num_outputs)]
    by_name = {name: (kind, shape) for name, kind, shape in outputs}
    uint8, float32 = trt.DataType.UINT8.name, trt.DataType.FLOAT.name
    good = len(inputs) == 1 and inputs[0][1] == uint8 and len(inputs[0][2]) == 4
    if good:
        shape = inputs[0][2]
        kind, map_shape = by_name.get("anomaly_map", ("", []))
        good = (
            min(shape) > 0
            and shape[3] in (1, 3)
            and by_name.get("score") == (float32, shape[:1])
            and kind == float32
            and len(map_shape) == 3
            and map_shape[0] == shape[0]
            and min(map_shape) > 0
        )
    if not good:
        raise ArtefactError(
            f"{model} is no graph of ours: it takes {inputs} and gives {outputs}",
            "expected uint8 [N, H, W, C] in, float32 score [N] and anomaly_map [N, h, w] out: export the run again",
        )


def load_timing_cache(config: trt.IBuilderConfig, file: Path) -> None:
    """Let a build start from the kernels that earlier builds measured; a file that is not there yet is empty.

    Args:
        config: an `IBuilderConfig`.
        file: what `save_timing_cache` wrote.

    Raises:
        InputError: it cannot be read.
        ArtefactError: it is no timing cache, or one of another GPU or version.
    """
    try:
        data = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise InputError(
            f"cannot read timing cache {file}: {error.strerror or error}", "give a file to --timing-cache"
        ) from error
    cache = config.create_timing_cache(data)
    taken = False
    if cache is not None:
        # ignore_mismatch stays False: what another GPU measured would choose this one's kernels.
        taken = config.set_timing_cache(cache, False)
    if not taken:
        raise ArtefactError(
            f"timing cache {file} is damaged, or of another GPU or version of TensorRT",
            "give another file, which is made if it is not there",
        )


def save_timing_cache(config: trt.IBuilderConfig, file: Path) -> None:
    """Keep what the build measured, whole or not at all.

    Args:
        config: the `IBuilderConfig` that was built with.
        file: replaced if it is there.

    Raises:
        DiskFullError, InputError: it cannot be written.
    """
    write_bytes(file, bytes(memoryview(config.get_timing_cache().serialize())))


def _set_targets(module: ModuleType, config: Any, names: list[str]) -> None:
    # Of TensorRT-RTX alone, and so in no stub of TensorRT: unchecked by type, checked by every build.
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(module.ComputeCapability.__members__[name], index)


def _raise_parser_error(parser: trt.OnnxParser, what: str) -> NoReturn:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        raise ArtefactError(f"{what}: it is no ONNX graph", EXPORT_AGAIN)
    first = errors[0]
    reason = first.code().name.lower().replace("_", " ")
    description = next(iter(first.desc().splitlines()), "").strip()
    # The parser's checkers put the condition that failed here, and often that is the word `false`.
    if description and description != "false":
        reason += f" ({description})"
    where = ""
    if first.node_operator():
        node = first.node_name() or f"number {first.node()}"
        where = f"operator {first.node_operator()} of node {node}: "
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    raise ArtefactError(f"{what}: {where}{reason}{more}", EXPORT_AGAIN)


def get_backend(name: str) -> Backend:
    """The backend `tensorrt` or `tensorrt-rtx`."""
    return _TensorRT(name)
