"""A run becomes a bundle: the network as ONNX by torch's dynamo exporter, checked before it is handed over."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import torch

from agp_edge import __version__
from agp_edge.bundle import Bundle, Manifest, check_out, model_file, write_bundle
from agp_edge.errors import ArtefactError, InputError
from agp_edge.frame import FrameSpec, Precision
from agp_edge.progress import Progress, silent
from agpnet.interrupts import deferred_interrupts
from agpnet.network import AGPNet
from agpnet.run import TorchSession, load_run
from export.contract import check_graph, check_parity
from export.graph import FrameNet
from export.reference import score_reference_frames

OPSET = 20


def export_run(
    run: Path,
    out: Path,
    *,
    frame_size: tuple[int, int] | None = None,
    mono: bool = False,
    batch: int = 1,
    name: str | None = None,
    progress: Progress = silent,
) -> Bundle:
    """Export a run to a bundle with an FP32 and an FP16 graph, and reference frames with torch's scores.

    The same run and arguments give the same bytes in every file.

    Args:
        run: the folder that training wrote.
        out: the bundle's folder; a bundle that is there is replaced.
        frame_size: (width, height) of the camera's frames; by default those it was trained on.
        mono: frames have one channel.
        batch: frames a call.
        name: the bundle's name; by default that of `out`.
        progress: told after each graph.

    Raises:
        InputError, ArtefactError: the run cannot be read, or `out` cannot be written.
        ArtefactError: a graph does not say what torch says.
    """
    check_out(out)
    network, record = load_run(run)
    if not 1 <= batch <= 64:
        raise InputError(f"a batch of {batch} is out of range", "give --batch 1 to 64")
    if frame_size is None and record.frame.any_size:
        sizes = {str(f).split()[0] for frames in record.frames.values() for f in frames}
        raise InputError(
            f"run {run} was trained on images of several sizes: {', '.join(sorted(sizes))}",
            "a graph takes one: give the camera's, as in --frame-size 640x480",
        )
    width, height = frame_size or (record.frame.width, record.frame.height)
    size = network.backbone.input_size
    if min(width, height) < size // 4:
        raise InputError(
            f"a frame of {width}x{height} is far smaller than the network's input of {size}x{size}",
            "give the camera's full frame to --frame-size",
        )
    frame = FrameSpec(width, height, 1 if mono else 3, batch)
    backbone, config = dict(network.backbone.describe()), record.config.to_dict()
    for named, key in ((backbone, "source"), (config, "backbone")):
        if key in named:
            named[key] = without_folders(str(named[key]))
    manifest = Manifest(
        name=name or bundle_name(out),
        frame=frame,
        network={
            "architecture": "AGPNet, after Huang et al. 2024 (arXiv 2408.07490)",
            "backbone": backbone,
            "grid": list(network.backbone.grid),
            "width": network.backbone.width,
            "classes": record.classes,
            "trained_frame": None
            if record.frame.any_size
            else {"width": record.frame.width, "height": record.frame.height},
            "config": config,
        },
        producer={
            "agp_edge": __version__,
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
            "opset": str(OPSET),
        },
        trained=record.trained,
        held_out=record.held_out,
    )
    with (
        tempfile.TemporaryDirectory(prefix="agp-edge-export-") as scratch,
        TorchSession(network, frame) as session,
    ):
        reference = score_reference_frames(session)
        frames, entries = reference.save(Path(scratch))
        files: dict[str, Path | bytes] = {**frames}
        precisions: tuple[Precision, ...] = ("fp32", "fp16")
        for i, precision in enumerate(precisions):
            path = Path(scratch) / model_file(precision)
            export_network(network, frame, path, half=precision == "fp16")
            check_parity(path, precision, frame, reference)
            files[path.name] = path
            progress(i + 1, len(precisions), precision)
        return write_bundle(out, replace(manifest, frames=entries), files)


def bundle_name(out: Path) -> str:
    """A name for a bundle after its folder, with only letters, digits, `.`, `_` and `-`."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in out.resolve().name)
    return stem.removesuffix(".bundle").strip("._-")[:80] or "model"


def without_folders(source: str) -> str:
    """A backbone as a bundle names it: an id as it is, of a path on this machine the last part alone.

    Where a host keeps its models is nobody's business on a device, and the same run gives the same bundle anywhere.
    """
    return Path(source).resolve().name if source.startswith(("/", ".", "~")) else source


def export_network(network: AGPNet, frame: FrameSpec, path: Path, *, half: bool = False) -> None:
    """Write a network as ONNX, static in every shape, and check the graph.

    Raises:
        ArtefactError: the graph is not valid, or the Cast is not the frame's first node.
    """
    module = FrameNet(network, frame, half=half).eval()
    frames = torch.zeros((frame.batch, *frame.shape), dtype=torch.uint8)
    # An interrupt inside the exporter would come out of it as a fault of the network.
    with deferred_interrupts() as check, _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                (frames,),
                input_names=["frames"],
                output_names=["score", "anomaly_map"],
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=False,
            )
        except Exception as error:  # The exporter's errors share no base class with torch's own.
            check()
            reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            raise ArtefactError(
                f"torch {torch.__version__} does not export this network: {reason[0]}",
                "take another backbone, and report this one",
            ) from error
        check()
        if program is None:
            raise ArtefactError(
                "the exporter gave no graph", "report this with the versions that `doctor` prints"
            )
        program.save(str(path), external_data=False)
    _tidy(path)
    check_graph(path, frame)


def _tidy(path: Path) -> None:
    """Leave the graph and nothing of how it was made: no Python source lines, no paths of the host.

    A node with weights is named by its module, as in `network.decoder.blocks.0.mlp.0/linear_4`.
    """
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            node.name = _module_name(node)
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    onnx.save(model, path)


def _module_name(node: onnx.NodeProto) -> str:
    """The module a node belongs to and what it does there, from what the exporter noted; else the name that it has."""
    notes = {note.key: note.value for note in node.metadata_props}
    scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
    if len(scopes) < 2 or not scopes[-2]:
        return node.name
    # A convolution that took a normalisation in bears its name, but the weights are still called after their own module.
    module = node.input[1].removesuffix(".weight") if node.input[1].endswith(".weight") else scopes[-2]
    return f"{module}/{scopes[-1]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter writes its own progress to stdout, which belongs to results."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
