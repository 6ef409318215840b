"""Fixtures that several packages' tests share: a real graph of our interface, small enough to build in milliseconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from agp_edge.engines import Sidecar, get_backend
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.self_test import run_self_test
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.files import sha256_file, write_json
from agp_edge.frame import FrameSpec

# A shell ignores Ctrl-C for what it runs in the background, and children inherit that: the tests need it back.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, so that a change is judged by what it changed. To look for new ones:
# HYPOTHESIS_PROFILE=explore make unit
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=3000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

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
    with get_backend("onnxruntime").open(plan, sidecar) as session:
        sidecar = replace(sidecar, self_test=run_self_test(session))
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


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two surfaces in MVTec-AD's layout, 256x256: 84 good images to learn from, of which 32 are held out. Do not write."""
    import torch

    from agpnet.sample_data import SampleCounts, make_sample_data

    torch.set_num_threads(1)  # The networks of these tests are too small to share out.
    root = tmp_path_factory.mktemp("sample") / "data"
    make_sample_data(root, surfaces=("brick", "gravel"), counts=SampleCounts(42, 4, 1))
    return root


TINY_NETWORK = {
    "backbone": "filterbank", "input_size": 64, "decoder_width": 24, "decoder_heads": 3, "decoder_blocks": 2,
    "steps": 8, "batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_settings() -> dict[str, Any]:
    """Hyper-parameters of a network that trains in a second."""
    return dict(TINY_NETWORK)


@pytest.fixture(scope="session")
def trained_run(sample_data: Path) -> Path:
    """A run on `sample_data`, trained by filters for a few steps. Do not write."""
    from agp_edge.datasets import load_dataset
    from agpnet.config import make_config
    from agpnet.training import train

    out = sample_data.parent / "run"
    # So many steps that no gate frame lies within INT8's drift of the threshold (0.2 gaps; after 8 steps it is 0.01, and
    # the kernels of one processor flip it, those of another do not); three are NG, so that both verdicts are seen.
    train(load_dataset(sample_data), make_config(**{**TINY_NETWORK, "steps": 12}), out)
    return out


@pytest.fixture(scope="session")
def exported_bundle(trained_run: Path) -> Path:
    """The bundle of `trained_run`, not calibrated. Do not write."""
    from export.onnx_export import export_run

    return export_run(trained_run, trained_run.parent / "exported" / "part.bundle").path


@pytest.fixture(scope="session")
def calibrated_bundle(exported_bundle: Path, sample_data: Path) -> Path:
    """The same, calibrated on `sample_data`: 16 gate frames, 16 for the threshold. Do not write."""
    from agp_edge.datasets import load_dataset
    from calib.calibrate import calibrate

    path = exported_bundle.parents[1] / "part.bundle"
    shutil.copytree(exported_bundle, path)
    calibrate(path, load_dataset(sample_data)).check()
    return path


@pytest.fixture(scope="session")
def int8_engine(calibrated_bundle: Path) -> Path:
    """The INT8 engine of `calibrated_bundle` for ONNX Runtime, beside it. Do not write."""
    from agp_edge.bundle import Bundle
    from agp_edge.engines.builder import build_engine as build

    return build(Bundle(calibrated_bundle), "int8", "onnxruntime").path


@pytest.fixture
def bundle_copy(calibrated_bundle: Path, tmp_path: Path) -> Path:
    """A copy of `calibrated_bundle`. Yours to spoil."""
    return Path(shutil.copytree(calibrated_bundle, tmp_path / "copy" / "part.bundle"))


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """`reseal(bundle)`: bring the manifest's hashes in line with the files, as a forger would."""

    def seal(bundle: Path) -> None:
        path = bundle / "manifest.json"
        manifest = json.loads(path.read_text())
        for name in manifest["files"]:
            file = bundle / name
            manifest["files"][name] = {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
        write_json(path, manifest)

    return seal


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """`command("inspect", path)`: exit code, stdout and stderr of `agp-edge`, run in this process."""
    from agp_edge.cli import app
    from agp_edge.cli.console import run_command

    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["agp-edge", *map(str, arguments)])
        code = run_command(app)
        out, err = capfd.readouterr()
        return code, out, err

    yield call
    signal.signal(signal.SIGTERM, before)


class SmallDisk:
    """A real file system of 4 MiB.

    Attributes:
        path: its root.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def leave(self, free_bytes: int) -> None:
        """Fill it up until so much is left."""
        (self.path / "filler").unlink(missing_ok=True)
        free = shutil.disk_usage(self.path).free
        (self.path / "filler").write_bytes(bytes(max(free - free_bytes, 0)))

    def listing(self) -> dict[str, bytes]:
        """Every file there but the filler, hidden ones too."""
        files = (p for p in self.path.rglob("*") if p.is_file() and p.name != "filler")
        return {p.relative_to(self.path).as_posix(): p.read_bytes() for p in files}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system that can be filled up; skips where a tmpfs cannot be mounted."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    made = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield SmallDisk(folder)
    subprocess.run(["umount", str(folder)], check=True)
