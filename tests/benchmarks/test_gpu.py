"""The benchmark of a GPU: without one, on stand-ins, and for real where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agp_edge.bundle import Bundle
from agp_edge.engines.builder import Workbench
from agp_edge.engines.gpu import probe_gpus
from agp_edge.errors import ArtefactError, InputError
from agp_edge.frame import FrameSpec
from benchmarks import gpu_engines
from benchmarks.gpu import ask_smi, check_backends, main
from benchmarks.gpu_contest import holds
from benchmarks.gpu_reasons import reason_of, without_folders
from benchmarks.gpu_report import describe, describe_for_terminal, list_missing, read_report
from benchmarks.gpu_torch import COMPILED, EAGER, TorchNets
from benchmarks.tables import KINDS
from benchmarks.tables import main as fill_tables
from tests.stand_ins.cuda_driver import run_checks

ROOT = Path(__file__).resolve().parents[2]


def test_on_stand_ins(tmp_path: Path) -> None:
    run_checks(Path(__file__).with_name("checks_of_gpu.py"), tmp_path)


@pytest.mark.timeout(900)  # The first time pycuda is built.
def test_on_stand_ins_through_pycuda(tmp_path: Path) -> None:
    run_checks(Path(__file__).with_name("checks_of_gpu_over_pycuda.py"), tmp_path, binding="pycuda")


def test_without_a_gpu_it_says_what_is_missing_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if probe_gpus()[0]:
        pytest.skip("needs a machine without a GPU")
    assert main([str(tmp_path / "part.bundle"), "--json", str(tmp_path / "gpu.json")]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: this measures an NVIDIA GPU, and there is none: no NVIDIA driver")
    assert len(err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_device_without_the_packages_of_a_host_can_run_it() -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "transformers", "agpnet", "export", "calib"):
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import benchmarks.gpu
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_on_a_gpu(
    calibrated_bundle: Path, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus, reason = probe_gpus()
    if not gpus:
        pytest.skip(f"needs a GPU: {reason}")
    out = tmp_path / "gpu.json"
    given = [str(calibrated_bundle), "--json", str(out), "--quick", "--run", str(trained_run)]
    assert main(given) == 0
    report = read_report(out)
    assert report["complete"]
    assert report["gpu"]["name"] == gpus[0].name
    assert any(binding["works"] for binding in report["bindings"].values()), report["bindings"]
    assert len(report["engines"]) == 9
    measured = [engine for engine in report["engines"] if engine.get("figures")]
    if not measured:
        pytest.skip(f"no backend runs here: {list_missing(report)}")
    for engine in measured:
        assert engine["figures"]["ours"]["over_floor"]["ratio"] > 0, engine["not_measured"]
        assert engine["figures"]["ours"]["score_difference"] < 1e-3
    assert describe_for_terminal(report).strip() in capsys.readouterr().out


# --- the engines -----------------------------------------------------------------------------------


def test_a_bundle_is_built_and_what_is_not_has_its_reason(
    calibrated_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the CPU: the builder is the same for every backend."""
    real = gpu_engines.not_here
    monkeypatch.setattr(gpu_engines, "not_here", lambda name: None if name == "onnxruntime" else real(name))
    told: list[str] = []
    made = gpu_engines.build_engines(
        Bundle(calibrated_bundle),
        ["onnxruntime", "tensorrt"],
        tmp_path / "built",
        lambda done, total, note="": told.append(f"{done}/{total} {note}"),
    )
    assert [(c.backend, c.precision, c.batch) for c in made] == [
        (backend, precision, 1)
        for backend in ("onnxruntime", "tensorrt")
        for precision in ("fp32", "fp16", "int8")
    ]
    for candidate in made[:3]:
        assert candidate.reason is None
        assert candidate.path is not None
        assert gpu_engines.given_engine(candidate.path) == candidate
    assert all(c.path is None and c.reason for c in made[3:])
    assert told[0] == "0/6 building onnxruntime fp32, batch 1"


def test_a_graph_that_a_bundle_has_not_and_a_bundle_that_is_not_calibrated(
    exported_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is not calibrated"):
        gpu_engines.build_engines(Bundle(exported_bundle), ["onnxruntime"], tmp_path / "built")


def test_a_build_that_fails_is_kept_with_its_reason(
    calibrated_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a tactic is missing\nand more of it")

    monkeypatch.setattr(gpu_engines, "not_here", lambda name: None)
    monkeypatch.setattr(Workbench, "draft", fail)
    made = gpu_engines.build_engines(Bundle(calibrated_bundle), ["tensorrt"], tmp_path / "built")
    assert [candidate.reason for candidate in made] == ["RuntimeError: a tactic is missing"] * 3


def test_backends_that_are_for_an_nvidia_gpu() -> None:
    assert check_backends(["tensorrt", "onnxruntime", "tensorrt"]) == ["tensorrt", "onnxruntime"]
    with pytest.raises(InputError, match="'openvino' is no backend for an NVIDIA GPU"):
        check_backends(["openvino"])


# --- torch -----------------------------------------------------------------------------------------


def test_without_a_run_torch_is_not_timed() -> None:
    made, missing = TorchNets(None).of(FrameSpec(64, 48, 3))
    assert made == {}
    assert set(missing.values()) == {"no run was given: --run RUN"}


def test_the_network_of_a_run_in_half_precision(
    trained_run: Path, exported_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the processor, where compiling would need a compiler that the tests do not ask for."""
    import torch

    from agp_edge.engines.onnxruntime import open_graph

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    bundle = Bundle(exported_bundle)
    frame = bundle.manifest.frame
    nets = TorchNets(trained_run, "cpu")
    made, missing = nets.of(frame)
    assert missing == {COMPILED: "RuntimeError: no compiler"}
    frames = np.random.default_rng(0).integers(0, 256, (1, *frame.shape), np.uint8)
    with open_graph(bundle, "fp16") as session:
        np.testing.assert_allclose(made[EAGER](frames), session.infer(frames).score, rtol=0.02)
    assert nets.of(frame)[0] is made


def test_torch_without_a_gpu(trained_run: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a torch without a GPU")
    made, missing = TorchNets(trained_run).of(FrameSpec(256, 256, 3))
    assert made == {}
    assert all("sees no GPU here" in reason for reason in missing.values())


# --- what is said of it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "said"), [(1.00, 1.03, True), (1.031, 1.06, False), (1.01, 1.05, None), (0.8, 0.9, True)]
)
def test_the_target_is_judged_by_the_interval(low: float, high: float, said: bool | None) -> None:
    assert holds({"ratio": (low + high) / 2, "low_95": low, "high_95": high}) is said


def test_a_reason_is_one_line() -> None:
    assert reason_of(ArtefactError("what is wrong", "what to do")) == "what is wrong"
    assert reason_of(ValueError("first\nsecond")) == "ValueError: first"
    assert reason_of(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("engine /srv/models/a/x.engine was changed", "engine x.engine was changed"),
        ("engine /known place/x.engine was changed", "engine x.engine was changed"),
        ("cannot open ../runs/part/run.json: gone", "cannot open run.json: gone"),
        ("'/opt/lib/libnvinfer.so.10' (/opt/lib)", "'libnvinfer.so.10' (lib)"),
        ("see https://docs.nvidia.com/a/b.html", "see https://docs.nvidia.com/a/b.html"),
        ("30 frames/s at 4/8 cores", "30 frames/s at 4/8 cores"),
    ],
)
def test_no_folder_is_left(text: str, left: str) -> None:
    value = {"a": [text, 1, None, True], text: 2.5}
    assert without_folders(value, [Path("/known place")]) == {"a": [left, 1, None, True], left: 2.5}


def figure(p50: float, ratio: float | None = None, floor: str = "bare_graph") -> dict[str, Any]:
    held = {} if ratio is None else {
        "floor": floor, "over_floor": {"ratio": ratio, "low_95": ratio - 0.005, "high_95": ratio + 0.005},
    }  # fmt: skip
    return {"ms": {"p50": p50}, "score_difference": 0.0, **held}


REPORT: dict[str, Any] = {
    "benchmark": "gpu",
    "complete": True,
    "quick": False,
    "gpu": {"name": "Orin", "compute_capability": "8.7", "driver": None, "cuda": "12.6"},
    "versions": {"agp_edge": "0.1.0"},
    "binding": "cuda-python",
    "bindings": {
        "cuda-python": {"installed": True, "works": True, "checks": {"graph": "works"}},
        "pycuda": {"installed": True, "works": False, "checks": {"round trip": "works", "events": "cuEventQuery: no"}},
    },
    "engines": [
        {
            "backend": "tensorrt",
            "precision": "fp16",
            "batch": 1,
            "figures": {
                "ours": figure(1.2345, 1.02),
                "bare_graph": figure(1.21),
                "ours_map": figure(1.5, 1.1, "bare_map"),
                "torch_compile": figure(4.0, 3.3),
            },
            "target": {"at_most": 1.03, "holds": True},
            "runtime": {"library": "TensorRT 10.3.0"},
            "throughput": {
                "1": {"frames_a_second": 812.3, "over_one": {"ratio": 1.0}},
                "2": {"frames_a_second": 1000.0, "over_one": {"ratio": 1.23}},
            },
            "stages": {"ms": {"run": {"p50": 1.1}, "copy_in": {"p50": 0.05}}},
            "post": {"verdicts_ms": 0.002, "regions_ms": 0.4},
            "not_measured": {"torch_eager": "RuntimeError: no"},
        },
        *(
            {"backend": "tensorrt", "precision": precision, "batch": 1, "not_measured": {"build": "no tactic"}}
            for precision in ("fp32", "int8")
        ),
    ],
}  # fmt: skip


def test_the_tables() -> None:
    text = describe(REPORT)
    assert (
        "Orin, compute capability 8.7, driver unknown, CUDA 12.6; TensorRT 10.3.0, cuda-python; agp-edge 0.1.0."
        in text
    )
    assert "| TRT fp16 | 1 | 1.23 | 1.21 | 1.020 (1.015 to 1.025) | holds |" in text
    assert "| TRT fp16 | 1 | 1.100 | - | - | - |" in text
    assert "| TRT fp16 | 1 | 812 | 1.23 | - | - | 3.300 |" in text
    assert "| TRT fp16 | 1 | - | 0.05 | 1.1 | - | - | 0.002 | 0.4 |" in text
    assert "- tensorrt fp32 x1, int8 x1: build: no tactic" in text
    assert "- tensorrt fp16 x1: torch_eager: RuntimeError: no" in text
    assert "- pycuda: events: cuEventQuery: no" in text


def test_a_terminal_of_80_columns() -> None:
    text = describe_for_terminal(REPORT)
    assert max(map(len, text.splitlines())) <= 80
    assert "1.020 (1.015 to 1.025)" in text
    unfinished = describe_for_terminal({**REPORT, "complete": False, "quick": True})
    assert "quick mode, NOT COMPLETE" in " ".join(unfinished.split())


def test_the_page_shows_what_there_is() -> None:
    assert fill_tables([str(ROOT / "docs" / "performance.md"), "--check"]) == 0


def test_a_document_shows_a_result(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(REPORT))
    assert KINDS["gpu"](path) == describe(REPORT)
    path.write_text("{}")
    with pytest.raises(ArtefactError, match="no result of benchmarks"):
        read_report(path)


def test_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_smi() is None
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho '1980 MHz, 1980 MHz, 2619 MHz, 2619 MHz, 70 W, 700 W, 30, Enabled, 5, 16'\n"
    )
    tool.chmod(0o755)
    assert (ask_smi() or {})["clocks.sm"] == "1980 MHz"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert ask_smi() is None
