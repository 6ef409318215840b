"""A run on disk: whole, without pickles, and what happens to one that was changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from agp_edge.datasets import load_dataset
from agp_edge.datasets.images import read_image
from agp_edge.errors import ArtefactError, DiskFullError, InputError
from agp_edge.files import sha256_file
from agpnet.config import make_config
from agpnet.network import AGPNet
from agpnet.run import TorchSession, load_run, open_run, save_run
from agpnet.training import train

Command = Callable[..., tuple[int, str, str]]


class SmallDisk(Protocol):
    path: Path

    def leave(self, free_bytes: int) -> None: ...
    def listing(self) -> dict[str, bytes]: ...


@pytest.fixture(scope="module")
def vit_run(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a small pretrained model, which it keeps."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(patch_size=16, image_size=64, **small)).save_pretrained(
        folder / "vit"
    )
    settings = make_config(
        backbone=str(folder / "vit"), input_size=64, decoder_heads=3, decoder_blocks=1, steps=2, batch_size=4
    )
    train(load_dataset(sample_data), settings, folder / "run")
    shutil.rmtree(folder / "vit")  # A run needs nothing from elsewhere.
    return folder / "run"


@pytest.fixture
def run_copy(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def sample_frames(sample_data: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    files = sorted((sample_data / "brick" / "test").rglob("*.png"))[:4]
    return np.stack([read_image(file) for file in files])


@pytest.mark.parametrize("kind", ["trained_run", "vit_run"])
def test_a_round_trip_gives_equal_scores(
    request: pytest.FixtureRequest, kind: str, sample_data: Path, tmp_path: Path
) -> None:
    path: Path = request.getfixturevalue(kind)
    network, record = load_run(path)
    frames = sample_frames(sample_data)
    before = TorchSession(network, record.frame).infer(frames)
    assert np.isfinite(before.score).all()
    assert len(set(before.score.tolist())) == 4
    save_run(tmp_path / "again", network, record, "")
    again, copy = load_run(tmp_path / "again")
    assert copy == record
    after = TorchSession(again, record.frame).infer(frames)
    np.testing.assert_array_equal(after.score, before.score)
    np.testing.assert_array_equal(after.anomaly_map, before.anomaly_map)
    with open_run(path) as session:
        np.testing.assert_array_equal(session.infer(frames).score, before.score)


def test_a_run_is_told_in_one_line(trained_run: Path) -> None:
    record = replace(load_run(trained_run)[1], step=30, seconds=12.6, trained=["a", "b"], held_out=["c"])
    assert record.describe(Path("runs/nut")) == "runs/nut: 30 steps in 13 s on 2 good images, 1 held out"


def test_there_is_no_pickle_and_the_log_is_json(trained_run: Path, vit_run: Path) -> None:
    for run in (trained_run, vit_run):
        names = {p.name for p in run.iterdir()} - {"backbone"}
        (events,) = (name for name in names if name.startswith("events.out.tfevents."))
        assert names - {events} == {"log.jsonl", "run.json", "weights.safetensors"}
    assert {p.suffix for p in (vit_run / "backbone").iterdir()} == {".json", ".safetensors"}
    log = [json.loads(line) for line in (trained_run / "log.jsonl").read_text().splitlines()]
    assert {frozenset(line) for line in log} == {frozenset({"step", "loss", "lr", "alpha", "rho"})}


def edit(run: Path, **change: Any) -> None:
    value = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**value, **change}))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def no_weights(run: Path) -> None:
    """Weights of another network, with their right hash."""
    save_file({"decoder.nothing": torch.zeros(1)}, run / "weights.safetensors")
    edit(run, weights_sha256=sha256_file(run / "weights.safetensors"))


def not_safetensors(run: Path) -> None:
    (run / "weights.safetensors").write_bytes(b"no tensors at all")
    edit(run, weights_sha256=sha256_file(run / "weights.safetensors"))


def add_backbone(run: Path) -> None:
    (run / "backbone").mkdir()
    (run / "backbone" / "x").touch()


TAMPERING: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": lambda run: flip(run / "weights.safetensors"),
    "no weights": lambda run: (run / "weights.safetensors").unlink(),
    "other weights": no_weights,
    "weights that are none": not_safetensors,
    "another version": lambda run: edit(run, version=2),
    "another format": lambda run: edit(run, format="agp-edge-bundle"),
    "no JSON": lambda run: (run / "run.json").write_text("{"),
    "a config that is not": lambda run: edit(run, config={"steps": "many"}),
    "a config that is text": lambda run: edit(run, config="steps"),
    "no backbone": lambda run: edit(run, backbone={}),
    "another backbone": lambda run: edit(run, backbone={"kind": "transformer"}),
    "another frame": lambda run: edit(run, frame={"width": 3}),
    "a backbone's file too many": add_backbone,
}


@pytest.mark.parametrize("tamper", TAMPERING.values(), ids=TAMPERING.keys())
def test_a_run_that_was_changed_ends_in_four(
    run_copy: Path, tamper: Callable[[Path], object], command: Command
) -> None:
    tamper(run_copy)
    with pytest.raises(ArtefactError):
        load_run(run_copy)
    code, out, err = command("verify", run_copy)
    assert (code, out, len(err.splitlines())) == (4, "", 2)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_the_kept_backbone_is_held_against_its_hash_too(vit_run: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(vit_run, tmp_path / "run"))
    flip(run / "backbone" / name)
    with pytest.raises(ArtefactError, match="backbone/ is missing or was changed"):
        load_run(run)


def test_no_run_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run"):
        load_run(tmp_path)


@pytest.mark.parametrize("kind", ["trained_run", "vit_run"])
def test_a_full_disk_keeps_the_old_run(
    request: pytest.FixtureRequest, kind: str, small_disk: SmallDisk
) -> None:
    path = small_disk.path / "run"
    shutil.copytree(request.getfixturevalue(kind), path)
    network, record = load_run(path)
    before = small_disk.listing()
    size = sum(len(content) for content in before.values())
    for free in (8192, size // 2):
        small_disk.leave(free)
        with pytest.raises(DiskFullError):
            save_run(path, network, replace(record, step=99), "")
        assert small_disk.listing() == before
    assert isinstance(load_run(path)[0], AGPNet)
