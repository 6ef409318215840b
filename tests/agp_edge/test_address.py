"""Addresses as they are written on a command line."""

from __future__ import annotations

import pytest

from agp_edge.address import format_address, is_local, parse_address
from agp_edge.errors import InputError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", ("127.0.0.1", 8080)),
        ("8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("line3.plant:0", ("line3.plant", 0)),
        ("[::]:65535", ("::", 65535)),
        ("[fe80::1%eth0]:502", ("fe80::1%eth0", 502)),
        (" localhost:1 ", ("localhost", 1)),
    ],
)
def test_what_is_an_address(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", "host", "host:", "host:x", "host:65536", "host:-1", "::1:80", "[::1]", "[x]:80", "[]:80", "a b:80",
     "http://host:80", "user@host:80", "host:８０", "host:80/path", "host:" + "9" * 5000],
)  # fmt: skip
def test_what_is_none_says_what_to_write(text: str) -> None:
    with pytest.raises(InputError, match="--web") as caught:
        parse_address(text, "--web")
    assert "HOST:PORT" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.5", False), ("localhost.example", False)],
)  # fmt: skip
def test_who_can_reach_it(host: str, local: bool) -> None:
    assert is_local(host) is local


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:80", "line3:502"])
def test_it_is_written_as_it_is_read(text: str) -> None:
    assert format_address(*parse_address(text)) == text
