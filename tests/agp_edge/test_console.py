"""What every command shares: two lines for an error, its exit code, results on stdout and all else on stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from agp_edge.cli.console import (
    describe_seconds,
    progress_bar,
    require_host,
    run_command,
    say,
    table,
    write_json_result,
)
from agp_edge.errors import ArtefactError, InputError

AGP_EDGE = [sys.executable, "-c", "from agp_edge.cli import main; main()"]


@pytest.fixture(autouse=True)
def _keep_the_signal() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def raising(error: BaseException) -> Callable[..., None]:
    def app(standalone_mode: bool) -> None:
        assert not standalone_mode
        raise error

    return app


def test_a_command_that_ends_well_ends_with_zero() -> None:
    assert run_command(lambda standalone_mode: None) == 0
    assert run_command(lambda standalone_mode: 3) == 3


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (InputError("no engine at x", "build one"), 2, ["error: no engine at x", "  build one"]),
        (ArtefactError("its hash is\nnot the one", "fetch\nit again"), 4, ["error: its hash is not the one", "  fetch it again"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (typer.Abort(), 130, ["interrupted"]),
        (typer.BadParameter("no\nnumber"), 2, ["error: Invalid value: no number", "  see: agp-edge --help"]),
        (ZeroDivisionError("of\ntwo lines"), 1, ["error: unexpected ZeroDivisionError: of two lines", "  run it again with --debug before the command and report what it shows"]),
    ],
)  # fmt: skip
def test_an_error_is_two_lines_and_its_exit_code(
    error: BaseException, code: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error)) == code
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", lines)


@pytest.mark.parametrize(("error", "code"), [(ArtefactError("a", "b"), 4), (ZeroDivisionError(), 1)])
def test_debug_shows_where_it_came_from_and_keeps_the_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error), debug=True) == code
    out, err = capsys.readouterr()
    assert (out, "Traceback" in err, "in app" in err) == ("", True, True)


def test_a_supervisor_stops_a_command_as_ctrl_c_does() -> None:
    def app(standalone_mode: bool) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    assert run_command(app) == 130


def test_a_reader_that_goes_away_sees_no_traceback() -> None:
    made = subprocess.run(
        f"'{sys.executable}' -c 'from agp_edge.cli import main; main()' --help | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.stderr == ""


def test_the_real_program_ends_with_the_code_and_two_lines(tmp_path: Path) -> None:
    made = subprocess.run(
        [*AGP_EDGE, "verify", str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert made.returncode == 2
    assert made.stdout == ""
    assert made.stderr.splitlines() == [
        f"error: {tmp_path / 'x'} does not exist",
        "  give a run, a bundle or an engine",
    ]
    made = subprocess.run(
        [*AGP_EDGE, "--debug", "verify", str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert made.returncode == 2
    assert "Traceback" in made.stderr


def test_json_goes_to_a_file_or_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json_result(None, {"a": 1})
    write_json_result(str(tmp_path / "deep" / "result.json"), {"a": 1})
    assert json.loads((tmp_path / "deep" / "result.json").read_text()) == {"a": 1}
    assert capsys.readouterr() == ("", "")
    write_json_result("-", {"a": 1})
    say("for a person", "-")
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"a": 1}, "for a person\n")
    say("for a person", "file.json")
    assert capsys.readouterr().out == "for a person\n"


@pytest.mark.parametrize(
    "there", [b"\x00\x00\x00 ftypmp42", b"a,b\n", b"{half", b'{"format": "agp-edge-engine"}', b"\xff\xfe"]
)
def test_json_never_destroys_what_is_no_result(
    there: bytes, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    target = tmp_path / "good.mp4"
    target.write_bytes(there)
    with pytest.raises(InputError, match="is there and is no result"):
        write_json_result(str(target), {"a": 1})
    code, out, err = command("doctor", "--json", target)
    assert (code, out) == (2, ""), "and it is said before the work"
    assert "it would be lost" in err
    assert target.read_bytes() == there


def test_json_replaces_a_result_and_no_folder_or_device(tmp_path: Path) -> None:
    for there in ("", "[]", '{"a": 0}'):
        target = tmp_path / "result.json"
        target.write_text(there)
        write_json_result(str(target), {"a": 1})
        assert json.loads(target.read_text()) == {"a": 1}
    with pytest.raises(InputError, match="is a folder"):
        write_json_result(str(tmp_path), {})
    assert target.is_file()
    write_json_result("/dev/null", {})
    assert not Path("/dev/null").is_file(), "a device stays one"


def test_progress_in_a_pipe_is_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("train") as progress:
        for i in range(1, 101):
            progress(i, 100, f"loss {1 / i:.2f}")
        progress(100, 100, "again")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "train: 100/100 loss 0.01\n"


def test_progress_in_a_pipe_tells_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress_bar("train") as progress:
        for done, at in ((100, 0.0), (110, 10.0), (160, 60.0), (200, 100.0)):
            now[0] = at
            progress(done, 200, f"loss {done}")
    assert capsys.readouterr().err.splitlines() == [
        "train: 110/200 loss 110 90 s left",
        "train: 160/200 loss 160 40 s left",
        "train: 200/200 loss 200",
    ], "what was done before the first call tells nothing of the speed"
    assert [describe_seconds(s) for s in (5.4, 99, 700, 11100)] == ["5 s", "99 s", "12 min", "3 h 05 min"]


def test_a_table_lines_up() -> None:
    rows = [("brick", "0.5", "3"), ("grass", "10", "-")]
    assert table(rows, ("class", "AUROC", "n")) == (
        "class  AUROC  n\n-----  -----  -\nbrick    0.5  3\ngrass     10  -"
    )
    assert table([]) == ""


def test_a_host_command_on_a_device_says_what_to_install() -> None:
    assert require_host("json", "train") is json
    with pytest.raises(InputError, match="agp-edge train works on a host: agpnot is not installed") as caught:
        require_host("agpnot.training", "train")
    assert "pip install -e '.[host]'" in caught.value.hint


def test_a_benchmarks_earlier_result_is_replaced_and_an_artefacts_file_is_not(tmp_path: Path) -> None:
    from agp_edge.cli.console import check_json_target

    file = tmp_path / "file.json"
    file.write_text('{"format": "agp-edge-benchmark"}')
    assert check_json_target(str(file)) == str(file)
    for kind in ("run", "bundle", "engine"):
        file.write_text(f'{{"format": "agp-edge-{kind}"}}')
        with pytest.raises(InputError, match="would be lost"):
            check_json_target(str(file))
