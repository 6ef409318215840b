"""Public keys and certificates as PEM, and their fingerprints, with the standard library alone.

A fingerprint is what everyday tools print: of a public key the SHA-256 of its PEM text, as `sha256sum KEY.pub` gives it
(and as the signature format names a key), of a certificate that of its DER, as `openssl x509 -fingerprint -sha256`.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agp_edge.errors import InputError
from agp_edge.files import sha256_bytes

Label = Literal["PUBLIC KEY", "CERTIFICATE"]
LIMIT_BYTES = 1 << 20
"""More than this is no key and no chain of certificates."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+?)-----END \1-----")


@dataclass(frozen=True)
class PemItem:
    """One public key or certificate.

    Attributes:
        label: which of the two.
        der: its DER bytes.
        where: the file it was read from.
    """

    label: Label
    der: bytes
    where: Path

    @property
    def text(self) -> bytes:
        """Its PEM text: lines of 64 characters, however the file wrapped them."""
        body = base64.b64encode(self.der)
        lines = [body[i : i + 64] for i in range(0, len(body), 64)]
        label = self.label.encode()
        return b"\n".join([b"-----BEGIN %s-----" % label, *lines, b"-----END %s-----" % label, b""])

    @property
    def fingerprint(self) -> str:
        """64 hex digits; see the head of this module."""
        return sha256_bytes(self.text if self.label == "PUBLIC KEY" else self.der)


def read_pem(path: Path, label: Label, what: str) -> list[PemItem]:
    """Read every item of a PEM file.

    Args:
        path: the file.
        label: what must be in it.
        what: what the file is, for the error, as in `key of policy X`.

    Raises:
        InputError: it cannot be read, or holds something else, a private key above all.
    """
    wanted = "a public key" if label == "PUBLIC KEY" else "a certificate"
    try:
        with path.open("rb") as file:
            text = file.read(LIMIT_BYTES)
    except OSError as error:
        raise InputError(
            f"{what} cannot be read: {path}: {error.strerror or error}", f"give the PEM file of {wanted}"
        ) from error
    if b"PRIVATE KEY" in text:
        raise InputError(
            f"{what} is a private key: {path}",
            "give its public half: openssl pkey -in KEY -pubout; a private key stays where bundles are signed",
        )
    items = []
    for found, body in _BLOCK.findall(text):
        if found.decode() != label:
            raise InputError(f"{what} holds a {found.decode().lower()}: {path}", f"give {wanted}, as PEM")
        try:
            items.append(PemItem(label, base64.b64decode(b"".join(body.split()), validate=True), path))
        except binascii.Error as error:
            raise InputError(f"{what} is damaged: {path}: {error}", f"give {wanted}, as PEM") from error
    if not items:
        raise InputError(f"{what} holds no {label.lower()}: {path}", f"give {wanted}, as PEM")
    return items
