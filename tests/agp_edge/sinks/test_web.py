"""The live page over HTTP: who gets what, what it costs when nobody looks, and that it ends."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import InputError
from agp_edge.events import Event
from agp_edge.rendering import draw_heat
from agp_edge.sinks import Judgement
from agp_edge.sinks.web import WebSink
from agp_edge.sinks.web import server as serving
from agp_edge.sinks.web.board import BUCKETS, KEPT_EVENTS, KEPT_REJECTS, Board
from agp_edge.sinks.web.guard import MOST_WRONG, Guard, read_token
from agp_edge.sinks.web.pictures import LARGEST_WH, paint_picture
from tests.agp_edge.sinks.live_line import Line, LiveCamera
from tests.agp_edge.sinks.streams import PlainControl, make_judgement, make_source, wait_for

Part = Callable[..., NDArray[np.uint8]]
TOKEN = "a-token-of-the-line"


@pytest.fixture
def sink() -> Iterator[WebSink]:
    sink = WebSink("127.0.0.1:0", TOKEN)
    yield sink
    sink.close()


def pictured(judgement: Judgement, part: NDArray[np.uint8]) -> Judgement:
    grey = part.mean(axis=2).astype(np.float32) / 255
    return replace(judgement, pixels=part, anomaly_map=grey[::8, ::8].copy())


class Client:
    """A viewer without a browser.

    Args:
        sink: whose page.
        token: sent with every request.
        headers: of every request.
    """

    def __init__(self, sink: WebSink, token: str | None = None, **headers: str) -> None:
        self.host, self.port = sink.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"
        self.seen = ""

    def request(self, path: str, body: object = None, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer."""
        connection = http.client.HTTPConnection(self.host, int(self.port), timeout=60)
        try:
            given = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
            if body is not None:
                given.setdefault("Content-Type", "application/json")
            text = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, text, given)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer."""
        status, _, answer = self.request(path, body, **headers)
        return status, json.loads(answer)

    def live(self) -> tuple[dict[str, Any], list[bytes]]:
        """What is new since the last time: the header, and the bytes of each picture and thumb."""
        status, _, body = self.request(f"/api/live?seen={self.seen}")
        assert status == 200, body
        header, blobs = unpack(body)
        self.seen = header["seen"]
        return header, blobs

    def all_with_status(self) -> dict[str, Any]:
        """Everything, once the stream's counts are among it."""
        self.follow(lambda header: header["status"] is not None)
        self.seen = ""
        return self.live()[0]

    def follow(self, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look until there is something."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            header, _ = self.live()
            if until(header):
                return header
        raise AssertionError("it never came")


def unpack(body: bytes) -> tuple[dict[str, Any], list[bytes]]:
    (length,) = struct.unpack_from(">I", body)
    header = json.loads(body[4 : 4 + length])
    lengths = [n for picture in header["pictures"] for n in (picture["jpeg"], picture["heat"])]
    lengths += [reject["thumb"] for reject in header["rejects"]]
    blobs, at = [], 4 + length
    for n in lengths:
        blobs.append(body[at : at + n])
        at += n
    assert at == len(body)
    return header, blobs


def decoded(data: bytes) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


# ---- who gets what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.168.1.5:8080", "line.example:8080"])
def test_others_than_this_machine_need_a_token(address: str) -> None:
    with pytest.raises(InputError, match="without a token is for this machine alone"):
        WebSink(address)


def test_a_name_of_a_proxy_needs_a_token_too() -> None:
    with pytest.raises(InputError, match="everybody behind its proxy"):
        WebSink("127.0.0.1:0", names=["line.example"])


def test_a_port_that_is_taken_is_named(sink: WebSink) -> None:
    address = sink.url.removeprefix("http://").rstrip("/")
    with pytest.raises(InputError, match=f"--web cannot listen at {address}: .*in use"):
        WebSink(address)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("my-secret-token-123", "holds the token itself"),
        ("${LINE_TOKEN}x", "holds the token itself"),
        ("${NO_SUCH_TOKEN}", "is empty or not set"),
        ("${SHORT_TOKEN}", "12 characters or more"),
        ("${BLANK_TOKEN}", "12 characters or more"),
    ],
)
def test_a_token_comes_from_outside_the_command(
    monkeypatch: pytest.MonkeyPatch, reference: str, message: str
) -> None:
    for name, value in [("SHORT_TOKEN", "kurz"), ("BLANK_TOKEN", "twelve letters")]:
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    with pytest.raises(InputError, match=message) as refused:
        read_token(reference)
    assert not any(
        secret in str(refused.value) for secret in ("my-secret-token-123", "kurz", "twelve letters")
    )


def test_a_token_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    awkward = "p%41/w@rd+and=more"
    monkeypatch.setenv("LINE_TOKEN", awkward)
    (tmp_path / "token").write_text(f"{awkward}\nnot this\n")
    assert read_token("${LINE_TOKEN}") == read_token(f"${{file:{tmp_path / 'token'}}}") == awkward


def test_this_machine_may_look_and_needs_the_token_to_change(sink: WebSink) -> None:
    sink.attach(PlainControl())
    client = Client(sink)
    assert client.ask("/api/status")[0] == 200
    status, said = client.ask("/api/threshold", {"false_reject_rate": 0.1})
    assert (status, said["error"]) == (401, "this takes the token")
    status, said = client.ask("/api/threshold", {"false_reject_rate": 0.1}, Authorization="Bearer wrong")
    assert (status, said["error"]) == (401, "this is not the token")
    # Behind a proxy there may be anybody.
    assert client.ask("/api/status", X_Forwarded_For="10.1.2.3")[0] == 401
    assert Client(sink, TOKEN).ask("/api/status", X_Forwarded_For="10.1.2.3")[0] == 200


def test_without_a_token_nothing_can_be_changed_and_no_proxy_looks() -> None:
    sink = WebSink("127.0.0.1:0")
    try:
        sink.attach(PlainControl())
        client = Client(sink, "whatever-is-sent")
        status, said = client.ask("/api/threshold", {"false_reject_rate": 0.1})
        assert (status, said["hint"]) == (403, "start it with --web-token")
        assert client.ask("/api/status")[0] == 200
        assert client.ask("/api/status", Forwarded="for=10.1.2.3")[0] == 403
    finally:
        sink.close()


def test_others_need_the_token_to_look_but_for_the_health(part: Part) -> None:
    sink = WebSink("0.0.0.0:0", TOKEN)
    try:
        sink.attach(PlainControl())
        sink.write(pictured(make_judgement(1, "NG", score=0.9), part(1, defect=True)))
        client = Client(sink)
        for path in ("/api/live", "/api/status", "/api/rejects/1"):
            assert client.request(path)[0] == 401
            assert client.request(path, Authorization=f"Bearer {TOKEN}x")[0] == 401
            assert Client(sink, TOKEN).request(path)[0] == 200
            # The token is no part of an address, which proxies and browsers write down.
            assert client.request(f"{path}?token={TOKEN}")[0] == 401
        assert client.ask("/health") == (
            200,
            {"healthy": True, "reason": "", "since_verdict_s": 0.1, "uptime_s": 12.0},
        )
        assert client.request("/")[0] == 200
    finally:
        sink.close()


def test_wrong_tokens_are_counted_by_address() -> None:
    guard = Guard("0.0.0.0", TOKEN)
    for _ in range(MOST_WRONG):
        refusal = guard.check_view("Bearer wrong", "10.0.0.1")
        assert refusal is not None
        assert refusal.status == 401
    refusal = guard.check_view(f"Bearer {TOKEN}", "10.0.0.1")
    assert refusal is not None
    assert refusal.status == 429
    assert guard.check_view(f"Bearer {TOKEN}", "10.0.0.2") is None
    # What they are counted in does not grow with the addresses that try.
    for i in range(3000):
        guard.check_view("Bearer wrong", f"10.1.{i // 250}.{i % 250}")
    assert len(guard._wrong) <= 1024


@pytest.mark.parametrize(
    ("listens", "host", "ours"),
    [
        ("127.0.0.1", "localhost:8080", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "[::1]:9000", True),
        ("127.0.0.1", "evil.example:8080", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "10.0.0.5:8080", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "10.0.0.5:8080", True),
        ("0.0.0.0", f"{socket.gethostname()}:8080", True),
        ("0.0.0.0", "evil.example:8080", False),
        ("0.0.0.0", "line.example", True),
        ("line-7", "LINE-7:8080", True),
    ],
)
def test_a_request_must_name_this_machine(listens: str, host: str, ours: bool) -> None:
    names = ["line.example"] if listens == "0.0.0.0" else []
    guard = Guard(listens, TOKEN, names)
    assert (guard.check_host(host, None) is None) == ours


def test_another_sites_page_gets_nothing(sink: WebSink) -> None:
    sink.attach(PlainControl())
    client = Client(sink, TOKEN)
    assert client.request("/", Host="evil.example")[0] == 421
    assert client.request("/api/live", Host="evil.example")[0] == 421
    address = f"127.0.0.1:{client.port}"
    assert client.request("/api/status", Origin=f"http://{address}")[0] == 200
    for origin in ("http://evil.example", "null", f"http://{address}.evil.example"):
        status, said = client.ask("/api/threshold", {"false_reject_rate": 0.1}, Origin=origin)
        assert (status, said["error"]) == (403, "this request comes from another site's page")
    # A form of another site can send only such types without being asked for leave.
    assert client.request("/api/threshold", {"false_reject_rate": 0.1}, Content_Type="text/plain")[0] == 415
    status, headers, _ = client.request("/api/status", Origin=f"http://{address}")
    assert not any(name.lower().startswith("access-control") for name in headers)


def test_the_page_may_load_nothing_from_elsewhere(sink: WebSink) -> None:
    client = Client(sink)
    for path in serving.FILES:
        status, headers, body = client.request(f"/{path}")
        assert status == 200
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert headers["Server"] == "agp-edge"
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in body
        assert client.request(f"/{path}", If_None_Match=headers["ETag"])[0] == 304
    for path in (
        "/page.css/..",
        "/../guard.py",
        "/%2e%2e/guard.py",
        "/sink.py",
        "/etc/passwd",
        "/api/rejects/x",
    ):
        status, headers, _ = client.request(path)
        assert status == 404
        assert "Content-Security-Policy" in headers


# ---- what is shown ---------------------------------------------------------------------------------------------


def test_a_viewer_gets_the_newest_and_then_what_is_newer(sink: WebSink, part: Part) -> None:
    client = Client(sink)
    for i in range(50):
        sink.write(pictured(make_judgement(i, score=0.2), part(i)))
    header = client.follow(lambda h: bool(h["pictures"]))
    assert header["pictures"][0]["frame"] == 49
    begin = time.monotonic()
    sink.write(pictured(make_judgement(50, score=0.3, part="A-17"), part(50)))
    header, _ = client.live()
    # It waited for the change, not for the time that a wait takes at most.
    assert time.monotonic() - begin < serving.LONGEST_WAIT_S
    assert header["tiles"][0]["last"]["frame"] == 50
    assert header["tiles"][0]["last"]["part"] == "A-17"
    assert sum(bucket[4] for bucket in header["tiles"][0]["buckets"]) <= 51


def test_the_picture_is_the_frame_and_its_heat_that_of_every_other_picture(part: Part) -> None:
    judged = pictured(make_judgement(7, "NG", score=0.98), part(0, defect=True))
    picture = paint_picture(judged)
    frame = decoded(picture.jpeg)
    assert judged.pixels is not None
    assert judged.anomaly_map is not None
    assert frame.shape == (48, 64, 3)
    assert np.abs(frame.astype(int) - judged.pixels).mean() < 4
    heat = decoded(picture.heat)
    assert heat.shape == (48, 64, 4)
    alpha = heat[..., 3:] / 255.0
    laid_over = judged.pixels * (1 - alpha) + heat[..., :3] * alpha
    assert np.abs(laid_over - draw_heat(judged.pixels, judged.anomaly_map, 0.5)).max() <= 2
    assert picture.boxes == [(0.375, 0.3333, 0.25, 0.3333)]


@pytest.mark.parametrize(
    ("shape", "size"), [((1080, 1920, 3), (960, 540)), ((2000, 500, 1), (320, 1280)), ((8, 9, 1), (9, 8))]
)
def test_a_picture_is_made_small_and_never_large(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    judged = replace(
        make_judgement(1), pixels=np.full(shape, 90, np.uint8), anomaly_map=np.zeros((4, 4), np.float32)
    )
    picture = paint_picture(judged)
    assert picture.size_wh == size
    assert size[0] <= LARGEST_WH[0]
    assert picture.heat == b"", "a cold map costs nothing"
    assert decoded(picture.jpeg).shape[:2] == size[::-1]


def test_a_score_that_is_no_number_is_shown(sink: WebSink, part: Part) -> None:
    sink.attach(PlainControl(make_source(frame_age_ms=float("nan"))))
    sink.write(pictured(make_judgement(1, "NG", score=float("nan")), part(1)))
    header = Client(sink).all_with_status()
    assert header["tiles"][0]["last"]["score"] is None
    assert header["tiles"][0]["buckets"][0][1:3] == [None, None]
    assert header["status"]["sources"][0]["frame_age_ms"] is None


def test_rejects_are_there_for_who_comes_later(sink: WebSink, part: Part) -> None:
    sink.write(pictured(make_judgement(3, "NG", score=0.9, part="B-2"), part(3, defect=True)))
    client = Client(sink)
    header = client.follow(lambda h: any(reject["thumb"] for reject in h["rejects"]))
    (reject,) = header["rejects"]
    assert (reject["said"]["part"], reject["said"]["score"], reject["large"]) == ("B-2", 0.9, True)
    status, _, body = client.request(f"/api/rejects/{reject['reject']}")
    assert status == 200
    (length,) = struct.unpack_from(">I", body)
    described = json.loads(body[4 : 4 + length])["picture"]
    assert body[4 + length :][:2] == b"\xff\xd8"
    assert len(body) == 4 + length + described["jpeg"] + described["heat"]
    assert client.ask("/api/rejects/999")[0] == 404


def test_regions_of_interest_have_tiles_of_their_own(sink: WebSink) -> None:
    sink.attach(PlainControl(make_source(roi="left"), make_source(roi="right")))
    sink.write(make_judgement(1, roi="right"))
    header = Client(sink).all_with_status()
    assert [(tile["tile"], tile["roi"]) for tile in header["tiles"]] == [(0, "right"), (1, "left")]
    assert header["tiles"][1]["last"] is None


def test_since_when_a_source_is_lost(sink: WebSink) -> None:
    client = Client(sink)
    sink.write(make_judgement(1, source="camera"))
    for wall_s in (1000.0, 1060.0):
        sink.event(Event("source-lost", "camera gives no more frames", "camera", wall_s=wall_s))
    header, _ = client.live()
    assert header["tiles"][0]["lost_since"] == "1970-01-01T00:16:40.000Z"
    assert [event["event"] for event in header["events"]] == ["source-lost"] * 2
    sink.event(Event("source-back", "camera is back", "camera"))
    header, _ = client.live()
    assert header["tiles"][0]["lost_since"] is None
    assert [event["event"] for event in header["events"]] == ["source-back"]


def test_a_page_of_an_earlier_stream_begins_anew(sink: WebSink) -> None:
    sink.write(make_judgement(1))
    client = Client(sink)
    for seen in ("", "0000.17", "nonsense", "٣.٣", "." * 300):
        client.seen = "".join(f"%{byte:02x}" for byte in seen.encode())
        header, _ = client.live()
        assert len(header["tiles"]) == 1


def test_it_stays_as_large_as_it_is() -> None:
    board = Board()
    shown = np.full((48, 64, 3), 90, np.uint8)
    for i in range(5 * KEPT_REJECTS):
        board.add(pictured(make_judgement(i, "NG", score=0.9), shown))
        for tile in board.tiles.values():
            # As if two seconds had gone by.
            tile.buckets[-1].index -= 10**9 + i
    for i in range(3 * KEPT_EVENTS):
        board.add_event(Event("frozen", f"event {i}", "camera"))
    (tile,) = board.tiles.values()
    assert len(tile.rejects) == KEPT_REJECTS
    assert sum(reject.judgement is not None for reject in tile.rejects) <= 4
    assert tile.buckets.maxlen == BUCKETS
    header, _ = unpack(board.since("", {}))
    assert len(header["events"]) == KEPT_EVENTS


# ---- what it costs, and its end --------------------------------------------------------------------------------


def test_while_nobody_looks_no_picture_is_coded(sink: WebSink, part: Part) -> None:
    for i in range(100):
        sink.write(pictured(make_judgement(i, score=0.2), part(i)))
    assert sink._painter.painted == 0
    Client(sink).follow(lambda h: bool(h["pictures"]))
    assert sink._painter.painted >= 1


def test_a_picture_is_coded_once_for_all_viewers(sink: WebSink, part: Part) -> None:
    clients = [Client(sink) for _ in range(12)]
    sink.write(pictured(make_judgement(1, score=0.2), part(1)))
    bodies: list[bytes] = []

    def look(client: Client) -> None:
        client.follow(lambda h: bool(h["pictures"]))
        bodies.append(sink._board.tiles[make_judgement(1).source, None].picture.jpeg)  # type: ignore[union-attr]

    threads = [threading.Thread(target=look, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bodies) == 12
    assert sink._painter.painted == 1


def test_a_viewer_who_takes_nothing_holds_up_nobody(sink: WebSink, part: Part) -> None:
    """A phone that is gone: it asked, and does not read what it gets."""
    big = np.random.default_rng(0).integers(0, 255, (540, 960, 3), np.uint8)
    host, port = sink.url.removeprefix("http://").rstrip("/").split(":")
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect((host, int(port)))
    try:
        deaf.sendall(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)
        client = Client(sink)
        frames = set()
        for i in range(40):
            sink.write(pictured(make_judgement(i, score=0.2), big))
            header, _ = client.live()
            frames |= {picture["frame"] for picture in header["pictures"]}
        assert len(frames) >= 3
    finally:
        deaf.close()


def test_too_many_connections_are_closed_and_silent_ones_too(
    monkeypatch: pytest.MonkeyPatch, part: Part
) -> None:
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 5)
    monkeypatch.setattr(serving, "SILENT_S", 0.5)
    sink = WebSink("127.0.0.1:0")
    silent: list[socket.socket] = []
    try:
        host, port = sink.url.removeprefix("http://").rstrip("/").split(":")
        silent += [socket.create_connection((host, int(port)), timeout=60) for _ in range(8)]
        assert [other.recv(1) for other in silent] == [b""] * 8
        assert Client(sink).request("/")[0] == 200
    finally:
        for other in silent:
            other.close()
        sink.close()


def test_too_many_viewers_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_VIEWERS", 0)
    sink = WebSink("127.0.0.1:0")
    try:
        status, said = Client(sink).ask("/api/live")
        assert (status, said["error"]) == (503, "0 viewers look already")
    finally:
        sink.close()


def test_closing_frees_the_port_and_the_threads_while_somebody_waits() -> None:
    before = threading.active_count()
    sink = WebSink("127.0.0.1:0")
    sink.write(make_judgement(1))
    client = Client(sink)
    client.live()
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises((OSError, http.client.HTTPException)):
            client.live()
        ended.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for(lambda: sink._server._viewers == 1, "a viewer who waits")
    sink.close()
    sink.close()
    assert ended.wait(30)
    waiting.join()
    assert threading.active_count() == before
    again = WebSink(sink.url.removeprefix("http://").rstrip("/"))
    again.close()


def test_what_fails_is_told_and_the_page_goes_on(sink: WebSink, part: Part) -> None:
    """A stream whose counts cannot be had: a fault of ours, which must not end the page."""

    class Failing(PlainControl):
        def status(self) -> Any:
            raise RuntimeError("no counts")

    sink.attach(Failing())
    client = Client(sink)
    assert client.request("/api/status")[0] == 500
    assert sink.trouble == "the live page failed: RuntimeError: no counts"
    sink.attach(PlainControl())
    assert client.ask("/api/status")[0] == 200


@pytest.mark.parametrize(
    "body", [[], {}, {"false_reject_rate": "1"}, {"false_reject_rate": True}, {"false_reject_rate": None}]
)
def test_what_is_no_rate_is_refused(sink: WebSink, body: object) -> None:
    sink.attach(PlainControl())
    status, said = Client(sink, TOKEN).ask("/api/threshold", body)
    assert status == 400
    assert "false_reject_rate" in said["hint"]


def test_the_health_follows_the_stream(sink: WebSink) -> None:
    assert Client(sink).ask("/health")[0] == 503
    control = PlainControl()
    control.now["healthy"], control.now["reason"] = False, "no verdict for 61 s"
    sink.attach(control)
    status, said = Client(sink).ask("/health")
    assert (status, said["healthy"], said["reason"]) == (503, False, "no verdict for 61 s")
    # However often it is asked, the stream is not.
    for _ in range(20):
        Client(sink).ask("/health")
    assert control.asked <= 10


# ---- with a stream ---------------------------------------------------------------------------------------------


def test_the_threshold_of_a_running_stream_follows(tiny_engine: Path, part: Part, sink: WebSink) -> None:
    grey = np.full(
        (48, 64, 3), 89, np.uint8
    )  # Its score is 0.35: below the threshold at 1 %, above that at 50 %.
    camera = LiveCamera("camera", lambda number: grey)
    with Line(tiny_engine, [camera], sink):
        client = Client(sink, TOKEN)
        client.follow(lambda h: any(t["last"] and t["last"]["verdict"] == "OK" for t in h["tiles"]))
        assert client.ask("/api/threshold", {"false_reject_rate": 0.5}) == (
            200, {"false_reject_rate": 0.5, "threshold": pytest.approx(0.3, abs=0.01)},
        )  # fmt: skip
        assert client.ask("/api/status")[1]["false_reject_rate"] == 0.5
        client.follow(lambda h: any(t["last"]["verdict"] == "NG" for t in h["tiles"]))
        client.seen = ""
        header, _ = client.live()
        assert [event["event"] for event in header["events"]] == ["threshold-set"]
        status, said = client.ask("/api/threshold", {"false_reject_rate": 0.0001})
        assert status == 400
        assert "99 good frames cannot promise" in said["error"]


def test_a_trigger_reaches_the_stream_that_waits_for_one(
    tiny_engine: Path, part: Part, sink: WebSink
) -> None:
    with Line(tiny_engine, [LiveCamera("camera", part)], sink, trigger_wait_s=5.0):
        client = Client(sink, TOKEN)
        header = client.follow(lambda h: h["status"] is not None)
        assert header["status"]["waits_for_trigger"] is True
        assert client.ask("/api/trigger", {"part": "A-17"}) == (200, {"sources": 1})
        header = client.follow(lambda h: any(tile["last"] for tile in h["tiles"]))
        assert [tile["last"]["part"] for tile in header["tiles"]] == ["A-17"]
        assert client.ask("/api/trigger", {"part": 17})[0] == 400
        assert Client(sink).ask("/api/trigger", {"part": "A-18"})[0] == 401


def test_a_stream_that_judges_all_refuses_a_trigger(tiny_engine: Path, part: Part, sink: WebSink) -> None:
    with Line(tiny_engine, [LiveCamera("camera", part)], sink):
        client = Client(sink, TOKEN)
        client.follow(lambda h: any(tile["last"] for tile in h["tiles"]))
        status, said = client.ask("/api/trigger", {})
        assert (status, said["error"]) == (400, "this stream waits for no trigger")


def test_who_comes_late_sees_the_last_frame(tiny_engine: Path, part: Part, sink: WebSink) -> None:
    """One part a minute: nobody waits a minute to see one."""
    camera = LiveCamera("camera", part)
    with Line(tiny_engine, [camera], sink, trigger_wait_s=5.0) as line:
        wait_for(lambda: camera._number > 0, "the first frame")
        line.stream.control.trigger("A-17")
        wait_for(lambda: line.stream.judged == 1, "its verdict")
        before: str = sink.wants
        header = Client(sink).follow(lambda h: bool(h["pictures"]))
        assert header["pictures"][0]["jpeg"] > 0
        assert (before, str(sink.wants)) == ("frames", "pictures")


def test_where_every_part_is_rejected_the_picture_moves_on(sink: WebSink, part: Part) -> None:
    client = Client(sink)
    ended = threading.Event()

    def reject() -> None:
        i = 0
        while not ended.is_set():
            sink.write(pictured(make_judgement(i, "NG", score=0.9), part(i, defect=True)))
            i += 1
            time.sleep(0.002)

    line = threading.Thread(target=reject)
    line.start()
    try:
        frames: set[int] = set()
        end = time.monotonic() + 60
        while len(frames) < 5 and time.monotonic() < end:
            frames |= {picture["frame"] for picture in client.live()[0]["pictures"]}
    finally:
        ended.set()
        line.join()
    assert len(frames) == 5
    client.seen = ""
    header, _ = client.live()
    assert len(header["rejects"]) == KEPT_REJECTS
    without = [reject for reject in header["rejects"] if not (reject["thumb"] or reject["waits"])]
    assert without, "those that came too fast are listed without a picture"
