"""Passwords that are not written where everybody reads them: `${NAME}` and `${file:PATH}` in a URL."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote as percent_encode

from agp_edge.errors import InputError

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
LONGEST_SECRET = 4096


def expand_secrets(url: str) -> str:
    """`url` with `${NAME}` replaced by an environment variable and `${file:PATH}` by the first line of a file.

    What is put in is percent-encoded, so that a password with `@` or `/` in it stays one.

    Raises:
        InputError: there is no such variable or file, or it is empty; its value is never shown.
    """
    return _REFERENCE.sub(lambda match: percent_encode(_look_up(match[1]), safe=""), url)


def _look_up(reference: str) -> str:
    kind, colon, rest = reference.partition(":")
    if colon and kind == "file":
        try:
            with Path(rest).open(encoding="utf-8") as file:
                value = file.readline(LONGEST_SECRET).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"${{{reference}}} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}",
                "write the secret into that file, on its first line, readable by this user",
            ) from None
    else:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", reference):
            raise InputError(
                f"${{{reference}}} names no environment variable", "write ${NAME} or ${file:PATH}"
            )
        value = os.environ.get(reference, "")
    if not value:
        raise InputError(f"${{{reference}}} is empty or not set", "set it, or write ${file:PATH} instead")
    return value
