"""Peers of network cameras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers.rtsp import RtspServer, missing


@pytest.fixture
def start_rtsp() -> Iterator[Callable[..., RtspServer]]:
    """`start_rtsp(...)`: a real RTSP server on loopback, made as `RtspServer` is; ended with the test."""
    lacks = missing()
    if lacks:
        pytest.skip(lacks)
    servers: list[RtspServer] = []

    def start(*arguments: Any, **options: Any) -> RtspServer:
        servers.append(RtspServer(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def rtsp(start_rtsp: Callable[..., RtspServer]) -> RtspServer:
    """One of 64x48."""
    return start_rtsp()
