"""HTTP's Basic and Digest authentication, as cameras ask for it: RFC 7617 and RFC 7616."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from urllib.request import parse_http_list, parse_keqv_list

_HASHES = {"MD5": "md5", "SHA-256": "sha256"}


def answer(challenges: Sequence[str], user: str, password: str, path: str) -> str | None:
    """The `Authorization` for a GET of `path`; None where nothing is asked for that can be answered.

    Digest is preferred: it does not send the password.

    Args:
        challenges: the `WWW-Authenticate` headers.
    """
    by_scheme: dict[str, list[str]] = {}
    for challenge in challenges:
        scheme, _, rest = challenge.strip().partition(" ")
        by_scheme.setdefault(scheme.lower(), []).append(rest)
    for rest in by_scheme.get("digest", []):
        digest = _digest(parse_keqv_list(parse_http_list(rest)), user, password, path)
        if digest is not None:
            return digest
    if "basic" in by_scheme:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return None


def _digest(asked: dict[str, str], user: str, password: str, path: str) -> str | None:
    asked = {name.lower(): value for name, value in asked.items()}
    algorithm = asked.get("algorithm", "MD5")
    base = algorithm.upper().removesuffix("-SESS")
    qops = [qop.strip() for qop in asked.get("qop", "").split(",") if qop.strip()]
    if base not in _HASHES or not {"realm", "nonce"} <= asked.keys() or (qops and "auth" not in qops):
        return None

    def hashed(*parts: str) -> str:
        return hashlib.new(_HASHES[base], ":".join(parts).encode(), usedforsecurity=False).hexdigest()

    realm, nonce, own = asked["realm"], asked["nonce"], secrets.token_hex(16)
    secret = hashed(user, realm, password)
    if algorithm.upper().endswith("-SESS"):
        secret = hashed(secret, nonce, own)
    count = "00000001"
    proof = (nonce, count, own, "auth") if qops else (nonce,)
    fields = {
        "username": user,
        "realm": realm,
        "nonce": nonce,
        "uri": path,
        "response": hashed(secret, *proof, hashed("GET", path)),
    }
    text = ", ".join(f'{name}="{_escape(value)}"' for name, value in fields.items())
    if "algorithm" in asked:
        text += f", algorithm={algorithm}"
    if "opaque" in asked:
        text += f', opaque="{_escape(asked["opaque"])}"'
    if qops:
        text += f', qop=auth, nc={count}, cnonce="{own}"'
    return f"Digest {text}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
