"""What a source URI means, and how to name it without its secrets."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET_PARAMETER = re.compile(
    r"([?&;][^=&;#]*(?:pass|pwd|token|secret|auth|key|sig)[^=&;#]*=)[^&;#]*", re.IGNORECASE
)
_KNOWN = r"(?:rtsps?|https?|mqtts?|wss?|opc\.tcp):/+"
"""How an address that may carry a password begins, a slash too few or too many allowed."""

_OTHER = re.compile(rf"((?:{_KNOWN})?[^:]*):.*@", re.DOTALL | re.IGNORECASE)
"""`user:secret@` without a scheme or behind a mistyped one. What is not known is no scheme: in `admin://x@host` the
slashes belong to the password.
"""

_ADDRESS = re.compile(r"\[.*\]?$|[\d.]+$")
HIDDEN = "***"


def scheme_of(uri: str) -> str | None:
    """The scheme of a URI in lower case; None for a path or a camera's number."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else None


def redact(uri: str) -> str:
    """`uri` with passwords and secret query parameters replaced by `***`: the only form that may be shown.

    A URI whose scheme is missing or mistyped hides all between its first colon and its last `@`: errors tell such URIs.

    >>> redact("rtsp://admin:p@ss/w?rd@10.0.0.5/live")
    'rtsp://admin:***@10.0.0.5/live'
    """
    head, userinfo, rest = _split(uri, suspicious=True)
    if not head or not re.match(_KNOWN, uri, re.IGNORECASE):
        return _SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", _OTHER.sub(rf"\g<1>:{HIDDEN}@", uri, count=1))
    user, colon, _ = userinfo.partition(":")
    if userinfo:
        rest = f"{user}:{HIDDEN}@{rest}" if colon else f"{user}@{rest}"
    return head + _SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", rest)


def escape_userinfo(uri: str) -> str:
    """`uri` with what ends an authority (`/`, `?`, `#`) escaped in user and password, as URL parsers need it."""
    head, userinfo, rest = _split(uri, suspicious=False)
    if not userinfo:
        return uri
    for character in "/?#":
        userinfo = userinfo.replace(character, f"%{ord(character):02X}")
    return f"{head}{userinfo}@{rest}"


def split_userinfo(uri: str) -> tuple[str, str, str]:
    """(`uri` without user and password, user, password), both unescaped, for libraries that take them apart."""
    head, userinfo, rest = _split(uri, suspicious=False)
    user, _, password = userinfo.partition(":")
    return head + rest, unquote(user), unquote(password)


def hide_password(text: str, uri: str) -> str:
    """What a library said of a URI, without the URI's password, in whatever form it quotes it."""
    text = text.replace(uri, redact(uri)).replace(escape_userinfo(uri), redact(uri))
    for password in _forms_of_password(uri):
        text = text.replace(password, HIDDEN)
    return text


def holds_password(value: str, uri: str) -> bool:
    """Whether a value is the password of a URI, or an address with that password in it."""
    return any(value == password or f":{password}@" in value for password in _forms_of_password(uri))


def _forms_of_password(uri: str) -> list[str]:
    """The password of a URI as it is written and as it is meant, the longest first; none where it has none."""
    written = _split(uri, suspicious=True)[1].partition(":")[2]
    return sorted({written, unquote(written), quote(unquote(written), safe="")} - {""}, key=len, reverse=True)


def _split(uri: str, *, suspicious: bool) -> tuple[str, str, str]:
    """(`scheme://`, `user:password`, the rest) of a URI; the first two are empty where it has none.

    Passwords are written unescaped into camera URLs, with `@`, `/`, `?` and `#` in them. So whatever stands before
    the *last* `@` counts as user and password: a name that says too little is better than one that says too much.
    `cam:554/live@2` may then be a port and a path, or user `cam` with the password `554/live`: `suspicious` decides.
    """
    match = _SCHEME.match(uri)
    if match is None:
        return "", "", uri
    head, rest = match[0], uri[match.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    userinfo, at, behind = rest.rpartition("@")
    if not at:
        return head, "", rest
    if "@" not in authority and not (suspicious and not authority):
        host, colon, port = authority.rpartition(":")
        is_port = not colon or host.startswith("[") or port.isdigit()
        if is_port and not (suspicious and colon and not _ADDRESS.match(host)):
            return head, "", rest
    return head, userinfo, behind
