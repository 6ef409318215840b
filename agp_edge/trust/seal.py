"""The seal of an engine: this device built it, from a bundle whose signer the policy accepted.

A plan is made on the device and nobody signs it. So the device does: `build-engine` computes an HMAC-SHA256 with a key that
never leaves the device, over everything in the sidecar, and so over the hash of the plan, the hash of the bundle and the
bundle's signer. Standard library alone: an engine opens without the `signing` extra.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agp_edge.errors import ArtefactError, InputError, quote
from agp_edge.files import to_json, translate_write_errors

KEY_BYTES = 32
_ENGINE = b"agp-edge engine 1\n"
_NAME = b"agp-edge device 1\n"


def make_device_key(path: Path) -> str:
    """Make this device's key: 32 random bytes that only the owner may read. An installer calls it once.

    Returns:
        The key's name: 16 hex digits that do not tell the key.

    Raises:
        InputError: there is one already, or `path` cannot be written.
    """
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whole before it has its name, and the name only if nothing has it: two installers cannot both win.
        descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        key = secrets.token_bytes(KEY_BYTES)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
            os.link(scratch, path)
        except FileExistsError as error:
            raise InputError(
                f"there is a device key at {path}: the engines that it sealed would open no more",
                "keep it; to begin anew remove it first, and build every engine again",
            ) from error
        finally:
            Path(scratch).unlink()
    return _name(key)


def read_device_key(path: Path) -> bytes:
    """The key that `make_device_key` wrote.

    Raises:
        ArtefactError: there is none, it is no key, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except FileNotFoundError as error:
        raise ArtefactError(
            f"this device has no key at {path}",
            f"make it: agp-edge sign --device-key {path}; then build the engine here: agp-edge build-engine BUNDLE",
        ) from error
    except OSError as error:
        raise ArtefactError(
            f"the device key {path} cannot be read: {error.strerror or error}",
            "give it to the user that runs agp-edge, mode 0600",
        ) from error
    if mode & 0o077:
        raise ArtefactError(
            f"the device key {path} may be read by others: mode {mode & 0o777:04o}",
            f"if nobody did, run: chmod 600 {path}; else remove it, make another, and build every engine again",
        )
    if len(key) != KEY_BYTES:
        raise ArtefactError(
            f"{path} is no device key: it has not {KEY_BYTES} bytes",
            f"remove it, then: agp-edge sign --device-key {path}",
        )
    return key


def make_seal(key: bytes, sidecar: Mapping[str, Any], signer: Mapping[str, Any]) -> dict[str, Any]:
    """The seal to write into a sidecar.

    Args:
        key: of this device.
        sidecar: everything else that is written there, hashes of plan and bundle among it.
        signer: who signed the bundle.
    """
    seal = {"signer": dict(signer), "device": _name(key)}
    return {**seal, "tag": _tag(key, sidecar, seal)}


def is_seal(value: Mapping[str, Any]) -> bool:
    """Whether a value has the form of a seal; nothing of it is believed."""
    signer = value.get("signer")
    if set(value) != {"signer", "device", "tag"} or not isinstance(signer, dict):
        return False
    if set(signer) != {"kind", "fingerprint", "subject", "chain"} or not isinstance(signer["chain"], list):
        return False
    texts = [
        value["device"],
        value["tag"],
        signer["kind"],
        signer["fingerprint"],
        signer["subject"] or "",
        *signer["chain"],
    ]
    return all(isinstance(text, str) and text.isprintable() for text in texts)


def check_seal(key: bytes, sidecar: Mapping[str, Any], seal: Mapping[str, Any], engine: Path) -> None:
    """Hold a sidecar against its seal.

    Args:
        key: of this device.
        sidecar: what was read of it, without the seal.
        seal: what was read of that.
        engine: the plan, for the error.

    Raises:
        ArtefactError: another device sealed it, or something was changed since.
    """
    build_here = "build it here: agp-edge build-engine BUNDLE"
    if seal.get("device") != _name(key):
        raise ArtefactError(
            f"engine {engine} was built on another device: its seal is of {quote(seal.get('device'), 40)}, "
            f"the key here is {_name(key)}",
            build_here,
        )
    rest = {name: value for name, value in seal.items() if name != "tag"}
    if not hmac.compare_digest(_tag(key, sidecar, rest).encode(), str(seal.get("tag")).encode()):
        raise ArtefactError(f"sidecar of engine {engine} was changed: its seal does not fit", build_here)


def _name(key: bytes) -> str:
    return hmac.new(key, _NAME, hashlib.sha256).hexdigest()[:16]


def _tag(key: bytes, sidecar: Mapping[str, Any], seal: Mapping[str, Any]) -> str:
    # Sorted keys and the shortest text of every number: a sidecar that was written and read again gives the same bytes.
    text = to_json({"sidecar": dict(sidecar), "seal": dict(seal)}, indent=None).encode()
    return hmac.new(key, _ENGINE + text, hashlib.sha256).hexdigest()
