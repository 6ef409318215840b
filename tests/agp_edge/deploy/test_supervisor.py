"""What systemd is told, at a real socket as it makes one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agp_edge.deploy.supervisor import Supervisor


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


def messages(told: socket.socket) -> list[str]:
    told.setblocking(False)
    found = []
    try:
        while True:
            found.append(told.recv(4096).decode())
    except BlockingIOError:
        return found


def test_the_life_of_a_service(told: socket.socket) -> None:
    with Supervisor({"NOTIFY_SOCKET": told.getsockname()}) as supervisor:
        assert supervisor.is_there
        supervisor.ready()
        supervisor.alive("7 judged")
        supervisor.reloading()
        supervisor.stopping()
    ready, status, reloading, stopping = messages(told)
    assert (ready, status, stopping) == ("READY=1", "STATUS=7 judged", "STOPPING=1")
    first, second = reloading.split("\n")
    assert first == "RELOADING=1"
    assert abs(int(second.removeprefix("MONOTONIC_USEC=")) - time.monotonic_ns() // 1000) < 60_000_000


def test_whatever_a_source_is_called_its_status_is_one_line(told: socket.socket) -> None:
    with Supervisor({"NOTIFY_SOCKET": told.getsockname()}) as supervisor:
        supervisor.alive("no verdict for 40 s: drop\nSTOPPING=1 \udcff gives no frames")
    assert messages(told) == ["STATUS=no verdict for 40 s: drop STOPPING=1 ? gives no frames"]


def test_the_watchdog_is_fed_at_half_its_time(told: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": told.getsockname(),
        "WATCHDOG_USEC": "200000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    with Supervisor(environment) as supervisor:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            supervisor.alive("")
            time.sleep(0.005)
    fed = messages(told).count("WATCHDOG=1")
    assert 3 <= fed <= 11


@pytest.mark.parametrize("usec", ["", "0", "-1", "soon"])
def test_without_a_watchdog_none_is_fed(told: socket.socket, usec: str) -> None:
    with Supervisor({"NOTIFY_SOCKET": told.getsockname(), "WATCHDOG_USEC": usec}) as supervisor:
        supervisor.alive("")
    assert messages(told) == ["STATUS="]


def test_the_watchdog_of_another_process_is_none_of_ours(told: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": told.getsockname(), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    with Supervisor(environment) as supervisor:
        supervisor.alive("")
    assert "WATCHDOG=1" not in messages(told)


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0agp-edge-{os.getpid()}")
        with Supervisor({"NOTIFY_SOCKET": f"@agp-edge-{os.getpid()}"}) as supervisor:
            supervisor.ready()
        assert messages(listening) == ["READY=1"]


@pytest.mark.parametrize("address", ["", "vsock:2:1", "relative"])
def test_nobody_listens(address: str) -> None:
    with Supervisor({"NOTIFY_SOCKET": address}) as supervisor:
        assert not supervisor.is_there
        supervisor.ready()
        supervisor.alive("")


def test_a_supervisor_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    with Supervisor({"NOTIFY_SOCKET": str(tmp_path / "absent")}) as supervisor:
        supervisor.ready()
        supervisor.stopping()


def test_the_unit_is_one_that_systemd_takes() -> None:
    """By systemd's own check, where it is installed."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze: apt install systemd")
    unit = Path(__file__).parents[3] / "agp_edge" / "deploy" / "agp-edge-stream.service"
    text = unit.read_text().replace("/opt/agp-edge/bin/agp-edge", sys.executable)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "agp-edge-stream.service"
        copy.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--recursive-errors=no", str(copy)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
