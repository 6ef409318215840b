"""Which backbone it is: by what it sees with, not by its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from agpnet.backbones import FilterBank, backbone_sha256, load_pretrained


def test_the_hash_of_a_backbone_is_of_its_filters() -> None:
    one, other = FilterBank(64), FilterBank(64)
    assert backbone_sha256(one) == backbone_sha256(other)
    other.bank[0, 0, 0, 0] += 1e-3
    assert backbone_sha256(one) != backbone_sha256(other)


def test_of_a_pretrained_one_it_is_of_weights_and_pixel_statistics(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = model_folder("vit")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    known = backbone_sha256(load_pretrained(str(folder)))
    assert backbone_sha256(load_pretrained(str(elsewhere))) == known
    assert backbone_sha256(load_pretrained(str(folder), mean=(0.5, 0.5, 0.5))) != known
    other = load_pretrained(str(folder))
    next(other.model.parameters()).data.mul_(1.5)
    assert backbone_sha256(other) != known
    assert backbone_sha256(load_pretrained(str(folder)).bfloat16()) != known
