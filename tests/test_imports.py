"""What is imported when: a command line that starts at once, and a device without the host's packages.

The direction of imports between packages and layers is kept by `lint-imports` (the contracts are in pyproject.toml).
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST = ("agpnet", "export", "calib", "benchmarks")
HEAVY = (
    "numpy",
    "cv2",
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "transformers",
    "tensorrt",
    "tensorrt_rtx",
    *HOST,
)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from agp_edge.cli import main
sys.argv = ["agp-edge", "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
print([name for name in {HEAVY} if name in sys.modules])
"""
    printed = run_python(code).splitlines()
    assert any("build-engine" in line for line in printed)
    assert printed[-1] == "[]"


def test_every_module_of_the_wheel_imports_with_its_three_dependencies() -> None:
    """Every optional package is refused: what needs one imports it where it is used."""
    refused = tuple(name for name in HEAVY if name != "numpy")
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "agp_edge").rglob("*.py"))
    ]
    assert len(modules) > 40
    code = f"""
import importlib, json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(f"no module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
failed = {{}}
for name in {modules}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
"""
    assert json.loads(run_python(code)) == {}


def reached_by_name(path: Path) -> list[str]:
    """The packages that a file imports by a name in a string."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "import_extra", "require_host", "__import__"):
                found.append(str(node.args[0].value).split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "agp_edge").rglob("*.py")), ids=lambda p: p.stem)
def test_only_the_command_line_reaches_the_host_and_by_name(path: Path) -> None:
    """An import by name is invisible to the contracts; this closes the gap."""
    beyond = {*HOST, "torch", "onnx", "transformers"}.intersection(reached_by_name(path))
    if path.parent.name == "cli":
        assert beyond <= set(HOST)
    else:
        assert not beyond


def test_imports_by_name_are_seen() -> None:
    assert "agpnet" in reached_by_name(ROOT / "agp_edge" / "cli" / "network.py")
