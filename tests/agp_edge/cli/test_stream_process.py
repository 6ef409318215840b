"""`agp-edge stream` as a process on a line: signals, a supervisor, a kill, and where passwords must not be."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.engines.sidecar import sidecar_path
from tests.agp_edge.stream.test_engine_change import another, link_to
from tests.servers import mjpeg
from tests.servers.mosquitto import free_port

cv2 = pytest.importorskip("cv2")
Part = Callable[..., NDArray[np.uint8]]
AGP_EDGE = [sys.executable, "-c", "from agp_edge.cli import main; main()"]
PASSWORD = "p4ss/w@rd-of-camera"
BROKER = "br0ker-p4ss"
TOKEN = "t0ken-of-the-page-which-is-long"


@pytest.fixture
def camera(part: Part) -> Iterator[mjpeg.MjpegServer]:
    """MJPEG over HTTP, 50 pictures a second, every tenth with a defect; it asks for a password."""
    pictures = [cv2.imencode(".jpg", part(i, defect=i % 10 == 9))[1].tobytes() for i in range(40)]

    def parts() -> Iterator[bytes]:
        for picture in itertools.cycle(pictures):
            yield mjpeg.part(picture)
            time.sleep(0.02)

    with mjpeg.MjpegServer(parts, who=("viewer", PASSWORD)) as server:
        yield server


class Process:
    """The command, with its stderr in a file that can be read while it runs."""

    def __init__(self, folder: Path, *arguments: object, env: dict[str, str] | None = None) -> None:
        self._log = folder / "stderr.log"
        with self._log.open("w") as log:
            self.popen = subprocess.Popen(
                [*AGP_EDGE, "stream", *map(str, arguments)],
                stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(env or {})},
            )  # fmt: skip

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.communicate()

    @property
    def err(self) -> str:
        return self._log.read_text()

    def events(self) -> list[dict[str, Any]]:
        whole = self.err[: self.err.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 60
        while not (found := condition()):
            assert self.popen.poll() is None, f"it ended: {self.err}"
            assert time.monotonic() < end, f"it did not happen: {self.err}"
            time.sleep(0.02)
        return found

    def end(self, number: signal.Signals) -> tuple[int, str, float]:
        begin = time.monotonic()
        self.popen.send_signal(number)
        out, _ = self.popen.communicate(timeout=30)
        return self.popen.returncode, out, time.monotonic() - begin


def lines_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def url_of(camera: mjpeg.MjpegServer) -> str:
    return f"http://viewer:${{CAMERA_PASSWORD}}@127.0.0.1:{camera.port}/live"


def test_sigterm_drains_and_ends_well(tmp_path: Path, tiny_engine: Path, camera: mjpeg.MjpegServer) -> None:
    lines, summary = tmp_path / "v.jsonl", tmp_path / "s.json"
    with Process(
        tmp_path, "--source", url_of(camera), "--engine", tiny_engine, "--jsonl", lines, "--rejects", tmp_path / "ng",
        "--json", summary, env={"CAMERA_PASSWORD": PASSWORD},
    ) as process:  # fmt: skip
        process.wait_for(lambda: len(lines_of(lines)) > 20)
        code, out, took_s = process.end(signal.SIGTERM)
    assert code == 0, process.err
    assert took_s < 10, "2 s on a machine that does nothing else"
    assert "captured = judged + dropped + failed" in out
    told = json.loads(summary.read_text())
    (counts,) = told["sources"]
    assert counts["captured"] == counts["judged"] + counts["dropped"] + counts["failed"]
    assert counts["judged"] == len(lines_of(lines))
    assert lines.read_text().endswith("\n")
    rejects = {sink["sink"]: sink for sink in told["sinks"]}["--rejects"]
    assert rejects["written"] == counts["ng"] == len(list((tmp_path / "ng").glob("*.json")))


@pytest.mark.parametrize("gap_s", [0.0, 0.05, 0.3])
def test_many_ctrl_c_lose_nothing(
    tmp_path: Path, tiny_engine: Path, camera: mjpeg.MjpegServer, gap_s: float
) -> None:
    lines, summary = tmp_path / "v.jsonl", tmp_path / "s.json"
    with Process(
        tmp_path, "--source", url_of(camera), "--engine", tiny_engine, "--jsonl", lines, "--json", summary,
        env={"CAMERA_PASSWORD": PASSWORD},
    ) as process:  # fmt: skip
        process.wait_for(lambda: len(lines_of(lines)) > 5)
        for _ in range(2):
            process.popen.send_signal(signal.SIGINT)
            time.sleep(gap_s)
        code, out, _ = process.end(signal.SIGINT)
    assert code == 130, process.err
    assert "captured = judged + dropped + failed" in out
    assert json.loads(summary.read_text())["sources"][0]["judged"] == len(lines_of(lines))


def test_sighup_opens_the_engine_anew(tmp_path: Path, tiny_engine: Path, camera: mjpeg.MjpegServer) -> None:
    link = link_to(tmp_path / "line.engine", tiny_engine)
    lines = tmp_path / "v.jsonl"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        Process(
            tmp_path, "--source", url_of(camera), "--engine", link, "--jsonl", lines, "--log-format", "json",
            "--threshold", 0.35,
            env={"CAMERA_PASSWORD": PASSWORD, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"},
        ) as process,
    ):  # fmt: skip
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        told: list[str] = []

        def hear(text: str) -> bool:
            while True:
                try:
                    told.append(systemd.recv(4096).decode())
                except BlockingIOError:
                    return any(text in message for message in told)

        process.wait_for(lambda: lines_of(lines) and hear("WATCHDOG=1"))
        spoilt = another(tiny_engine, "spoilt")
        sidecar = json.loads(sidecar_path(spoilt).read_text())
        sidecar["self_test"] = [score + 1 for score in sidecar["self_test"]]
        sidecar_path(spoilt).write_text(json.dumps(sidecar))
        for engine, kind in ((spoilt, "engine-refused"), (another(tiny_engine, "good"), "engine-changed")):
            link_to(link, engine)
            told.clear()
            process.popen.send_signal(signal.SIGHUP)
            process.wait_for(lambda: any(e["event"] == kind for e in process.events()))  # noqa: B023 - called at once
            process.wait_for(lambda: hear("RELOADING=1") and hear("READY=1"))
        before = len(lines_of(lines))
        process.wait_for(lambda: len(lines_of(lines)) > before + 5)
        code, _, _ = process.end(signal.SIGTERM)
        assert hear("STOPPING=1")
    assert code == 0, process.err
    frames = lines_of(lines)
    assert len({line["engine"] for line in frames}) == 2
    assert {line["threshold"] for line in frames} == {0.35}, (
        "what the flags asked for holds for the next engine"
    )
    assert [line["frame"] for line in frames] == sorted(line["frame"] for line in frames)


def test_sighup_before_there_is_a_stream_waits_for_it(
    tmp_path: Path, tiny_engine: Path, camera: mjpeg.MjpegServer
) -> None:
    """A large engine takes long to open, and a reload may come then: by default the signal would end the process."""
    link = link_to(tmp_path / "line.engine", tiny_engine)
    secret = tmp_path / "secret"
    os.mkfifo(secret)
    lines = tmp_path / "v.jsonl"
    with Process(
        tmp_path, "--source", url_of(camera), "--engine", link, "--jsonl", lines, "--log-format", "json",
        "--mqtt", f"mqtt://line:${{file:{secret}}}@127.0.0.1:1/line", env={"CAMERA_PASSWORD": PASSWORD},
    ) as process:  # fmt: skip
        with secret.open(
            "w"
        ) as file:  # As soon as it asks for the password, the engine is open and no stream runs.
            link_to(link, another(tiny_engine, "good"))
            process.popen.send_signal(signal.SIGHUP)
            time.sleep(0.1)
            file.write(BROKER)
        process.wait_for(lambda: any(e["event"] == "engine-changed" for e in process.events()))
        code, _, _ = process.end(signal.SIGTERM)
    assert code == 0, process.err


@pytest.mark.parametrize(("reader", "log_format"), [("hangs", "json"), ("is gone", "text")])
def test_a_log_that_nobody_reads_does_not_stop_the_line(
    tmp_path: Path, tiny_engine: Path, camera: mjpeg.MjpegServer, reader: str, log_format: str
) -> None:
    """Neither does it keep the process from ending, nor spoil its exit code."""
    lines = tmp_path / "v.jsonl"
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        [*AGP_EDGE, "stream", "--source", url_of(camera), "--engine", str(tiny_engine), "--jsonl", str(lines),
         "--log-format", log_format],
        stdout=theirs, stderr=theirs, env={**os.environ, "CAMERA_PASSWORD": PASSWORD},
    )  # fmt: skip

    def wait_for(count: int) -> None:
        end = time.monotonic() + 60
        while len(lines_of(lines)) < count:
            assert process.poll() is None, f"it ended with {process.returncode}"
            assert time.monotonic() < end, f"{len(lines_of(lines))} of {count}"
            time.sleep(0.02)

    try:
        wait_for(5)
        if reader == "is gone":
            os.close(ours)
        else:
            os.set_blocking(theirs, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(theirs, b"x" * 512)
            os.set_blocking(theirs, True)
        for _ in range(2):
            # Something to tell: of the loop that judges, and of the thread that reads the camera.
            process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
            wait_for(len(lines_of(lines)) + 10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        if reader == "hangs":
            os.close(ours)
    assert lines.read_text().endswith("\n")


def test_a_kill_leaves_whole_lines(tmp_path: Path, tiny_engine: Path, camera: mjpeg.MjpegServer) -> None:
    lines = tmp_path / "v.jsonl"
    seen = 0
    for _ in range(2):
        with Process(
            tmp_path, "--source", url_of(camera), "--engine", tiny_engine, "--jsonl", lines, env={"CAMERA_PASSWORD": PASSWORD}
        ) as process:  # fmt: skip
            process.wait_for(lambda: len(lines_of(lines)) > seen + 10)  # noqa: B023 - called at once
            code, _, _ = process.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert lines.read_text().endswith("\n"), "the last line is whole"
        verdicts = [json.loads(line) for line in lines.read_text().splitlines()]
        seen = len(verdicts)


def test_what_is_not_there_yet_is_waited_for(tmp_path: Path, tiny_engine: Path, part: Part) -> None:
    """As after a boot, when a share is not mounted and a camera's switch has no power yet; every line of the log is JSON."""
    folder, lines = tmp_path / "share", tmp_path / "v.jsonl"
    given = (
        "--source",
        folder,
        "--follow",
        "--engine",
        tiny_engine,
        "--jsonl",
        lines,
        "--log-format",
        "json",
    )
    done = subprocess.run(
        [*AGP_EDGE, "stream", *map(str, given)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, "without --wait it is a mistake"
    with Process(tmp_path, *given, "--wait") as process:
        process.wait_for(lambda: any(e["event"] == "source-lost" for e in process.events()))
        folder.mkdir()
        cv2.imwrite(str(folder / "new.png"), part(0))
        process.wait_for(lambda: lines_of(lines))
        code, out, _ = process.end(signal.SIGTERM)
    assert code == 0, process.err
    (verdict,) = lines_of(lines)
    assert verdict["file"] == str(folder / "new.png")
    told = [json.loads(line) for line in (process.err + out).splitlines()]
    assert told[0]["event"] == "note"
    assert "threshold" in told[0]["text"]
    assert told[-1]["sources"][0]["judged"] == 1


def test_no_password_is_anywhere(tmp_path: Path, tiny_engine: Path, camera: mjpeg.MjpegServer) -> None:
    """URL, variable and file: looked for in all that is said, written, served, and shown of processes."""
    secrets = (PASSWORD, BROKER, TOKEN, "p4ss%2Fw%40rd", "other-s3cret")
    (tmp_path / "broker").write_text(BROKER + "\n")
    lines, summary = tmp_path / "out" / "v.jsonl", tmp_path / "out" / "s.json"
    metrics, web = (free_port() for _ in range(2))
    with Process(
        tmp_path,
        "--source", url_of(camera),
        # One that is written out, and cannot be reached.
        "--source", "rtsp://admin:${OTHER}@127.0.0.1:1/live?token=${OTHER}",
        "--mqtt", f"mqtt://line:${{file:{tmp_path / 'broker'}}}@127.0.0.1:1/line",
        "--engine", tiny_engine, "--jsonl", lines, "--rejects", tmp_path / "out" / "ng", "--json", summary,
        "--prometheus", f"127.0.0.1:{metrics}", "--web", f"127.0.0.1:{web}", "--web-token", "${PAGE}",
        "--log-format", "json", "--healthy-within", "60",
        env={"CAMERA_PASSWORD": PASSWORD, "PAGE": TOKEN, "OTHER": "other-s3cret"},
    ) as process:  # fmt: skip
        process.wait_for(lambda: len(lines_of(lines)) > 20 and list((tmp_path / "out" / "ng").glob("*.json")))
        process.wait_for(lambda: any(e["event"] == "source-lost" for e in process.events()))
        served = [
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).read().decode("utf-8", "replace")
            for port, path in ((metrics, "/metrics"), (metrics, "/health"), (web, "/"), (web, "/api/status"), (web, "/health"))
        ]  # fmt: skip
        assert "agp_edge" in served[0]
        commands = [
            path.read_bytes().decode("utf-8", "replace") for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)
        ]  # fmt: skip
        assert any("127.0.0.1:1/live" in command for command in commands), "ours is among them"
        # The environment of children: what was asked for is in it as the user set it, the rest is not.
        code, out, _ = process.end(signal.SIGTERM)
    assert code == 0, process.err
    written = [
        path.read_bytes().decode("utf-8", "replace")
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    ]
    names = [str(path) for path in (tmp_path / "out").rglob("*")]
    assert len(written) > 4
    for secret in secrets:
        for text in [out, process.err, *served, *commands, *written, *names]:
            assert secret not in text
    assert "viewer:***@" in process.err + out + "".join(written)


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True
