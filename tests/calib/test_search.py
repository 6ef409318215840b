"""The search keeps the layer that cannot bear INT8, and the gate then passes what it would have refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from agp_edge.engines.base import Inference
from agp_edge.engines.onnxruntime import OnnxRuntimeSession
from agp_edge.errors import InputError
from agp_edge.frame import FrameSpec
from agp_edge.gate import ALLOWANCES, GateReport, Scores
from agp_edge.gate import compare as gate_compare
from calib.quantise import Quantiser
from calib.search import SHARE, search_precision, within
from calib.sensitivity import Effect, compare, describe_layers, measure_sensitivity, shorten

HEAD = "network.decoder.head"


def parts_of(
    graphs: Any,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Ranges, search, gate and threshold, taken from two surfaces alike."""
    frames = graphs.frames
    return frames[0::8][:8], frames[1::4][:12], frames[2::4][:16], frames[3::4][:16]


def judge(reference: Path, candidate: Path, frame: FrameSpec, gate: Any, threshold: Any) -> GateReport:
    scores = []
    for path in (reference, candidate):
        with OnnxRuntimeSession(path, frame) as session:
            judged = session.infer(gate)
            scores.append(
                Scores(
                    session.infer(threshold).score.tolist(), judged.score.tolist(), judged.anomaly_map, "int8"
                )
            )
    return gate_compare(scores[0], scores[1], [str(i) for i in range(len(gate))], {})


def test_the_fragile_layer_is_kept_and_the_gate_passes(fragile_graphs: Any, tmp_path: Path) -> None:
    ranges, search, gate, threshold = parts_of(fragile_graphs)
    quantiser = Quantiser(fragile_graphs.fp16, ranges, batch=1)
    told: list[str] = []
    choice = search_precision(
        quantiser, fragile_graphs.fp32, fragile_graphs.frame, search,
        progress=lambda done, total, note="": told.append(note),
    )  # fmt: skip
    assert [node.split("/")[0] for node in choice.kept] == [HEAD]
    assert len(choice.quantised) == 9
    assert not within(choice.everything)
    assert choice.fits
    assert set(choice.sensitivity) == set(quantiser.nodes)
    worst = max(choice.sensitivity, key=lambda node: choice.sensitivity[node].spent)
    assert worst == choice.kept[0]
    assert choice.attempts <= 2 + 4 + 1, "all, none, four by bisection, and one given back"
    assert {"search frames", "sensitivity of decoder.head"} <= set(told)

    quantiser.write(tmp_path / "all.onnx")
    refused = judge(fragile_graphs.fp32, tmp_path / "all.onnx", fragile_graphs.frame, gate, threshold)
    assert refused.outcome == "refused"
    quantiser.write(tmp_path / "kept.onnx", choice.kept)
    passed = judge(fragile_graphs.fp32, tmp_path / "kept.onnx", fragile_graphs.frame, gate, threshold)
    assert passed.outcome == "passed"

    text = choice.describe()
    assert text.startswith("9 of 10 layers in INT8")
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in choice.table().splitlines()[2:]]
    assert len(rows) == 10
    assert [row[0] for row in rows if row[1] == "fp16"] == ["decoder.head"]
    document = json.loads(json.dumps(choice.to_dict()))
    assert [layer["precision"] for layer in document["layers"]] == ["int8"] * 9 + ["fp16"]
    assert document["share_of_allowance"] == SHARE


def test_what_fits_at_once_is_measured_once_and_the_same_every_time(fragile_graphs: Any) -> None:
    ranges, search, *_ = parts_of(fragile_graphs)
    quantiser = Quantiser(fragile_graphs.fp16, ranges, batch=1)
    head = quantiser.nodes[-1]
    choice = search_precision(quantiser, fragile_graphs.fp32, fragile_graphs.frame, search, keep=[head])
    assert (choice.kept, choice.asked, choice.attempts, choice.sensitivity) == ([head], [head], 1, {})
    assert choice.effect == choice.everything
    assert "everything fitted at once on 12 search frames" in choice.describe()
    assert choice == search_precision(
        quantiser, fragile_graphs.fp32, fragile_graphs.frame, search, keep=[head]
    )


def test_a_rest_that_is_beyond_on_its_own_leaves_nothing_to_quantise(
    fragile_graphs: Any, tmp_path: Path
) -> None:
    ranges, search, *_ = parts_of(fragile_graphs)
    quantiser = Quantiser(fragile_graphs.fp16, ranges, batch=1)
    model = turn_scores(fragile_graphs.fp32, tmp_path / "turned.onnx")
    choice = search_precision(quantiser, model, fragile_graphs.frame, search)
    assert (choice.quantised, choice.attempts, choice.sensitivity, choice.fits) == ([], 2, {}, False)
    assert choice.describe().startswith("nothing quantised: fp16 alone is beyond what the search allows")


def turn_scores(source: Path, target: Path) -> Path:
    """A graph whose scores are those of another with the sign turned: nothing that precision could make good."""
    model = onnx.load(source)
    (producer,) = (n for n in model.graph.node if "score" in n.output)
    producer.output[0] = "score_before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["score_before"], ["score"], "turned"))
    onnx.save(model, str(target))
    return target


def test_sensitivity_takes_a_few_frames_and_any_layers(fragile_graphs: Any) -> None:
    ranges, *_ = parts_of(fragile_graphs)
    quantiser = Quantiser(fragile_graphs.fp16, ranges, batch=1)
    two = quantiser.layers[-2:]
    effects = measure_sensitivity(quantiser, fragile_graphs.frame, fragile_graphs.frames[:8], layers=two)
    assert list(effects) == [layer.node for layer in two]
    assert effects[two[1].node].spent > 10 * effects[two[0].node].spent
    with pytest.raises(InputError, match="3 frames are too few"):
        measure_sensitivity(quantiser, fragile_graphs.frame, fragile_graphs.frames[:3])


def inference(scores: list[float], maps: NDArray[np.float32] | None = None) -> Inference:
    if maps is None:
        maps = np.random.default_rng(0).random((len(scores), 4, 4), np.float32)
    return Inference(np.array(scores, np.float32), maps)


def test_frames_take_turns_as_threshold_and_gate() -> None:
    before = inference([1, 2, 3, 4, 5, 6])
    same = compare(before, before)
    assert (same.flips, same.drift_max) == (0, 0.0)
    assert same.map_correlation == pytest.approx(1.0)
    # Thresholds are 5 and 6, medians 3 and 4: a gap of 2 in either turn.
    moved = compare(before, inference([1, 2, 3, 4.5, 5, 6]))
    assert moved.drift_max == pytest.approx(0.25)
    assert moved.drift_mean == pytest.approx(0.25 / 6)
    # At a threshold of 5 two frames change sides.
    assert compare(before, inference([1, 2, 3, 6, 5, 4])).flips == 2
    one = before.anomaly_map.copy()
    one[0] = 1 - one[0]
    assert compare(before, inference([1, 2, 3, 4, 5, 6], one)).map_correlation == pytest.approx(2 / 3)


def test_what_an_effect_spends() -> None:
    allowed = ALLOWANCES["int8"]
    lost = 1 - allowed.map_correlation
    assert Effect(0, 0.3 * allowed.drift, 0.1, 1.0).spent == pytest.approx(0.3)
    assert Effect(0, 0.3 * allowed.drift, 0.1, 1 - 0.6 * lost).spent == pytest.approx(0.6)
    assert within(Effect(0, SHARE * allowed.drift, 0.1, 1.0))
    assert not within(Effect(1, 0.0, 0.0, 1.0))


def test_the_table_fits_a_terminal(fragile_graphs: Any) -> None:
    ranges, *_ = parts_of(fragile_graphs)
    layers = Quantiser(fragile_graphs.fp16, ranges, batch=1).layers
    effects = {layers[0].node: Effect(0, 12.5, 1.0, 0.5)}
    text = describe_layers(layers, [layers[0].node], effects)
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "in", "MACs", "saves", "KiB", "drift", "maps", "lose"]
    name, precision, _, saves, drift, lost = lines[2].split()
    assert (name, precision, drift, lost) == (layers[0].name, "int8", "12.50000", "0.500000")
    assert int(saves) == round(layers[0].saved_bytes / 1024)
    assert "fp16" in lines[3]
    assert max(map(len, lines)) <= 80
    assert "drift" not in describe_layers(layers, [])
    assert (
        shorten("backbone.encoder.stages.0.layers.0.layer.0.convolution")
        == "…ges.0.layers.0.layer.0.convolution"
    )
