"""Certificates: a chain to a root of the policy, valid now, meant for signing, of an accepted subject, not revoked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agp_edge.bundle import Bundle
from agp_edge.errors import ArtefactError, InputError
from agp_edge.signing import sign_bundle
from agp_edge.trust import SIGNATURE

library: Any = pytest.importorskip("model_signing", reason="needs the extra `signing`")
Authority = Callable[..., Any]
WritePolicy = Callable[..., Path]


def fingerprint(certificate: Path) -> str:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256()).hex()


def test_a_certificate_under_an_accepted_root(
    bundle: Path, new_authority: Authority, write_policy: WritePolicy
) -> None:
    works = new_authority()
    key, certificate = works.issue("vision release")
    signed = sign_bundle(bundle, key, certificate, [works.root])
    assert signed.signer.subject == "CN=vision release"
    write_policy(roots=[works.root])
    signer = Bundle(bundle).signer
    assert signer is not None
    assert (signer.kind, signer.fingerprint) == ("certificate", fingerprint(certificate))
    assert signer.chain == (fingerprint(certificate), fingerprint(works.root))
    library.verifying.Config().use_certificate_verifier(certificate_chain=[works.root]).verify(
        bundle, bundle / SIGNATURE
    )


def test_a_chain_of_authorities(bundle: Path, new_authority: Authority, write_policy: WritePolicy) -> None:
    works = new_authority()
    line = works.below()
    key, certificate = line.issue()
    sign_bundle(bundle, key, certificate, [line.root, works.root])
    write_policy(roots=[works.root])
    signer = Bundle(bundle).signer
    assert signer is not None
    assert signer.chain == tuple(map(fingerprint, (certificate, line.root, works.root)))
    write_policy(roots=[works.root], revoked=[fingerprint(line.root)])
    with pytest.raises(ArtefactError, match="is revoked"):
        Bundle(bundle)


def test_another_root_vouches_for_nothing(
    bundle: Path, new_authority: Authority, write_policy: WritePolicy, runtime: list[str]
) -> None:
    works, other = new_authority("works"), new_authority("other")
    key, certificate = works.issue()
    sign_bundle(bundle, key, certificate, [works.root])
    write_policy(roots=[other.root])
    with pytest.raises(ArtefactError, match="is not valid here and now"):
        Bundle(bundle)


def test_a_policy_of_keys_alone_takes_no_certificate(
    bundle: Path, new_authority: Authority, policy: Path
) -> None:
    works = new_authority()
    key, certificate = works.issue()
    sign_bundle(bundle, key, certificate, [works.root])
    with pytest.raises(ArtefactError, match="none of the roots"):
        Bundle(bundle)


@pytest.mark.parametrize(("days", "said"), [((-30, -1), "expired"), ((1, 30), "not yet valid")])
def test_only_what_is_valid_now_signs(
    bundle: Path, new_authority: Authority, days: tuple[int, int], said: str
) -> None:
    works = new_authority()
    key, certificate = works.issue("early or late", days=days)
    with pytest.raises(InputError, match=said):
        sign_bundle(bundle, key, certificate, [works.root])
    assert not (bundle / SIGNATURE).exists()


@pytest.mark.parametrize(("days", "said"), [((-30, -1), "expired"), ((1, 30), "not yet valid")])
def test_an_expired_certificate_is_refused(
    bundle: Path,
    new_authority: Authority,
    write_policy: WritePolicy,
    runtime: list[str],
    days: tuple[int, int],
    said: str,
) -> None:
    """Signed by the format's own library, which takes an expired certificate for good."""
    works = new_authority()
    key, certificate = works.issue("early or late", days=days)
    target = bundle / SIGNATURE
    hashed = library.hashing.Config().set_ignored_paths(paths=[target])
    library.signing.Config().set_hashing_config(hashed).use_certificate_signer(
        private_key=key, signing_certificate=certificate, certificate_chain=[works.root]
    ).sign(bundle, target)
    library.verifying.Config().use_certificate_verifier(certificate_chain=[works.root]).verify(bundle, target)
    write_policy(roots=[works.root])
    with pytest.raises(ArtefactError, match=said):
        Bundle(bundle)
    assert runtime == []


def test_a_certificate_for_other_things_does_not_sign(bundle: Path, new_authority: Authority) -> None:
    works = new_authority()
    key, certificate = works.issue("a server", signing=False)
    with pytest.raises(InputError, match="digitalSignature"):
        sign_bundle(bundle, key, certificate, [works.root])


def test_of_what_a_root_vouches_for_only_the_named(
    bundle: Path, new_authority: Authority, write_policy: WritePolicy
) -> None:
    works = new_authority()
    key, certificate = works.issue("web shop")
    sign_bundle(bundle, key, certificate, [works.root])
    write_policy(roots=[works.root], subjects=["CN=vision release"])
    with pytest.raises(ArtefactError, match="none of the subjects"):
        Bundle(bundle)
    write_policy(roots=[works.root], subjects=["CN=web shop"])
    Bundle(bundle)


def test_a_certificate_can_be_revoked(
    bundle: Path, new_authority: Authority, write_policy: WritePolicy
) -> None:
    works = new_authority()
    key, certificate = works.issue()
    sign_bundle(bundle, key, certificate, [works.root])
    printed = fingerprint(certificate).upper()
    colons = ":".join(printed[i : i + 2] for i in range(0, 64, 2))
    write_policy(roots=[works.root], revoked=[colons])
    with pytest.raises(ArtefactError, match="is revoked"):
        Bundle(bundle)


def test_a_certificate_of_another_key_is_noticed(bundle: Path, new_authority: Authority) -> None:
    works = new_authority()
    key, _ = works.issue("one")
    _, certificate = works.issue("two")
    with pytest.raises(InputError, match="is not of key"):
        sign_bundle(bundle, key, certificate, [works.root])


@pytest.mark.parametrize("given", ["no chain", "no certificate"])
def test_a_certificate_and_its_chain_go_together(bundle: Path, new_authority: Authority, given: str) -> None:
    works = new_authority()
    key, certificate = works.issue()
    arguments = (certificate, []) if given == "no chain" else (None, [works.root])
    with pytest.raises(InputError, match="without"):
        sign_bundle(bundle, key, *arguments)
