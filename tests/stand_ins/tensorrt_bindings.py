"""NVIDIA's own Python bindings of full TensorRT, without TensorRT: to ask what they offer, and to check our calls by type.

    python tests/stand_ins/tensorrt_bindings.py FOLDER

TensorRT itself needs a GPU's driver even to be installed usefully; its bindings are a small wheel of their own. They need
nine functions of three libraries. Here those are libraries that give nothing: the bindings load, every class, enumeration and
signature is there, and whatever would make a TensorRT object is told that there is none, as on a machine where TensorRT
does not start.

For each version FOLDER/VERSION gets `tensorrt_bindings/` as NVIDIA wrote it, `tensorrt/` which gives its names, `lib/` with
the libraries that give nothing, and `stubs/` for a type checker.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = {
    "10.3.0": "tensorrt-cu12-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
"""Version -> its wheel: that of JetPack 6.1, the oldest that we support, and one of 11."""

NEWEST_PYTHON = {"10.3.0": (3, 12)}
"""Version -> the newest Python that its wheel is for."""

FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL", "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry",
    "initLibNvInferPlugins",
)  # fmt: skip
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


class UnavailableError(Exception):
    """Bindings cannot be had here; says why."""


def has_wheel(version: str) -> bool:
    """Whether NVIDIA made bindings of that version for this machine and this Python."""
    python = sys.version_info[:2]
    return (sys.platform, platform.machine()) == ("linux", "x86_64") and python <= NEWEST_PYTHON.get(
        version, python
    )


def prepare(version: str, folder: Path) -> Path:
    """Make FOLDER/VERSION, unless it is there.

    Raises:
        UnavailableError: no wheel for this machine or Python, no index to install from, or no C compiler.
    """
    made = folder / version
    if (made / "stubs").is_dir():
        return made
    if not has_wheel(version):
        raise UnavailableError(
            f"there is no wheel of {VERSIONS[version]} {version} for this machine and Python"
        )
    compiler = shutil.which("cc")
    if compiler is None:
        raise UnavailableError("no C compiler")
    work = folder / f".{version}"
    shutil.rmtree(work, ignore_errors=True)
    run([
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
        "--target", str(work), f"{VERSIONS[version]}=={version}",
    ])  # fmt: skip
    libraries = work / "lib"
    libraries.mkdir()
    source = libraries / "nothing.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in LIBRARIES:
        file = f"lib{name}.so.{version.partition('.')[0]}"
        run([compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(libraries / file), str(source)])
    (work / "tensorrt").mkdir()
    # As NVIDIA's package of that name does.
    (work / "tensorrt" / "__init__.py").write_text(
        "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
    )
    stubs = work / ".stubs"
    run([str(Path(sys.executable).parent / "stubgen"), "--quiet", "-m", "tensorrt_bindings.tensorrt", "-o", str(stubs)],
        environment(work))  # fmt: skip
    (stubs / "tensorrt").mkdir()
    text = (stubs / "tensorrt_bindings" / "tensorrt.pyi").read_text()
    (stubs / "tensorrt" / "__init__.pyi").write_text(f"{repair(text)}\n__version__: str\n")
    shutil.rmtree(stubs / "tensorrt_bindings")
    stubs.rename(work / "stubs")
    shutil.rmtree(made, ignore_errors=True)
    work.rename(made)
    return made


def repair(stub: str) -> str:
    """What a generator of stubs cannot see.

    Among TensorRT's own names is `bool`, a type of tensors: what is meant in a signature is Python's.
    C++ has no order of defaults, Python has: a parameter without one that follows one with is given one, too. And TensorRT's
    memory gives its bytes by the buffer protocol, which has no method to be seen.
    """
    stub = "import builtins\n" + re.sub(r"(-> |: )bool\b(?= *[:,)=\n])", r"\1builtins.bool", stub)
    ordered = re.sub(r"(= \.\.\., \w+: [\w.]+)(?=[,)])", r"\1 = ...", stub)
    buffer = "\n    def __buffer__(self, flags: int, /) -> memoryview: ..."
    return re.sub(r"(?m)^class IHostMemory:$", lambda found: found[0] + buffer, ordered)


def environment(made: Path) -> dict[str, str]:
    """What a process needs to import `tensorrt` from there."""
    path = os.pathsep.join(filter(None, [str(made), os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(made / "lib"),
        "PYTHONPATH": path,
        "PYTHONWARNINGS": "ignore",
    }


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run a command.

    Raises:
        UnavailableError: it failed.
    """
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise UnavailableError(f"{Path(command[0]).name} failed: {last[-1]}")


def main() -> int:
    """Prepare every version that there is for this Python; 1 if one of them cannot be had for another reason."""
    folder = Path(sys.argv[1])
    for version in VERSIONS:
        if not has_wheel(version):
            print(f"there are no bindings of TensorRT {version} for this machine and Python", file=sys.stderr)
            continue
        try:
            prepare(version, folder)
        except UnavailableError as error:
            print(f"the bindings of TensorRT {version} cannot be had: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
