"""MJPEG over HTTP, with real servers on loopback that do it right, and wrong in the ways that cameras do."""

from __future__ import annotations

import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.errors import InputError, SourceLostError
from agp_edge.judging import open_judging_engine
from agp_edge.sources import Frame, Source, SourceOptions, open_source
from agp_edge.stream import Stream
from tests.servers.mjpeg import MjpegServer, Parts, part

cv2 = pytest.importorskip("cv2")

PATIENT = SourceOptions(timeout_s=20)
QUICK = SourceOptions(timeout_s=0.5)


def picture(value: int, size: tuple[int, int] = (64, 48)) -> bytes:
    return bytes(cv2.imencode(".jpg", np.full((size[1], size[0], 3), value, np.uint8))[1])


def opened(server: MjpegServer, options: SourceOptions = PATIENT) -> Source:
    """For a `with`."""
    return open_source(f"http://127.0.0.1:{server.port}/", options)


def read(source: Source) -> Frame:
    frame = source.read()
    assert frame is not None
    return frame


def repeat(*pieces: bytes, pause_s: float = 0.01) -> Parts:
    def parts() -> Iterator[bytes]:
        for piece in itertools.cycle(pieces):
            yield piece
            time.sleep(pause_s)

    return parts


def test_verdicts_of_a_camera(tiny_engine: Path, part: Callable[..., NDArray[np.uint8]]) -> None:
    pictures = [cv2.imencode(".jpg", part(i, defect=i % 10 == 9))[1].tobytes() for i in range(40)]
    from tests.servers.mjpeg import part as as_part

    events: list[str] = []
    with (
        MjpegServer(repeat(*(as_part(p) for p in pictures))) as server,
        open_judging_engine(tiny_engine) as engine,
    ):
        source = open_source(f"http://user:secret@127.0.0.1:{server.port}/video")
        stream = Stream([source], engine, frames=30, on_event=lambda event: events.append(str(event)))
        stream.run()
    (counts,) = stream.summary()["sources"]
    assert counts["judged"] == 30
    assert counts["captured"] == counts["judged"] + counts["dropped"] + counts["failed"]
    assert counts["failed"] == 0
    assert counts["ng"] >= 1
    assert "secret" not in str(stream.summary()) + str(events)
    # Nobody asked for it.
    assert server.requests == [("/video", None)]


@pytest.mark.parametrize(
    ("headers", "pieces", "chunked"),
    [
        pytest.param('multipart/x-mixed-replace; boundary="frame"', [part(picture(50))], False, id="whole"),
        pytest.param("multipart/x-mixed-replace;boundary=frame", [part(picture(50), length=False)], False, id="no length"),
        pytest.param("multipart/x-mixed-replace; boundary=--frame", [part(picture(50), boundary=b"--other")], False, id="other boundary"),
        pytest.param("multipart/x-mixed-replace", [picture(50)], False, id="no parts at all"),
        pytest.param("multipart/x-mixed-replace; boundary=frame", [part(picture(50)), bytes(range(250)) * 9], False, id="garbage"),
        pytest.param("multipart/x-mixed-replace; boundary=frame", [part(picture(50)).replace(b"Length: ", b"Length: 9")], False, id="wrong length"),
        pytest.param("multipart/x-mixed-replace; boundary=frame", [part(picture(50))[i : i + 50] for i in range(0, len(part(picture(50))), 50)], True, id="chunks"),
    ],
)  # fmt: skip
def test_what_is_between_pictures_does_not_matter(headers: str, pieces: list[bytes], chunked: bool) -> None:
    body = b"".join(pieces)
    pieces = pieces if chunked else [body]
    assert b"\xff\xd9" in body
    with (
        MjpegServer(
            repeat(*pieces, pause_s=0.001), headers=(("Content-Type", headers),), chunked=chunked
        ) as server,
        opened(server) as source,
    ):
        frames = [read(source) for _ in range(6)]
    number = -1
    for frame in frames:
        assert frame.pixels.shape == (48, 64, 3)
        assert abs(float(frame.pixels.mean()) - 50) < 2
        assert frame.number == number + 1 + frame.lost
        number = frame.number


def test_mono_and_another_size_midway() -> None:
    grey = bytes(cv2.imencode(".jpg", np.full((32, 32), 90, np.uint8))[1])
    with (
        MjpegServer(repeat(part(picture(50)), part(grey), pause_s=0.1)) as server,
        opened(server) as source,
    ):
        shapes = {read(source).pixels.shape for _ in range(6)}
    assert shapes == {(48, 64, 3), (32, 32, 1)}


def test_a_picture_that_is_cut_off_fails_and_the_next_ones_come() -> None:
    cut = part(picture(50)[:-200])
    seen = []
    with MjpegServer(repeat(part(picture(50)), cut, pause_s=0.05)) as server, opened(server) as source:
        for _ in range(8):
            try:
                source.read()
                seen.append("frame")
            except InputError as error:
                seen.append(error.what.rpartition(": ")[2])
    assert seen.count("frame") >= 3
    assert seen.count("it breaks off") >= 3


def test_pictures_that_waited_are_skipped_and_counted() -> None:
    counter = itertools.count()
    # Larger than what is read at once.
    noise = np.random.default_rng(0).integers(0, 50, (480, 640, 3), np.uint8)
    pictures = [bytes(cv2.imencode(".jpg", noise + np.uint8(value))[1]) for value in range(0, 200, 2)]
    assert min(map(len, pictures)) > 1 << 16

    def parts() -> Iterator[bytes]:
        while True:
            yield part(pictures[next(counter) % 100])
            time.sleep(0.02)

    with MjpegServer(parts) as server, opened(server) as source:
        first = read(source)
        time.sleep(0.4)
        second = read(source)
    assert second.lost >= 5
    assert second.number == first.number + 1 + second.lost
    shown = (float(second.pixels.mean()) - float(first.pixels.mean())) / 2
    assert abs(shown - (second.number - first.number)) <= 1


@pytest.mark.parametrize(
    ("scheme", "algorithm"),
    [("Basic", None), ("Digest", None), ("Digest", "MD5"), ("Digest", "SHA-256"), ("Digest", "MD5-sess")],
)
def test_user_and_password_are_given_when_asked_for(scheme: str, algorithm: str | None) -> None:
    who = ("admin", "p@ss/w:rd%")
    parts = repeat(part(picture(50)))
    with MjpegServer(parts, who=who, scheme=scheme, algorithm=algorithm) as server:
        url = f"127.0.0.1:{server.port}/video.cgi?size=1&n=%20x"
        with open_source(f"http://admin:p%40ss%2Fw:rd%25@{url}", PATIENT) as source:
            source.read()
            assert source.name == f"http://admin:***@{url}"
        assert [path for path, _ in server.requests] == ["/video.cgi?size=1&n=%20x"] * 2
        for user in ("admin:wrong@", ""):
            with pytest.raises(InputError, match=r"refuses user and password \(401\)") as caught:
                open_source(f"http://{user}{url}", PATIENT).open()
            assert "wrong" not in str(caught.value)


def test_a_password_goes_to_no_other_host() -> None:
    with MjpegServer(repeat(part(picture(50)))) as other:
        to = (("Location", f"http://localhost:{other.port}/video"),)
        with (
            MjpegServer(repeat(b""), status=302, headers=to) as server,
            pytest.raises(InputError, match="sends us on to http://localhost"),
        ):
            open_source(f"http://admin:secret@127.0.0.1:{server.port}/", PATIENT).open()
        assert other.requests == []


def test_a_camera_that_sends_on_to_itself_for_ever() -> None:
    with MjpegServer(repeat(b""), status=302, headers=(("Location", "/again"),)) as server:
        with pytest.raises(InputError, match="sends us on"):
            opened(server).open()
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("status", "kind", "error", "text"),
    [
        (404, "text/html", SourceLostError, "answers 404"),
        (503, "text/html", SourceLostError, "answers 503"),
        (200, "text/html", InputError, "gives text/html"),
        (200, "image/jpeg", InputError, "gives image/jpeg"),
    ],
)
def test_answers_that_are_no_stream(status: int, kind: str, error: type[Exception], text: str) -> None:
    headers = (("Content-Type", kind),)
    with (
        MjpegServer(lambda: iter([b"<html>"]), status=status, headers=headers) as server,
        pytest.raises(error, match=text),
    ):
        opened(server).open()


def test_a_camera_that_ends_its_answer_is_lost() -> None:
    with MjpegServer(lambda: iter([part(picture(50))])) as server, opened(server) as source:
        read(source)
        with pytest.raises(SourceLostError, match="ended its answer"):
            source.read()


def drip(every_s: float) -> Parts:
    """Never silent for long, and never whole."""

    def parts() -> Iterator[bytes]:
        for byte in itertools.cycle(picture(50)[:-2]):
            yield bytes([byte])
            time.sleep(every_s)

    return parts


def test_a_camera_that_gives_a_byte_now_and_then_is_lost_in_time() -> None:
    with MjpegServer(drip(0.1)) as server, opened(server, QUICK) as source:
        begin = time.monotonic()
        with pytest.raises(SourceLostError, match=r"gives nothing for 0\.5 s"):
            source.read()
        assert 0.4 < time.monotonic() - begin < 20


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_camera_that_accepts_and_says_nothing(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SourceLostError, match=r"gives nothing for 0\.5 s") as caught:
            open_source(f"{scheme}://admin:secret@127.0.0.1:{port}/", QUICK).open()
    assert "secret" not in str(caught.value)


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(SourceLostError, match="Connection refused") as caught:
        open_source("http://admin:secret@127.0.0.1:1/", QUICK).open()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://:80/", "http://10.0.0.5:99999/", "http://admin:se/cret@:x/"])
def test_urls_that_name_nothing(url: str) -> None:
    with pytest.raises(InputError, match="names no host") as caught:
        open_source(url)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("where", ["connect", "answer", "read"])
def test_a_blocked_call_ends_when_it_is_interrupted(where: str) -> None:
    options = SourceOptions(timeout_s=60)
    reached = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, MjpegServer(drip(30)) as server:
        port = server.port if where == "read" else full.getsockname()[1]
        # A listener with a full queue does not answer a further one.
        first = [socket.socket() for _ in range(3 if where == "connect" else 0)]
        for one in first:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        source = open_source(f"http://127.0.0.1:{port}/", options)
        failures: list[str] = []

        def work() -> None:
            try:
                if where != "read":
                    reached.set()
                source.open()
                reached.set()
                source.read()
            except SourceLostError as error:
                failures.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        assert reached.wait(30)
        time.sleep(0.2)
        begin = time.monotonic()
        source.interrupt()
        thread.join(30)
        assert time.monotonic() - begin < 10
        assert not thread.is_alive()
        assert "told to stop" in failures[0]
        with pytest.raises(SourceLostError, match="told to stop"):
            source.open()
        source.close()
        for one in first:
            one.close()
        server.over.set()


def test_a_certificate_is_asked_for_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("apt install openssl")
    certificate, key = tmp_path / "camera.pem", tmp_path / "camera.key"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=camera"
    )
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with MjpegServer(repeat(part(picture(50))), tls=tls) as server:
        url = f"https://admin:secret@127.0.0.1:{server.port}/"
        with pytest.raises(InputError, match="certificate that is not trusted") as caught:
            open_source(url, PATIENT).open()
        assert "secret" not in str(caught.value)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with open_source(url, PATIENT) as source:
            numbers = [read(source).number for _ in range(3)]
    assert numbers == sorted(set(numbers))
