"""OpenVINO as it is installed, on graphs of ours: a precision is what was asked for, or nothing is built."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from agp_edge.bundle import Bundle
from agp_edge.engines import get_backend, open_engine, read_sidecar
from agp_edge.engines.base import BuildOptions
from agp_edge.engines.builder import Built, build_engine
from agp_edge.engines.measure import frames_of_bundle, measure
from agp_edge.engines.onnxruntime import OnnxRuntimeSession, open_graph
from agp_edge.engines.openvino import HINTS, OpenVinoSession, compile_graph, layers_of
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.errors import ArtefactError, InputError, MissingExtraError
from agp_edge.files import read_json, sha256_file, write_json
from agp_edge.frame import FrameSpec, Precision
from agp_edge.gate import ALLOWANCES

# Not `importorskip`: OpenVINO imported by itself sends a message over the network.
if get_backend("openvino").unavailable() is not None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

FRAME = FrameSpec(64, 48, 3)
BACKEND = get_backend("openvino")
HERE: tuple[Precision, ...] = ("fp32", "bf16", "int8")


def need(precision: Precision) -> None:
    """Skip where this CPU has no such precision."""
    reason = BACKEND.refuses(precision)
    if reason is not None:
        pytest.skip(reason)


def frames(n: int, frame: FrameSpec = FRAME) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, *frame.shape), dtype=np.uint8)


def open_model(model: Path, frame: FrameSpec = FRAME, precision: Precision = "fp32") -> OpenVinoSession:
    return OpenVinoSession(model.read_bytes(), str(model), frame, precision)


@pytest.fixture(scope="module")
def built(calibrated_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Built]:
    folder = tmp_path_factory.mktemp("openvino")
    bundle = Bundle(calibrated_bundle)
    return {
        p: build_engine(bundle, p, "openvino", save_engine=folder / f"part.{p}.engine")
        for p in HERE
        if BACKEND.refuses(p) is None
    }


def precisions_of(made: Built) -> set[str]:
    assert made.sidecar.layers is not None
    assert made.sidecar.layers.source == "the runtime"
    return {precision for _, precision in made.sidecar.layers.counts}


@pytest.mark.parametrize("precision", HERE)
def test_every_precision_passes_its_gate_and_scores_as_onnx_runtime_does(
    built: dict[Precision, Built], calibrated_bundle: Path, precision: Precision
) -> None:
    need(precision)
    made, bundle = built[precision], Bundle(calibrated_bundle)
    assert made.report is not None
    assert (made.report.outcome, made.report.precision) == ("passed", precision)
    graph: Precision = "int8" if precision == "int8" else "fp32"
    assert made.path.read_bytes() == bundle.model_bytes(graph), "the engine is the graph, nothing compiled"
    held_out = frames_of_bundle(bundle)
    session, sidecar = open_engine(made.path)
    assert (sidecar.backend, sidecar.precision) == ("openvino", precision)
    assert sidecar.device["machine"] == platform.machine()
    with session, open_graph(bundle, graph) as other:
        got, expected = measure(session, held_out), measure(other, held_out)
    assert sorted(got.normal) == sidecar.normal_scores
    moved = np.abs(np.subtract(got.gate, expected.gate)).max() / made.report.gap
    assert moved < {"fp32": 1e-4, "bf16": 0.25, "int8": 0.1}[precision]


def test_layers_say_what_is_counted_in_what(built: dict[Precision, Built]) -> None:
    assert precisions_of(built["fp32"]) == {"f32", "u8"}, "u8: the frame, before it is cast"
    layers = built["int8"].sidecar.layers
    assert layers is not None
    assert any(kind == "FullyConnected" and p in ("i8", "u8") for kind, p in layers.counts)
    assert not {"bf16", "f16"} & precisions_of(built["int8"]), "what is not integer is FP32"


def test_bf16_is_another_arithmetic_and_has_an_allowance_of_its_own(built: dict[Precision, Built]) -> None:
    need("bf16")
    fp32, bf16 = built["fp32"].report, built["bf16"].report
    assert fp32 is not None
    assert bf16 is not None
    assert built["fp32"].path.read_bytes() == built["bf16"].path.read_bytes()
    assert "bf16" in precisions_of(built["bf16"])
    assert fp32.drift_max < 1e-4 < 1e-2 < bf16.drift_max, "rounded to 8 bits"
    assert bf16.allowance == ALLOWANCES["bf16"]
    assert bf16.drift_max < ALLOWANCES["bf16"].drift
    assert built["bf16"].sidecar.normal_scores != built["fp32"].sidecar.normal_scores


def test_what_the_cpu_lacks_is_refused_with_a_reason(tiny_model: Path, tmp_path: Path) -> None:
    refused = [p for p in HINTS if BACKEND.refuses(p) is not None]
    if not refused:
        pytest.skip("this CPU has every precision")
    for precision in refused:
        with pytest.raises(
            InputError, match=rf"does not build {precision} here: this CPU has no native"
        ) as info:
            BACKEND.build(tiny_model, tmp_path / "plan", BuildOptions(precision=precision))
        assert info.value.hint.startswith("take one of: fp32")
    assert not (tmp_path / "plan").exists()


def test_a_precision_that_came_out_as_another_is_refused(tiny_model: Path) -> None:
    """Asked for FP16 on a CPU without it, OpenVINO counts in something else and does not say so."""
    reason = BACKEND.refuses("fp16")
    if reason is None:
        pytest.skip("this CPU has FP16")
    with pytest.raises(
        ArtefactError, match=r"was to be fp16, and OpenVINO compiled it to count in (bf16|f32)"
    ):
        compile_graph(tiny_model.read_bytes(), str(tiny_model), FRAME, "fp16")


def test_openvinos_own_default_is_not_what_fp32_means(tiny_model: Path) -> None:
    """Why the precision is always said: left alone, OpenVINO takes bfloat16 where the CPU has it."""
    need("bf16")
    # In a process of its own: what OpenVINO does by itself is nobody's to have beside the other tests.
    code = """
import sys
sys.modules["openvino_telemetry"] = None
import openvino
alone = openvino.Core().compile_model(sys.argv[1], "CPU")
print(alone.get_property("INFERENCE_PRECISION_HINT").get_type_name())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "bf16\n"
    asked = compile_graph(tiny_model.read_bytes(), str(tiny_model), FRAME, "fp32")
    assert asked.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert str(asked.get_property("EXECUTION_MODE_HINT")) == "ExecutionMode.ACCURACY"
    assert asked.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    assert asked.get_property("NUM_STREAMS") == 1
    assert "f32" in {precision for _, precision in layers_of(asked).counts}


def test_a_result_is_not_overwritten_by_the_next_call(tiny_model: Path) -> None:
    with open_model(tiny_model) as session:
        first = session.infer(np.full((1, *FRAME.shape), 50, np.uint8))
        score, anomaly_map = first.score.copy(), first.anomaly_map.copy()
        second = session.infer(np.full((1, *FRAME.shape), 200, np.uint8))
        assert second.score[0] > score[0]
        np.testing.assert_array_equal(first.score, score)
        np.testing.assert_array_equal(first.anomaly_map, anomaly_map)
        assert not np.shares_memory(first.anomaly_map, second.anomaly_map)


def test_frames_that_may_not_be_written_are_read_all_the_same(tiny_model: Path) -> None:
    pixels = frames(1)
    pixels.flags.writeable = False
    with open_model(tiny_model) as session, OnnxRuntimeSession(tiny_model, FRAME) as other:
        np.testing.assert_allclose(session.infer(pixels).score, other.infer(pixels).score, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 3, 4, 5])
def test_a_batch_is_filled_up_and_cut(tiny_model: Path, n: int) -> None:
    graph = onnx.load(str(tiny_model))
    for tensor in (*graph.graph.input, *graph.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 4
    del graph.graph.value_info[:]
    four = tiny_model.with_name("four.onnx")
    onnx.save(graph, str(four))
    with open_model(tiny_model) as one, open_model(four, replace(FRAME, batch=4)) as batched:
        expected, got = one.infer(frames(n)), batched.infer(frames(n))
    assert got.score.shape == (n,)
    np.testing.assert_allclose(got.score, expected.score, rtol=1e-6)
    np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, rtol=1e-6)


def test_what_a_time_of_it_includes(tiny_model: Path) -> None:
    with open_model(tiny_model) as session:
        told = session.runtime
    assert told["library"].startswith("openvino 20")
    assert told["threads"] >= 1
    session.close()


def test_a_graph_of_another_frame_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ArtefactError, match="no graph of ours"):
        open_model(tiny_model, FrameSpec(64, 64, 3))


def test_a_graph_that_it_does_not_take(tmp_path: Path) -> None:
    node = onnx.helper.make_node("NoSuchOperator", ["frames"], ["score"])
    ports = [
        onnx.helper.make_tensor_value_info(name, kind, [1, 48, 64, 3])
        for name, kind in (("frames", onnx.TensorProto.UINT8), ("score", onnx.TensorProto.FLOAT))
    ]
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:])
    model = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)]), str(model))
    with pytest.raises(ArtefactError, match="does not take") as info:
        BACKEND.build(model, tmp_path / "plan", BuildOptions())
    assert info.value.exit_code == 4
    assert len(info.value.what.splitlines()) == 1
    assert "NoSuchOperator" in info.value.what
    assert not (tmp_path / "plan").exists()


def test_what_is_no_graph_never_reaches_the_runtime(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"this was never a graph" * 20)
    with pytest.raises(ArtefactError, match="no ONNX graph of ours: byte 0 begins no field"):
        BACKEND.build(model, tmp_path / "plan", BuildOptions())


def test_a_graph_whose_weights_are_in_another_file_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = onnx.load(str(tiny_model))
    tensor = next(t for t in model.graph.initializer if t.name == "white")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    tensor.data_location = onnx.TensorProto.EXTERNAL
    path = tmp_path / "outside.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtefactError, match="external data"):
        BACKEND.build(path, tmp_path / "plan", BuildOptions())


def test_a_cpu_takes_no_option_of_a_gpu(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="OpenVINO takes no --compute-capability"):
        BACKEND.build(tiny_model, tmp_path / "plan", BuildOptions(compute_capabilities=("8.6",)))


def test_an_engine_of_another_machine_or_precision_is_refused(
    built: dict[Precision, Built], tmp_path: Path
) -> None:
    engine = tmp_path / "part.engine"
    engine.write_bytes(built["fp32"].path.read_bytes())
    value = read_json(sidecar_path(built["fp32"].path), "sidecar")
    write_json(sidecar_path(engine), {**value, "device": {"machine": "vax"}})
    with pytest.raises(ArtefactError, match="built for vax"):
        open_engine(engine)
    if BACKEND.refuses("fp16") is not None:
        write_json(sidecar_path(engine), {**value, "precision": "fp16"})
        with pytest.raises(ArtefactError, match="was to be fp16"):
            open_engine(engine)


def test_what_was_hashed_is_what_is_compiled(built: dict[Precision, Built], tmp_path: Path) -> None:
    engine = tmp_path / "part.engine"
    whole = built["fp32"].path.read_bytes()
    engine.write_bytes(b"swapped after it was hashed")
    sidecar = replace(read_sidecar(built["fp32"].path), plan_sha256=sha256_file(engine))
    with BACKEND.open(engine, sidecar, whole) as session:
        assert session.infer(frames(1, session.frame)).score.shape == (1,)


def test_without_the_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    reason = BACKEND.unavailable()
    assert reason is not None
    assert "needs openvino, which is not installed" in reason
    with pytest.raises(MissingExtraError, match=r"agp-edge\[openvino\]"):
        BACKEND.build(tiny_model, tmp_path / "plan", BuildOptions())


def test_openvino_reports_nothing_home(tmp_path: Path) -> None:
    """Its package sends a message when it is imported, and leaves an identity in the home: not through us."""
    code = """
import json, sys
from agp_edge.engines import get_backend
reason = get_backend("openvino").unavailable()
print(json.dumps([reason, sorted(name for name in sys.modules if name.startswith("openvino_telemetry"))]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={"HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert json.loads(done.stdout) == [None, []]
    assert list(tmp_path.iterdir()) == []


Command = Callable[..., tuple[int, str, str]]


def test_an_engine_of_it_does_what_others_do(
    bundle_copy: Path, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    code, _, err = command("build-engine", bundle_copy, "--backend", "openvino", "--precision", "int8")
    assert code == 0, err
    engine = bundle_copy.parent / "part.int8.openvino.engine"
    defect = sample_data / "brick" / "test"
    uses: list[list[Any]] = [
        ["inspect", engine],
        ["verify", engine],
        ["compare", bundle_copy, engine],
        ["predict", engine, defect, "--json", tmp_path / "predict.json"],
        ["stream", "--source", defect / "good", "--engine", engine, "--jsonl", tmp_path / "verdicts.jsonl"],
    ]
    for use in uses:
        code, _, err = command(*use)
        assert code == 0, (use, err)
    assert (tmp_path / "verdicts.jsonl").read_text().count("\n") == len(list((defect / "good").iterdir()))
