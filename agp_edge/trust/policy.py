"""The policy of a machine: must what it opens be signed, and by whom?

    [signing]
    required = true                          # false is a rehearsal: everything opens, `verify` says what would not
    keys = ["release.pub"]                   # public keys (EC, PEM), relative to this file
    roots = ["factory-ca.pem"]               # or certificate authorities,
    subjects = ["CN=vision release,O=Works"] # and of what they vouch for only these; all when left out
    revoked = ["4f3a…"]                      # fingerprints of keys and certificates that count no more
    device_key = "/var/lib/agp-edge/device.key"

A key or root may be `{ file = "release.pub", sha256 = "…" }`: then no other key in that file is taken.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agp_edge.errors import ArtefactError, InputError
from agp_edge.extras import import_extra
from agp_edge.trust.pem import Label, PemItem, read_pem

VARIABLE = "AGP_EDGE_POLICY"
DEFAULT_POLICY = Path("/etc/agp-edge/policy.toml")
DEFAULT_DEVICE_KEY = Path("/var/lib/agp-edge/device.key")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")

_override: ContextVar[Path | None] = ContextVar("policy", default=None)


@dataclass(frozen=True)
class Policy:
    """Whose signatures this machine accepts.

    Attributes:
        path: the file it was read from.
        required: refuse what is not signed by one of them; otherwise only say so.
        keys: accepted public keys.
        roots: accepted certificate authorities.
        subjects: of certificates under the roots, the only ones accepted, as RFC 4514 writes a subject; empty means all.
        revoked: fingerprints of keys and certificates that are accepted no more.
        device_key: the key that seals engines built here.
    """

    path: Path
    required: bool
    keys: tuple[PemItem, ...] = ()
    roots: tuple[PemItem, ...] = ()
    subjects: tuple[str, ...] = ()
    revoked: frozenset[str] = frozenset()
    device_key: Path = DEFAULT_DEVICE_KEY


def policy_in_force() -> Policy | None:
    """This machine's policy: $AGP_EDGE_POLICY, else /etc/agp-edge/policy.toml, else None.

    Raises:
        InputError, ArtefactError: as `read_policy`. A policy that cannot be read is never taken for none.
    """
    named = _override.get() or os.environ.get(VARIABLE)
    if named:
        return read_policy(Path(named))
    # Anything but a plain absence, as a dangling link or a folder that may not be read, is an error to report.
    try:
        os.lstat(DEFAULT_POLICY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(DEFAULT_POLICY, error) from error
    return read_policy(DEFAULT_POLICY)


@contextlib.contextmanager
def use_policy(path: Path | None) -> Iterator[None]:
    """Put the policy at `path` in force for a block; None leaves the machine's own."""
    token = _override.set(path or _override.get())
    try:
        yield
    finally:
        _override.reset(token)


def read_policy(path: Path) -> Policy:
    """Read a policy and every key and certificate that it names.

    Raises:
        InputError: it cannot be read, has an unknown or wrong entry, accepts nobody, or anyone may change it.
        ArtefactError: a key or root is not the one whose fingerprint the policy gives.
    """
    section = _read_section(path)
    wrong = f"policy {path}: "
    fields = {
        "required": bool, "keys": list, "roots": list, "subjects": list, "revoked": list, "device_key": str,
    }  # fmt: skip
    unknown = sorted(set(section) - set(fields))
    if unknown:
        raise InputError(
            f"{wrong}[signing] has unknown entries: {', '.join(unknown)}", f"take: {', '.join(fields)}"
        )
    for name, kind in fields.items():
        if name in section and type(section[name]) is not kind:
            raise InputError(
                f"{wrong}{name} = {section[name]!r} is no {'boolean' if kind is bool else kind.__name__}",
                "see docs/signing.md for an example",
            )
    if "required" not in section:
        raise InputError(f"{wrong}[signing] lacks `required`", "write required = true")
    for name in ("subjects", "revoked"):
        if not all(isinstance(item, str) for item in section.get(name, [])):
            raise InputError(f"{wrong}{name} is no list of texts", "see docs/signing.md for an example")
    policy = Policy(
        path=path,
        required=section["required"],
        keys=_read_items(path, section.get("keys", []), "PUBLIC KEY", "key"),
        roots=_read_items(path, section.get("roots", []), "CERTIFICATE", "root"),
        subjects=tuple(section.get("subjects", [])),
        revoked=frozenset(_fingerprint(text, wrong) for text in section.get("revoked", [])),
        device_key=path.parent / section.get("device_key", DEFAULT_DEVICE_KEY),
    )
    if not policy.keys and not policy.roots:
        raise InputError(f"{wrong}it accepts nobody", "name a public key in keys, or a certificate in roots")
    if policy.subjects and not policy.roots:
        raise InputError(f"{wrong}subjects are of certificates, and there are no roots", "name a root")
    return policy


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> InputError:
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"policy {path} cannot be read: {reason}", f"mend it, or ${VARIABLE} if that names it")


def _read_section(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        open_to_all = path.stat().st_mode & 0o002
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    if open_to_all:
        raise InputError(f"policy {path}: anyone may change it", f"run: chmod o-w {path}")
    if sys.version_info >= (3, 11):
        tomllib = importlib.import_module("tomllib")
    else:
        tomllib = import_extra("tomli", "signing", "reading a policy")
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"policy {path} is no TOML: {error}", "see docs/signing.md for an example"
        ) from error
    if set(value) != {"signing"} or not isinstance(value["signing"], dict):
        raise InputError(
            f"policy {path} has {', '.join(sorted(value)) or 'nothing'}, expected one table: [signing]",
            "see docs/signing.md for an example",
        )
    return dict(value["signing"])


def _read_items(policy: Path, entries: list[Any], label: Label, name: str) -> tuple[PemItem, ...]:
    items: list[PemItem] = []
    for entry in entries:
        pin = None
        file = entry
        if isinstance(entry, Mapping) and set(entry) == {"file", "sha256"}:
            file, pin = entry["file"], _fingerprint(entry["sha256"], f"policy {policy}: ")
        if not isinstance(file, str):
            raise InputError(
                f"policy {policy}: {entry!r} names no {name}",
                'write "FILE", or { file = "FILE", sha256 = "…" }',
            )
        path = policy.parent / file
        found = read_pem(path, label, f"{name} of policy {policy}")
        if path.stat().st_mode & 0o002:
            raise InputError(f"{name} of policy {policy}: anyone may change {path}", f"run: chmod o-w {path}")
        if pin is not None and [item.fingerprint for item in found] != [pin]:
            raise ArtefactError(
                f"policy {policy}: {path} is {name} {found[0].fingerprint[:12]}, not {pin[:12]} as it says",
                f"put the {name} back that the policy was written for",
            )
        items += found
    return tuple(items)


def _fingerprint(text: object, wrong: str) -> str:
    """64 hex digits in small letters; colons, as openssl prints them, are left out."""
    digits = text.replace(":", "").lower() if isinstance(text, str) else ""
    if not FINGERPRINT.fullmatch(digits):
        raise InputError(f"{wrong}{text!r} is no fingerprint", "give the 64 hex digits of a SHA-256")
    return digits
