"""Where something listens: `HOST:PORT`, and who can get there."""

from __future__ import annotations

import ipaddress

from agp_edge.errors import InputError

LOCALHOST = "127.0.0.1"
HIGHEST_PORT = 65535


def parse_address(text: str, flag: str = "the address") -> tuple[str, int]:
    """Host and port of `HOST:PORT`.

    `:8080` and `8080` are this machine alone, `0.0.0.0:8080` and `[::]:8080` everybody who can reach it. An IPv6 address
    stands in brackets. Port 0 is any that is free.

    Args:
        text: what was written.
        flag: where, for the error, as in `--web`.

    Raises:
        InputError: it is no address.

    >>> parse_address("[::1]:9100")
    ('::1', 9100)
    """
    host, _, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    # isdecimal() takes digits of any script.
    whole = port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= HIGHEST_PORT
    if not whole or not _is_host(host, bracketed=bracketed):
        # An address has no `@`: what has one may be a URL with a password.
        shown = f"*** {text.rpartition('@')[2]!r}" if "@" in text else repr(text)
        raise InputError(
            f"{flag} {shown} is no address",
            "write HOST:PORT, as in 0.0.0.0:8080 or [::1]:8080; or :8080 for this machine alone",
        )
    return host or LOCALHOST, int(port)


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def format_address(host: str, port: int) -> str:
    """`HOST:PORT`, as `parse_address` reads it.

    >>> format_address("::1", 9100)
    '[::1]:9100'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_host(host: str, *, bracketed: bool) -> bool:
    if bracketed:
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            return False
        return True
    return not any(character in "[]:/@?#\\" or character.isspace() for character in host)
