"""No crash, no mystery: every broken engine and every build that cannot be, through the real commands.

Each ends in its exit code with two lines on stderr, what is wrong and what to do, and leaves nothing behind.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png
from agp_edge.engines.gpu import probe_gpus
from agp_edge.engines.sidecar import sidecar_path
from benchmarks.engine_mutations import FOREIGN, name_plan
from tests.agp_edge.engines.graphs import write_foreign_model

Command = Callable[..., tuple[int, str, str]]
Break = Callable[[Path], object]
Change = bytes | Callable[[bytes], bytes]
LONGEST = 400


def edit(**fields: Any) -> Break:
    """Change fields of the sidecar."""

    def work(engine: Path) -> None:
        path = sidecar_path(engine)
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return work


def plan(change: Change, *, named: bool = False) -> Break:
    """Change the plan; `named`: the sidecar has its hash."""

    def work(engine: Path) -> None:
        new = change if isinstance(change, bytes) else change(engine.read_bytes())
        engine.write_bytes(new)
        if named:
            path = sidecar_path(engine)
            path.write_bytes(name_plan(new, path.read_bytes()))

    return work


def sidecar(change: Change) -> Break:
    """Change the sidecar's bytes."""

    def work(engine: Path) -> None:
        path = sidecar_path(engine)
        path.write_bytes(change if isinstance(change, bytes) else change(path.read_bytes()))

    return work


def to_folder(engine: Path) -> None:
    engine.unlink()
    engine.mkdir()


def its_sidecar(engine: Path) -> None:
    plan(sidecar_path(engine).read_bytes(), named=True)(engine)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def misspell(data: bytes) -> bytes:
    return data.replace(b"ReduceMean", b"ReduceMeen")


SEEN_BY_ALL: dict[str, tuple[Break, int, str]] = {
    "no plan": (lambda engine: engine.unlink(), 2, "engine"),
    "a folder": (to_folder, 2, "engine"),
    "no sidecar": (lambda engine: sidecar_path(engine).unlink(), 4, "is missing"),
    "an empty plan": (plan(b""), 4, "was changed"),
    "a plan cut off": (plan(half), 4, "was changed"),
    "a flipped bit": (plan(flip), 4, "was changed"),
    "an empty sidecar": (sidecar(b""), 4, "cannot be read"),
    "a sidecar cut off": (sidecar(half), 4, "cannot be read"),
    "a sidecar of no text": (sidecar(b"\xff\xfe\x00"), 4, "cannot be read"),
    "a deep sidecar": (sidecar(b"[" * 100_000), 4, "cannot be read"),
    "a list": (sidecar(b"[]"), 4, "is no JSON object"),
    "another's JSON": (sidecar(b'{"format": "agp-edge-bundle", "version": 1}'), 4, "is no sidecar"),
    "a field too many": (edit(**{"x\x1b[2J" * 100: 1}), 4, "unknown or of a wrong type"),
    "a field of another type": (edit(device=[]), 4, "of a wrong type: device"),
    "no frame": (edit(frame={"width": -1, "height": "x" * 9999, "channels": 3, "batch": 1}), 4, "no frame size"),
    "no precision": (edit(precision="fp\n8" * 500), 4, "no precision"),
}  # fmt: skip
"""What every command sees, in the file, its sidecar and its hash: how to break it, exit code, words of the message."""
SEEN_WHERE_IT_OPENS: dict[str, tuple[Break, int, str]] = {
    **{f"{name} for a plan": (plan(data, named=True), 4, "no ONNX graph of ours") for name, data in FOREIGN.items()},
    "its sidecar for a plan": (its_sidecar, 4, "no ONNX graph of ours"),
    "a named plan cut off": (plan(half, named=True), 4, "no ONNX graph of ours"),
    "a graph that is none": (plan(misspell, named=True), 4, "does not load"),
    "another frame": (edit(frame={"width": 32, "height": 48, "channels": 3, "batch": 1}), 4, "no graph of ours"),
    "another machine": (edit(device={"machine": "vax"}), 4, "was built for vax"),
    "another backend": (edit(backend="abacus"), 4, "backend 'abacus', which this version does not have"),
    "a plan of TensorRT": (edit(backend="tensorrt"), 4, "needs an NVIDIA GPU"),
    "a plan of TensorRT-RTX": (edit(backend="tensorrt-rtx"), 4, "needs an NVIDIA GPU"),
}  # fmt: skip
"""What only those see that open the engine."""

COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "predict": lambda engine, image: ["predict", engine, image],
    "benchmark": lambda engine, image: ["benchmark", engine, "--duration-s", "0.01"],
    "stream": lambda engine, image: ["stream", "--source", image, "--engine", engine],
    "compare": lambda engine, image: ["compare", engine, engine],
    "verify": lambda engine, image: ["verify", engine],
    "inspect": lambda engine, image: ["inspect", engine],
}


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        item.relative_to(folder).as_posix(): item.read_bytes() if item.is_file() else None
        for item in sorted(folder.rglob("*"))
    }


def refused(result: tuple[int, str, str], code: int, message: str) -> None:
    """Hold what a command did against an error of exactly two lines."""
    got, out, err = result
    assert got == code, err
    assert out == ""
    # In a pipe the progress of a build is a plain line, and what an engine judges by is said once it is open.
    lines = [line for line in err.splitlines() if not line.startswith(("build ", "threshold "))]
    assert len(lines) == 2, err
    what, hint = lines
    assert what.startswith("error: ")
    assert message in what
    assert hint.startswith("  ")
    for line in (what, hint.strip()):
        assert line.isprintable()
        assert 10 < len(line) <= LONGEST


@pytest.fixture
def image(tmp_path: Path, part: Callable[..., NDArray[np.uint8]]) -> Path:
    write_png(tmp_path / "part.png", part(0))
    return tmp_path / "part.png"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("broken", SEEN_BY_ALL)
def test_what_every_command_refuses(
    tiny_engine: Path, image: Path, command: Command, broken: str, name: str
) -> None:
    if broken == "a folder" and name == "inspect":
        pytest.skip("inspect takes a folder for what is in it")
    spoil, code, message = SEEN_BY_ALL[broken]
    spoil(tiny_engine)
    before = listing(tiny_engine.parent)
    refused(command(*COMMANDS[name](tiny_engine, image)), code, message)
    assert listing(tiny_engine.parent) == before


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "inspect"])
@pytest.mark.parametrize("broken", SEEN_WHERE_IT_OPENS)
def test_what_is_refused_where_it_opens(
    tiny_engine: Path, image: Path, command: Command, broken: str, name: str
) -> None:
    spoil, code, message = SEEN_WHERE_IT_OPENS[broken]
    if "NVIDIA" in message and probe_gpus()[0]:
        pytest.skip("needs a machine without a GPU")
    spoil(tiny_engine)
    before = listing(tiny_engine.parent)
    refused(command(*COMMANDS[name](tiny_engine, image)), code, message)
    assert listing(tiny_engine.parent) == before


def test_inspect_prints_no_control_characters(tiny_engine: Path, command: Command) -> None:
    edit(name="\x1b[2J\x07part", device={"machine": "\u202ex"})(tiny_engine)
    code, out, _ = command("inspect", tiny_engine)
    assert code == 0
    assert all(line.isprintable() for line in out.splitlines())


# --- builds ----------------------------------------------------------------------------------------


@pytest.fixture(params=["onnxruntime", "tensorrt-rtx"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        pytest.skip(f"{name} is not installed")
    return name


def cut_graph(bundle: Path) -> None:
    model = bundle / "model.fp32.onnx"
    model.write_bytes(model.read_bytes()[:-1000])


def foreign_graph(bundle: Path) -> None:
    write_foreign_model(bundle / "model.fp32.onnx", "Det")


def unknown_operator(bundle: Path) -> None:
    import onnx

    model = onnx.load(str(bundle / "model.fp32.onnx"))
    node = next(node for node in model.graph.node if node.op_type == "MatMul")
    node.op_type, node.name = "NoSuchOperator", "/core/foreign"
    onnx.save(model, str(bundle / "model.fp32.onnx"))


BUNDLES: dict[str, tuple[Break, bool, str, str]] = {
    "cut off": (cut_graph, False, "was changed", "was changed"),
    "cut off and sealed anew": (cut_graph, True, "model.fp32.onnx", "model.fp32.onnx"),
    "an operator that nobody has": (
        unknown_operator, True, "NoSuchOperator", "operator NoSuchOperator of node /core/foreign",
    ),
    "another graph": (foreign_graph, True, "is no graph of ours", "operator Det of node /core/Det"),
}  # fmt: skip
"""Name -> how, whether the hashes are brought in line, and words of ONNX Runtime's message and of TensorRT-RTX's."""


@pytest.mark.parametrize("broken", BUNDLES)
def test_a_build_that_cannot_be(
    bundle_copy: Path, command: Command, reseal: Callable[[Path], None], backend: str, broken: str
) -> None:
    spoil, sealed, of_onnx, of_tensorrt = BUNDLES[broken]
    spoil(bundle_copy)
    if sealed:
        reseal(bundle_copy)
        path = bundle_copy / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["calibration"]["model_sha256"] = manifest["files"]["model.fp32.onnx"]["sha256"]
        path.write_text(json.dumps(manifest))
    before = listing(bundle_copy.parent)
    options = ["--compute-capability", "8.6"] if backend == "tensorrt-rtx" else []
    result = command("build-engine", bundle_copy, "--backend", backend, *options)
    refused(result, 4, of_onnx if backend == "onnxruntime" else of_tensorrt)
    assert listing(bundle_copy.parent) == before


def test_a_bundle_that_says_another_frame(bundle_copy: Path, command: Command, backend: str) -> None:
    path = bundle_copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["frame"]["width"] = 128
    path.write_text(json.dumps(manifest))
    before = listing(bundle_copy.parent)
    message = {
        "onnxruntime": "is 256x256, not 128x256",
        "tensorrt-rtx": "takes frames of [1, 256, 256, 3], its bundle says [1, 256, 128, 3]",
    }
    refused(command("build-engine", bundle_copy, "--backend", backend), 4, message[backend])
    assert listing(bundle_copy.parent) == before


# --- memory ----------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
import numpy
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (int(sys.argv[1]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.argv = ["agp-edge", *sys.argv[2:]]
from agp_edge.cli import main
main()
"""


def limited(mib: int, *arguments: object) -> tuple[int, str, str]:
    """A command in a process that may take so many MiB of address space beyond Python and numpy."""
    command = [sys.executable, "-c", LIMITED, str(mib), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("mib", [30, 60, 100, 105, 110, 150, 200, 300, 400])
def test_too_little_memory_to_load_an_engine(tiny_engine: Path, image: Path, mib: int) -> None:
    refused(limited(mib, "predict", tiny_engine, image), 4, "too little memory here to")


@pytest.mark.parametrize("mib", [30, 100, 200, 300, 400, 500, 600])
def test_too_little_memory_to_build(bundle_copy: Path, backend: str, mib: int) -> None:
    before = listing(bundle_copy.parent)
    options = ["--compute-capability", "8.6"] if backend == "tensorrt-rtx" else []
    result = limited(mib, "build-engine", bundle_copy, "--backend", backend, *options)
    if backend == "onnxruntime" and result[0] == 0:
        assert mib > 200, "ONNX Runtime and OpenCV take more"
        return
    refused(result, 4, "too little memory here to")
    assert listing(bundle_copy.parent) == before
