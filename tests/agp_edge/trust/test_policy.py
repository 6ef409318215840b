"""The policy file: strict, and never taken for none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agp_edge.bundle import Bundle
from agp_edge.errors import ArtefactError, InputError
from agp_edge.files import sha256_file
from agp_edge.trust import policy as module
from agp_edge.trust import policy_in_force, read_policy, use_policy

WritePolicy = Callable[..., Path]


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine's policy would be, in place of /etc/agp-edge/policy.toml."""
    monkeypatch.delenv("AGP_EDGE_POLICY", raising=False)
    path = tmp_path / "etc" / "policy.toml"
    path.parent.mkdir()
    monkeypatch.setattr(module, "DEFAULT_POLICY", path)
    return path


def test_what_is_written_is_read(key: Any, write_policy: WritePolicy) -> None:
    path = write_policy(keys=[key.public], revoked=["AB:" * 31 + "AB"])
    policy = read_policy(path)
    assert policy.required
    assert [item.fingerprint for item in policy.keys] == [sha256_file(key.public)]
    assert policy.revoked == {"ab" * 32}
    assert policy.device_key == path.parent / "device.key"
    assert policy_in_force() == policy


def test_keys_lie_beside_the_policy(key: Any, write_policy: WritePolicy, tmp_path: Path) -> None:
    path = write_policy(keys=["../keys/release.pub"])
    assert read_policy(path).keys[0].fingerprint == sha256_file(key.public)


def test_a_key_that_is_wrapped_otherwise_is_the_same_key(key: Any, write_policy: WritePolicy) -> None:
    expected = sha256_file(key.public)
    lines = key.public.read_text().split("\n")
    body = "".join(lines[1:-2])
    key.public.write_text("a note\r\n" + "\r\n".join([lines[0], body[:40], body[40:], lines[-2]]))
    assert read_policy(write_policy(keys=[key.public])).keys[0].fingerprint == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected one table"),
        ("[signing", "is no TOML"),
        ("[signing]\nrequired = true\n[other]\n", "expected one table"),
        ("[signing]\nkeys = ['K']\n", "lacks `required`"),
        ("[signing]\nrequired = 1\nkeys = ['K']\n", "required = 1 is no boolean"),
        ("[signing]\nrequired = true\n", "accepts nobody"),
        ("[signing]\nrequired = true\nkeys = []\n", "accepts nobody"),
        ("[signing]\nrequired = true\nkeys = 'K'\n", "is no list"),
        ("[signing]\nrequired = true\nkeys = [1]\n", "names no key"),
        ("[signing]\nrequired = true\nkeys = [{file = 'K'}]\n", "names no key"),
        ("[signing]\nrequired = true\nkeys = [{file = 'K', sha256 = 'x'}]\n", "is no fingerprint"),
        ("[signing]\nrequired = true\nkeys = ['absent.pub']\n", "cannot be read"),
        ("[signing]\nrequired = true\nkeys = ['K']\nkey = 'K'\n", "unknown entries: key"),
        ("[signing]\nrequired = true\nkeys = ['K']\nsubjects = ['CN=a']\n", "there are no roots"),
        ("[signing]\nrequired = true\nkeys = ['K']\nrevoked = ['12']\n", "is no fingerprint"),
        ("[signing]\nrequired = true\nkeys = ['K']\nrevoked = [12]\n", "is no list of texts"),
        ("[signing]\nrequired = true\nroots = ['K']\n", "holds a public key"),
        ("[signing]\nrequired = true\nkeys = ['PRIVATE']\n", "is a private key"),
        ("[signing]\nrequired = true\nkeys = ['policy.toml']\n", "holds no public key"),
    ],
)
def test_a_policy_is_read_strictly(default: Path, key: Any, text: str, said: str) -> None:
    default.write_text(text.replace("'K'", f"'{key.public}'").replace("'PRIVATE'", f"'{key.private}'"))
    with pytest.raises(InputError, match=said):
        policy_in_force()


def test_no_policy_is_none(default: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert policy_in_force() is None
    monkeypatch.setenv("AGP_EDGE_POLICY", "")
    assert policy_in_force() is None


@pytest.mark.parametrize("spoil", ["dangling link", "folder", "no text", "in a file"])
def test_a_policy_that_cannot_be_read_is_not_none(default: Path, bundle: Path, spoil: str) -> None:
    if spoil == "dangling link":
        default.symlink_to("nowhere")
    elif spoil == "folder":
        default.mkdir()
    elif spoil == "no text":
        default.write_bytes(b"\xff\xfe")
    else:
        default.parent.rmdir()
        default.parent.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        Bundle(bundle)


def test_a_variable_that_names_nothing_is_not_none(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGP_EDGE_POLICY", str(tmp_path / "absent.toml"))
    with pytest.raises(InputError, match="cannot be read"):
        Bundle(bundle)


def test_the_machine_s_own_is_found(default: Path, write_policy: WritePolicy, key: Any, bundle: Path) -> None:
    default.write_text(f"[signing]\nrequired = true\nkeys = ['{key.public}']\n")
    with pytest.raises(ArtefactError, match="is not signed"):
        Bundle(bundle)


def test_a_policy_in_force_for_a_block(policy: Path, default: Path, bundle: Path) -> None:
    with use_policy(policy):
        found = policy_in_force()
        with use_policy(None):
            assert policy_in_force() == found
    assert found is not None
    assert policy_in_force() is None


@pytest.mark.parametrize("which", ["policy", "key"])
def test_what_anyone_may_change_decides_nothing(policy: Path, key: Any, which: str) -> None:
    file = policy if which == "policy" else key.public
    file.chmod(0o666)
    with pytest.raises(InputError, match=r"anyone (may|can) change"):
        read_policy(policy)
