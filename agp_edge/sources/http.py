"""MJPEG over HTTP: the standard library's client over a socket whose every wait has an end."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from agp_edge.errors import InputError, SourceLostError
from agp_edge.errors import quote as quote_text
from agp_edge.extras import import_cv2
from agp_edge.sources import http_auth
from agp_edge.sources.base import Frame, Source
from agp_edge.sources.http_timed import TimedConnection
from agp_edge.sources.jpeg_stream import BrokenPicture, JpegStream, Picture
from agp_edge.sources.options import AS_IT_IS, SourceOptions
from agp_edge.sources.pixels import MJPEG, to_frame_pixels
from agp_edge.sources.uri import redact, split_userinfo

MOST_REDIRECTS = 3
CHUNK = 1 << 16
LONGEST_DRAIN_S = 0.05
"""How long newer pictures are looked for: from a server that sends faster than we read there are always some."""

_SAFE = "/?&=;:,.+!*'()~$@%[]-_"
"""What stays as it is in a path or query; what is percent-encoded already is not encoded again."""


class HttpSource(Source):
    """A camera that sends JPEG pictures in one answer without end.

    User and password are sent when the camera asks for them, and to no other host. Pictures that wait while one is
    decoded are skipped, all but the newest. Only looking up a host's name may take longer than `timeout_s`: that is the
    system's own time-out.

    Args:
        uri: `http://…` or `https://…`; user and password may be in it, percent-encoded where they hold `@`, `/` or `%`.
        options: `timeout_s`.

    Raises:
        InputError: the URL has no host, or a port that is none.
    """

    takes = frozenset({"timeout_s"})
    live = True

    def __init__(self, uri: str, options: SourceOptions = AS_IT_IS) -> None:
        self.name = redact(uri)
        self.fps: float | None = None
        self._url, self._user, self._password = split_userinfo(uri)
        self._timeout_s = options.timeout_s
        self._lock = threading.Lock()
        self._interrupted = False
        self._connection: TimedConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._pictures = JpegStream()
        self._number = 0
        self._split(self._url)

    def load(self) -> None:
        """Import what decodes."""
        import_cv2("decoding MJPEG")

    def open(self) -> None:
        """Connect, and have the camera begin. Sequence numbers go on where they were."""
        self.load()
        self.close()
        try:
            with self._translated():
                self._response = self._request()
            self._check_answer(self._response)
        except BaseException:
            self.close()
            raise
        self._pictures = JpegStream()

    def read(self) -> Frame:
        """The newest picture that came whole.

        Raises:
            InputError: one breaks off, or cannot be decoded.
            SourceLostError: none came within `timeout_s`, or the connection ended.
        """
        connection = self._connection
        if connection is None or self._response is None:
            raise SourceLostError(f"{self.name} is not open", "open it first")
        connection.deadline = time.monotonic() + self._timeout_s
        with self._translated():
            picture, lost = self._newest(connection)
        number, self._number = self._number + lost, self._number + lost + 1
        try:
            pixels = to_frame_pixels(picture.data, MJPEG, *picture.size_wh)
        except InputError as error:
            raise InputError(f"{self.name}: {error.what}", error.hint) from error
        return Frame(pixels, number, picture.arrived_ns, picture.arrived_s, "arrival", self.name, lost)

    def interrupt(self) -> None:
        """End a blocked `open` or `read`, and every later one; from any thread."""
        with self._lock:
            self._interrupted = True
            if self._connection is not None:
                self._connection.interrupt()

    def close(self) -> None:
        """Let go; safe to call twice."""
        if self._response is not None:
            self._response.close()
            self._response = None
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.end()

    def _newest(self, connection: TimedConnection) -> tuple[Picture, int]:
        """The newest whole picture of what has come, waiting for the first, and how many were skipped for it."""
        newest: Picture | None = None
        skipped = 0
        until = time.monotonic() + LONGEST_DRAIN_S
        while True:
            try:
                picture = self._pictures.next()
            except BrokenPicture as error:
                if newest is None:
                    raise InputError(
                        f"a picture of {self.name} cannot be read: {error}",
                        "see that the network is fast enough for the camera's size and rate",
                    ) from None
                skipped += 1
                continue
            if picture is not None:
                skipped += newest is not None
                newest = picture
                until = min(until, time.monotonic() + LONGEST_DRAIN_S)
            elif newest is not None and (time.monotonic() > until or not connection.has_more()):
                return newest, skipped
            elif not self._receive():
                if newest is not None:
                    return newest, skipped
                if self._interrupted:
                    raise self._stopped()
                raise SourceLostError(f"{self.name} ended its answer", "see that it is on and reachable")

    def _receive(self) -> bool:
        """Take what has come, or wait for it; False at the end of the answer."""
        assert self._response is not None
        data = self._response.read1(CHUNK)
        self._pictures.feed(data, time.monotonic_ns(), time.time())
        return bool(data)

    def _request(self) -> http.client.HTTPResponse:
        """Ask for the stream, following the camera to another path or port of its own, and answering who asks for it."""
        url, authorization, redirects = self._url, None, 0
        deadline = time.monotonic() + self._timeout_s
        while True:
            parts = self._split(url)
            path = quote(parts.path or "/", safe=_SAFE) + (
                f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
            )
            response = self._get(parts, path, authorization, deadline)
            if response.status == 401 and authorization is None and self._user:
                asked = response.headers.get_all("WWW-Authenticate") or []
                authorization = http_auth.answer(asked, self._user, self._password, path)
                if authorization is not None:
                    continue
            if response.status not in (301, 302, 303, 307, 308):
                return response
            url, authorization, redirects = self._redirected(url, response, redirects), None, redirects + 1

    def _get(
        self, parts: SplitResult, path: str, authorization: str | None, deadline: float
    ) -> http.client.HTTPResponse:
        if self._response is not None:
            self._response.close()
            self._response = None
        connection = TimedConnection(parts, deadline)
        with self._lock:
            before, self._connection = self._connection, connection
            if self._interrupted:
                connection.interrupt()
        if before is not None:
            before.end()
        headers = {"User-Agent": "agp-edge", "Accept": "*/*"}
        if authorization is not None:
            headers["Authorization"] = authorization
        connection.request("GET", path, headers=headers)
        self._response = connection.getresponse()
        return self._response

    def _redirected(self, url: str, response: http.client.HTTPResponse, redirects: int) -> str:
        target = urljoin(url, response.headers.get("Location", ""))
        before, after = urlsplit(url), urlsplit(target)
        same = before.hostname == after.hostname and (before.scheme, after.scheme) != ("https", "http")
        if not same or redirects >= MOST_REDIRECTS:
            raise InputError(
                f"{self.name} sends us on to {redact(quote_text(target))}",
                "give that address itself, if it is the camera: a password is sent to no other",
            )
        return target

    def _check_answer(self, response: http.client.HTTPResponse) -> None:
        if response.status in (401, 403):
            raise InputError(
                f"{self.name} refuses user and password ({response.status})",
                "give those of the camera: http://USER:PASSWORD@ADDRESS/PATH, a secret as ${NAME} or ${file:PATH}",
            )
        if response.status != 200:
            raise SourceLostError(
                f"{self.name} answers {response.status} {quote_text(response.reason)}",
                "see that it is ready, and look into its manual for the path behind its address",
            )
        kind = response.headers.get_content_type()
        if kind.startswith(("text/", "image/")) and "Content-Type" in response.headers:
            raise InputError(
                f"{self.name} gives {quote_text(kind)}, and no MJPEG stream",
                "look into the camera's manual for the path of its MJPEG stream",
            )

    def _split(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            good = False
        if not good:
            raise InputError(
                f"{self.name} names no host, or no port that there is", "write http://ADDRESS:PORT/PATH"
            )
        return parts

    def _stopped(self) -> SourceLostError:
        return SourceLostError(f"{self.name} was told to stop", "make a new source")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """What the standard library raises becomes an error of ours."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise InputError(
                f"{self.name} shows a certificate that is not trusted: {quote_text(error.verify_message)}",
                "trust it, as in SSL_CERT_FILE=camera.pem, or take http:// in a network of your own",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            if self._interrupted:
                raise self._stopped() from None
            if isinstance(error, TimeoutError):
                raise SourceLostError(
                    f"{self.name} gives nothing for {self._timeout_s:g} s",
                    "see that it is on and reachable, or wait longer for it: --timeout",
                ) from None
            said = getattr(error, "strerror", None) or type(error).__name__
            raise SourceLostError(
                f"{self.name} cannot be reached, or broke off: {quote_text(said)}",
                "see that it is on, and check address and port",
            ) from None
