"""`capture` as a user runs it on a camera: its flags, Ctrl-C, a full disk."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.datasets.images import read_image
from tests.servers import mjpeg

cv2 = pytest.importorskip("cv2")
Command = Callable[..., tuple[int, str, str]]
AGP_EDGE = [sys.executable, "-c", "from agp_edge.cli import main; main()"]


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture
def url() -> Iterator[str]:
    """A camera by HTTP, 50 pictures a second, each another one."""

    def pictures() -> Iterator[bytes]:
        for seed in itertools.count():
            yield mjpeg.part(cv2.imencode(".jpg", noise(seed))[1].tobytes())
            time.sleep(0.02)

    with mjpeg.MjpegServer(pictures) as server:
        yield f"http://127.0.0.1:{server.port}/live"


def test_a_region_of_a_camera(tmp_path: Path, url: str, command: Command) -> None:
    data = tmp_path / "data"
    code, out, err = command(
        "capture", "--source", url, "--out", data, "--frames", 3, "--interval", "0.1", "--roi", "32,16,32,32",
        "--timeout", 20, "--json", "-",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert told["kept"] == 3
    assert told["captured"] == sum(
        told[key] for key in ("kept", "duplicates", "blurred", "skipped", "dropped", "failed")
    )
    kept = sorted((data / "train" / "good").iterdir())
    assert [read_image(path).shape for path in kept] == [(32, 32, 3)] * 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--interval", "0"), "--interval 0 is no time"),
        (("--interval", "1", "--every", "2"), "two of --every, --interval and --trigger"),
        (("--roi", "1,2"), "--roi 1,2 has no size"),
        (("--trigger", "smoke://signal"), "--trigger smoke is no trigger"),
        (("--control", "gain"), "--control gain is none"),
        (("--size", "big"), "no frame size"),
    ],
)
def test_what_is_refused_before_anything_is_opened(
    tmp_path: Path, url: str, command: Command, arguments: Sequence[str], says: str
) -> None:
    code, _, err = command("capture", "--source", url, "--out", tmp_path / "data", *arguments)
    assert code == 2
    assert says in err
    assert not (tmp_path / "data").exists()


def test_ctrl_c_keeps_what_there_is(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "train" / "good"
    process = subprocess.Popen(
        [*AGP_EDGE, "capture", "--source", url, "--out", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and len(list(folder.glob("*.png"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    kept = sorted(folder.iterdir())
    assert f" = {len(kept)} kept + " in out
    assert len(kept) >= 5
    assert [path.suffix for path in kept] == [".png"] * len(kept)
    for path in kept:
        assert read_image(path).shape == (48, 64, 3)


def test_a_full_disk_keeps_what_there_is(tmp_path: Path, url: str, command: Command) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        code, out, err = command("capture", "--source", url, "--out", disk / "data")
        kept = sorted((disk / "data" / "train" / "good").iterdir())
        whole = [read_image(path).shape == (48, 64, 3) for path in kept]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert code == 5, err
    assert "no space left" in err
    assert f" = {len(kept)} kept + " in out
    assert len(whole) > 2
    assert all(whole)
