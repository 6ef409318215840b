"""`stream`, `predict` and `capture` as a user runs them: exit codes, what is printed, what is left on disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.cli.stream_report import stream_report
from agp_edge.datasets.images import write_png
from agp_edge.engines import read_sidecar
from agp_edge.engines.sidecar import sidecar_path
from agp_edge.files import write_json

Part = Callable[..., NDArray[np.uint8]]
WriteVideo = Callable[[Path, Sequence[NDArray[np.uint8]]], Path]
Run = Callable[..., tuple[int, str, str]]
AGP_EDGE = [sys.executable, "-c", "from agp_edge.cli import main; main()"]
KEYS = {
    "time", "clock", "source", "frame", "verdict", "score", "threshold", "p_value", "regions", "latency_ms", "engine",
}  # fmt: skip


@pytest.fixture
def run(command: Run) -> Run:
    """`run("stream", …)`: exit code, stdout and stderr of the command, run in this process."""
    return command


@pytest.fixture
def video(tmp_path: Path, part: Part, write_video: WriteVideo) -> Path:
    """20 parts, of which number 5 and 12 have a defect."""
    return write_video(tmp_path / "parts.avi", [part(i, defect=i in (5, 12)) for i in range(20)])


def test_stream_into_every_sink(tmp_path: Path, run: Run, tiny_engine: Path, video: Path) -> None:
    lines, rejects, annotated, summary = (
        tmp_path / name for name in ("v.jsonl", "rejects", "line.webm", "summary.json")
    )
    code, out, err = run(
        "stream", "--source", video, "--engine", tiny_engine, "--jsonl", lines, "--rejects", rejects,
        "--video", annotated, "--json", summary,
    )  # fmt: skip
    assert code == 0, err
    verdicts = [json.loads(line) for line in lines.read_text().splitlines()]
    assert all(set(verdict) == KEYS for verdict in verdicts)
    assert [v["frame"] for v in verdicts if v["verdict"] == "NG"] == [5, 12]
    assert {v["engine"] for v in verdicts} == {read_sidecar(tiny_engine).plan_sha256[:12]}
    told = json.loads(summary.read_text())
    (counts,) = told["sources"]
    assert counts["source"] == str(video)
    wanted = {"captured": 20, "judged": 20, "dropped": 0, "failed": 0, "reconnects": 0}
    assert {key: counts[key] for key in wanted} == wanted
    assert counts["latency_ms"]["total"]["p99"] > 0
    assert len(list(rejects.iterdir())) == 6
    cv2 = pytest.importorskip("cv2")
    capture = cv2.VideoCapture(str(annotated))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10), "it plays as fast as the source"
    assert "captured = judged + dropped + failed" in out
    assert stream_report(told) in out
    for text in (f"20 verdicts appended to {lines}", f"2 rejects in {rejects}", f"20 frames in {annotated}"):
        assert text in err.splitlines()


def test_results_of_two_kinds_do_not_mix_on_stdout(run: Run, tiny_engine: Path, video: Path) -> None:
    code, out, _ = run("stream", "--source", video, "--engine", tiny_engine, "--jsonl", "-", "--frames", 3)
    assert code == 0
    assert [json.loads(line)["frame"] for line in out.splitlines()] == [0, 1, 2]
    code, out, _ = run("stream", "--source", video, "--engine", tiny_engine, "--json", "-", "--frames", 3)
    assert code == 0
    assert json.loads(out)["sources"][0]["judged"] == 3
    code, _, _ = run("stream", "--source", video, "--engine", tiny_engine, "--json", "-", "--jsonl", "-")
    assert code == 2


def test_several_sources_have_a_video_each(tmp_path: Path, run: Run, tiny_engine: Path, video: Path) -> None:
    second = Path(shutil.copy(video, tmp_path / "second.avi"))
    annotated = tmp_path / "line.mp4"
    code, out, _ = run(
        "stream", "--source", video, "--source", second, "--engine", tiny_engine, "--video", annotated
    )
    assert code == 0
    assert second.name in out
    assert (tmp_path / "line-1.mp4").stat().st_size > 0
    assert (tmp_path / "line-2.mp4").stat().st_size > 0


def test_thresholds_from_the_command_line(run: Run, tiny_engine: Path, video: Path) -> None:
    code, out, err = run(
        "stream", "--source", video, "--engine", tiny_engine, "--threshold", 2, "--json", "-"
    )
    assert (code, json.loads(out)["sources"][0]["ng"]) == (0, 0)
    assert "set by hand" in err
    for rate in ("0.001", "0.1%"):
        code, _, err = run("stream", "--source", video, "--engine", tiny_engine, "--false-reject-rate", rate)
        assert code == 2
        assert "999" in err, "it says how many frames would be needed"
    told = [run("stream", "--source", video, "--engine", tiny_engine, "--false-reject-rate", rate)[2].splitlines()[0]
            for rate in ("0.05", "5%")]  # fmt: skip
    assert told[0] == told[1]
    assert run("stream", "--source", video, "--engine", tiny_engine, "--false-reject-rate", "few")[0] == 2


def test_an_engine_that_was_not_measured_gives_no_verdicts(run: Run, tiny_engine: Path, video: Path) -> None:
    sidecar = replace(read_sidecar(tiny_engine), normal_scores=[])
    write_json(sidecar_path(tiny_engine), sidecar.to_dict())
    code, _, err = run("stream", "--source", video, "--engine", tiny_engine)
    assert code == 4
    assert "normal scores" in err
    assert run("stream", "--source", video, "--engine", tiny_engine, "--threshold", 0.5)[0] == 0


@pytest.mark.parametrize("content", [None, b"", b"no video at all" * 50])
def test_a_video_that_does_not_open(
    tmp_path: Path, run: Run, tiny_engine: Path, content: bytes | None
) -> None:
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    lines = tmp_path / "v.jsonl"
    code, _, err = run("stream", "--source", path, "--engine", tiny_engine, "--jsonl", lines)
    assert code == 2
    assert str(path) in err
    what, hint = err.splitlines()[-2:]
    assert what.startswith("error: ")
    assert hint.startswith("  ")
    assert not lines.exists()


def test_libraries_say_nothing_beside_the_error(tmp_path: Path, tiny_engine: Path) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(b"no video at all" * 50)
    done = subprocess.run(
        [*AGP_EDGE, "stream", "--source", path, "--engine", tiny_engine],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert done.stdout == ""


def test_a_frame_of_another_size(tmp_path: Path, run: Run, tiny_engine: Path, part: Part) -> None:
    write_png(tmp_path / "shots" / "0.png", part(0)[:40])
    new = [tmp_path / "new" / name for name in ("v.jsonl", "ng", "line.webm")]
    code, out, err = run(
        "stream", "--source", tmp_path / "shots", "--engine", tiny_engine,
        "--jsonl", new[0], "--rejects", new[1], "--video", new[2],
    )  # fmt: skip
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 2, "the error stands alone"
    assert not new[0].parent.exists()
    assert "64x40" in err
    assert "64x48" in err
    assert "--frame-size 64x40" in err


def test_a_later_frame_of_another_size_comes_with_what_was_judged(
    tmp_path: Path, run: Run, tiny_engine: Path, part: Part
) -> None:
    write_png(tmp_path / "shots" / "0.png", part(0))
    write_png(tmp_path / "shots" / "1.png", part(1)[:40])
    code, out, err = run("stream", "--source", tmp_path / "shots", "--engine", tiny_engine)
    assert code == 2
    assert "64x40" in err
    assert "captured = judged + dropped + failed" in out


def test_a_camera_that_is_not_there_leaves_nothing_behind(
    tmp_path: Path, run: Run, tiny_engine: Path
) -> None:
    code, out, err = run(
        "stream", "--camera", 97, "--engine", tiny_engine, "--jsonl", tmp_path / "v.jsonl",
        "--rejects", tmp_path / "ng", "--video", tmp_path / "line.webm",
    )  # fmt: skip
    assert code == 2
    assert out == ""
    assert "/dev/video97" in err
    assert "--source rtsp://" in err or "cameras here" in err
    left = {"v.jsonl", "ng", "line.webm"} & {path.name for path in tmp_path.iterdir()}
    assert not left


@pytest.mark.parametrize("flag", ["--video", "--jsonl", "--json"])
def test_no_output_replaces_what_is_read(
    tmp_path: Path, run: Run, tiny_engine: Path, video: Path, flag: str
) -> None:
    link = tmp_path / "link.avi"
    link.hardlink_to(video)
    for path in (video, link, tiny_engine, sidecar_path(tiny_engine)):
        before = path.read_bytes()
        code, _, err = run("stream", "--source", video, "--engine", tiny_engine, flag, path)
        assert code == 2
        assert str(path) in err
        assert path.read_bytes() == before
    same = tmp_path / "same.json"
    assert run("stream", "--source", video, "--engine", tiny_engine, "--json", same, "--jsonl", same)[0] == 2


def test_video_replaces_videos_only(tmp_path: Path, run: Run, tiny_engine: Path, video: Path) -> None:
    notes = tmp_path / "notes.webm"
    notes.write_text("no video")
    code, _, err = run("stream", "--source", video, "--engine", tiny_engine, "--video", notes)
    assert code == 2
    assert str(notes) in err
    assert notes.read_text() == "no video"
    notes.unlink()
    for _ in range(2):
        assert run("stream", "--source", video, "--engine", tiny_engine, "--video", notes)[0] == 0


def test_a_report_fits_80_columns() -> None:
    latency = {"total": {"p50": 12345.67, "p99": 99999.99, "max": 99999.99}}
    line = dict.fromkeys(("captured", "judged", "dropped", "failed", "ok", "ng", "reconnects"), 10_000_000)
    name = "rtsp://inspector:***@camera-12.line-4.factory.example:554/streams/main"
    summary = {"engine": "0123456789ab", "threshold": 0.123456, "provisional": True, "elapsed_ms": 1e9,
               "sources": [{"source": name, **line, "latency_ms": latency}],
               "sinks": [{"sink": "--mqtt", "lost": 10_000_000}]}  # fmt: skip
    report = stream_report(summary)
    assert max(map(len, report.splitlines())) <= 80
    assert "rtsp://" in report
    assert "streams/main" in report
    assert "OK" in report.split()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--source", "ftp://u:secret@host/x"),
        (),
        ("--camera", "97"),
        ("--camera", "-1"),
        ("--camera", "rtsp://u:secret@host/x"),
        ("--source", "u:secret@host/x"),
        ("--source", "rtsp:/u:secret@host/x"),
        ("--source", "absent.mp4"),
        ("--source", "rtsp://a:secret@127.0.0.1:1/", "--every", "0"),
        ("--source", "rtsp://a:secret@127.0.0.1:1/", "--source", "rtsp://a:secret@127.0.0.1:1/"),
    ],
)
def test_bad_commands(run: Run, tiny_engine: Path, arguments: tuple[str, ...]) -> None:
    code, out, err = run("stream", "--engine", tiny_engine, *arguments)
    assert code == 2
    assert "secret" not in out + err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--memory", "mapped"), "--memory is for an engine on a GPU, this one runs on the CPU"),
        (("--no-cuda-graphs",), "--no-cuda-graphs is for an engine on a GPU, this one runs on the CPU"),
        (("--spin-wait",), "--spin-wait is for an engine on a GPU, this one runs on the CPU"),
        (("--memory", "paged"), "there is no memory 'paged'"),
    ],
)
@pytest.mark.parametrize("verb", ["stream", "benchmark"])
def test_what_only_a_gpu_takes(
    run: Run, tiny_engine: Path, video: Path, verb: str, arguments: tuple[str, ...], told: str
) -> None:
    where = ("--source", video, "--engine", tiny_engine) if verb == "stream" else (tiny_engine,)
    code, out, err = run(verb, *where, *arguments)
    assert (code, out) == (2, "")
    assert told in err


def test_a_wait_for_a_batch(run: Run, tiny_engine: Path, video: Path) -> None:
    where = ("stream", "--source", video, "--engine", tiny_engine, "--batch-wait")
    code, _, err = run(*where, "-3")
    assert code == 2
    assert "--batch-wait -3 is no time that a frame may wait" in err
    assert run(*where, "20")[0] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_an_interrupt_leaves_everything_readable(
    tmp_path: Path, tiny_engine: Path, video: Path, number: signal.Signals, code: int
) -> None:
    cv2 = pytest.importorskip("cv2")
    # Far more images than can be judged meanwhile: a source that does not end by itself.
    many = tmp_path / "many"
    many.mkdir()
    picture = tmp_path / "0.png"
    write_png(picture, np.full((48, 64, 3), 76, np.uint8))
    for i in range(20_000):
        (many / f"{i:05d}.png").hardlink_to(picture)
    lines, annotated, summary = tmp_path / "v.jsonl", tmp_path / "line.webm", tmp_path / "s.json"
    process = subprocess.Popen(
        [
            *AGP_EDGE, "stream", "--source", str(many),
            "--engine", str(tiny_engine), "--jsonl", str(lines), "--video", str(annotated), "--json", str(summary),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    while process.poll() is None and (not lines.exists() or lines.stat().st_size < 2000):
        time.sleep(0.02)
    process.send_signal(number)
    process.send_signal(number)  # Shells and `timeout` signal twice: the echo must not cut anything short.
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    text = lines.read_text()
    assert text.endswith("\n")
    verdicts = [json.loads(line) for line in text.splitlines()]
    (counts,) = json.loads(summary.read_text())["sources"]
    assert 0 < counts["judged"] == len(verdicts) < 20_000
    assert counts["captured"] == counts["judged"] + counts["dropped"] + counts["failed"]
    assert "captured = judged + dropped + failed" in out
    capture = cv2.VideoCapture(str(annotated), cv2.CAP_FFMPEG)
    frames = 0
    while capture.read()[0]:
        frames += 1
    assert frames == len(verdicts)


def test_a_full_disk(
    tmp_path: Path, run: Run, tiny_engine: Path, part: Part, write_video: WriteVideo
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        long = write_video(tmp_path / "long.avi", [part(i) for i in range(100)])
        code, out, err = run("stream", "--source", long, "--engine", tiny_engine, "--jsonl", disk / "v.jsonl")
        text = (disk / "v.jsonl").read_text()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert code == 5
    assert "no space left" in err
    assert "captured = judged + dropped + failed" in out
    assert text.endswith("\n")
    assert len([json.loads(line) for line in text.splitlines()]) > 10


def test_predict(tmp_path: Path, run: Run, tiny_engine: Path, part: Part) -> None:
    shots = tmp_path / "shots"
    write_png(shots / "a.png", part(0))
    write_png(shots / "b.png", part(1, defect=True))
    code, out, err = run("predict", tiny_engine, shots, "--out", tmp_path / "maps")
    assert code == 0
    assert out.splitlines()[0].split() == ["file", "verdict", "score", "p-value"]
    assert [line.split()[1] for line in out.splitlines()[2:]] == ["OK", "NG"]
    assert "threshold" in err
    assert len(list((tmp_path / "maps").iterdir())) == 4
    code, out, _ = run("predict", tiny_engine, shots / "b.png", "--json", "-")
    assert code == 0
    assert json.loads(out)["images"][0]["verdict"] == "NG"


def test_predict_of_an_unreadable_image(tmp_path: Path, run: Run, tiny_engine: Path, part: Part) -> None:
    write_png(tmp_path / "shots" / "a.png", part(0))
    (tmp_path / "shots" / "b.png").write_bytes(b"no image")
    code, out, err = run("predict", tiny_engine, tmp_path / "shots")
    assert code == 2
    assert "1 of 2 images were not judged" in err
    assert "OK" in out, "the others are judged"
    assert run("predict", tiny_engine, tmp_path / "absent")[0] == 2


def test_capture(tmp_path: Path, run: Run, part: Part, write_video: WriteVideo) -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    frames = [
        cv2.resize(rng.integers(30, 220, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_NEAREST)
        for _ in range(6)
    ]
    video = write_video(tmp_path / "parts.avi", [*frames, frames[-1], frames[-1]])
    data = tmp_path / "data"
    code, out, _ = run("capture", "--source", video, "--out", data)
    assert code == 0
    assert f"8 captured = 6 kept + 2 duplicates + 0 blurred + 0 skipped: {data / 'train' / 'good'}" in out
    code, out, _ = run("capture", "--source", video, "--out", data, "--json", "-")
    assert code == 0
    assert json.loads(out)["kept"] == 0, "what is there is not captured again"
    arguments = ("--frames", 2, "--keep-similar", "--json", "-")
    code, out, _ = run("capture", "--source", video, "--out", data, *arguments)
    assert code == 0
    assert json.loads(out)["kept"] == 2
    assert len(list((data / "train" / "good").glob("*.png"))) == 8
    assert run("capture", "--out", data)[0] == 2
    assert run("capture", "--out", data, "--camera", 0, "--source", video)[0] == 2
    assert run("capture", "--out", data, "--source", video, "--source", video)[0] == 2
    assert run("capture", "--out", data, "--source", tmp_path / "absent.mp4")[0] == 2
