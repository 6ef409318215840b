"""Fixtures that several packages' tests share: a real graph of our interface, small enough to build in milliseconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.engines import Sidecar, get_backend
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.files import sha256_file, write_json
from agp_edge.frame import FrameSpec

TINY = FrameSpec(width=64, height=48, channels=3)
TINY_NORMAL_SCORES = [float(s) for s in np.linspace(0.2, 0.4, 99)]
"""Brightness of good frames: 0.2 to 0.4; with 99 of them the threshold at 1 % is the largest, 0.4."""
CELL = 8


def write_brightness_model(path: Path, frame: FrameSpec) -> Path:
    """Write an ONNX graph that calls bright places anomalous.

    uint8 [N, H, W, C] in; `anomaly_map` [N, H/8, W/8], the mean brightness of 8x8 cells in 0..1, and `score`
    [N], its maximum, out.
    """
    import onnx
    from onnx import TensorProto, helper

    shape = [frame.batch, *frame.shape]
    cells = [frame.batch, frame.height // CELL, frame.width // CELL]
    axes = {
        name: helper.make_tensor(name, TensorProto.INT64, [1], [axis])
        for name, axis in [("channel", 3), ("one", 1)]
    }
    flat = helper.make_tensor("flat", TensorProto.INT64, [2], [1, 2])
    white = helper.make_tensor("white", TensorProto.FLOAT, [], [255.0])
    nodes = [
        helper.make_node("Cast", ["frames"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "channel"], ["grey"], keepdims=0),
        helper.make_node("Unsqueeze", ["grey", "one"], ["plane"]),
        helper.make_node(
            "AveragePool", ["plane"], ["pooled"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]
        ),
        helper.make_node("Squeeze", ["pooled", "one"], ["cells"]),
        helper.make_node("Div", ["cells", "white"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map", "flat"], ["score"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [frame.batch]),
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, cells),
        ],
        [*axes.values(), flat, white],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def build_engine(model: Path, frame: FrameSpec, normal_scores: list[float]) -> Path:
    """Build `model` with ONNX Runtime beside it, and write the sidecar that a build would."""
    name = "tiny" if frame == TINY else f"tiny-{frame.batch}x{frame.channels}"
    plan = model.with_name(f"{name}.fp32.onnxruntime.engine")
    result = get_backend("onnxruntime").build(model, plan, BuildOptions())
    sidecar = Sidecar(
        name=name,
        precision="fp32",
        backend="onnxruntime",
        backend_version=result.backend_version,
        frame=frame,
        plan_sha256=sha256_file(plan),
        bundle_sha256="0" * 64,
        device=result.device,
        build_seconds=0.01,
        normal_scores=normal_scores,
        gate=None,
    )
    write_json(sidecar_path(plan), sidecar.to_dict())
    return plan


@pytest.fixture(scope="session")
def _tiny_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    pytest.importorskip("onnxruntime")
    return build_engine(write_brightness_model(folder / "model.fp32.onnx", TINY), TINY, TINY_NORMAL_SCORES)


@pytest.fixture
def tiny_model(_tiny_built: Path, tmp_path: Path) -> Path:
    """An ONNX graph of our interface, 64x48 BGR, batch 1: its map is the brightness of 8x8 cells. Yours to spoil."""
    return Path(shutil.copy(_tiny_built.with_name("model.fp32.onnx"), tmp_path / "model.fp32.onnx"))


@pytest.fixture
def tiny_engine(_tiny_built: Path, tmp_path: Path) -> Path:
    """An engine of `tiny_model` for ONNX Runtime with its sidecar; its threshold at 1 % is 0.4. Yours to spoil."""
    shutil.copy(sidecar_path(_tiny_built), tmp_path)
    return Path(shutil.copy(_tiny_built, tmp_path))


@pytest.fixture
def tiny_mono_engine(tmp_path: Path) -> Path:
    """As `tiny_engine`, for 64x48 mono frames."""
    pytest.importorskip("onnxruntime")
    frame = FrameSpec(TINY.width, TINY.height, 1)
    return build_engine(write_brightness_model(tmp_path / "mono.onnx", frame), frame, TINY_NORMAL_SCORES)


@pytest.fixture
def tiny_batch_engine(tmp_path: Path) -> Path:
    """As `tiny_engine`, for batches of 4."""
    pytest.importorskip("onnxruntime")
    frame = FrameSpec(TINY.width, TINY.height, 3, batch=4)
    return build_engine(write_brightness_model(tmp_path / "batch.onnx", frame), frame, TINY_NORMAL_SCORES)


def draw_part(number: int, *, defect: bool = False) -> NDArray[np.uint8]:
    """[48, 64, 3] uint8: an even grey part with a scratch that moves with `number`; a defect is a bright square."""
    pixels = np.full((TINY.height, TINY.width, 3), 76, np.uint8)
    column = 2 + 5 * number % (TINY.width - 6)
    pixels[:, column : column + 3] = 40
    if defect:
        pixels[16:32, 24:40] = 250
    return pixels


@pytest.fixture
def part() -> Callable[..., NDArray[np.uint8]]:
    """`part(number, defect=False)`: a frame of `tiny_engine`'s size; it is NG if and only if it has a defect."""
    return draw_part


@pytest.fixture
def write_video() -> Callable[[Path, Sequence[NDArray[np.uint8]]], Path]:
    """`write_video(path, frames)`: a real encoded video at 10 frames a second, the codec by the suffix."""
    cv2 = pytest.importorskip("cv2")

    def write(path: Path, frames: Sequence[NDArray[np.uint8]]) -> Path:
        code = {".avi": "MJPG", ".mp4": "mp4v", ".mkv": "FFV1"}[path.suffix]
        height, width = frames[0].shape[:2]
        writer = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), 10.0, (width, height)
        )
        assert writer.isOpened()
        for pixels in frames:
            writer.write(pixels)
        writer.release()
        return path

    return write
