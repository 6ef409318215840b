"""pycuda, built from its source without CUDA: to run our calls through it on a driver that stands in.

    python tests/stand_ins/pycuda_build.py FOLDER

There are no wheels of it. Its source needs a C++ compiler, Python's headers, and two of CUDA's, which NVIDIA has in small
wheels; what it is linked against needs nothing but the driver's name. It is built without optimisation, and without curand
and OpenGL, which the driver's calls do not need; that takes about a minute.

FOLDER/VERSION-pyXY gets `pycuda/`, and in `functions.txt` the names of the functions that it wants of a driver.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

VERSION = "2026.1"
HEADERS = ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-profiler-api==13.0.85")
TOOLS = ("setuptools==80.9.0", "wheel==0.45.1")
DRIVER = "libcuda.so.1"
SITECONF = "CUDA_ENABLE_CURAND = False\nCUDA_ENABLE_GL = False\nCXXFLAGS = ['-O0', '-g0', '-w']\n"


class UnavailableError(Exception):
    """It cannot be built here; says why."""


def prepare(folder: Path) -> Path:
    """Build it into FOLDER/VERSION-pyXY, unless it is there.

    Raises:
        UnavailableError: no compiler, no headers of Python, or no index to install from.
    """
    made = folder / f"{VERSION}-py{sys.version_info.major}{sys.version_info.minor}"
    if made.is_dir():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    # Tests run side by side: one process builds it, the others wait.
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return made if made.is_dir() else _build(folder, made)


def _build(folder: Path, made: Path) -> Path:
    for tool in ("cc", "c++", "nm", "tar"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"no {tool}")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        raise UnavailableError("no Python.h: Python's headers are not installed")
    work = folder.resolve() / f".{made.name}"
    shutil.rmtree(work, ignore_errors=True)
    install(work / "headers", *HEADERS, "--only-binary=:all:")
    install(work / "tools", *TOOLS, "--only-binary=:all:")
    env = environment_to_build(work)
    pip("download", "--no-deps", "--no-binary=pycuda", "--no-build-isolation", "--dest", str(work),
        f"pycuda=={VERSION}", env=env)  # fmt: skip
    run(["tar", "-xf", str(work / f"pycuda-{VERSION}.tar.gz"), "-C", str(work)])
    source = work / f"pycuda-{VERSION}"
    (source / "siteconf.py").write_text(SITECONF)
    install(work / "made", "--no-build-isolation", str(source), env=env)
    (module,) = (work / "made" / "pycuda").glob("_driver*.so")
    wanted = [line.split()[-1] for line in run(["nm", "-D", "--undefined-only", str(module)]).splitlines()]
    functions = [name for name in wanted if name.startswith("cu")]
    (work / "made" / "functions.txt").write_text("\n".join(functions) + "\n")
    shutil.rmtree(made, ignore_errors=True)
    (work / "made").rename(made)
    shutil.rmtree(work)
    return made


def environment_to_build(work: Path) -> dict[str, str]:
    """What a build needs to find; leaves a library of the driver's name, for the linker alone."""
    (work / "lib").mkdir()
    library = work / "lib" / "libcuda.so"
    run(["cc", "-shared", f"-Wl,-soname,{DRIVER}", "-o", str(library), "-xc", os.devnull])
    (headers,) = work.glob("headers/nvidia/*/include")
    # Of a library that has nothing a linker takes no note unless it is told to.
    return {
        **os.environ,
        "PYTHONPATH": str(work / "tools"),
        "CPATH": str(headers),
        "LIBRARY_PATH": str(work / "lib"),
        "LDFLAGS": "-Wl,--no-as-needed",
    }


def install(target: Path, *what: str, env: dict[str, str] | None = None) -> None:
    """Have pip install something into a folder, without what it depends on."""
    pip("install", "--no-deps", "--target", str(target), *what, env=env)


def pip(command: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Have pip do something."""
    run([sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments], env)


def run(command: list[str], env: dict[str, str] | None = None) -> str:
    """Run a command; what it printed.

    Raises:
        UnavailableError: it failed.
    """
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise UnavailableError(f"{' '.join(command[:4])} failed: {last[-1]}")
    return done.stdout


def main() -> int:
    """Build it; 1 if it cannot be."""
    try:
        print(prepare(Path(sys.argv[1])))
    except UnavailableError as error:
        print(f"pycuda {VERSION} cannot be built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
