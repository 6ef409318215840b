"""Export: the graph says what torch says, takes frames as TensorRT wants them, and tells nothing of the host."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from agp_edge.bundle import Bundle
from agp_edge.datasets import load_dataset
from agp_edge.datasets.images import read_image
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import ArtefactError, InputError
from agp_edge.frame import GRAPHS, FrameSpec
from agpnet.backbones import TransformerBackbone
from agpnet.config import make_config
from agpnet.network import AGPNet
from agpnet.run import TorchSession, load_run
from agpnet.training import train
from benchmarks.int8 import save_vit
from export.contract import MAX_DIFFERENCE, check_graph, check_parity
from export.onnx_export import bundle_name, export_network, export_run, without_folders
from export.reference import score_reference_frames

Command = Callable[..., tuple[int, str, str]]


def sample_frames(sample_data: Path, spec: FrameSpec) -> NDArray[np.uint8]:
    """Real frames of the test area, brought to a size by repeating and cutting."""
    files = sorted((sample_data / "brick" / "test").rglob("*.png"))[:4]
    frames = np.stack([read_image(file, mono=spec.channels == 1) for file in files])
    times = (1, -(-spec.height // frames.shape[1]), -(-spec.width // frames.shape[2]), 1)
    return np.ascontiguousarray(np.tile(frames, times)[:, : spec.height, : spec.width])


def worst(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.max(np.abs(got - expected) / np.abs(expected)))


def tiny_vit() -> AGPNet:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    model = transformers.ViTModel(
        transformers.ViTConfig(patch_size=16, image_size=64, **small), add_pooling_layer=False
    )
    model.config._attn_implementation = "eager"
    return AGPNet(TransformerBackbone(model.eval(), (2, 4), 64), decoder_heads=3, decoder_blocks=1).eval()


CASES = {
    "another size": FrameSpec(640, 480, 3),
    "a batch of 2": FrameSpec(256, 256, 3, 2),
    "mono, a batch of 3": FrameSpec(208, 152, 1, 3),
    "a pretrained model": FrameSpec(128, 64, 3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_scores_as_torch_does(
    name: str, trained_run: Path, sample_data: Path, tmp_path: Path
) -> None:
    spec = CASES[name]
    network = tiny_vit() if name == "a pretrained model" else load_run(trained_run)[0]
    model = tmp_path / "model.onnx"
    export_network(network, spec, model)
    frames = sample_frames(sample_data, spec)
    with OnnxRuntimeSession(model, spec) as session, TorchSession(network, spec) as reference:
        got, expected = session.infer(frames), reference.infer(frames)
    assert worst(got.score, expected.score) < 1e-3
    assert got.anomaly_map.shape == (4, 64, 64)
    np.testing.assert_allclose(got.anomaly_map, expected.anomaly_map, rtol=1e-3)
    np.testing.assert_array_equal(got.score, got.anomaly_map.max(axis=(1, 2)))
    assert len(set(expected.score.tolist())) == 4, "frames that differ score differently"


def test_the_bundles_graphs_score_as_the_run(
    trained_run: Path, exported_bundle: Path, sample_data: Path
) -> None:
    bundle = Bundle(exported_bundle)
    network, record = load_run(trained_run)
    assert bundle.manifest.frame == record.frame
    assert (bundle.manifest.trained, bundle.manifest.held_out) == (record.trained, record.held_out)
    assert bundle.manifest.precisions == ["fp32", "fp16"]
    assert not bundle.manifest.calibrated
    frames = sample_frames(sample_data, record.frame)
    expected = TorchSession(network, record.frame).infer(frames).score
    for precision, limit in (("fp32", 1e-3), ("fp16", 1e-2)):
        with OnnxRuntimeSession(exported_bundle / f"model.{precision}.onnx", record.frame) as session:
            assert worst(session.infer(frames).score, expected) < limit


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_is_as_the_contract_says(exported_bundle: Path, precision: str) -> None:
    model = onnx.load(exported_bundle / f"model.{precision}.onnx")
    onnx.checker.check_model(model, full_check=True)
    (opset,) = (o.version for o in model.opset_import if o.domain == "")
    assert opset >= 19
    assert {o.domain for o in model.opset_import if o.domain} <= {"", "pkg.onnxscript.torch_lib"}
    (frames,) = model.graph.input
    assert frames.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    users = [n.op_type for n in model.graph.node if frames.name in n.input]
    assert users == ["Cast"]
    assert model.graph.node[0].op_type == "Cast"
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        assert all(d.WhichOneof("value") == "dim_value" and d.dim_value > 0 for d in dims), value.name
    outputs = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    assert outputs == {"score": [1], "anomaly_map": [1, 64, 64]}
    assert {o.type.tensor_type.elem_type for o in model.graph.output} == {onnx.TensorProto.FLOAT}
    assert not {n.op_type for n in model.graph.node} & {"RandomNormal", "RandomNormalLike", "Loop", "If"}


@pytest.mark.parametrize("kind", ["filters", "a pretrained model"])
def test_half_precision_is_in_the_graph(kind: str, trained_run: Path, tmp_path: Path) -> None:
    network = load_run(trained_run)[0] if kind == "filters" else tiny_vit()
    path = tmp_path / "half.onnx"
    export_network(network, FrameSpec(64, 64, 3), path, half=True)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    types: dict[str, int] = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    types.update({t.name: t.data_type for t in model.graph.initializer})
    nodes = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
    # The spread that a token foretells belongs to the distance, which stays in single.
    of_the_distance = [n for n in nodes if any("residual_weight" in name for name in n.input)]
    assert len(of_the_distance) == (kind == "filters")
    products = [[types[name] for name in n.input] for n in nodes if n not in of_the_distance]
    assert all(types[name] == onnx.TensorProto.FLOAT for n in of_the_distance for name in n.input)
    assert len(products) > 8
    assert {kind for inputs in products for kind in inputs} == {onnx.TensorProto.FLOAT16}
    assert {o.type.tensor_type.elem_type for o in model.graph.output} == {onnx.TensorProto.FLOAT}
    single = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    assert not any("decoder" in name and "weight" in name for name in single)
    assert network.decoder.head.weight.dtype == torch.float32, "the network itself is not changed"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_tells_nothing_of_the_host(exported_bundle: Path, precision: str) -> None:
    data = (exported_bundle / f"model.{precision}.onnx").read_bytes()
    here = Path(__file__).resolve().parents[2]
    for word in (str(here), str(Path.home()), sys.prefix, "site-packages", ".py", "def forward", "Traceback"):
        assert word.encode() not in data, word
    assert not re.search(rb"/(home|root|tmp|usr)/", data)
    manifest = (exported_bundle / "manifest.json").read_text()
    assert str(here) not in manifest


def test_a_backbone_from_a_folder_is_known_by_its_name_alone(sample_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    small = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": 64, "patch_size": 16,
    }  # fmt: skip
    model = save_vit(tmp_path / "models" / "vit-small", small)
    settings = {
        "layers": [1, 2],
        "decoder_blocks": 1,
        "decoder_heads": 2,
        "input_size": 64,
        "steps": 1,
        "batch_size": 2,
    }
    train(load_dataset(sample_data), make_config(backbone=str(model), **settings), tmp_path / "run")
    bundle = export_run(tmp_path / "run", tmp_path / "part.bundle")
    network = bundle.manifest.network
    assert network["backbone"]["source"] == network["config"]["backbone"] == "vit-small"
    assert str(tmp_path) not in (bundle.path / "manifest.json").read_text()


@pytest.mark.parametrize("source", ["facebook/dino-vits16", "filterbank"])
def test_a_backbone_by_id_keeps_it(source: str) -> None:
    assert without_folders(source) == source


def test_the_same_run_gives_the_same_bytes_in_another_process(
    trained_run: Path, exported_bundle: Path, tmp_path: Path
) -> None:
    """With another order of sets and hashes, and other temporary folders."""
    code = (
        "import sys, torch; from pathlib import Path; from export.onnx_export import export_run; torch.set_num_threads(1); "
        "export_run(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    again = tmp_path / "part.bundle"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, trained_run, again],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "stdout belongs to results"
    assert contents(again) == contents(exported_bundle)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_graph_that_does_not_say_what_torch_says_is_refused(
    trained_run: Path, exported_bundle: Path
) -> None:
    network, record = load_run(trained_run)
    with TorchSession(network, record.frame) as session:
        reference = score_reference_frames(session)
    for precision in GRAPHS[:2]:
        model = exported_bundle / f"model.{precision}.onnx"
        assert check_parity(model, precision, record.frame, reference) < MAX_DIFFERENCE[precision]
    half = check_parity(exported_bundle / "model.fp16.onnx", "fp16", record.frame, reference)
    assert half > 1e-6, "half precision is seen"
    with torch.no_grad():
        network.decoder.head.bias.add_(1)
    with TorchSession(network, record.frame) as session:
        spoiled = score_reference_frames(session)
    for precision in GRAPHS[:2]:
        with pytest.raises(ArtefactError, match=f"{precision} graph scores differently from torch"):
            check_parity(exported_bundle / f"model.{precision}.onnx", precision, record.frame, spoiled)
    # One place of one map, while the score stays.
    elsewhere = reference.said.anomaly_map.copy()
    elsewhere[0].flat[elsewhere[0].argmin()] *= 0.5
    moved = replace(reference, said=replace(reference.said, anomaly_map=elsewhere))
    with pytest.raises(ArtefactError, match="scores differently from torch"):
        check_parity(exported_bundle / "model.fp32.onnx", "fp32", record.frame, moved)


def test_the_reference_frames_test_a_bundle_that_nobody_calibrated(
    trained_run: Path,
    exported_bundle: Path,
    tmp_path: Path,
    reseal: Callable[[Path], None],
    command: Command,
) -> None:
    bundle = Bundle(exported_bundle)
    entries, frames = bundle.load_frames("reference")
    assert [entry.file for entry in entries] == [f"frames/reference-{i}.png" for i in range(4)]
    assert all(entry.self_test for entry in entries)
    assert bundle.load_frames(self_test=True)[0] == entries
    network, record = load_run(trained_run)
    with TorchSession(network, record.frame) as session:
        expected = session.infer(frames).score
        swapped = session.infer(np.ascontiguousarray(frames[..., ::-1])).score
        shifted = session.infer(np.roll(frames, 1, axis=2)).score
    assert [entry.score for entry in entries] == pytest.approx(expected, rel=1e-5)
    assert np.ptp(expected) > 1e-2 * expected.mean(), "frames that differ score differently"
    for moved in (swapped, shifted):
        assert np.abs(moved / expected - 1).max() > 3e-3, "more than a self-test forgives"
    code, out, _ = command("verify", exported_bundle)
    assert code == 0
    assert "self-test: 4 frames score as where it was made" in out

    copy = Path(shutil.copytree(exported_bundle, tmp_path / "part.bundle"))
    model = onnx.load(copy / "model.fp32.onnx")
    (bias,) = (t for t in model.graph.initializer if t.name.endswith("decoder.head.bias"))
    bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) + 0.01).astype(np.float32).tobytes()
    onnx.save(model, copy / "model.fp32.onnx")
    reseal(copy)
    code, out, err = command("verify", copy)
    assert (code, out) == (4, "")
    assert "frames/reference-0.png scores" in err


def edit(model: onnx.ModelProto, change: str) -> onnx.ModelProto:
    """Spoil a graph in one way."""
    graph = model.graph
    if change == "operator":
        graph.node[1].op_type, graph.node[1].name = "Unique", "odd"
    elif change == "domain":
        graph.node[1].domain, graph.node[1].name = "com.example", "odd"
        model.opset_import.add(domain="com.example", version=1)
    elif change == "branch":
        body = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["cells"], ["branch"])],
            "body",
            [],
            [onnx.helper.make_tensor_value_info("branch", 1, [1, 6, 8])],
        )
        test = onnx.helper.make_tensor("test", onnx.TensorProto.BOOL, [], [True])
        graph.initializer.append(test)
        node = onnx.helper.make_node("If", ["test"], ["chosen"], "odd", then_branch=body, else_branch=body)
        graph.node.insert(5, node)
        graph.node[6].input[0] = "chosen"
    elif change == "shape":
        # How many places are not black is known once a frame is there.
        graph.node.append(onnx.helper.make_node("Compress", ["grey", "mask"], ["some"], "odd"))
        mask = onnx.helper.make_tensor("mask", onnx.TensorProto.BOOL, [2], [True, False])
        graph.initializer.append(mask)
    elif change == "function":
        one = onnx.helper.make_node("Identity", ["x"], ["y"])
        opsets = [onnx.helper.make_opsetid("", 19)]
        model.functions.append(onnx.helper.make_function("own", "f", ["x"], ["y"], [one], opsets))
        model.opset_import.add(domain="own", version=1)
    elif change == "weight":
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), "odd"))
    elif change == "opset":
        model.opset_import[0].version = 21
    else:
        tensor = onnx.TensorProto(name="odd", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../odd.bin")
        graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("operator", "node 'odd' is a Unique"),
        ("domain", "node 'odd' is a com.example.ReduceMean"),
        ("branch", "node 'odd' is a If"),
        ("shape", "node 'odd' is a Compress"),
        ("function", "a function of its own: f"),
        ("weight", "a number that is not finite"),
        ("opset", "has opset 21, TensorRT 10.3 with INT8 reads 19 to 20"),
        ("elsewhere", "external data"),
    ],
)
def test_a_graph_that_no_device_could_build_is_refused_and_the_node_named(
    change: str, message: str, tiny_model: Path
) -> None:
    onnx.save(edit(onnx.load(tiny_model), change), tiny_model)
    with pytest.raises(ArtefactError, match=message):
        check_graph(tiny_model, FrameSpec(64, 48, 3))


def test_a_shape_that_is_not_fixed_is_refused(tiny_model: Path) -> None:
    model = onnx.load(tiny_model)
    graph = model.graph
    # A length that depends on the frame: how far a range goes.
    graph.initializer.append(onnx.helper.make_tensor("zero", 1, [], [0.0]))
    nodes = [
        onnx.helper.make_node("Squeeze", ["score"], ["end"], "squeeze"),
        onnx.helper.make_node("Range", ["zero", "end", "white"], ["some"], "odd"),
    ]
    graph.node.extend(nodes)
    onnx.save(model, tiny_model)
    with pytest.raises(ArtefactError, match=r"output 'some' of node 'odd' \(Range\) has no fixed"):
        check_graph(tiny_model, FrameSpec(64, 48, 3))


def test_a_graph_that_breaks_the_contract_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    check_graph(tiny_model, FrameSpec(64, 48, 3))
    with pytest.raises(ArtefactError, match="takes"):
        check_graph(tiny_model, FrameSpec(64, 64, 3))
    model = onnx.load(tiny_model)
    model.graph.node[0].op_type = "Identity"
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ArtefactError, match="no valid ONNX"):
        check_graph(tmp_path / "wrong.onnx", FrameSpec(64, 48, 3))


def test_the_command_makes_a_bundle_for_the_cameras_frame(
    trained_run: Path, sample_data: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "line 3.bundle"
    code, text, _ = command(
        "export", trained_run, "--out", out, "--frame-size", "320x240", "--mono", "--json", "-"
    )
    assert code == 0
    told = json.loads(text)
    assert told["frame"] == {"width": 320, "height": 240, "channels": 1, "batch": 1}
    assert Bundle(out).manifest.name == "line-3"
    references = {f"frames/reference-{i}.png" for i in range(4)}
    assert set(told["files"]) == {"model.fp32.onnx", "model.fp16.onnx", *references}
    spec = FrameSpec(320, 240, 1)
    frames = sample_frames(sample_data, spec)
    with OnnxRuntimeSession(out / "model.fp32.onnx", spec) as session:
        expected = TorchSession(load_run(trained_run)[0], spec).infer(frames).score
        assert worst(session.infer(frames).score, expected) < 1e-3


def test_a_name_is_made_of_the_folders() -> None:
    assert bundle_name(Path("x/brick.bundle")) == "brick"
    assert bundle_name(Path("Zeile 3 größer")) == "Zeile-3-gr--er"
    assert bundle_name(Path("...bundle")) == bundle_name(Path("€€")) == "model"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frame-size", "640"], "is no frame size"),
        (["--frame-size", "8x8"], "far smaller"),
        (["--batch", "0"], "batch of 0 is out of range"),
        (["--batch", "65"], "batch of 65 is out of range"),
    ],
)
def test_bad_options_end_in_two(
    trained_run: Path, tmp_path: Path, command: Command, arguments: list[str], message: str
) -> None:
    code, out, err = command("export", trained_run, "--out", tmp_path / "x.bundle", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 2)
    assert message in err
    assert not (tmp_path / "x.bundle").exists()


def test_no_run_and_a_taken_place(trained_run: Path, tmp_path: Path, command: Command) -> None:
    assert command("export", tmp_path / "nothing", "--out", tmp_path / "x")[0] == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").touch()
    with pytest.raises(InputError, match="is no bundle"):
        export_run(trained_run, tmp_path / "mine")


def test_what_is_not_of_the_bundle_is_not_lost_with_it(
    trained_run: Path, bundle_copy: Path, command: Command
) -> None:
    (bundle_copy / "notes.txt").write_text("mine")
    before = contents(bundle_copy)
    code, _, err = command("export", trained_run, "--out", bundle_copy)
    assert code == 2
    assert "holds something else, which would be lost: notes.txt" in err
    assert contents(bundle_copy) == before


def test_an_interrupt_inside_the_exporter_is_one(trained_run: Path, tmp_path: Path) -> None:
    """Sent while torch traces: it comes out of the exporter as it was, and nothing stays behind."""
    code = (
        "import os, signal, sys, torch\n"
        "from agp_edge.cli import main\n"
        "import export.onnx_export\n"
        "real = torch.onnx.export\n"
        "def exported(module, *rest, **more):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(module, *rest, **more)\n"
        "torch.onnx.export = exported\n"
        "sys.argv = ['agp-edge', 'export', *sys.argv[1:]]\n"
        "sys.exit(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, trained_run, "--out", tmp_path / "part.bundle"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "interrupted")
    assert list(tmp_path.iterdir()) == []
