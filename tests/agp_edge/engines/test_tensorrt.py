"""Real builds through TensorRT-RTX, which needs no GPU for them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agp_edge.engines import Sidecar, open_engine
from agp_edge.engines.base import Backend, BuildOptions
from agp_edge.engines.gpu import probe_gpus
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.engines.tensorrt_callbacks import BuildMonitor
from agp_edge.errors import AgpEdgeError, ArtefactError, InputError
from agp_edge.files import sha256_file, write_json
from agp_edge.frame import GRAPHS, FrameSpec, Precision
from tests.agp_edge.engines.graphs import write_conv_model, write_foreign_model

GiveGpus = Callable[..., None]


# --- ahead of time, without a GPU ------------------------------------------------------------------


@pytest.mark.parametrize("targets", [("8.6",), ("7.5", "12.0")], ids=str)
@pytest.mark.parametrize("precision", GRAPHS)
def test_a_plan_of_every_precision(
    rtx: Backend, tmp_path: Path, precision: Precision, targets: tuple[str, ...], give_gpus: GiveGpus
) -> None:
    give_gpus()
    model = write_conv_model(tmp_path / "model.onnx", precision)
    plan = tmp_path / "plan"
    result = rtx.build(model, plan, BuildOptions(targets, precision=precision))
    assert plan.stat().st_size > 10_000
    assert result.layers is not None
    assert result.layers.source == "the network before the build"
    assert ("CONVOLUTION", "fp16" if precision == "fp16" else "fp32") in result.layers.counts
    assert (("QUANTIZE", "int8") in result.layers.counts) == (precision == "int8")
    assert result.device["compute_capabilities"] == list(targets)
    assert not result.runs_here
    assert result.notes == ("not run here: no NVIDIA driver (here)",)
    assert result.backend_version


@pytest.mark.parametrize(
    ("made", "asked"), [("fp32", "fp16"), ("fp16", "fp32"), ("fp32", "int8"), ("int8", "fp32")]
)
def test_a_graph_of_another_precision_is_found_before_the_build(
    rtx: Backend, tmp_path: Path, made: str, asked: Precision
) -> None:
    model = write_conv_model(tmp_path / "model.onnx", made)
    with pytest.raises(ArtefactError, match=f"is no {asked} graph: TensorRT reads") as info:
        rtx.build(model, tmp_path / "plan", BuildOptions(("8.6",), precision=asked))
    assert info.value.exit_code == 4
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize("precision", GRAPHS)
def test_without_gpu_and_without_a_choice_it_builds_for_every_usual_target(
    rtx: Backend, tmp_path: Path, precision: Precision, give_gpus: GiveGpus
) -> None:
    give_gpus()
    model = write_conv_model(tmp_path / "model.onnx", precision)
    result = rtx.build(model, tmp_path / "plan", BuildOptions(precision=precision))
    built = set(result.device["compute_capabilities"])
    assert {"8.0", "8.6", "8.9", "12.0"} <= built
    assert "7.5" not in built


def test_with_a_gpu_it_builds_for_that_one(
    rtx: Backend, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus
) -> None:
    give_gpus("8.9", "8.6")
    result = rtx.build(tiny_model, tmp_path / "plan", BuildOptions(workspace_mib=64))
    assert result.device["compute_capabilities"] == ["8.9"]
    assert (result.runs_here, result.notes) == (True, ()), "where it is built it is judged"


def test_for_another_gpu_than_the_one_here_it_is_built_and_not_judged(
    rtx: Backend, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus
) -> None:
    give_gpus("8.9")
    result = rtx.build(tiny_model, tmp_path / "plan", BuildOptions(("8.6",)))
    assert not result.runs_here
    (note,) = result.notes
    assert note == "not run here: it is for compute capability 8.6, the GPU here is a GPU (8.9)"


@pytest.mark.usefixtures("no_cuda_binding")
def test_without_a_binding_of_cuda_it_says_what_to_install(
    rtx: Backend, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus
) -> None:
    give_gpus("8.9")
    result = rtx.build(tiny_model, tmp_path / "plan", BuildOptions())
    assert not result.runs_here
    (note,) = result.notes
    assert note.startswith("not run here: running engines on a GPU needs cuda.bindings.driver")
    assert note.endswith("pip install 'agp-edge[cuda]'")


@pytest.mark.parametrize("wrong", ["8.7", "9.0", "86", "", "SM86", "8.6 "])
def test_a_target_that_there_is_not_lists_those_there_are(
    rtx: Backend, tiny_model: Path, tmp_path: Path, wrong: str
) -> None:
    with pytest.raises(InputError) as info:
        rtx.build(tiny_model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6", wrong)))
    assert info.value.exit_code == 2
    assert wrong in info.value.what
    assert "7.5, 8.0, 8.6, 8.9, 12.0" in info.value.hint
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (BuildOptions(timing_cache=Path("timing")), "no --timing-cache: it builds ahead of time and measures nothing"),
        (BuildOptions(version_compatible=True), "no --version-compatible: it builds ahead of time, for its own version"),
        (BuildOptions(hardware_compatible=True), "no --hardware-compatible: it builds ahead of time: name the GPUs"),
        (BuildOptions(dla=0, precision="fp16"), "no --dla: it builds for no DLA"),
    ],
)  # fmt: skip
def test_what_a_build_ahead_of_time_does_not_take(
    rtx: Backend, tiny_model: Path, tmp_path: Path, options: BuildOptions, told: str
) -> None:
    with pytest.raises(InputError, match=told) as info:
        rtx.build(tiny_model, tmp_path / "plan", options)
    assert info.value.exit_code == 2
    assert not (tmp_path / "plan").exists()


def test_how_long_it_searches_can_be_said(rtx: Backend, tiny_model: Path, tmp_path: Path) -> None:
    rtx.build(tiny_model, tmp_path / "plan", BuildOptions(("8.6",), optimization_level=0))
    assert (tmp_path / "plan").stat().st_size > 1000


@pytest.mark.parametrize("workspace", [0, -5])
def test_a_workspace_of_nothing(rtx: Backend, tiny_model: Path, tmp_path: Path, workspace: int) -> None:
    with pytest.raises(InputError, match=f"{workspace} MiB"):
        rtx.build(tiny_model, tmp_path / "plan", BuildOptions(workspace_mib=workspace))


def test_its_engine_is_refused_where_the_driver_is_gone(
    rtx: Backend, tiny_model: Path, tmp_path: Path, give_gpus: GiveGpus
) -> None:
    pytest.importorskip("cuda.bindings", reason="needs cuda-bindings: pip install 'agp-edge[cuda]'")
    if not probe_gpus()[1].startswith("no NVIDIA driver"):
        pytest.skip("needs a machine without a driver")
    give_gpus("8.6")
    plan = tmp_path / "tiny.fp32.tensorrt-rtx.engine"
    result = rtx.build(tiny_model, plan, BuildOptions(compute_capabilities=("8.6",)))
    sidecar = Sidecar(
        name="tiny", precision="fp32", backend="tensorrt-rtx", backend_version=result.backend_version,
        frame=FrameSpec(64, 48, 3), plan_sha256=sha256_file(plan), bundle_sha256="0" * 64,
        device=result.device, build_seconds=0.1, normal_scores=[], gate=None,
    )  # fmt: skip
    write_json(sidecar_path(plan), sidecar.to_dict())
    with pytest.raises(ArtefactError, match="there is no NVIDIA driver") as info:
        open_engine(plan)
    assert info.value.exit_code == 4
    assert "agp-edge doctor" in info.value.hint


# --- graphs that it refuses ------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["Det", "Unique"])
def test_an_operator_that_it_lacks_is_named(rtx: Backend, tmp_path: Path, operator: str) -> None:
    model = write_foreign_model(tmp_path / "model.onnx", operator)
    with pytest.raises(
        ArtefactError, match=f"operator {operator} of node /core/{operator}: unsupported"
    ) as info:
        rtx.build(model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6",)))
    assert info.value.exit_code == 4
    assert "\n" not in info.value.what
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    "data", [b"", b"\x08no ONNX at all" * 50, b"\xff" * 100], ids=["empty", "text", "ones"]
)
def test_a_file_that_is_no_graph(rtx: Backend, tmp_path: Path, data: bytes) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(data)
    with pytest.raises(ArtefactError) as info:
        rtx.build(model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6",)))
    assert str(model) in info.value.what
    assert not (tmp_path / "plan").exists()


def test_a_file_that_is_not_there(rtx: Backend, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"not\.onnx"):
        rtx.build(tmp_path / "not.onnx", tmp_path / "plan", BuildOptions())


def rename_score(graph: Any) -> None:
    graph.node[-1].output[0] = graph.output[0].name = "rating"


def free_batch(graph: Any) -> None:
    for tensor in (*graph.input, *graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"


def take_float(graph: Any) -> None:
    graph.input[0].type.tensor_type.elem_type = 1


def drop_map(graph: Any) -> None:
    del graph.output[1]


@pytest.mark.parametrize("spoil", [rename_score, free_batch, take_float, drop_map])
def test_a_graph_that_is_none_of_ours(rtx: Backend, tiny_model: Path, tmp_path: Path, spoil: Any) -> None:
    import onnx

    model = onnx.load(str(tiny_model))
    spoil(model.graph)
    onnx.save(model, str(tiny_model))
    with pytest.raises(ArtefactError, match="no graph of ours") as info:
        rtx.build(tiny_model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6",)))
    assert "uint8 [N, H, W, C] in" in info.value.hint


# --- progress and interrupts -----------------------------------------------------------------------


def test_progress_goes_forward_to_the_end(rtx: Backend, tiny_model: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int, str]] = []
    rtx.build(
        tiny_model,
        tmp_path / "plan",
        BuildOptions(compute_capabilities=("8.6",)),
        lambda done, total, note="": heard.append((done, total, note)),
    )
    done = [h[0] for h in heard]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == 100
    assert len(set(done)) > 5
    assert any("Building engine" in h[2] for h in heard)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenPipeError("gone")], ids=repr)
def test_what_a_listener_raises_ends_the_build(
    rtx: Backend, tiny_model: Path, tmp_path: Path, error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    def listener(done: int, total: int, note: str = "") -> None:
        if done > 10:
            raise error

    with pytest.raises(type(error)):
        rtx.build(tiny_model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6",)), listener)
    assert not (tmp_path / "plan").exists()
    assert "Exception caught" not in capfd.readouterr().err


def test_ctrl_c_in_a_build_is_not_lost(
    rtx: Backend,
    tiny_model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Inside a callback and outside any `try` of ours: there TensorRT itself would forget it.
    monkeypatch.setattr(BuildMonitor, "phase_finish", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        rtx.build(tiny_model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6",)))
    assert not (tmp_path / "plan").exists()
    assert signal.getsignal(signal.SIGINT) is before
    assert "Exception caught" not in capfd.readouterr().err


def test_an_error_of_one_build_is_not_told_of_the_next(
    rtx: Backend, tiny_model: Path, tmp_path: Path
) -> None:
    model = write_foreign_model(tmp_path / "foreign.onnx", "Det")
    with pytest.raises(AgpEdgeError):
        rtx.build(model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6",)))
    rtx.build(tiny_model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6",)))
    assert (tmp_path / "plan").stat().st_size > 10_000
