"""`build-engine` interrupted and killed, as a real process, in each of its phases: what it leaves is an engine, or is not taken for one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agp_edge.bundle import Bundle
from agp_edge.engines import get_backend, open_engine, read_sidecar, timing
from agp_edge.engines.choice import choose_engine
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.errors import ArtefactError

pytest.importorskip("onnxruntime")
# Not `importorskip`: OpenVINO imported by itself sends a message over the network.
if get_backend("openvino").unavailable() is not None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

DRIVER = """
import contextlib, os, re, sys, time
from pathlib import Path
from agp_edge.cli import app, engine
from agp_edge.cli.console import run_command
from agp_edge.engines import timing

timing.TIMING_SECONDS = 0.1
wanted = os.environ["STOP_AT"]

def look(text):
    if re.fullmatch(wanted, text):
        print("here", flush=True)
        time.sleep(120)

@contextlib.contextmanager
def bar(title):
    yield lambda done, total, note="": look(note)

engine.progress_bar = bar
replace = Path.replace

def watched(self, target):
    if not any(part.startswith(".") for part in Path(target).parts):
        look(f"move {Path(target).name}")
    return replace(self, target)

Path.replace = watched
sys.exit(run_command(app))
"""
"""The command itself; it stops and waits where a note of its progress or a move is the one that was asked for."""

PHASES = {
    "reference": r"measuring fp32",
    "candidate": r"openvino int8: measuring int8",
    "timing": r"timing, ms",
    "installing": r"putting it in place",
    "plan": r"move part\.\w+\.(onnxruntime|openvino)\.engine",
    "sidecar": r"move part\.\w+\.(onnxruntime|openvino)\.engine\.json",
    "naming": r"naming the default",
    "default": r"move part\.default\.engine",
    "default's sidecar": r"move part\.default\.engine\.json",
}


def stop_at(phase: str, number: int, bundle: Path, *options: str) -> int:
    """Run the command until a phase, send it a signal, and give its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, "build-engine", str(bundle), *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "STOP_AT": PHASES[phase]},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n", "it never came to that phase"
        process.send_signal(number)
        return process.wait(60)


def engines_of(folder: Path) -> list[Path]:
    """Every engine that would be taken for one: each must open, and have passed. A plan without a sidecar is refused."""
    found = []
    for path in sorted(folder.glob("*.engine")):
        if path.is_symlink() or sidecar_path(path).exists():
            session, sidecar = open_engine(path)
            session.close()
            assert sidecar.gate is not None
            assert sidecar.gate["outcome"] == "passed"
            found.append(path)
        else:
            with pytest.raises(ArtefactError, match="is missing"):
                open_engine(path)
    return found


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_what_a_stopped_choice_leaves(bundle_copy: Path, phase: str, number: signal.Signals) -> None:
    code = stop_at(phase, number, bundle_copy, "--precision", "int8")
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    folder = bundle_copy.parent
    found = engines_of(folder)
    named = [path.name for path in found if path.name == "part.default.engine"]
    assert named == (["part.default.engine"] if phase == "default's sidecar" else [])
    assert len(found) - len(named) == (1 if phase in ("naming", "default", "default's sidecar") else 0)
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert number == signal.SIGKILL or not hidden, "an interrupt clears away its scratch folder"


@pytest.mark.parametrize("phase", ["timing", "sidecar", "default", "default's sidecar"])
def test_a_killed_choice_over_earlier_engines(
    bundle_copy: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "TIMING_SECONDS", 0.05)
    first = choose_engine(Bundle(bundle_copy), None, "onnxruntime", every=True)
    assert first.default is not None
    before = {built.path for built in first.built}
    stop_at(phase, signal.SIGKILL, bundle_copy, "--all-precisions", "--backend", "onnxruntime")
    left = set(engines_of_killed(bundle_copy.parent))
    assert before - left <= {path for path in before if not sidecar_path(path).exists()}
    assert len(before - left) == (1 if phase == "sidecar" else 0), "one at most is without its sidecar"
    again = choose_engine(Bundle(bundle_copy), None, "onnxruntime", every=True)
    assert again.default is not None
    assert again.chosen is not None
    assert again.chosen.built is not None
    assert read_sidecar(again.default) == again.chosen.built.sidecar


def engines_of_killed(folder: Path) -> list[Path]:
    """As `engines_of`, but for a default whose engine was being replaced."""
    default = folder / "part.default.engine"
    if default.is_symlink() and not sidecar_path(default.resolve()).exists():
        with pytest.raises(ArtefactError, match="is missing"):
            open_engine(default)
        default.unlink()
    return engines_of(folder)
