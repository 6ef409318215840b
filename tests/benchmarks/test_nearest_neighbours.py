from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agp_edge.datasets import load_dataset
from agp_edge.datasets.images import read_frame
from agpnet.front import FrameFront
from agpnet.run import load_run
from agpnet.study import AGPNET, read_study
from benchmarks.nearest_neighbours import (
    CHUNK,
    VARIANTS,
    NearestNeighbours,
    describe,
    main,
    nearest,
    patchcore_weight,
    remember,
    tokens_of,
)


def test_the_nearest_is_that_of_every_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, memory = torch.randn(7, 3, generator=generator), torch.randn(CHUNK + 100, 3, generator=generator)
    memory[CHUNK + 5] = queries[2]
    found = nearest(queries, memory)
    assert torch.equal(found, torch.cdist(queries, memory).argmin(dim=1))
    assert found[2] == CHUNK + 5


def test_patchcores_weight_by_hand() -> None:
    # The farthest token is 3 from its nearest, which lies at 0; the good ones around that are at 3, 4 and 5 from it.
    memory = torch.tensor([[0.0], [-1.0], [-2.0]])
    tokens = torch.tensor([[[3.0], [-1.0]]])
    weight = patchcore_weight(tokens, torch.tensor([[0, 1]]), memory)
    assert weight.tolist() == pytest.approx([1 - math.exp(3) / (math.exp(3) + math.exp(4) + math.exp(5))])


def test_local_tokens_are_means_of_the_cells_that_there_are(trained_run: Path) -> None:
    network, _ = load_run(trained_run)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    rows, columns = network.backbone.grid
    plain = tokens_of(network, images, local=False).reshape(2, rows, columns, -1)
    local = tokens_of(network, images, local=True).reshape(2, rows, columns, -1)
    torch.testing.assert_close(local[0, 1, 2], plain[0, 0:3, 1:4].mean(dim=(0, 1)))
    torch.testing.assert_close(local[1, 0, 0], plain[1, 0:2, 0:2].mean(dim=(0, 1)))


@pytest.mark.parametrize("local", [False, True])
def test_what_is_remembered_is_good_and_what_is_not_is_as_far_as_it_is(
    trained_run: Path, sample_data: Path, local: bool
) -> None:
    network, record = load_run(trained_run)
    samples = load_dataset(sample_data).classes[0].train[:3]
    memory = remember(network, record.frame, samples[:2], local=local)
    rows, columns = network.backbone.grid
    assert memory.shape == (2 * rows * columns, network.backbone.width)
    frames = np.stack([read_frame(sample, record.frame) for sample in samples])
    result = NearestNeighbours(network, record, memory, local=local).infer(frames)
    assert result.score[:2] == pytest.approx([0, 0], abs=1e-3)
    # The map of the third, from every distance, through the way that AGPNet's own tokens take.
    images = FrameFront(record.frame, network.backbone.input_size)(torch.from_numpy(frames[2:]))
    tokens = tokens_of(network, images, local=local)
    found = memory[torch.cdist(tokens[0], memory).argmin(dim=1)]
    network.residual_scale = "off"  # What training learned of the decoder says nothing of neighbours.
    score, anomaly_map = network.judge(tokens, found[None])
    assert result.score[2] == pytest.approx(float(score), rel=1e-4)
    np.testing.assert_allclose(result.anomaly_map[2], anomaly_map[0].numpy(), rtol=1e-3, atol=1e-4)
    weighed = NearestNeighbours(network, record, memory, local=local, reweight=True).infer(frames[2:])
    assert 0 < weighed.score[0] < result.score[2]


def test_a_memory_may_be_limited(trained_run: Path, sample_data: Path) -> None:
    network, record = load_run(trained_run)
    samples = load_dataset(sample_data).classes[0].train[:2]
    whole = remember(network, record.frame, samples, local=False)
    some = remember(network, record.frame, samples, local=False, most=5)
    assert len(some) == 5
    assert (torch.cdist(some, whole).amin(dim=1) < 1e-3).all()
    assert torch.equal(some, remember(network, record.frame, samples, local=False, most=5))


def test_it_runs(
    sample_data: Path, tmp_path: Path, tiny_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    settings = [
        f"--set={k}={json.dumps(v)}" for k, v in tiny_settings.items() if k not in ("backbone", "steps")
    ]
    arguments = [
        str(sample_data),
        str(out),
        "--classes",
        "gravel",
        "--seeds",
        "1",
        "--steps-list",
        "2,3",
        *settings,
    ]
    assert main(arguments) == 0
    printed, said = capsys.readouterr()
    assert said.splitlines()[0] == "0/2"
    document = read_study(out)
    assert printed == describe(document) + "\n"
    first, second = document["results"].values()
    assert list(first["parts"]) == sorted([AGPNET, *VARIANTS])
    assert list(second["parts"]) == [AGPNET]
    tokens = {name: first["parts"][name]["memory_tokens"] for name in VARIANTS}
    assert tokens["plain-trained"] == tokens["local-trained"] < tokens["plain-all"] == tokens["local-all"]
    assert tokens["plain-all"] == 42 * 16
    assert "| nearest | plain, as trained on * | gravel | 1 |" in printed
    assert "| 3 steps | " in printed
    assert main(arguments) == 0
    assert capsys.readouterr().err.splitlines() == ["2/2"], "nothing is trained twice"


def test_bad_input_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent"), str(tmp_path / "out.json")]) == 2
    assert "no data set" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "out.json"), "--set", "steps"]) == 2
    assert "'steps' is no NAME=VALUE" in capsys.readouterr().err
