from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import benchmarks.backbones as study
from agpnet.backbones import FilterBank
from agpnet.network import AGPNet, Decoder

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "backbones.json"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(json.loads(RESULTS.read_text())["rows"])


def test_work_is_what_paper_and_pencil_say() -> None:
    channels, width, tokens, blocks = 8, 12, 16, 2
    decoder = Decoder(channels, tokens, width, 3, blocks)
    parameters, flops = study.count_work(decoder, torch.rand(1, tokens, channels))
    assert parameters == sum(p.numel() for p in decoder.parameters())
    linear = tokens * (channels * width + blocks * 12 * width**2 + width * channels)
    attention = blocks * 2 * tokens**2 * width
    assert flops == 2 * (linear + attention)


def test_what_nothing_is_taken_from_is_not_counted() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.taken = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.left = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))

        def forward(self, images: Tensor) -> Tensor:
            maps: Tensor = self.taken(images)
            self.left(maps)
            return maps

    assert study.count_work(Branch().eval(), torch.rand(1, 3, 8, 8)) == (3 * 4 * 9, 2 * 3 * 4 * 9 * 64)


def test_two_take_turns_and_the_first_turns_do_not_count() -> None:
    asked: list[str] = []
    ours, theirs = study.time_in_turns(lambda: asked.append("a"), lambda: asked.append("b"), 3)
    assert asked == ["a", "b"] * (study.WARM_UP + 3)
    assert len(ours) == len(theirs) == 3


def test_a_row_is_measured_for_real_and_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "REFERENCE", "filterbank")
    small = AGPNet(FilterBank(64), decoder_width=24, decoder_heads=3, decoder_blocks=1).eval()
    monkeypatch.setattr(study, "make_network", lambda architecture: small)
    out = tmp_path / "backbones.json"
    kept = {**json.loads(RESULTS.read_text())["rows"][-1]}
    out.write_text(json.dumps({"rows": [kept, {**kept, "name": "filterbank", "tokens": 1}]}))
    study.main([str(out), "--only", "filterbank", "--frames", "2"])
    new, other = json.loads(out.read_text())["rows"]
    assert other == kept
    assert (new["name"], new["tokens"], new["frames"], new["threads"]) == ("filterbank", 16, 2, 1)
    assert new["backbone_flops"] > 0
    assert min(new["torch_ms"]["min"], new["onnxruntime_ms"]["min"]) > 0
    assert new["machine"]["cores"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in printed[2:]] == ["| `filterbank`", f"| `{kept['source']}`"]


def test_the_published_architectures_are_rebuilt(rows: list[dict[str, Any]]) -> None:
    found = {row["name"]: row for row in rows}
    assert list(found) == list(study.ARCHITECTURES)
    width, depth = 384, 12
    block = 12 * width**2 + 13 * width
    vit = (3 * 16 * 16 + 1) * width + 198 * width + depth * block
    assert found["dino-vits16"]["backbone_parameters"] == vit
    # ResNet's published parameters, less its last stage and its classifier.
    assert found["resnet-18"]["backbone_parameters"] == 11_689_512 - 513_000 - 8_393_728
    assert found["resnet-50"]["backbone_parameters"] == 25_557_032 - 2_049_000 - 14_964_736
    tokens = 257
    work = 256 * 3 * 256 * width + depth * (tokens * 12 * width**2 + 2 * tokens**2 * width)
    assert found["dino-vits16"]["backbone_flops"] == 2 * work


def test_the_docs_show_the_table(rows: list[dict[str, Any]]) -> None:
    assert study.table(rows) in (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8")
