"""The table of commands: each has help, an example that parses, `--json`; wrong usage ends in 2."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from agp_edge.cli import COMMANDS, app

# typer's click is its own or the package, by its version: nothing to name a type by.
GROUP: Any = typer.main.get_command(app)


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agp_edge", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def help_of(name: str) -> str:
    result = CliRunner().invoke(app, [name, "--help"], prog_name="agp-edge", env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def examples(name: str) -> list[str]:
    """The lines of a command's help that call it."""
    lines = (line.strip() for line in help_of(name).splitlines())
    return [line for line in lines if line == f"agp-edge {name}" or line.startswith(f"agp-edge {name} ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples_that_parse(name: str) -> None:
    shown = examples(name)
    assert shown, help_of(name)
    for line in shown:
        # Parsed by the command itself, every type and range checked; nothing is run.
        GROUP.commands[name].make_context(name, shlex.split(line)[2:])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json(name: str) -> None:
    options = [opt for parameter in GROUP.commands[name].params for opt in parameter.opts]
    assert "--json" in options


def test_an_example_that_does_not_parse_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        GROUP.commands["train"].make_context("train", ["DATA", "--nonsense"])


def test_help_lists_every_command() -> None:
    done = run_cli("--help")
    assert done.returncode == 0
    words = done.stdout.split()
    assert [name for name in COMMANDS if name not in words] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["trian"], "No such command 'trian'", id="unknown command"),
        pytest.param(["train", "DATA", "--out", "RUN", "--nonsense"], "--nonsense", id="unknown option"),
        pytest.param(["train", "DATA"], "--out", id="missing option"),
        pytest.param(["train", "DATA", "--out", "RUN", "--steps", "many"], "--steps", id="wrong type"),
    ],
)
def test_wrong_usage_ends_in_2(arguments: list[str], said: str) -> None:
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "--help" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_no_command_shows_help_and_ends_in_2() -> None:
    done = run_cli()
    assert done.returncode == 2
    assert "build-engine" in done.stdout + done.stderr


def test_version() -> None:
    from agp_edge import __version__

    assert run_cli("--version").stdout == f"agp-edge {__version__}\n"


def test_a_stray_url_is_not_repeated_with_its_password() -> None:
    program = "from agp_edge.cli import main; main()"
    arguments = ["stream", "--engine", "e.engine", "rtsp://user:p@hunter2@10.0.0.5/live"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "10.0.0.5/live" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
