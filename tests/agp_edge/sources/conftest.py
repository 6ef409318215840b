"""Peers of network cameras."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.servers.rtsp import RtspServer, missing


@pytest.fixture
def start_rtsp() -> Iterator[Callable[..., RtspServer]]:
    """`start_rtsp(size="64x48", password=None, codec="H264")`: a real RTSP server on loopback; ended with the test."""
    lacks = missing()
    if lacks:
        pytest.skip(lacks)
    servers: list[RtspServer] = []

    def start(size: str = "64x48", password: str | None = None, codec: str = "H264") -> RtspServer:
        servers.append(RtspServer(size, password, codec))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def rtsp(start_rtsp: Callable[..., RtspServer]) -> RtspServer:
    """One of 64x48."""
    return start_rtsp()
