"""Commands on NG: run for real, hung for real."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agp_edge.errors import InputError
from agp_edge.sinks import Judgement
from agp_edge.sinks.command import CommandSink, on_ng_sink


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """`script(text)`: a command that runs this shell script with the test's folder as its argument."""

    def write(text: str) -> str:
        path = tmp_path / "script.sh"
        path.write_text(text)
        return f"/bin/sh {shlex.quote(str(path))} {shlex.quote(str(tmp_path))}"

    return write


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, f"waited for {what} in vain"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        # Its state is behind its name; one that is a zombie does nothing any more.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_command_gets_the_verdict_and_runs_for_ng_alone(
    tmp_path: Path, judgement: Judgement, script: Callable[[str], str]
) -> None:
    sink = on_ng_sink(script('cat >> "$1/stdin"; env | grep ^AGP_EDGE_ | sort > "$1/env"'))
    assert sink.name == "--on-ng sh"
    told = replace(judgement, part="P-4711\n", roi=("left half", (0, 0, 64, 48)))
    for item in (replace(judgement, verdict="OK"), told, told):
        sink.write(item)
    sink.close()
    sink.close()
    assert [json.loads(line) for line in (tmp_path / "stdin").read_text().splitlines()] == [
        told.to_dict()
    ] * 2
    assert (tmp_path / "env").read_text().splitlines() == [
        "AGP_EDGE_FRAME=42", "AGP_EDGE_PART=P-4711", "AGP_EDGE_ROI=left half", "AGP_EDGE_SCORE=0.98",
        "AGP_EDGE_SOURCE=rtsp://admin:***@10.0.0.5/live", "AGP_EDGE_THRESHOLD=0.4",
        "AGP_EDGE_TIME=2026-02-02T02:39:59.123Z", "AGP_EDGE_VERDICT=NG",
    ]  # fmt: skip
    assert sink.describe() == "2 runs of --on-ng sh"


def test_secrets_of_the_stream_stay_with_it(
    tmp_path: Path, judgement: Judgement, script: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "hunter2")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    sink = CommandSink(script('tr "\\0" "\\n" < /proc/self/environ > "$1/environ"; env > "$1/env"'))
    sink.write(judgement)
    sink.close()
    for name in ("env", "environ"):
        text = (tmp_path / name).read_text()
        assert "AGP_EDGE_VERDICT=NG" in text
        assert f"PATH={os.environ['PATH']}" in text
        assert "hunter2" not in text
        assert "NOTIFY_SOCKET" not in text


def test_there_is_no_shell(tmp_path: Path, judgement: Judgement) -> None:
    sink = CommandSink(f"/usr/bin/touch '{tmp_path}/a b' {tmp_path}/$HOME;x {tmp_path}/>y")
    sink.write(judgement)
    sink.close()
    assert {p.name for p in tmp_path.iterdir()} == {"a b", "$HOME;x", ">y"}


def test_a_command_that_fails_is_an_error_with_its_last_line_and_the_next_one_runs(
    tmp_path: Path, judgement: Judgement, script: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    sink = CommandSink(
        script(
            'test -e "$1/mended" && exit; echo first; echo "no relay at rtsp://u:hunter2@10.0.0.9/" >&2; exit 3'
        )
    )
    with pytest.raises(InputError) as caught:
        sink.write(judgement)
    assert caught.value.what.startswith("--on-ng sh ended with 3: no relay at rtsp:")
    assert "hunter2" not in str(caught.value)
    (tmp_path / "mended").touch()
    sink.write(judgement)
    sink.close()
    assert sink.describe() == "2 runs of --on-ng sh, 1 failed"
    assert capfd.readouterr() == ("", ""), "what it prints is not ours"


def test_arguments_are_never_told(judgement: Judgement) -> None:
    sink = CommandSink("/bin/sh -c 'exit 1' --password hunter2")
    with pytest.raises(InputError) as caught:
        sink.write(judgement)
    assert "hunter2" not in f"{caught.value}{sink.name}{sink.describe()}"
    sink.close()


def test_one_that_was_killed_says_by_what(judgement: Judgement) -> None:
    sink = CommandSink("/bin/sh -c 'kill -9 $$'")
    with pytest.raises(InputError, match="was ended by SIGKILL"):
        sink.write(judgement)
    sink.close()


def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, judgement: Judgement, script: Callable[[str], str]
) -> None:
    sink = CommandSink(
        script('trap "" TERM; sleep 600 & echo $! > "$1/child"; echo $$ > "$1/own"; wait; sleep 600'),
        timeout_s=0.5,
    )
    with pytest.raises(InputError, match=r"did not end within 0\.5 s"):
        sink.write(judgement)
    for name in ("child", "own"):
        pid = int((tmp_path / name).read_text())
        wait_for(lambda pid=pid: not is_running(pid), f"the end of {name}")  # type: ignore[misc]
    sink.close()


@pytest.mark.parametrize("text", ["exec 0<&-", "yes | head -c 5000000; echo done"])
def test_one_that_reads_nothing_or_prints_much_holds_nothing_up(
    judgement: Judgement, script: Callable[[str], str], text: str
) -> None:
    sink = CommandSink(script(text), timeout_s=30)
    regions = judgement.regions * 5000  # More than a pipe holds.
    sink.write(replace(judgement, regions=regions))
    sink.close()


def test_the_last_line_of_much_is_told(judgement: Judgement, script: Callable[[str], str]) -> None:
    sink = CommandSink(script("yes | head -c 5000000; echo the end; exit 1"))
    with pytest.raises(InputError, match="ended with 1: the end\n"):
        sink.write(judgement)
    sink.close()


def test_what_is_left_in_the_background_is_not_waited_for(
    tmp_path: Path, judgement: Judgement, script: Callable[[str], str]
) -> None:
    # It holds the output open.
    sink = CommandSink(script('sleep 30 & echo $! > "$1/child"'), timeout_s=20)
    began = time.monotonic()
    sink.write(judgement)
    assert time.monotonic() - began < 10
    pid = int((tmp_path / "child").read_text())
    assert is_running(pid), "nor ended"
    os.kill(pid, 9)
    sink.close()


def test_closing_ends_a_command_that_runs(
    tmp_path: Path, judgement: Judgement, script: Callable[[str], str]
) -> None:
    sink = CommandSink(script('echo $$ > "$1/own"; exec sleep 600'), timeout_s=600)
    thread = threading.Thread(target=lambda: sink.write(judgement))
    thread.start()
    wait_for(lambda: (tmp_path / "own").exists() and (tmp_path / "own").read_text() != "", "the command")
    sink.close()
    thread.join(30)
    assert not thread.is_alive()
    assert not is_running(int((tmp_path / "own").read_text()))


def test_a_process_that_ends_while_a_command_hangs_takes_it_along(
    tmp_path: Path, script: Callable[[str], str]
) -> None:
    command = script('echo $$ > "$1/own"; exec sleep 600')
    code = """
import sys, threading, time
from pathlib import Path
from agp_edge.sinks.base import Judgement
from agp_edge.sinks.command import CommandSink
sink = CommandSink(sys.argv[1], timeout_s=600)
ng = Judgement(None, None, 1.0, "arrival", "cam", 1, "NG", 0.5, 0.4, 0.1, [], {}, "0")
threading.Thread(target=sink.write, args=(ng,), daemon=True).start()
own = Path(sys.argv[2])
while not (own.exists() and own.read_text()):
    time.sleep(0.01)
"""
    subprocess.run([sys.executable, "-c", code, command, str(tmp_path / "own")], check=True, timeout=60)
    pid = int((tmp_path / "own").read_text())
    wait_for(lambda: not is_running(pid), "its end")


def test_a_program_that_was_removed_is_an_error(tmp_path: Path, judgement: Judgement) -> None:
    program = tmp_path / "relay"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    sink = CommandSink(str(program))
    sink.write(judgement)
    program.unlink()
    with pytest.raises(InputError, match="--on-ng relay cannot be run: No such file"):
        sink.write(judgement)
    sink.close()


def test_commands_leave_no_descriptors(judgement: Judgement) -> None:
    sink = CommandSink("/bin/true")
    sink.write(judgement)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        sink.write(judgement)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    sink.close()


@pytest.mark.parametrize(
    "command", ["", "   ", "no-such-program --now", "{here}/notes", "{here}", "sh -c 'half"]
)
def test_what_is_no_command_is_refused(tmp_path: Path, command: str) -> None:
    (tmp_path / "notes").write_text("no program")
    (tmp_path / "notes").chmod(0o644)
    with pytest.raises(InputError, match="--on-ng"):
        CommandSink(command.format(here=tmp_path))
