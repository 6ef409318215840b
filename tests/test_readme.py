"""What the README shows is so: its `console` blocks are run in order, its `sh` blocks are checked to be valid."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from agp_edge.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The lines of every fenced block of a language, without comments and empty ones."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    lines = (line.split("  #")[0].strip() for block in found for line in block.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_every_block_says_whether_it_is_run() -> None:
    fences = re.findall(r"^```(.*)$", README, re.MULTILINE)
    assert set(fences[::2]) == {"console", "sh"}
    assert set(fences[1::2]) == {""}


@pytest.mark.timeout(900)
def test_the_chain_by_hand(tmp_path: Path) -> None:
    lines = blocks("console")
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    assert len(commands) == len(lines) >= 12
    folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {
        "brick.bundle",
        "brick.int8.onnxruntime.engine",
        "brick.default.engine",
        "verdicts.jsonl",
        "annotated.webm",
        "maps",
    }


@pytest.mark.parametrize("line", blocks("sh"))
def test_what_is_only_shown_is_valid(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:.*## ", MAKEFILE, re.MULTILINE)
    elif words[0] == "agp-edge":
        group: Any = typer.main.get_command(app)
        group.commands[words[1]].make_context(words[1], words[2:])
    else:
        assert words[:2] == ["pip", "install"]
        (extras,) = re.findall(r"\[(.+)\]", line)
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", PYPROJECT, re.MULTILINE)


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_ci_runs_make_test_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.strip().startswith("make ")] == ["make test"]
