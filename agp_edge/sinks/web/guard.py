"""Who may look, and who may change something."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from agp_edge.address import is_local
from agp_edge.errors import InputError
from agp_edge.secrets import expand_secrets

SHORTEST_TOKEN = 12
MOST_WRONG = 10
FORGET_S = 60.0
"""After so many wrong tokens within a minute from one address none of it is looked at until a minute has passed."""

MOST_ADDRESSES = 1024
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
"""Headers by which a proxy says that somebody else stands behind it."""


class Refusal(NamedTuple):
    """Why a request is not answered: a status of HTTP, and two lines for a person."""

    status: int
    what: str
    hint: str


def read_token(reference: str) -> str:
    """The token behind `${NAME}` or `${file:PATH}`.

    Raises:
        InputError: it is written out, is not there, is too short, or holds what no header carries.
    """
    if not re.fullmatch(r"\$\{[^}]*\}", reference):
        # What is wrong is not shown: it may be the token.
        raise InputError(
            "--web-token holds the token itself, and everybody on this machine can read a command line",
            "write --web-token '${NAME}' for an environment variable, or '${file:PATH}' for a file's first line",
        )
    token = unquote(expand_secrets(reference))
    check_token(token, reference)
    return token


def check_token(token: str, name: str = "the token") -> None:
    """Refuse a token that could be guessed or typed into no header.

    Raises:
        InputError: it is short, or has other characters than printable ASCII without blanks.
    """
    if len(token) < SHORTEST_TOKEN or not re.fullmatch(r"[!-~]+", token):
        raise InputError(
            f"{name} holds no token: it takes {SHORTEST_TOKEN} characters or more, of ASCII without blanks",
            "make one: openssl rand -hex 16",
        )


class Guard:
    """The rules of one page.

    Looking is free where only this machine can, and no proxy lets others in; else it takes the token. Changing something
    always takes it. Every request must name this machine, so that no other site's name can be pointed at it
    (DNS rebinding).

    Args:
        host: where it listens.
        token: None where there is none.
        names: other names under which it is reached, as through a proxy.

    Attributes:
        open_view: looking is free.
        has_token: something can be changed here.

    Raises:
        InputError: others could look and there is no token, or it is none, or a name is none.
    """

    def __init__(self, host: str, token: str | None = None, names: Sequence[str] = ()) -> None:
        local = is_local(host)
        self.open_view = local and not names
        self.has_token = token is not None
        if token is not None:
            check_token(token)
        elif not self.open_view:
            who = (
                f"on {host} everybody who reaches it"
                if not local
                else f"as {names[0]} everybody behind its proxy"
            )
            raise InputError(
                f"--web without a token is for this machine alone, and {who} could look",
                "give --web-token '${NAME}' with a token in that environment variable, or --web :8080",
            )
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", name):
                raise InputError(
                    f"--web-name {name!r} is no name of a machine", "give it without scheme and port"
                )
        self._token = (token or "").encode()
        own = socket.gethostname().lower()
        self._names = {"localhost", *(name.lower() for name in names)}
        if not local:
            self._names |= {host.lower(), own, f"{own}.local"}
        self._local = local
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def check_host(self, host: str | None, origin: str | None) -> Refusal | None:
        """See that a request means this machine and comes from its own page.

        Args:
            host: the header `Host`.
            origin: the header `Origin`, where there is one.
        """
        name = _host_name(host or "")
        if not self._is_ours(name):
            return Refusal(
                421,
                "this page is not reached by that name",
                "take the machine's address, or name it at the start: --web-name NAME",
            )
        if origin is not None and urlsplit(origin).netloc.lower() != (host or "").lower():
            return Refusal(403, "this request comes from another site's page", "open this page itself")
        return None

    def check_view(
        self, authorization: str | None, address: str, headers: Sequence[str] = ()
    ) -> Refusal | None:
        """See that somebody may look.

        Args:
            authorization: the header of that name.
            address: where the request comes from.
            headers: names of all headers.
        """
        if self.open_view:
            given = {name.lower() for name in headers}
            if not any(name.lower() in given for name in FORWARDED):
                return None
            if not self.has_token:
                return Refusal(
                    403,
                    "this page is for its own machine alone, and the request came through a proxy",
                    "start the stream with --web-token, and --web-name for the proxy's name",
                )
        return self.check_change(authorization, address)

    def check_change(self, authorization: str | None, address: str) -> Refusal | None:
        """See that somebody may change something; a wrong token counts against its address."""
        if not self.has_token:
            return Refusal(
                403,
                "this stream was started without a token: nothing can be changed here",
                "start it with --web-token",
            )
        now = time.monotonic()
        wrong = [when for when in self._wrong.get(address, ()) if now - when < FORGET_S]
        if len(wrong) >= MOST_WRONG:
            return Refusal(
                429,
                f"{MOST_WRONG} wrong tokens came from this address",
                f"wait {FORGET_S:.0f} s, then try again",
            )
        scheme, _, given = (authorization or "").partition(" ")
        if not given or scheme.lower() != "bearer":
            return Refusal(401, "this takes the token", "enter the token that the stream was started with")
        if hmac.compare_digest(given.strip().encode(), self._token):
            return None
        self._wrong[address] = [*wrong, now]
        self._wrong.move_to_end(address)
        while len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        return Refusal(401, "this is not the token", "enter the token that the stream was started with")

    def _is_ours(self, name: str) -> bool:
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # Nobody points a number at another machine.
        return address.is_loopback or not self._local


def _host_name(host: str) -> str:
    """The name or number in a `Host` header, in lower case, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
