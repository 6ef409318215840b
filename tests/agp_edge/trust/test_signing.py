"""`agp-edge sign`: whole bundles alone, whole signatures alone, and keys that the format takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from agp_edge.bundle import Bundle
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import sha256_file
from agp_edge.signing import sign_bundle
from agp_edge.trust import SIGNATURE

Command = Callable[..., tuple[int, str, str]]


def test_sign_says_what_it_did(bundle: Path, key: Any, command: Command) -> None:
    code, out, _ = command("sign", bundle, "--key", key.private)
    assert code == 0
    assert out.splitlines()[0] == str(bundle / SIGNATURE)
    assert sha256_file(key.public) in out
    code, out, _ = command("sign", bundle, "--key", key.private, "--json", "-")
    value = json.loads(out)
    assert value["signer"]["fingerprint"] == sha256_file(key.public)
    assert value["bundle_sha256"] == Bundle(bundle).sha256
    assert value["files"] == 36


def test_signing_again_replaces_and_leaves_nothing(bundle: Path, new_key: Callable[..., Any]) -> None:
    first = sign_bundle(bundle, new_key("first").private)
    before = {p.name for p in bundle.parent.iterdir()}
    second = sign_bundle(bundle, new_key("second").private)
    assert first.signer != second.signer
    assert Bundle(bundle).sha256 == second.bundle.sha256
    assert {p.name for p in bundle.parent.iterdir()} == before
    assert not list(bundle.glob(".*"))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_every_curve_of_the_format(
    bundle: Path, new_key: Callable[..., Any], write_policy: Callable[..., Path], curve: ec.EllipticCurve
) -> None:
    key = new_key("release", curve=curve)
    write_policy(keys=[key.public])
    sign_bundle(bundle, key.private)
    assert Bundle(bundle).signer is not None


def test_an_encrypted_key(
    bundle: Path, new_key: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    key = new_key("locked", password=b"open sesame")
    monkeypatch.setenv("AGP_EDGE_KEY_PASSWORD", "open sesame")
    assert command("sign", bundle, "--key", key.private)[0] == 0
    monkeypatch.setenv("AGP_EDGE_KEY_PASSWORD", "wrong one")
    code, _, err = command("sign", bundle, "--key", key.private)
    assert code == 2
    assert "the password is wrong" in err
    assert "wrong one" not in err
    monkeypatch.delenv("AGP_EDGE_KEY_PASSWORD")
    code, _, err = command("sign", bundle, "--key", key.private)
    assert code == 2
    assert "$AGP_EDGE_KEY_PASSWORD" in err


def test_an_encrypted_key_of_a_certificate(bundle: Path, new_authority: Callable[..., Any]) -> None:
    works = new_authority()
    key, certificate = works.issue()
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"sesame"),
        )
    )
    assert sign_bundle(bundle, key, certificate, [works.root], password=lambda _: "sesame").signer.subject


def test_a_bundle_that_is_not_whole_is_not_signed(bundle: Path, key: Any) -> None:
    (bundle / "frames/03.png").write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"03\.png"):
        sign_bundle(bundle, key.private)
    assert not (bundle / SIGNATURE).exists()


def other_keys(folder: Path, name: str) -> Path:
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    keys: dict[str, Callable[[], bytes]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048).private_bytes(pem, form, plain),
        "k1": lambda: ec.generate_private_key(ec.SECP256K1()).private_bytes(pem, form, plain),
        "text": lambda: b"no key",
        "empty": lambda: b"",
    }
    path = folder / f"{name}.key"
    if name in keys:
        path.write_bytes(keys[name]())
    return path


@pytest.mark.parametrize("name", ["rsa", "k1", "text", "empty", "absent", "public"])
def test_a_key_that_the_format_does_not_take(
    bundle: Path, key: Any, tmp_path: Path, command: Command, name: str
) -> None:
    path = key.public if name == "public" else other_keys(tmp_path, name)
    code, _, err = command("sign", bundle, "--key", path)
    assert code == 2
    assert str(path) in err
    assert "openssl" in err
    assert not (bundle / SIGNATURE).exists()


@pytest.mark.parametrize("what", ["no bundle", "no key", "an engine", "key and device key"])
def test_wrong_usage_ends_in_2(
    bundle: Path, key: Any, tiny_engine: Path, tmp_path: Path, command: Command, what: str
) -> None:
    arguments: dict[str, list[object]] = {
        "no bundle": ["--key", key.private],
        "no key": [bundle],
        "an engine": [tiny_engine, "--key", key.private],
        "key and device key": [bundle, "--key", key.private, "--device-key", tmp_path / "device.key"],
    }
    assert command("sign", *arguments[what])[0] == 2
    assert not (tmp_path / "device.key").exists()


def test_without_the_extra_nothing_is_signed(
    bundle: Path, key: Any, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    code, _, err = command("sign", bundle, "--key", key.private)
    assert code == 2
    assert "pip install 'agp-edge[signing]'" in err


def test_a_folder_that_cannot_be_written(bundle: Path, key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("agp_edge.signing.tempfile.TemporaryDirectory", refuse)
    with pytest.raises(InputError, match="cannot write"):
        sign_bundle(bundle, key.private)
    assert not (bundle / SIGNATURE).exists()
