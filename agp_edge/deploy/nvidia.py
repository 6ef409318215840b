"""NVIDIA's GPU and what runs on it: driver, CUDA, its Python bindings, the family of TensorRT."""

from __future__ import annotations

import json
import re
from typing import Any

from agp_edge.deploy.findings import SYSTEM_VENV, Check, Site, installed_version, version_tuple
from agp_edge.machine import nvidia_driver, read_fact

MIN_TENSORRT = (10, 3)
"""With strongly typed networks that take FP16 and Q/DQ as the graph says; JetPack 6.1 has it."""

Answer = dict[str, Any] | str | None


def has_driver(site: Site) -> bool:
    """Whether the driver is worth asking: its kernel module is loaded, or this is a Jetson."""
    return nvidia_driver(site.root) is not None or site.is_jetson


def check_gpu(site: Site, answer: Answer) -> Check:
    """The GPU with its compute capability and driver, or what is half there.

    Args:
        site: where to look.
        answer: of the driver, as `gpus`, `reason`, `cuda`; None if it was not asked.
    """
    name = "NVIDIA GPU"
    kernel, library = nvidia_driver(site.root), _driver_library(site)
    if answer is None:
        if not _nvidia_on_pci(site):
            return Check(name, "not here", "no NVIDIA card on PCI, no driver")
        if library:
            detail = f"a card and the library of driver {library} are there, its kernel module is not loaded"
            return Check(name, "missing", detail, "sudo modprobe nvidia")
        return Check(name, "missing", "a card is there, its driver is not", _install_driver(site))
    loaded = f"driver {kernel or 'of L4T'}"
    if isinstance(answer, str):
        return Check(
            name, "missing", f"{loaded} is loaded; asking it failed: {answer}", _install_driver(site)
        )
    if answer["gpus"]:
        return Check(name, "ok", f"{', '.join(answer['gpus'])}, {loaded}")
    if kernel and library and kernel != library and not site.is_jetson:
        # An update changes the library at once and the kernel module at the next start.
        detail = f"the kernel module is of driver {kernel}, the library of {library}: one start apart"
        return Check(name, "missing", detail, "sudo reboot")
    detail = f"{loaded} is loaded, but {answer['reason']}"
    if site.in_container or library:
        # The host's /proc shows through in a container that was given no GPU.
        return Check(name, "missing", f"{detail}; a container needs --gpus all, or --runtime nvidia")
    return Check(name, "missing", f"{detail}: its library is not installed", _install_driver(site))


def _install_driver(site: Site) -> str | None:
    if site.is_jetson:
        return site.apt("nvidia-l4t-cuda")
    if "ubuntu" in site.distribution:
        return "sudo ubuntu-drivers install"
    return site.apt("nvidia-driver")


def _driver_library(site: Site) -> str | None:
    for path in site.libraries("libcuda.so.*.*"):
        return path.name.removeprefix("libcuda.so.")
    return None


def _nvidia_on_pci(site: Site) -> bool:
    return any(
        read_fact(device, "vendor") == "0x10de" and (read_fact(device, "class") or "").startswith("0x03")
        for device in site.glob("sys/bus/pci/devices/*")
    )


def check_cuda(site: Site, gpu: Check, answer: Answer) -> Check:
    """What CUDA the driver takes, and which toolkit and runtime library are installed."""
    name = "CUDA"
    limit = answer.get("cuda") if isinstance(answer, dict) else None
    toolkit, runtime = _toolkit(site), _runtime(site)
    parts = [f"the driver takes up to {limit}"] if limit else []
    parts += [f"toolkit {toolkit}"] if toolkit else []
    parts += [f"runtime library {runtime}"] if runtime else []
    if gpu.state == "not here":
        return Check(name, "not here", ", ".join([*parts, "needs an NVIDIA GPU"]))
    if toolkit or runtime:
        return Check(name, "ok", ", ".join(parts))
    parts.append("no runtime library, which TensorRT needs")
    return Check(name, "missing", ", ".join(parts), _get_runtime(site, limit))


def _toolkit(site: Site) -> str | None:
    for path in site.glob("usr/local/cuda/version.json", "usr/local/cuda-*/version.json"):
        try:
            return str(json.loads(read_fact(path.parent, path.name) or "")["cuda"]["version"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _runtime(site: Site) -> str | None:
    wheel = installed_version(("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12"))
    if wheel and site.modules.has("nvidia"):
        return wheel
    paths = [
        *site.libraries("libcudart.so.*.*"),
        *site.glob(
            "usr/local/cuda*/lib64/libcudart.so.*.*", "usr/local/cuda*/targets/*/lib/libcudart.so.*.*"
        ),
    ]
    return paths[-1].name.removeprefix("libcudart.so.") if paths else None


def _get_runtime(site: Site, limit: str | None) -> str | None:
    if site.is_jetson:
        return site.apt("nvidia-jetpack")
    return f"pip install {'nvidia-cuda-runtime-cu12' if _is_cuda_12(limit) else 'nvidia-cuda-runtime'}"


def _is_cuda_12(limit: str | None) -> bool:
    return (version_tuple(limit, 1) or (13,)) <= (12,)


def check_bindings(site: Site, gpu: Check, answer: Answer) -> Check:
    """How Python reaches CUDA: by cuda-bindings, or else by pycuda."""
    name = "CUDA in Python"
    # `cuda` is a name that anyone may take: it counts with the metadata of NVIDIA's wheel alone.
    bindings = installed_version(("cuda-bindings",)) if site.modules.has("cuda") else None
    pycuda = installed_version(("pycuda",)) or "of unknown version" if site.modules.has("pycuda") else None
    if bindings is not None:
        return Check(name, "ok", f"cuda-bindings {bindings}" + (f", pycuda {pycuda}" if pycuda else ""))
    if pycuda is not None:
        return Check(name, "ok", f"pycuda {pycuda}, which has no CUDA graphs")
    if gpu.state == "not here":
        return Check(name, "not here", "needs an NVIDIA GPU")
    limit = answer.get("cuda") if isinstance(answer, dict) else None
    # One release for each major version of CUDA; the extra takes the newest.
    wanted = "cuda-bindings>=12.9.1,<13" if _is_cuda_12(limit) else "agp-edge[cuda]"
    return Check(name, "missing", "needed to run TensorRT engines: cuda-bindings", f"pip install '{wanted}'")


def tensorrt_version(site: Site) -> str | None:
    """Version of the TensorRT that is installed for this Python, else of the system's library."""
    version = installed_version(_distributions("tensorrt")) if site.modules.has("tensorrt") else None
    return version or _library_version(site)


def check_tensorrt(site: Site, gpu: Check, answer: Answer = None) -> list[Check]:
    """The family: the builder, the two runtimes without it, and TensorRT-RTX.

    Args:
        site: where to look.
        gpu: what `check_gpu` found.
        answer: of `tensorrt` when it was imported, as `version`; None if it was not asked.
    """
    return [
        _full(site, gpu, answer),
        *(_runtime_only(site, gpu, *wanted) for wanted in _RUNTIMES),
        _rtx(site),
    ]


def _distributions(name: str) -> tuple[str, ...]:
    dashed = name.replace("_", "-")
    return (dashed, f"{dashed}-cu13", f"{dashed}-cu12")


def _full(site: Site, gpu: Check, answer: Answer) -> Check:
    name = "TensorRT"
    least = ".".join(map(str, MIN_TENSORRT))
    get = site.apt("python3-libnvinfer") if site.is_jetson else f"pip install 'tensorrt>={least}'"
    if not site.modules.has("tensorrt"):
        if gpu.state == "not here":
            return Check(name, "not here", "needs an NVIDIA GPU")
        if site.in_system_python("tensorrt"):
            return Check(
                name, "missing", "the system's Python has it, this venv does not see it", SYSTEM_VENV
            )
        hint = "; take a venv with --system-site-packages" if site.is_jetson else ""
        library = _library_version(site)
        there = f"its library {library} is there, its Python package is not: " if library else ""
        return Check(name, "missing", f"{there}needed to build engines for this GPU{hint}", get)
    version = installed_version(_distributions("tensorrt"))
    if version is None and isinstance(answer, dict):
        version = answer["version"]
    number = version_tuple(version)
    if number is not None and number < MIN_TENSORRT:
        return Check(name, "missing", f"{version} is too old, {least} or later is needed", get)
    if isinstance(answer, str):
        return _broken(site, version, answer)
    where = "" if gpu.state == "ok" else "; without a GPU it does not build"
    return Check(name, "ok", f"{version or 'version unknown'}{where}")


def _broken(site: Site, version: str | None, answer: str) -> Check:
    """A TensorRT that does not import; JetPack 6's does not without the compiler of the DLA, on boards without a DLA too."""
    detail = f"{version or 'installed'}, but importing it failed: {answer}"
    if site.is_jetson and "libnvdla_compiler.so" in answer:
        # A container is given this library by the host, or an empty file in its place.
        where = "; a container has it from the host: install it there" if site.in_container else ""
        return Check("TensorRT", "missing", detail + where, site.apt("nvidia-l4t-dla-compiler"))
    return Check("TensorRT", "missing", detail, "python -c 'import tensorrt'")


def _library_version(site: Site) -> str | None:
    libraries = site.libraries("libnvinfer.so.*.*.*")
    return _suffix(libraries[0].name) if libraries else None


def _suffix(library: str) -> str:
    return re.sub(r"^.*\.so\.", "", library)


_RUNTIMES = (
    (
        "TensorRT lean",
        "tensorrt_lean",
        "python3-libnvinfer-lean",
        "runs version-compatible plans, builds none",
    ),
    (
        "TensorRT dispatch",
        "tensorrt_dispatch",
        "python3-libnvinfer-dispatch",
        "runs plans that carry their runtime",
    ),
)
"""Name, module, package of Debian, what it is for."""


def _runtime_only(site: Site, gpu: Check, name: str, module: str, package: str, purpose: str) -> Check:
    if site.modules.has(module):
        return Check(name, "ok", installed_version(_distributions(module)) or "version unknown")
    if gpu.state == "not here":
        return Check(name, "not here", "needs an NVIDIA GPU")
    if site.in_system_python(module):
        return Check(name, "missing", "the system's Python has it, this venv does not see it", SYSTEM_VENV)
    get = site.apt(package) if site.is_jetson else f"pip install {module.replace('_', '-')}"
    return Check(name, "missing", purpose, get)


def _rtx(site: Site) -> Check:
    name = "TensorRT-RTX"
    if site.modules.has("tensorrt_rtx"):
        version = installed_version(_distributions("tensorrt_rtx"))
        return Check(name, "ok", f"{version or 'version unknown'}, builds plans without a GPU too")
    if site.arch != "x86_64":
        return Check(name, "not here", f"there is none for Linux on {site.arch}")
    purpose = "needed to build plans for RTX GPUs, with or without one here"
    return Check(name, "missing", purpose, "pip install 'agp-edge[tensorrt-rtx]'")
