"""`stream --config` and `--check`: one file with the names of the flags, and whether it could run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import write_png

Part = Callable[..., NDArray[np.uint8]]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shots(tmp_path: Path, part: Part) -> Path:
    """Three images 160 wide: two parts beside each other, of the last the right one has a defect."""
    folder = tmp_path / "shots"
    for i in range(3):
        pixels = np.full((48, 160, 3), 76, np.uint8)
        pixels[:, :64], pixels[:, 96:] = part(i), part(i, defect=i == 2)
        write_png(folder / f"{i}.png", pixels)
    return folder


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "line.toml"
    path.write_text(text)
    return path


def test_a_file_stands_for_the_flags(
    tmp_path: Path, command: Command, tiny_engine: Path, shots: Path
) -> None:
    lines = tmp_path / "v.jsonl"
    config = write(
        tmp_path,
        f"""
engine = "{tiny_engine}"
jsonl = "{lines}"
false-reject-rate = "1%"
min-area = 16

[[source]]
uri = "{shots}"
roi = ["left=0,0", "right=96,0"]
""",
    )
    code, out, err = command("stream", "--config", config, "--json", tmp_path / "s.json")
    assert code == 0, err
    verdicts = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(v["roi"], v["verdict"]) for v in verdicts][-2:] == [("left", "OK"), ("right", "NG")]
    assert "left" in out
    assert [line["roi"] for line in json.loads((tmp_path / "s.json").read_text())["sources"]] == [
        "left",
        "right",
    ]


def test_what_is_given_goes_before_what_is_written(
    tmp_path: Path, command: Command, tiny_engine: Path, shots: Path
) -> None:
    config = write(
        tmp_path,
        f'engine = "{tiny_engine}"\nsource = ["{shots}"]\nframes = 3\nroi = "0,0"\nthreshold = 0.1\n',
    )
    code, _, err = command("stream", "--config", config, "--frames", 1, "--json", tmp_path / "s.json")
    assert code == 0, err
    told = json.loads((tmp_path / "s.json").read_text())
    assert told["sources"][0]["judged"] == 1
    assert told["threshold"] == 0.1


@pytest.mark.parametrize(
    ("written", "given", "names"),
    [
        ("[[source]]\nuri = 'rtsp://127.0.0.1:1/x'\n", ["--camera", "3"], ["/dev/video3"]),
        ("camera = 3\n", ["--source", "rtsp://127.0.0.1:1/x"], ["rtsp://127.0.0.1:1/x"]),
        ("camera = 3\nsource = 'rtsp://127.0.0.1:1/x'\n", [], ["/dev/video3", "rtsp://127.0.0.1:1/x"]),
    ],
)
def test_a_camera_that_is_given_goes_before_the_sources_of_the_file(
    tmp_path: Path, command: Command, tiny_engine: Path, written: str, given: list[str], names: list[str]
) -> None:
    code, out, err = command(
        "stream",
        "--config",
        write(tmp_path, written),
        "--engine",
        tiny_engine,
        *given,
        "--check",
        "--json",
        "-",
    )
    assert code == 0, err
    assert [source["source"] for source in json.loads(out)["sources"]] == names


def test_check_opens_no_camera_and_writes_nothing(
    tmp_path: Path, command: Command, tiny_engine: Path
) -> None:
    config = write(
        tmp_path,
        f"""
engine = "{tiny_engine}"
rejects = "{tmp_path}/ng"
jsonl = "{tmp_path}/v.jsonl"
jsonl-rotate = "10M"
prometheus = ":0"
web = ":0"
mqtt = "mqtt://line:${{BROKER_PASSWORD}}@127.0.0.1:1/line"

[[source]]
uri = "rtsp://viewer:${{CAMERA_PASSWORD}}@127.0.0.1:1/live"
transport = "udp"
timeout = 2

[[source]]
uri = "rtsp://viewer:${{CAMERA_PASSWORD}}@127.0.0.1:2/live"
""",
    )
    before = sorted(tmp_path.iterdir())
    code, out, err = command("stream", "--config", config, "--check")
    assert code == 2
    assert "${CAMERA_PASSWORD} is empty or not set" in err
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMERA_PASSWORD", "tops3cret/@")
        patch.setenv("BROKER_PASSWORD", "br0ker")
        code, out, err = command("stream", "--config", config, "--check")
        as_json = command("stream", "--config", config, "--check", "--json", "-")[1]
    assert code == 0, err
    assert "this could run" in out
    assert "transport udp, timeout 2" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("engine ")) <= 80
    assert json.loads(as_json)["good"]
    assert len(json.loads(as_json)["sources"]) == 2
    assert "s3cret" not in out + err + as_json
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("engin = 'x'", "there is no flag engin"),
        ("check = true", "there is no flag check"),
        ("engine = [1", "is no TOML"),
        ("every = 'often'", "Invalid value for '--every'"),
        ("every = true", "--every takes a value"),
        ("show = 1", "--show takes true or false"),
        ("engine = ['a', 'b']", "give --engine one value"),
        ("threshold = {a = 1}", "give --threshold one value"),
        ("[[source]]\nroi = ['0,0']", "write [[source]] with a uri"),
        ("[[source]]\nuri = '0'\ncolour = 'red'", "a source has no colour"),
        ("[[source]]\nuri = '0'\nrealtime = 'yes'", "realtime of a source is a string"),
        ("[[source]]\nuri = 'shots'\ncontrol = ['gain=1']", "--control does not apply to"),
        ("reject-limit = '1G'", "did you mean rejects-limit?"),
        ("[[source]]\nuri = '0'\nname = ''", "a source's name of 0 characters"),
        ("[[source]]\nuri = '0'\nsize = 'large'", "'large' is no frame size"),
        ("source = ['a.mp4', 'a.mp4']", "given twice"),
        ("source = ['0']\nvideo-limit = '1G'", "--video-limit says nothing without"),
        ("source = ['0']\njsonl = '-'\njsonl-rotate = '1M'", "--jsonl-rotate says nothing without"),
        ("source = ['0']\nweb-token = '${X}'", "--web-token says nothing without"),
        ("source = ['0']\nlog-format = 'xml'", "--log-format xml"),
        ("source = ['0']\ngive-up = 0", "--give-up 0 is no time"),
        ("source = ['0']\ntrigger = 'http://:0/x'\nevery = 2", "--every 2 and --trigger"),
        ("source = ['0']\nroi = ['a=0,0', 'a=1,1']", "given twice"),
        ("source = ['0']\nroi = ['0,0,32,32']", "is 32x32, the engine takes 64x48"),
        ("source = ['0']\nmask = 'absent.png'", "absent.png"),
        ("source = ['0']\nmqtt = 'mqt://broker/line'", "--mqtt mqt://broker/line"),
        ("source = ['0']\nopcua = 'opc.tcp://:0/x?colour=red'", "has no 'colour'"),
        ("source = ['0']\non-ng = 'absent-program'", "'absent-program' is no program"),
    ],
)
def test_what_is_wrong_in_a_file(
    tmp_path: Path, command: Command, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shots").mkdir()
    (tmp_path / "a.mp4").touch()
    engine = [] if text.startswith("engin") else ["--engine", tiny_engine]
    code, out, err = command("stream", "--config", write(tmp_path, text), *engine, "--check")
    assert code == 2, err
    assert says in err
    assert not out
    assert len(err.strip().splitlines()) == 2


@pytest.mark.parametrize(
    "text",
    [
        "mqtt = ['mqtt://line:tops3cret@broker/line']",
        "mqtt = {url = 'mqtt://line:tops3cret@broker/line'}",
        "[web-token]\ntoken = 'tops3cret'",
        "web-token = ['tops3cret']",
        "show = 'rtsp://viewer:tops3cret@camera/live'",
        "[[source]]\nuri = ['rtsp://viewer:tops3cret@camera/live']",
        "[[source]]\nuri = '0'\nmask = ['rtsp://viewer:tops3cret@camera/live']",
        "[[source]]\nuri = '0'\nroi = [{password = 'tops3cret'}]",
        "source = [['rtsp://viewer:tops3cret@camera/live']]",
        "source = ['rtsp://viewer:tops3cret@camera/live', 'rtsp://viewer:tops3cret@camera/live']",
        "source = 'rtps://viewer:tops3cret@camera/live'",
        "mqtt = 'mqt://line:tops3cret@broker/line'",
        "trigger = 'mqt://line:tops3cret@broker/line'",
        "opcua = 'http://line:tops3cret@broker/line'",
        "web = 'line:tops3cret@broker'",
        "prometheus = 'http://line:tops3cret@broker:1'",
        "mqtt = 'mqtt://line:tops3cret@broker/line",
        "every = 'rtsp://viewer:tops3cret@camera/live'",
        "camera = 'rtsp://viewer:tops3cret@camera/live'",
        "fps = 'rtsp://viewer:tops3cret@camera/live'",
    ],
)
def test_no_error_shows_a_password_of_a_file(
    tmp_path: Path, command: Command, tiny_engine: Path, text: str
) -> None:
    source = [] if "source" in text or "camera =" in text else ["--source", "rtsp://127.0.0.1:1/x"]
    code, out, err = command(
        "stream", "--config", write(tmp_path, text), "--engine", tiny_engine, *source, "--check"
    )
    assert code == 2, out + err
    assert "s3cret" not in out + err


def test_a_folder_of_a_table_is_waited_for_and_not_read_before(
    tmp_path: Path, command: Command, tiny_engine: Path
) -> None:
    """`follow` of a table counts as the flag does: an empty folder has no first frame to look at."""
    (tmp_path / "drop").mkdir()
    config = write(tmp_path, f"[[source]]\nuri = '{tmp_path / 'drop'}'\nfollow = true\n")
    code, out, err = command("stream", "--config", config, "--engine", tiny_engine, "--check")
    assert code == 0, err
    assert "this could run" in out


def test_a_file_that_is_not_there(tmp_path: Path, command: Command) -> None:
    code, _, err = command("stream", "--config", tmp_path / "absent.toml")
    assert code == 2
    assert "there is no configuration" in err


def test_without_an_engine(command: Command) -> None:
    code, _, err = command("stream", "--camera", "0")
    assert code == 2
    assert "no engine was given" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--min-area", "-1"), ("--trigger", "smoke://x"), ("--trigger", "u:secret@host"),
        ("--prometheus", "everywhere"), ("--web", "0.0.0.0:8080"), ("--mqtt", "http://u:secret@x"),
        ("--opcua", "mqtt://u:secret@x"), ("--jsonl", "x.jsonl", "--jsonl-fsync", "sometimes"),
        ("--rejects", "ng", "--rejects-limit", "lots"), ("--web", ":0", "--web-token", "s3cret-and-long-enough"),
    ],
)  # fmt: skip
def test_bad_flags(
    tmp_path: Path,
    command: Command,
    tiny_engine: Path,
    shots: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Sequence[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command("stream", "--source", shots, "--roi", "0,0", "--engine", tiny_engine, *arguments)
    assert code == 2, err
    assert "secret" not in err
    assert "s3cret" not in err


def test_the_example_of_the_docs_is_one(tmp_path: Path, command: Command, tiny_engine: Path) -> None:
    """docs/stream.md's, with our engine, our folders and its secrets."""
    text = (
        (Path(__file__).parents[3] / "docs" / "stream.md").read_text().split("```toml\n")[1].split("```")[0]
    )
    mask = tmp_path / "camera-2-mask.png"
    masked = np.zeros((48, 64, 3), np.uint8)
    masked[:8] = 255
    write_png(mask, masked)
    for name in ("web-token", "camera-2"):
        (tmp_path / name).write_text("long-enough-to-be-no-guess\n")
    text = text.replace("/var/lib/agp-edge/cap.default.engine", str(tiny_engine))
    text = text.replace("/var/lib/agp-edge", str(tmp_path / "var")).replace("/etc/agp-edge", str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MQTT_PASSWORD", "x")
        code, out, err = command("stream", "--config", write(tmp_path, text), "--check")
    assert code == 0, err
    assert "top " in out
    assert "sinks --jsonl, --rejects, --mqtt, --web\nthis could run" in out


def test_a_source_has_the_name_that_it_was_given_and_verdicts_name_their_file(
    tmp_path: Path, command: Command, tiny_engine: Path, shots: Path
) -> None:
    lines = tmp_path / "v.jsonl"
    config = write(
        tmp_path,
        f"""
engine = "{tiny_engine}"
jsonl = "{lines}"

[[source]]
uri = "{shots}"
name = "left cam"
roi = "0,0"
""",
    )
    code, out, err = command("stream", "--config", config)
    assert code == 0, err
    verdicts = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {v["source"] for v in verdicts} == {"left cam"}
    assert [Path(v["file"]).name for v in verdicts] == ["0.png", "1.png", "2.png"]
    assert "left cam" in out
