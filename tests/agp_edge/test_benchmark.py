from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from agp_edge.benchmark import benchmark_engine, noise_frames, recorded_frames, run_benchmark
from agp_edge.cli.console import run_command
from agp_edge.cli.measure import describe_benchmark
from agp_edge.datasets.images import write_png
from agp_edge.engines import open_engine
from agp_edge.errors import ArtefactError, InputError
from agp_edge.frame import FrameSpec
from agp_edge.objective import parse_objective

SPEC = FrameSpec(width=64, height=48, channels=3)
QUICK = {"duration_s": 0.02, "warmup_ms": 5.0}


def cli(*arguments: str) -> int:
    """Run `benchmark` as the command line does, in this process."""
    import typer

    from agp_edge.cli.measure import benchmark

    app = typer.Typer()
    app.command()(benchmark)
    return run_command(lambda **options: app(list(arguments), **options))


@pytest.mark.parametrize(
    ("scenario", "rate", "samples"),
    [("single-stream", None, 1), ("multi-stream", None, 8), ("offline", None, 1), ("server", 2000, 1), ("camera", 2000, 1)],
)  # fmt: skip
def test_every_scenario_measures_a_real_engine(
    tiny_engine: Path, scenario: str, rate: float | None, samples: int
) -> None:
    # Long enough that a stall of the machine does not look like an overloaded server.
    report = benchmark_engine(tiny_engine, scenario, rate=rate, warmup_ms=5, duration_s=0.4 if rate else 0.02)

    latency = report["latency_ms"]
    assert report["frames"] >= 10
    assert report["samples_per_query"] == samples
    assert latency["n"] == report["queries"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99.9"] <= latency["max"]
    assert sum(count for *_, count in report["histogram_ms"]) == report["queries"]
    assert ("queue" in report["stages_ms"]) == (rate is not None)
    assert report["throughput_fps"] == pytest.approx(report["frames"] / report["seconds"])


def test_a_report_names_what_a_comparison_needs(tiny_engine: Path) -> None:
    report = json.loads(json.dumps(benchmark_engine(tiny_engine, **QUICK)))  # type: ignore[arg-type]

    assert report["mode"] == "quick"
    assert "MLPerf" in report["warning"]
    assert report["engine"]["precision"] == "fp32"
    assert len(report["engine"]["sha256"]) == 64
    assert report["runtime"]["library"].startswith("onnxruntime ")
    assert report["runtime"]["threads"] >= 1
    assert {report["runtime"][key] for key in ("transfers", "cuda_graphs", "spin_wait")} == {False}
    assert set(report["stages_ms"]) == {"compute"}
    assert report["frames_from"] == {"kind": "noise", "seed": 0, "frames": 8}
    assert {"cpu", "governor", "power_mode", "cpu_mhz", "load_average", "cores_usable"} <= set(
        report["machine"]
    )
    assert set(report["versions"]) == {"agp_edge", "python", "numpy"}


def test_a_cold_start_runs_nothing_before(tiny_engine: Path) -> None:
    session, _ = open_engine(tiny_engine)
    with session:
        frames = noise_frames(SPEC).frames
        assert run_benchmark(session, frames, duration_s=0.01, warmup_ms=0).warmup_queries == 0
        assert run_benchmark(session, frames, duration_s=0.01, warmup_ms=5).warmup_queries > 0


def test_noise_is_seeded_and_bounded_in_memory() -> None:
    assert np.array_equal(noise_frames(SPEC, 3).frames, noise_frames(SPEC, 3).frames)
    assert not np.array_equal(noise_frames(SPEC, 3).frames, noise_frames(SPEC, 4).frames)
    assert len(noise_frames(FrameSpec(8192, 8192, 3)).frames) == 1


def test_frames_come_from_a_folder_in_order(tmp_path: Path) -> None:
    for value in (20, 10):
        write_png(tmp_path / f"{value}.png", np.full((48, 64, 3), value, np.uint8))
    supply = recorded_frames(tmp_path, SPEC)

    assert [int(frame[0, 0, 0]) for frame in supply.frames] == [10, 20]
    assert supply.source == {"kind": "images", "path": str(tmp_path), "frames": 2}
    assert recorded_frames(tmp_path / "10.png", FrameSpec(64, 48, 1)).frames.shape == (1, 48, 64, 1)


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((10, 20, 3), np.uint8))

    with pytest.raises(InputError, match=r"a\.png is 20x10, the engine takes 64x48"):
        recorded_frames(tmp_path / "a.png", SPEC)


def test_frames_come_from_a_video(tmp_path: Path) -> None:
    path = tmp_path / "0"  # a file of that name is no camera
    writer = cv2.VideoWriter(str(tmp_path / "parts.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for value in (50, 200):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    (tmp_path / "parts.avi").rename(path)
    supply = recorded_frames(path, SPEC)

    assert [int(frame.mean().round()) for frame in supply.frames] == pytest.approx([50, 200], abs=3)
    assert supply.source == {"kind": "video", "path": str(path), "frames": 2}


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        recorded_frames(tmp_path, SPEC)


@pytest.mark.parametrize(
    ("scenario", "options", "message"),
    [
        ("burst", {}, "no scenario 'burst'"),
        ("server", {}, "needs its rate in queries a second, none was given"),
        ("camera", {"rate": 0.0}, r"needs its rate in frames a second, got 0\.0"),
        ("offline", {"rate": 5.0}, "takes no rate"),
        ("offline", {"duration_s": float("nan")}, "cannot last nan s"),
        ("offline", {"warmup_ms": -1.0}, r"cannot last -1\.0 ms"),
    ],
)
def test_numbers_that_do_not_suit_a_scenario_are_refused(
    tiny_engine: Path, scenario: str, options: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        benchmark_engine(tiny_engine, scenario, **options)  # type: ignore[arg-type]


def test_a_changed_engine_is_not_measured(tiny_engine: Path) -> None:
    tiny_engine.write_bytes(tiny_engine.read_bytes() + b"x")

    with pytest.raises(ArtefactError, match="was changed"):
        benchmark_engine(tiny_engine)


def test_the_table_fits_80_columns_and_says_what_was_measured(tiny_engine: Path) -> None:
    report = benchmark_engine(
        tiny_engine, "server", rate=1e5, objectives=[parse_objective("p99<1us")], **QUICK  # type: ignore[arg-type]
    )  # fmt: skip
    report["machine"] |= {
        "model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "governor": "schedutil",
        "power_mode": "25W (mode 1)", "cpu_mhz": [729.6, 1984.0], "cpu_quota": 1.5,
    }  # fmt: skip
    report |= {"unserved": 7, "dropped": 3}
    text = describe_benchmark(report)

    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "p99.9",
        "cv",
        "queue",
        "compute",
        "objective",
        "MISSED",
        "never served",
        "mode 1",
        "noise, seed 0",
    ):
        assert words in text


def test_the_command_prints_a_table_and_writes_json(
    tiny_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    code = cli(str(tiny_engine), "--duration-s", "0.02", "--slo", "max<1000s", "--json", str(result))

    out, err = capsys.readouterr()
    assert code == 0
    assert "throughput" in out
    assert "measuring" in err
    assert json.loads(result.read_text())["objectives"][0]["met"] is True


def test_a_missed_objective_exits_6_after_the_results(
    tiny_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli(str(tiny_engine), "--duration-s", "0.02", "--slo", "mean<0.001us", "--json", "-")

    out, err = capsys.readouterr()
    assert code == 6
    assert json.loads(out)["objectives"][0]["met"] is False
    assert "throughput" in err
    assert "error: objective mean<0.001us missed" in err


@pytest.mark.parametrize(
    "arguments", [("absent.engine",), ("ENGINE", "--slo", "fast"), ("ENGINE", "--data", "absent")]
)
def test_bad_input_exits_2(
    tiny_engine: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*(str(tiny_engine) if a == "ENGINE" else a for a in arguments)) == 2
    assert capsys.readouterr().err.count("\n") >= 2
