"""Triggers by HTTP, over real connections."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agp_edge.errors import InputError
from agp_edge.triggers import Trigger, open_trigger
from agp_edge.triggers.http import HttpTrigger
from tests.agp_edge.triggers.fired import Fired

TOKEN = "a-long-token"


@pytest.fixture
def fired() -> Fired:
    return Fired()


@pytest.fixture
def listen(fired: Fired) -> Iterator[Callable[[str], HttpTrigger]]:
    """`listen(url)`: a trigger that tells `fired`."""
    made: list[Trigger] = []

    def start(url: str) -> HttpTrigger:
        trigger = open_trigger(url)
        assert isinstance(trigger, HttpTrigger)
        made.append(trigger)
        trigger.start(fired, fired.events.append)
        return trigger

    yield start
    for trigger in made:
        trigger.close()
        trigger.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("trigger")]


def ask(
    trigger: HttpTrigger, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(*trigger.address, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        is_json = answer.getheader("Content-Type") == "application/json"
        return answer.status, json.loads(data) if is_json else {}
    finally:
        connection.close()


def test_a_post_triggers(listen: Callable[[str], HttpTrigger], fired: Fired) -> None:
    trigger = listen("http://:0/trigger")
    before = time.monotonic_ns()
    assert ask(trigger, "POST", "/trigger") == (202, {"accepted": 2})
    assert ask(trigger, "POST", "/trigger", b"P-1") == (202, {"accepted": 2})
    assert ask(trigger, "POST", "/trigger", b'{"part": "P-2", "source": "left"}') == (202, {"accepted": 1})
    assert ask(trigger, "POST", "/trigger?part=P-3&source=right") == (202, {"accepted": 1})
    assert [(part, source) for part, source, _ in fired.all] == [
        (None, None), ("P-1", None), ("P-2", "left"), ("P-3", "right"),
    ]  # fmt: skip
    times = [at_ns for _, _, at_ns in fired.all if at_ns is not None]
    assert times == sorted(times)
    assert before < times[0] < times[-1] < time.monotonic_ns()
    assert fired.events == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/trigger", b"{", 400),
        ("POST", "/trigger", b'{"source": "third"}', 400),
        ("POST", "/trigger", b"x" * 65, 400),
        ("POST", "/trigger?part=a", b"b", 400),
        ("POST", "/trigger?prat=a&part=b", b"", 400),
        ("POST", "/other", b"", 404),
        ("GET", "/trigger", None, 405),
        ("PUT", "/trigger", b"", 405),
        ("POST", "/trigger", b"x" * 5000, 413),
    ],
)
def test_what_makes_no_sense_triggers_nothing(
    listen: Callable[[str], HttpTrigger],
    fired: Fired,
    method: str,
    path: str,
    body: bytes | None,
    status: int,
) -> None:
    answered, said = ask(listen("http://:0/trigger"), method, path, body)
    assert answered == status
    assert fired.all == []
    assert fired.kinds() == (["trigger-refused"] if status == 400 else [])
    assert status == 413 or said["error"]


def test_with_a_token_nobody_triggers_without_it(
    listen: Callable[[str], HttpTrigger], fired: Fired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINE_TOKEN", TOKEN)
    trigger = listen("http://0.0.0.0:0/trigger?token=${LINE_TOKEN}")
    trigger_path = "/trigger"
    for wrong in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ü"):
        headers = {"Authorization": wrong.encode("utf-8").decode("latin-1")} if wrong else {}
        assert ask(trigger, "POST", trigger_path, b"P", **headers)[0] == 401
    # A token in the path would stand in every log on the way.
    assert ask(trigger, "POST", f"{trigger_path}?token={TOKEN}", b"")[0] == 401
    assert fired.all == []
    assert ask(trigger, "POST", trigger_path, b"P", Authorization=f"Bearer {TOKEN}")[0] == 202
    assert ask(trigger, "POST", trigger_path, Authorization=f"bearer {TOKEN}", Origin="http://x")[0] == 202
    assert fired.parts == ["P", None]
    assert TOKEN not in trigger.name
    assert trigger.name == "http://0.0.0.0:0/trigger?token=***"


def test_without_a_token_no_web_page_triggers(listen: Callable[[str], HttpTrigger], fired: Fired) -> None:
    trigger = listen("http://:0/")
    assert ask(trigger, "POST", "/", b"P", Origin="http://evil.example")[0] == 403
    assert fired.all == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://0.0.0.0:0/", "no token"),
        ("http://:0/?token=short", "less than 8"),
        ("http://:0/?key=abcdefghi", "no 'key'"),
        ("http://me:s3cretpw@:0/", "no password"),
        ("http://x/", "no address"),
        ("http://", "no address"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        HttpTrigger(url)
    assert said in str(caught.value)
    assert "s3cretpw" not in str(caught.value)
    assert "abcdefghi" not in str(caught.value)


def test_a_port_that_is_taken_is_told_at_the_start(
    listen: Callable[[str], HttpTrigger], fired: Fired
) -> None:
    port = listen("http://:0/").address[1]
    with pytest.raises(InputError, match="cannot be listened at"):
        HttpTrigger(f"http://:{port}/").start(fired)
