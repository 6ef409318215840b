"""Bad images among the good ones: who is found, who is not, and what they weigh."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agp_edge.datasets import load_dataset
from agp_edge.datasets.images import write_png
from agpnet.config import config_from_dict, make_config
from agpnet.robust import ImageScores, token_weights
from agpnet.run import load_run
from agpnet.trainer import Trainer
from agpnet.training import seeded_network, train


def errors_of(images: int, *, bad: int = 0, seed: int = 0) -> Tensor:
    """[N, 64] token errors as of good images; the first `bad` have two tokens that are eight times worse."""
    generator = torch.Generator().manual_seed(seed)
    errors = torch.randn(images, 64, generator=generator).mul(0.3).exp()
    errors[:bad, 5:7] *= 8
    return errors


def scored(errors: Tensor) -> ImageScores:
    scores = ImageScores(len(errors))
    scores.update(torch.arange(len(errors)), errors)
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_an_outlier_gets_no_weight_and_clean_images_keep_theirs(seed: int) -> None:
    errors = errors_of(80, bad=4, seed=seed)
    rows = torch.arange(80)
    whole = token_weights(scored(errors), rows, errors, "images", 4.0)
    assert whole is not None
    assert (whole[:4] == 0).all()
    assert whole[4:].mean() > 0.98
    patches = token_weights(scored(errors), rows, errors, "patches", 4.0)
    assert patches is not None
    assert (patches[:4, 5:7] == 0).all()
    assert patches[:4].mean() > 0.9, "the rest of a bad image is good"
    assert patches[4:].mean() > 0.999
    clean = errors_of(80, seed=seed)
    for mode in ("images", "patches"):
        kept = token_weights(scored(clean), rows, clean, mode, 4.0)
        assert kept is not None
        assert kept.mean() > 0.98


def test_a_tenth_of_bad_images_does_not_widen_the_limit() -> None:
    assert scored(errors_of(80, bad=8)).limit(4.0) == pytest.approx(scored(errors_of(80)).limit(4.0), abs=0.4)


def test_nothing_is_weighed_before_enough_is_known() -> None:
    errors = errors_of(12, bad=1)
    scores = ImageScores(12)
    scores.update(torch.arange(11), errors[:11])
    assert scores.limit(4.0) is None, "one image was not seen yet"
    assert token_weights(scores, torch.arange(4), errors[:4], "images", 4.0) is None
    assert token_weights(scored(errors), torch.arange(4), errors[:4], "off", 4.0) is None
    assert scored(errors_of(9, bad=1)).outliers(4.0) == [], "too few to tell who is unlike the others"


def test_copies_do_not_make_outliers_of_each_other() -> None:
    errors = torch.ones(20, 64)
    errors[3] *= 1.04
    assert scored(errors).outliers(4.0) == []


def test_a_score_is_the_mean_of_the_worst_tokens_and_follows_slowly() -> None:
    scores = ImageScores(10)
    errors = torch.ones(1, 300)
    errors[0, :3] = torch.tensor([2.0, 4.0, 6.0])
    scores.update(torch.tensor([2]), errors)
    assert float(scores.values[2]) == pytest.approx(math.log(4))
    scores.update(torch.tensor([2]), torch.ones(1, 300))
    assert float(scores.values[2]) == pytest.approx(math.log(4) / 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Fifteen stripes that lie a little differently, and number 7, which is a chessboard."""
    for i in range(16):
        y, x = np.mgrid[:64, :64]
        pattern = ((x + i) // 4 % 2) if i != 7 else ((x // 3 + y // 3) % 2)
        pixels = np.repeat((40 + i + 150 * pattern)[..., None], 3, axis=2).astype(np.uint8)
        write_png(tmp_path / "data" / f"{i:02}.png", pixels)
    return tmp_path / "data"


def test_a_run_names_the_images_that_look_unlike_the_others(
    data: Path, tmp_path: Path, tiny_settings: dict[str, Any]
) -> None:
    settings = {**tiny_settings, "steps": 60, "hold_out": 0.0, "learning_rate": 3e-3}
    record = train(load_dataset(data), make_config(**settings, robust="images"), tmp_path / "run")
    assert [s.name for s in record.suspects][:1] == ["07.png"]
    assert record.suspects[0].sha256 in record.trained
    assert load_run(tmp_path / "run")[1].suspects == record.suspects
    told = record.describe_suspects()
    assert told is not None
    assert " of 16 good images look" in told
    assert "07.png (" in told


def test_an_image_without_weight_teaches_nothing(tiny_settings: dict[str, Any]) -> None:
    """With all weight taken from one image, what it shows changes nothing."""
    images = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    config = config_from_dict(
        {"robust": "images", "robust_from": 0.0, "batch_size": 12, "noise": "none"},
        base=make_config(**tiny_settings),
    )
    losses = []
    for mode in ("images", "off"):
        trainer = Trainer(seeded_network(config), images, config_from_dict({"robust": mode}, base=config))
        trainer.scores.values = torch.tensor([9.0, *[0.0] * 11], dtype=torch.float64)
        losses.append(trainer.step())
        target = trainer.network.target(images)[0]
    fresh = seeded_network(config)
    fresh.channel_mean, fresh.channel_scale = trainer.network.channel_mean, trainer.network.channel_scale
    with torch.no_grad():
        each = (fresh.decoder(target) - target).square().mean(dim=(1, 2))
    assert losses == pytest.approx([float(each[1:].mean()), float(each.mean())], rel=1e-4)
