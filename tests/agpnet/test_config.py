"""Hyper-parameters by name: defaults, presets, a TOML file, and everything that is wrong with them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agp_edge.errors import InputError
from agpnet.config import PRESETS, Config, config_from_dict, make_config, resolve


def test_defaults_are_the_papers_or_ours() -> None:
    config = make_config()
    assert config == Config()
    assert (config.backbone, config.noise, config.where, config.mask, config.ema) == (
        "facebook/dino-vits16",
        "guided",
        "both",
        "both",
        True,
    )


def test_every_hyper_parameter_is_documented() -> None:
    assert Config.__doc__ is not None
    for field in fields(Config):
        # Python 3.13 keeps docstrings without their indentation.
        assert re.search(rf"^ +{field.name}: ", Config.__doc__, re.MULTILINE), field.name


def test_a_preset_gives_way_to_the_file_and_the_file_to_flags(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('backbone = "filterbank"\nsteps = 77\nseed = 3\nlayers = [1, 2]\nalpha_max = 2\n')
    config = make_config(file, seed=4, noise=None)
    preset = PRESETS["filterbank"]
    assert config.learning_rate == preset["learning_rate"] != Config.learning_rate
    assert (config.steps, config.seed, config.noise, config.layers) == (77, 4, "guided", (1, 2))
    assert (config.alpha_max, type(config.alpha_max)) == (2, float)
    assert config_from_dict(config.to_dict()) == config, "a run keeps it whole"


def test_epochs_are_steps_by_another_name(tmp_path: Path) -> None:
    config = make_config(epochs=3, batch_size=8)
    assert resolve(config, 20).steps == 9, "the last batch of a pass counts"
    assert resolve(resolve(config, 20), 20) == resolve(config, 20)
    assert resolve(make_config(steps=7), 20).steps == 7
    file = tmp_path / "settings.toml"
    file.write_text("epochs = 4\n")
    assert make_config(file).epochs == 4
    assert (make_config(file, steps=5).epochs, make_config(file, steps=5).steps) == (0, 5)
    file.write_text("steps = 50\n")
    assert resolve(make_config(file, epochs=2, batch_size=5), 10).steps == 4
    file.write_text("steps = 50\nepochs = 4\n")
    with pytest.raises(InputError, match=r"settings\.toml gives both steps = 50 and epochs = 4"):
        make_config(file)
    with pytest.raises(InputError, match="the command line gives both steps = 50 and epochs = 4"):
        make_config(steps=50, epochs=4)


def test_what_is_left_open_follows_the_classes() -> None:
    assert resolve(Config(), 10, 1).setup == "one-class"
    assert resolve(Config(), 10, 3).setup == "multi-class"
    assert resolve(Config(setup="multi-class"), 10, 1).setup == "multi-class"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 1}, "no hyper-parameter 'alpha'"),
        ({"steps": "ten"}, "is not a whole number"),
        ({"steps": 10.0}, "is not a whole number"),
        ({"steps": True}, "is not a whole number"),
        ({"ema": 1}, "is not true or false"),
        ({"beta": "0.1"}, "is not a number"),
        ({"beta": True}, "is not a number"),
        ({"backbone": 3}, "is not text"),
        ({"layers": [0]}, "is not a list of block numbers"),
        ({"layers": 3}, "is not a list of block numbers"),
        ({"noise": "loud"}, "is not guided or random or none"),
        ({"mask": ["both"]}, "is not both or prior or learned"),
        ({"steps": 0}, "out of range"),
        ({"batch_size": -1}, "out of range"),
        ({"learning_rate": 0.0}, "out of range"),
        ({"ema_decay": 1.1}, "out of range"),
        ({"hold_out": -0.1}, "out of range"),
        ({"rho_max": 2}, "out of range"),
        ({"beta": float("nan")}, "out of range"),
        ({"beta": float("inf")}, "out of range"),
        ({"blur_sigma": -1}, "out of range"),
        ({"shots": -1}, "out of range"),
        ({"robust_from": 1.5}, "out of range"),
        ({"robust_mads": 0.0}, "out of range"),
        ({"setup": "two-class"}, "is not auto or one-class or multi-class"),
        ({"robust": True}, "is not off or images or patches"),
        ({"device": "tpu"}, "is not auto or cpu or cuda"),
        ({"precision": "int8"}, "is not fp32 or bf16 or fp16"),
        ({"compile": 1}, "is not true or false"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        config_from_dict(values)
    name, value = next(iter(values.items()))
    assert name in caught.value.what
    assert name == "alpha" or repr(value) in caught.value.what or str(value) in caught.value.what


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    with pytest.raises(InputError, match="cannot read the configuration"):
        make_config(file)
    for content in (b"steps: 3", b"\xff\xfe", b"steps = "):
        file.write_bytes(content)
        with pytest.raises(InputError, match="is no TOML"):
            make_config(file)
    file.write_text("[training]\nsteps = 3\n")
    with pytest.raises(InputError, match="no hyper-parameter 'training'"):
        make_config(file)
