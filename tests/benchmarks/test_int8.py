from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.errors import ArtefactError
from agpnet.backbones.pretrained import load_model
from benchmarks.int8 import MOST_COSTLY, VIT_S_16, describe, main, read_report, save_vit, time_in_turns
from benchmarks.tables import KINDS
from calib.sensitivity import Effect


def test_every_graph_runs_once_a_round_in_an_order_that_changes() -> None:
    asked: list[tuple[str, int]] = []
    queries = [np.full(1, number, np.uint8) for number in range(3)]
    times = time_in_turns(
        {
            "fp32": lambda frames: asked.append(("fp32", int(frames[0]))),
            "fp16": lambda frames: asked.append(("fp16", int(frames[0]))),
            "int8": lambda frames: asked.append(("int8", int(frames[0]))),
        },
        queries, 40, np.random.default_rng(0),
    )  # fmt: skip
    assert {name: len(values) for name, values in times.items()} == {"fp32": 40, "fp16": 40, "int8": 40}
    assert all((values > 0).all() for values in times.values())
    rounds = [asked[start : start + 3] for start in range(0, 120, 3)]
    assert all({name for name, _ in turn} == set(times) for turn in rounds)
    assert all(len({number for _, number in turn}) == 1 for turn in rounds)
    assert len({tuple(name for name, _ in turn) for turn in rounds}) == 6


def test_a_bundle_is_measured_from_size_to_layers(
    calibrated_bundle: Path, sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "int8.json"
    assert (
        main(
            [
                str(out),
                str(sample_data),
                "--bundle",
                str(calibrated_bundle),
                "--rounds",
                "10",
                "--sensitivity",
            ]
        )
        == 0
    )
    told = capsys.readouterr()
    report = json.loads(out.read_text())
    (network,) = report["networks"]
    assert network["bytes"] == {
        p: (calibrated_bundle / f"model.{p}.onnx").stat().st_size for p in ("fp32", "fp16", "int8")
    }
    for threads in ("1", "2"):
        latency = network["latency"][threads]
        assert latency["fp32"]["over_fp32"] == {"ratio": 1.0, "low_95": 1.0, "high_95": 1.0}
        assert latency["int8"]["ms"]["n"] == 10
        assert latency["int8"]["over_fp32"]["low_95"] <= latency["int8"]["over_fp32"]["ratio"]
    assert network["gates"]["int8"]["flips"] == []
    assert set(network["image_auroc"]) == {"fp32", "fp16", "int8"}
    assert len(network["layers"]) == 10
    assert all(layer["alone"]["drift_max"] >= 0 for layer in network["layers"])
    assert "decoder.blocks.1.mlp.2" in told.err
    assert told.out.strip() == describe(report).strip() == KINDS["int8"](out).strip()
    costly = [line.split(" | ") for line in KINDS["int8-layers"](out).splitlines()[2:]]
    assert len(costly) == MOST_COSTLY + 1
    spent = [Effect(**layer["alone"]).spent for layer in network["layers"]]
    named = {layer["name"]: Effect(**layer["alone"]).spent for layer in network["layers"]}
    assert [named[row[1]] for row in costly[:-1]] == sorted(spent, reverse=True)[:MOST_COSTLY]
    assert costly[-1][1].startswith("all 10, one at a time: ")
    out.write_text("{}")
    with pytest.raises(ArtefactError, match="no result of benchmarks"):
        read_report(out)
    rows = [line.split(" | ") for line in told.out.splitlines() if line.startswith("| part | ")]
    assert [row[1] for row in rows] == ["fp32", "fp16", "int8"]
    assert rows[0][2].endswith(" MB")
    assert rows[2][5] == "0 of 16"
    assert rows[2][-1].endswith("points) |")


def test_the_vit_is_one_that_training_takes(tmp_path: Path) -> None:
    tiny = {
        **VIT_S_16,
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model, _ = load_model(str(save_vit(tmp_path / "vit", tiny)))
    settings: Any = model.config
    assert (settings.hidden_size, settings.patch_size) == (24, 16)
    first, again = (save_vit(tmp_path / name, tiny) / "model.safetensors" for name in ("a", "b"))
    assert first.read_bytes() == again.read_bytes()


def test_bad_input_exits_2(
    calibrated_bundle: Path, exported_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "int8.json")
    assert main([out, "--bundle", str(calibrated_bundle), "--rounds", "3"]) == 2
    assert main([out, "--bundle", str(exported_bundle)]) == 2
    assert "has no int8 graph" in capsys.readouterr().err
    assert main([out, "--bundle", str(calibrated_bundle), "--rounds", "10", "--sensitivity"]) == 2
