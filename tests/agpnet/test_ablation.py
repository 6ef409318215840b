"""The switches, and a real ablation: cut short by Ctrl-C, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agp_edge.datasets import load_dataset
from agp_edge.errors import InputError
from agpnet.ablation import OURS, SWITCHES, ablate, make_variants, read_ablation
from agpnet.config import Config, make_config
from agpnet.perturbation import noise_strength, perturb_features
from agpnet.study import read_study

Command = Callable[..., tuple[int, str, str]]


def test_each_switch_is_varied_alone_and_the_default_stands_in_each() -> None:
    config = Config()
    variants, notes = make_variants(config, (3, 6, 9, 12))
    assert notes == []
    assert [v.switch for v in variants if v.default] == [*SWITCHES, "layers"]
    for variant in variants:
        changed = {k for k, v in variant.config.to_dict().items() if v != config.to_dict()[k]}
        assert changed == (set() if variant.default else {variant.switch})
    assert [v.value for v in variants if v.switch == "noise"] == ["none", "random", "guided"]
    assert [v.value for v in variants if v.switch == "ema"] == ["off", "on"]
    assert [v.value for v in variants if v.switch == "layers"] == ["3", "6", "9", "12", "3+6+9+12"]
    assert len({str(v.config) for v in variants}) == 1 + 2 + 2 + 2 + 1 + 1 + 4


def test_what_is_varied_may_be_another_configuration() -> None:
    variants, _ = make_variants(Config(noise="random", steps=5), (), ["noise"])
    assert [(v.value, v.default) for v in variants] == [("none", False), ("random", True), ("guided", False)]
    assert {v.config.steps for v in variants} == {5}


def test_layers_are_left_out_of_a_backbone_with_one_and_it_is_said() -> None:
    variants, notes = make_variants(Config(backbone="filterbank"), ())
    assert "layers" not in {v.switch for v in variants}
    assert notes == ["layers: left out, the backbone filterbank has one layer alone"]
    with pytest.raises(InputError, match="nothing is left to vary: layers: left out"):
        make_variants(Config(backbone="filterbank"), (), ["layers"])
    with pytest.raises(InputError, match="no switch 'colour'"):
        make_variants(Config(), (), ["colour"])


def test_what_is_not_of_the_paper_is_varied_where_it_is_used_or_named() -> None:
    used, _ = make_variants(make_config(backbone="filterbank"), ())
    ours = [(v.switch, v.value, v.default) for v in used if v.switch in OURS]
    assert ours == [
        ("residual_scale", "off", False), ("residual_scale", "channel", False), ("residual_scale", "rebuilt", True),
        ("distance", "token", False), ("distance", "cell", True),
    ]  # fmt: skip
    named, _ = make_variants(Config(), (), ["distance"])
    assert [(v.value, v.default) for v in named] == [("token", True), ("cell", False)]


def test_random_noise_has_the_energy_of_guided_noise_in_the_tokens_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    target, mask = torch.randn(2, 64, 1024, generator=generator), torch.rand(2, 64, generator=generator)
    energies = []
    for noise in ("guided", "random"):
        strength = noise_strength(mask, replace(Config(), noise=noise), 0.8)
        added = perturb_features(target, strength, generator) - target
        energies.append(added.square().mean(dim=(1, 2)))
    torch.testing.assert_close(energies[0], energies[1], rtol=0.02, atol=0)


def options(settings: dict[str, Any], out: Path, *more: object) -> list[str]:
    given = [f"--set={k}={json.dumps(v)}" for k, v in settings.items() if k not in ("backbone", "steps")]
    return [
        "--out", str(out), "--backbone", "filterbank", "--steps", "25", "--switch", "ema", "--seeds", "2",
        "--classes", "gravel", *given, *map(str, more),
    ]  # fmt: skip


def ends(group: int) -> bool:
    """Whether every process of a group is gone, after a while at most."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_ctrl_c_loses_nothing_and_the_same_command_goes_on(
    sample_data: Path, tmp_path: Path, tiny_settings: dict[str, Any], command: Command
) -> None:
    out, scratch = tmp_path / "ablation", tmp_path / "scratch"
    scratch.mkdir()
    arguments = ["ablate", str(sample_data), *options(tiny_settings, out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "agp_edge", *arguments, "--jobs", "2"],
        env={**os.environ, "TMPDIR": str(scratch)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        if (out / "ablation.json").exists() and read_study(out / "ablation.json")["results"]:
            # As a terminal does it: to every process of the group.
            os.killpg(process.pid, signal.SIGINT)
            break
        time.sleep(0.02)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "layers: left out" not in stderr, "nobody asked for them"
    assert f"what was trained is in {out / 'ablation.json'}" in stderr
    assert ends(process.pid)
    assert list(scratch.glob("agp-edge-*")) == []
    first = read_study(out / "ablation.json")["results"]
    assert 1 <= len(first) < 4
    assert "| ema | off |" in (out / "ablation.md").read_text()

    code, printed, err = command(*arguments, "--json", tmp_path / "result.json")
    assert code == 0, err
    assert "trainings: 4/4" in err
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80, printed
    assert [line.split()[:3] for line in lines if line.startswith("ema")] == [
        ["ema", "off", "2"], ["ema", "on", "*"], ["ema", "off", "2"],
    ]  # fmt: skip
    document = read_study(out / "ablation.json")
    assert len(document["results"]) == 4
    assert {key: document["results"][key] for key in first} == first, "trained once"
    result = json.loads((tmp_path / "result.json").read_text())
    assert [(row["value"], row["default"], row["seeds"]) for row in result["rows"]] == [
        ("off", False, 2),
        ("on", True, 2),
    ]
    assert result["rows"][0]["difference"]["image_auroc"]["n"] == 2
    assert result["study"] == document
    assert (out / "ablation.md").read_text() == read_ablation(out / "ablation.json").to_markdown()


def test_one_model_for_all_classes(sample_data: Path, tmp_path: Path, tiny_settings: dict[str, Any]) -> None:
    config = Config(**{**tiny_settings, "steps": 2, "setup": "multi-class"})
    said: list[str] = []
    ablation = ablate(
        load_dataset(sample_data),
        config,
        tmp_path,
        seeds=1,
        switches=["alpha_schedule", "layers"],
        note=said.append,
    )
    assert said == ["layers: left out, the backbone filterbank has one layer alone"]
    assert [(r.value, r.seeds, sorted(r.per_class)) for r in ablation.rows] == [
        ("constant", 1, ["brick", "gravel"]),
        ("linear", 1, ["brick", "gravel"]),
    ]
    assert ablation.rows[0].pairs == 2
    assert "one model for all classes" in ablation.title
    assert len(ablation.document["results"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--switch", "colour"], "there is no switch 'colour'"),
        (["--classes", "gravel,snow"], "has no class 'snow'"),
        (["--setup", "some"], "setup = 'some' is not"),
        (["--out", "abl", "--json", "./abl/ablation.json"], "is where the trainings are kept"),
    ],
)
def test_bad_input_exits_2_before_anything_is_trained(
    sample_data: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command("ablate", sample_data, "--backbone", "filterbank", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []
