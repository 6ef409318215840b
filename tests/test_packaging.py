"""What a device installs: the wheel's exact contents, and that three dependencies are enough for it to answer."""

from __future__ import annotations

import email
import json
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
LARGEST_WHEEL = 700_000
"""Bytes: the package is Python and two small pages. A wheel above this has picked up something."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The two folders a lean device has on its path: the wheel unpacked, and links to what it depends on, no more."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    (information,) = unpacked.glob("*.dist-info")
    required = email.message_from_string((information / "METADATA").read_text()).get_all("Requires-Dist", [])
    links = tmp_path_factory.mktemp("dependencies")
    for distribution in closure(required):
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            link = links / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return [str(unpacked), str(links)]


def closure(required: list[str]) -> list[metadata.Distribution]:
    """The installed distributions that requirements need, and theirs, without extras."""
    found: dict[str, metadata.Distribution] = {}
    todo = [Requirement(text) for text in required]
    while todo:
        requirement = todo.pop()
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and requirement.name not in found:
            found[requirement.name] = metadata.distribution(requirement.name)
            todo += [Requirement(text) for text in found[requirement.name].requires or []]
    return list(found.values())


def run_on_device(device: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`agp-edge` as it runs where only the wheel and its dependencies are installed: -S leaves site-packages out."""
    code = f"import sys; sys.path[:0] = {device}; from agp_edge.cli import main; sys.argv[0] = 'agp-edge'; main()"
    command = [sys.executable, "-I", "-S", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_wheel_holds_agp_edge_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    information = f"agp_edge-{wheel.name.split('-')[1]}.dist-info"
    beside = {f"{information}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "agp_edge").rglob("*")
        if path.suffix == ".py"
        or path.name == "py.typed"
        or path.name.endswith(".schema.json")
        or path.parent.name == "page"  # Of the live page.
        or path.suffix == ".service"
    }
    assert names == sources | beside | {f"{information}/licenses/LICENSE"}
    assert {"agp_edge/py.typed", "agp_edge/schemas/bundle.schema.json"} <= names
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size:,} bytes, {len(names)} files")
    assert size < LARGEST_WHEEL


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        told = email.message_from_bytes(archive.read(name))
    always = [r for r in map(Requirement, told.get_all("Requires-Dist", [])) if r.marker is None]
    assert sorted(r.name for r in always) == ["numpy", "rich", "typer"]
    assert told["License-Expression"] == "Apache-2.0"
    assert set(told.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])


def test_a_device_has_nothing_else_to_import(device: list[str]) -> None:
    """Guards the tests below: without it they could pass by finding the host's packages."""
    code = f"import sys; sys.path[:0] = {device}; import numpy, agp_edge; print(agp_edge.__file__)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(device[0])
    for package in (
        "torch",
        "cv2",
        "onnx",
        "onnxruntime",
        "openvino",
        "transformers",
        "agpnet",
        "export",
        "calib",
    ):
        found = subprocess.run(
            [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {device}; import {package}"],
            capture_output=True,
            check=False,
        )
        assert found.returncode, package


def test_a_lean_device_answers(device: list[str]) -> None:
    done = run_on_device(device, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "build-engine" in done.stdout
    done = run_on_device(device, "doctor", "--json", "-")
    assert done.returncode == 0, done.stderr
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    assert states["numpy"] == "ok"
    assert states["torch"] == states["OpenCV"] == states["ONNX Runtime"] == "missing"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train", "DATA", "--out", "RUN"], "pip install -e '.[host]'"),
        (["inspect", "DATA"], "pip install 'agp-edge[camera]'"),
        (["build-engine"], "agp-edge build-engine --help"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_lean_device_says_what_to_install(
    device: list[str], arguments: list[str], hint: str, tmp_path: Path
) -> None:
    image = tmp_path / "DATA" / "1.png"
    image.parent.mkdir()
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run_on_device(device, *[str(tmp_path / a) if a == "DATA" else a for a in arguments])
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def environment(python: str) -> dict[str, str]:
    return {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.4",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_the_constraints_pin_every_dependency_within_its_range(python: str) -> None:
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    here = environment(python)
    pinned = {
        pin.name: next(iter(pin.specifier)).version
        for pin in pins()
        if pin.marker is None or pin.marker.evaluate(here)
    }
    texts = [
        *PROJECT["dependencies"],
        *(t for extra in PROJECT["optional-dependencies"].values() for t in extra),
    ]
    for requirement in map(Requirement, texts):
        if requirement.name == PROJECT["name"]:
            continue
        if requirement.marker is None or requirement.marker.evaluate(here):
            assert requirement.name in pinned
            assert requirement.specifier.contains(Version(pinned[requirement.name])), requirement
