"""What doctor's checks share: the finding, the machine that is looked at, and what is installed without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agp_edge.machine import ROOT, l4t_version, read_fact

State = Literal["ok", "missing", "not here"]
FindSpec = Callable[[str], Any]


@dataclass(frozen=True)
class Check:
    """One thing that was looked for.

    Attributes:
        name: what it is.
        state: `ok`; `missing`, it could be had; `not here`, this machine has no such thing.
        detail: a version, a name, or why.
        remedy: the command that gets it, or gets more of it, or None.
    """

    name: str
    state: State
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class Site:
    """The machine that is looked at, and what decides which command gets a thing there.

    Attributes:
        root: where `proc`, `sys`, `dev`, `etc`, `usr` and the rest lie.
        arch: as `uname -m` says it.
        modules: what Python has installed.
    """

    root: Path = ROOT
    arch: str = field(default_factory=platform.machine)
    modules: Modules = field(default_factory=lambda: Modules())

    @property
    def l4t(self) -> str | None:
        """Version of Jetson Linux; None on anything else, and in a container that does not show it."""
        return l4t_version(self.root)

    @property
    def board(self) -> str | None:
        """What the device tree calls this board."""
        return read_fact(self.root, "proc/device-tree/model")

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson; a container on one may show the board alone."""
        return self.l4t is not None or "Jetson" in (self.board or "")

    @property
    def is_jetpack_6(self) -> bool:
        """Whether this is a Jetson with JetPack 6: Ubuntu 22.04, CUDA 12 and an OpenCV for numpy 1."""
        return (self.l4t or "").startswith("36.")

    @property
    def in_container(self) -> bool:
        """Whether docker or podman started this."""
        return any((self.root / path).exists() for path in (".dockerenv", "run/.containerenv"))

    @property
    def distribution(self) -> set[str]:
        """Names from `os-release`: the distribution and those that it is like, as in {`ubuntu`, `debian`}."""
        text = read_fact(self.root, "etc/os-release") or ""
        found = re.findall(r"^ID(?:_LIKE)?=\"?([^\"\n]*)", text, re.MULTILINE)
        return set(" ".join(found).split())

    def apt(self, packages: str) -> str | None:
        """The command that installs packages of Debian and its kin; None where they have other names."""
        family = self.is_jetson or self.distribution & {"debian", "ubuntu"}
        return f"sudo apt install {packages}" if family else None

    def glob(self, *patterns: str) -> list[Path]:
        """Files below the root that match any pattern, in the order of the patterns and then by name."""
        return [path for pattern in patterns for path in sorted(self.root.glob(pattern))]

    def libraries(self, pattern: str) -> list[Path]:
        """Shared libraries of the system, by a pattern for their file name."""
        return self.glob(f"usr/lib/*-linux-gnu*/{pattern}", f"usr/lib/{pattern}", f"usr/lib64/{pattern}")

    def in_system_python(self, module: str) -> bool:
        """Whether the system's own Python has a package; this one, in a venv, may not see it."""
        return bool(self.glob(f"usr/lib/python3*/dist-packages/{module}"))


SYSTEM_VENV = "python3 -m venv --system-site-packages .venv"
"""A venv that sees what apt installed."""


class Modules:
    """What is installed, found without importing it.

    Only names without a dot are looked for: for the others Python would import what is before the dot.
    """

    def __init__(self, find_spec: FindSpec = importlib.util.find_spec) -> None:
        self._find_spec = find_spec

    def find(self, name: str) -> Any:
        """The spec of a module, or None."""
        try:
            return self._find_spec(name)
        except (ImportError, ValueError):
            return None

    def has(self, name: str) -> bool:
        """Whether a module is installed."""
        return self.find(name) is not None

    def has_host(self) -> bool:
        """Whether the packages of the host are here: `agpnet`, `export` and `calib`, side by side."""
        # `export` and `calib` are common names: only those beside agpnet are ours.
        specs = [self.find(name) for name in ("agpnet", "export", "calib")]
        origins = {
            str(Path(spec.origin).parent.parent) if spec is not None and spec.origin else None
            for spec in specs
        }
        return len(origins) == 1 and None not in origins


def installed_version(distributions: Iterable[str]) -> str | None:
    """Version of the first of these distributions that is installed, from its metadata."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def version_tuple(text: str | None, parts: int = 2) -> tuple[int, ...] | None:
    """The first numbers of a version, to compare: `10.3.0` gives (10, 3)."""
    found = re.match(r"\d+(?:\.\d+)*", text or "")
    return tuple(int(part) for part in found[0].split(".")[:parts]) if found else None
